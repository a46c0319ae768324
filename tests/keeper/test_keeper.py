"""The keeper's process: what a taken-over host can't make it do, rotation, revocation, scrubbing, signing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from gateway_support import credentials, keeper_inside, keeper_process

from bridgehold.audit.anchors import anchor_at, anchor_text
from bridgehold.audit.chain import Head
from bridgehold.bridges.kit.provider import Behaviour, Provider, fingerprint
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BridgeholdError, DeniedError, ProviderError, SecretError
from bridgehold.keeper import protocol
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.index import Index, Reference, write_index
from bridgehold.keeper.resolve import resolve, system_lookup
from bridgehold.keeper.scrub import Scrubber
from bridgehold.keeper.values import KeeperConfig, StoreConfig
from waiting import eventually

Admin = Callable[[], SecretAdmin]
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


def ask(**changes: Any) -> protocol.UpstreamRequest:
    given: dict[str, Any] = {
        "tenant": "acme",
        "session": "s-1",
        "provider": "openai",
        "method": "POST",
        "path": "/chat/completions",
        "headers": (("content-type", "application/json"),),
        "body_bytes": len(BODY),
    }
    return protocol.UpstreamRequest(**{**given, **changes})


async def call(keeper: KeeperClient, body: bytes = BODY, **changes: Any) -> tuple[int, bytes]:
    async with await keeper.request(ask(**{"body_bytes": len(body), **changes}), body) as response:
        return response.status, b"".join([chunk async for chunk in response.body()])


async def _drain(body: AsyncIterator[bytes]) -> None:
    async for _ in body:
        pass


def config_for(folder: Path, provider: Provider, **changes: Any) -> KeeperConfig:
    entries = (
        ProviderEntry(name="openai", base_url=provider.base_url, private=True),
        ProviderEntry(name="evil", base_url="http://127.0.0.1:9/", private=True, secret="evil"),
    )
    given: dict[str, Any] = {
        "secrets": StoreConfig(folder=str(folder)),
        "providers": entries,
        "reload_ms": 100,
    }
    return KeeperConfig(**{**given, **changes})


def test_rotation_and_revocation_take_effect_and_end_streams(
    secrets_folder: Path, acme_key: str, admin: Admin
) -> None:
    async def act() -> None:
        async with (
            Provider.open(key=acme_key) as provider,
            keeper_process(config_for(secrets_folder, provider)) as (keeper, _),
        ):
            assert (await call(keeper))[0] == 200
            assert (await keeper.status()).held == 1
            provider.behave(Behaviour(chunk_ms=100, script=("word " * 500,)))
            streamed = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
            async with await keeper.request(ask(body_bytes=len(streamed)), streamed) as response:
                body = response.body()
                await anext(body)
                newer = "sk-newer-0123456789abcdef"
                await asyncio.to_thread(admin().set, "acme", "openai", newer.encode())
                with pytest.raises(SecretError, match="changed"):
                    await asyncio.wait_for(_drain(body), 30)
            await call(keeper)
            assert provider.log[-1].key_fingerprint == fingerprint(newer)
            await asyncio.to_thread(admin().remove, "acme", "openai")
            with pytest.raises(SecretError, match="no secret"):
                await call(keeper)
            assert (await keeper.status()).held == 0

    asyncio.run(act())


def test_a_host_cannot_send_a_key_where_it_is_not_bound(secrets_folder: Path, acme_key: str) -> None:
    async def act() -> None:
        async with (
            Provider.open(key=acme_key) as provider,
            keeper_process(config_for(secrets_folder, provider)) as (keeper, _),
        ):
            attempts: list[dict[str, Any]] = [
                {"provider": "evil"},
                {"provider": "evil", "secret": "openai"},
                {"provider": "unknown"},
                {"tenant": "umbra"},
                {"path": "/../../elsewhere"},
                {"path": "//evil.example/x"},
                {"path": "@evil.example/x"},
                {"path": "/chat/completions?x=y"},
                {"path": "/chat\r\nHost: evil.example"},
                {"method": "CONNECT"},
                {"method": "POST / HTTP/1.1\r\nX: y"},
                {"headers": (("host", "evil.example"),)},
                {"headers": (("authorization", "Bearer x"),)},
                {"headers": (("accept", "a\r\nX: y"),)},
                {"headers": (("transfer-encoding", "chunked"),)},
                {"body_bytes": len(BODY) + 10},
            ]
            for attempt in attempts:
                with pytest.raises(BridgeholdError) as refused:
                    await call(keeper, **attempt)
                assert acme_key not in refused.value.message, attempt
            assert not provider.log
            with pytest.raises(DeniedError):
                await keeper.reveal("acme", "openai")
            with pytest.raises(DeniedError):
                await keeper.reveal("acme", "no-such")

    asyncio.run(act())


def test_reveal_is_for_what_was_stored_for_it(secrets_folder: Path, admin: Admin) -> None:
    async def act() -> None:
        admin().set("acme", "hub", b"hf_0123456789", allow_env=True)
        async with (
            Provider.open() as provider,
            keeper_process(config_for(secrets_folder, provider)) as (keeper, _),
        ):
            assert await keeper.reveal("acme", "hub") == "hf_0123456789"
            with pytest.raises(DeniedError):
                await keeper.reveal("acme", "openai")

    asyncio.run(act())


def test_each_slot_is_filled_as_the_table_says(tmp_path: Path) -> None:
    async def act() -> None:
        async with Provider.open(key="sk-real-acme-0123456789abcdefghijklmnop/+") as provider:
            entries = tuple(
                ProviderEntry(name=name, base_url=provider.base_url, private=True, auth=auth, secret="openai")
                for name, auth in (("a", "bearer"), ("b", "header:x-api-key"), ("c", "query:key"))
            )
            config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=entries)
            async with keeper_inside(config, system_lookup) as keeper:
                for name in "abc":
                    assert (await call(keeper, provider=name))[0] == 200
            by_header = ["authorization" in seen.headers for seen in provider.log]
            assert by_header == [True, False, False]
            assert "x-api-key" in provider.log[1].headers
            assert [bool(seen.query) for seen in provider.log] == [False, False, True]
            assert all(seen.authorised for seen in provider.log)

    asyncio.run(act())


def test_an_exception_with_the_url_never_shows_a_key_in_the_query(tmp_path: Path) -> None:
    async def act() -> None:
        entry = ProviderEntry(name="openai", base_url="http://127.0.0.1:9/v1", private=True, auth="query:key")
        config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=(entry,))
        async with keeper_process(config) as (keeper, process):
            with pytest.raises(ProviderError) as refused:
                await call(keeper)
            assert "sk-real" not in str(msgspec.json.encode(refused.value.info()))
            process.send_signal(signal.SIGTERM)
            _, log = await asyncio.to_thread(process.communicate, None, 10)
            assert b"sk-real" not in log

    asyncio.run(act())


def test_tls_is_verified(tmp_path: Path) -> None:
    """A server with a certificate that nobody signed gets no request."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(cert), "-days", "1", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip

    async def act() -> None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        seen = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.extend(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        entry = ProviderEntry(name="openai", base_url=f"https://localhost:{port}/v1", private=True)
        config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=(entry,))
        async with keeper_inside(config, system_lookup) as keeper:
            with pytest.raises(ProviderError, match=r"TLS|certificate"):
                await call(keeper)
        server.close()
        assert not seen

    asyncio.run(act())


def test_an_answer_that_cannot_be_scrubbed_is_refused(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
        await writer.drain()
        writer.close()

    async def act() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        entry = ProviderEntry(
            name="openai", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", private=True
        )
        config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=(entry,))
        async with keeper_inside(config, system_lookup) as keeper:
            with pytest.raises(ProviderError, match="compressed"):
                await call(keeper)
        server.close()

    asyncio.run(act())


def test_a_slow_reader_stalls_only_itself(tmp_path: Path) -> None:
    async def act() -> None:
        async with Provider.open(key="sk-real-acme-0123456789abcdefghijklmnop/+") as provider:
            entry = ProviderEntry(name="openai", base_url=provider.base_url, private=True)
            config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=(entry,))
            async with keeper_process(config) as (keeper, _):
                large = json.dumps({"model": "m", "input": ["x"] * 60_000}).encode()
                stalled = await keeper.request(ask(path="/embeddings", body_bytes=len(large)), large)
                for _ in range(5):
                    assert (await asyncio.wait_for(call(keeper), 30))[0] == 200
                whole = b"".join([chunk async for chunk in stalled.body()])
                assert len(json.loads(whole)["data"]) == 60_000
                await stalled.close()
                assert (await keeper.status()).streams == 1, "its own one"

    asyncio.run(act())


def test_leaving_early_cancels_upstream(tmp_path: Path) -> None:
    async def act() -> None:
        async with Provider.open(key="sk-real-acme-0123456789abcdefghijklmnop/+") as provider:
            entry = ProviderEntry(name="openai", base_url=provider.base_url, private=True)
            config = KeeperConfig(secrets=credentials(tmp_path / "c"), providers=(entry,))
            provider.behave(Behaviour(chunk_ms=50, script=("word " * 500,)))
            async with keeper_process(config) as (keeper, _):
                streamed = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
                response = await keeper.request(ask(body_bytes=len(streamed)), streamed)
                await response.close()

                async def alone() -> bool:
                    return (await keeper.status()).streams == 1

                await eventually(alone)

    asyncio.run(act())


def test_only_anchors_are_signed_and_the_key_stays(secrets_folder: Path) -> None:
    async def act() -> None:
        async with Provider.open() as provider:
            config = config_for(secrets_folder, provider)
            async with keeper_process(config) as (keeper, _):
                public = (await keeper.anchor_key()).public
                head = Head("i-0123456789ab", 1, "a" * 64)
                text = anchor_text(anchor_at(head, time="2026-11-20T09:30:00.000Z", public_key=public))
                Ed25519PublicKey.from_public_bytes(public).verify(await keeper.sign(text), text)
                with pytest.raises(DeniedError):
                    await keeper.sign(b"I owe you everything")
            assert (secrets_folder / "anchor.key").stat().st_mode & 0o777 == 0o600
            async with keeper_process(config) as (keeper, _):
                assert (await keeper.anchor_key()).public == public

    asyncio.run(act())


def test_the_process_hides_itself_and_ends_with_its_host(secrets_folder: Path) -> None:
    async def act() -> None:
        async with Provider.open() as provider:
            async with keeper_process(config_for(secrets_folder, provider)) as (keeper, process):
                await keeper.status()
                status = Path(f"/proc/{process.pid}/status").read_text()
                limits = Path(f"/proc/{process.pid}/limits").read_text()
                assert "Umask:\t0077" in status
                assert any(
                    line.split()[4:6] == ["0", "0"] for line in limits.splitlines() if "core file" in line
                )
                if os.getuid() != 0:
                    with pytest.raises(PermissionError):
                        Path(f"/proc/{process.pid}/environ").read_bytes()
                else:
                    assert Path(f"/proc/{process.pid}").stat().st_uid == 0
                argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                assert b"secrets" not in argv
            assert process.returncode == 0

    asyncio.run(act())


# Scrubbing, pure


@pytest.mark.parametrize("step", [1, 3, 7, 64, 10_000])
def test_every_spelling_is_scrubbed_across_every_border(step: int) -> None:
    import base64
    from urllib.parse import quote

    key = b"sk-real/with+signs-0123456789"
    hidden = [
        key,
        quote(key.decode(), safe="").encode(),
        key.hex().encode(),
        base64.b64encode(key),
        base64.b64encode(b"Authorization: Bearer " + key),
        base64.b64encode(b"x" + key + b"y"),
        key.replace(b"/", b"\\/"),
    ]
    for spelled in hidden:
        text = b"before " + spelled + b" after " + b"s" * 5
        scrubber = Scrubber(key)
        found = b"".join(scrubber.feed(text[at : at + step]) for at in range(0, len(text), step))
        found += scrubber.finish()
        assert len(found) == len(text), "lengths stay true"
        assert scrubber.count >= 1, spelled
        assert key not in found
        assert found.startswith(b"before ")
        assert found.endswith(b" after sssss")
        assert spelled[8:-8] not in found


def test_plain_text_is_neither_changed_nor_held_back() -> None:
    scrubber = Scrubber(b"sk-real-0123456789abcdef")
    event = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
    assert scrubber.feed(event) == event
    assert scrubber.count == 0
    assert "sk-real" not in repr(scrubber)


def test_names_are_asked_for_once_and_every_answer_is_vetted() -> None:
    async def act() -> None:
        calls: list[str] = []

        async def lookup(host: str, port: int) -> list[str]:
            calls.append(host)
            return ["93.184.216.34", "127.0.0.1"]

        with pytest.raises(DeniedError, match="not public"):
            await resolve("mixed.example.com", 443, private=False, lookup=lookup)
        assert await resolve("mixed.example.com", 443, private=True, lookup=lookup) == [
            "93.184.216.34",
            "127.0.0.1",
        ]
        for spelled in ("2130706433", "0x7f.1", "[::ffff:169.254.169.254]", "0177.0.0.1"):
            with pytest.raises(DeniedError):
                await resolve(spelled, 443, private=False, lookup=lookup)
        assert len(calls) == 2

    asyncio.run(act())


def test_the_host_learns_beginnings_and_the_keeper_redacts(tmp_path: Path) -> None:
    key = "sk-real-acme-0123456789abcdefghijklmnop/+"

    async def act() -> None:
        store = credentials(tmp_path / "c")
        entry = ProviderEntry(name="openai", base_url="https://api.example.com/v1")
        async with keeper_process(KeeperConfig(secrets=store, providers=(entry,))) as (keeper, _):
            assert await keeper.marks("acme") == protocol.Marks(begins=("sk-r",), always=False)
            assert await keeper.marks("nobody") == protocol.Marks(begins=(), always=False)
            await keeper.put_session_secret("s-1", "openai", "Inline/key-0123456789", tenant="acme")
            short = tmp_path / "c" / "acme.short"
            short.write_bytes(b"hunter2-")
            assert await keeper.marks("acme") == protocol.Marks(begins=("Inli", "sk-r"), always=True)
            texts = [key, f"a {key.encode().hex()} b", "hunter2%2D", "Inline\\/key-0123456789", "é", ""]
            hidden = ["[redacted]", "a [redacted] b", "[redacted]", "[redacted]", "é", ""]
            assert await keeper.redact("acme", texts) == hidden
            assert (await keeper.redact("umbra", texts))[1:] == texts[1:]
            long = ["x" * 100_000 + key] * 3
            assert await keeper.redact("acme", long) == ["x" * 100_000 + "[redacted]"] * 3
            await keeper.drop_session("s-1", tenant="acme")
            short.unlink()
            assert await keeper.marks("acme") == protocol.Marks(begins=("sk-r",), always=False)

    asyncio.run(act())


def test_how_values_begin_is_known_without_opening_the_store(
    secrets_folder: Path, acme_key: str, admin: Admin
) -> None:
    async def act() -> None:
        (secrets_folder / "secrets.crypt").write_bytes(b"not to be read")
        entry = ProviderEntry(name="openai", base_url="https://api.example.com/v1")
        config = KeeperConfig(secrets=StoreConfig(folder=str(secrets_folder)), providers=(entry,))
        async with keeper_process(config) as (keeper, _):
            assert await keeper.marks("acme") == protocol.Marks(begins=(acme_key[:4],), always=False)
            with pytest.raises(BridgeholdError):
                await keeper.redact("acme", ["x"])

    asyncio.run(act())


def test_all_references_come_whole_while_the_index_changes(secrets_folder: Path) -> None:
    """In parts, and from the beginning again where it changed between two of them; never a value."""

    def kept(count: int, generation: int) -> Index:
        references = [Reference(tenant="acme", name=f"n{n:04d}", version=n) for n in range(count)]
        return Index(generation=generation, secrets=tuple(references))

    async def act() -> None:
        async with (
            Provider.open() as provider,
            keeper_process(config_for(secrets_folder, provider)) as (keeper, _),
        ):
            write_index(secrets_folder, kept(650, 1))
            assert [one.name for one in await keeper.references()] == [f"n{n:04d}" for n in range(650)]

            asked, plain = [0], keeper._ask

            async def changing(ask: protocol.Ask) -> bytes:
                asked[0] += 1
                if asked[0] == 2:
                    write_index(secrets_folder, kept(300, 2))
                return await plain(ask)

            keeper._ask = changing  # type: ignore[method-assign]  # the index changes between two parts
            assert len(await keeper.references()) == 300
            (secrets_folder / "index.json").write_text("no index")
            with pytest.raises(SecretError):
                await keeper.references()

    asyncio.run(act())
