"""Row 26 and row 43: bytes that parsers disagree about, and guests that try to hold up the host."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import h11
import pytest
from gateway_support import CHAT, PLACEHOLDER, Stand, make_grant, on_stand, parse

from bridgehold.audit.events import EgressRefused, EventsFolded
from bridgehold.bridges.kit.provider import Behaviour
from bridgehold.host.cell.gateway.parse import parse_head
from bridgehold.host.cell.gateway.values import GatewayLimits
from bridgehold.host.cell.gateway.wire import Wire
from bridgehold.keeper.places import Places
from bridgehold.policies.model import Limits, Rate
from waiting import eventually

BODY = json.dumps(CHAT).encode()


def head(port: int, *lines: str, first: str = "POST /openai/chat/completions HTTP/1.1") -> bytes:
    given = [first, f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {PLACEHOLDER}", *lines, "", ""]
    return "\r\n".join(given).encode("latin-1")


def test_framing_that_two_parsers_read_in_two_ways_is_400(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        port = stand.port
        length = f"Content-Length: {len(BODY)}"
        attacks = {
            "CL and TE": head(port, length, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
            "two lengths": head(port, length, "Content-Length: 0") + BODY,
            "the same length twice": head(port, length, length) + BODY,
            "TE twice": head(port, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
            "TE list": head(port, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
            "TE under 1.0": head(
                port, "Transfer-Encoding: chunked", first="POST /openai/chat/completions HTTP/1.0"
            ),
            "negative length": head(port, "Content-Length: -1"),
            "two Hosts": head(port, "Host: evil.example", length) + BODY,
            "the same Host twice": head(port, f"Host: 127.0.0.1:{port}", length) + BODY,
            "foreign Host": head(port, length).replace(b"Host: 127.0.0.1", b"Host: evil.example") + BODY,
            "no Host": b"POST /openai/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "bare LF": head(port, length).replace(b"\r\n", b"\n") + BODY,
            "one bare LF": head(port, "X-A: b\nX-C: d", length) + BODY,
            "bare CR": head(port, "X-A: b\rX-C: d", length) + BODY,
            "NUL": head(port, "X-A: b\0c", length) + BODY,
            "folded header": head(port, "X-A: b\r\n folded", length) + BODY,
            "space before colon": head(port, "X-A : b", length) + BODY,
            "no colon": head(port, "nonsense", length) + BODY,
            "absolute form is not Host": head(
                port, length, first="POST http://evil.example/openai/chat/completions HTTP/1.1"
            ),
            "absolute form, other scheme": head(port, length, first="POST ftp://127.0.0.1/x HTTP/1.1"),
            "userinfo": head(port, length, first=f"POST http://u:p@127.0.0.1:{port}/openai/x HTTP/1.1"),
            "CONNECT without port": b"CONNECT evil.example HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            "CONNECT is not Host": b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
            "fragment": head(
                port, length, "Connection: close", first="POST /openai/chat/completions#x HTTP/1.1"
            )
            + BODY,
            "asterisk": head(port, length, first="OPTIONS * HTTP/1.1"),
            "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "bad chunk": head(port, "Transfer-Encoding: chunked") + b"zz\r\n",
            "trailers": head(port, "Transfer-Encoding: chunked") + b"0\r\nX-Late: 1\r\n\r\n",
        }
        for name, attack in attacks.items():
            try:
                reply = parse(await stand.raw(attack, timeout=5))
            except TimeoutError:
                pytest.fail(f"{name}: neither answered nor closed")
            assert 400 <= reply.status < 500 or reply.status == 505, f"{name}: {reply}"
            assert reply.status != 404, name
            assert reply.headers.get("connection") == "close", name
        assert not stand.provider.log, "something reached the provider"
        assert len(stand.audit.of(EgressRefused)) == len(attacks)

        own = b"sk-own-key-in-a-broken-line"
        assert (
            parse(await stand.raw(head(port)[:-2] + b"Author ization: Bearer " + own + b"\r\n\r\n")).status
            == 400
        )
        assert own not in stand.everything(), "a broken line was quoted into the audit"

    on_stand(tmp_path, act, limits=GatewayLimits(refusals_per_second=500))


def test_a_hidden_second_request_is_refused_on_its_own(tmp_path: Path) -> None:
    """A smuggled request is just the next one here: it needs a placeholder of its own."""

    async def act(stand: Stand) -> None:
        smuggled = f"POST /openai/files HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\nContent-Length: 0\r\n\r\n"
        data = await stand.raw(
            head(stand.port, f"Content-Length: {len(BODY)}")
            + BODY
            + smuggled.encode().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        assert data.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 401" in data
        assert len(stand.provider.log) == 1

    on_stand(tmp_path, act)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        one = head(stand.port, f"Content-Length: {len(BODY)}") + BODY
        last = head(stand.port, f"Content-Length: {len(BODY)}", "Connection: close") + BODY
        data = await stand.raw(one + one + last)
        assert data.count(b"HTTP/1.1 200") == 3
        assert len(stand.provider.log) == 3

    on_stand(tmp_path, act)


def test_chunked_bodies_and_100_continue_work(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        chunked = head(stand.port, "Transfer-Encoding: chunked", "Connection: close")
        data = await stand.raw(chunked + f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 200")
        assert stand.provider.log[0].body == BODY.replace(b": ", b":").replace(b", ", b",")
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
        writer.write(head(stand.port, f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 100")
        writer.write(BODY)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 200")
        writer.close()

    on_stand(tmp_path, act)


def test_a_chunk_of_one_byte_pays_as_any_other_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of 64 KiB holds 10,900 of them: parsed in one go they were 0.1 to 0.3 s of everybody's loop."""
    chunks = 4_000

    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        paid = turns = 0
        whole = asyncio.Event()

        async def pace() -> None:
            nonlocal paid
            paid += 1

        async def others() -> None:
            nonlocal turns
            while not whole.is_set():
                turns += 1
                await asyncio.sleep(0)

        wire = Wire(ours, GatewayLimits(), pace)
        theirs.sendall(head(80, "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        assert await wire.begun()
        connection, _ = parse_head(await wire.read_head() or b"", 16_384)
        beside = asyncio.create_task(others())
        assert await wire.read_body(connection, chunks) == b"x" * chunks
        whole.set()
        await beside
        assert min(paid, turns) > chunks // 16
        theirs.close()
        wire.close()

    asyncio.run(body())

    parsed = 0

    class Counted(h11.Connection):
        def next_event(self) -> object:  # type: ignore[override]  # whatever it gives
            nonlocal parsed
            parsed += 1
            return super().next_event()

    monkeypatch.setattr("bridgehold.host.cell.gateway.parse.h11.Connection", Counted)

    async def act(stand: Stand) -> None:
        tiny = b"1\r\nx\r\n" * 300_000
        for first, status in (
            ("POST /nobody/x HTTP/1.1", b"401"),
            ("POST http://evil.example/ HTTP/1.1", b"403"),
        ):
            host = "evil.example" if "evil" in first else f"127.0.0.1:{stand.port}"
            reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            writer.write(f"{first}\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + tiny)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 30)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"connection: close" in answer.lower()
            await eventually(lambda: not stand.gateways[0]._tasks)
            writer.close()
        assert parsed < 100, "what was refused was parsed all the same"
        await stand.open(make_grant(limits=Limits(request_bytes=16_000)))
        past = head(stand.port, "Transfer-Encoding: chunked") + b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        reply = parse(await stand.raw(past + tiny))
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert stand.buffers.held == 0
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_a_head_is_bounded_in_size_count_and_time(tmp_path: Path) -> None:
    limits = GatewayLimits(head_ms=400, idle_ms=400)

    async def act(stand: Stand) -> None:
        assert parse(await stand.raw(head(stand.port, "X-Long: " + "a" * 20_000))).status == 431
        assert parse(await stand.raw(b"A" * 40_000)).status == 431
        many = [f"X-{n}: 1" for n in range(150)]
        assert parse(await stand.raw(head(stand.port, *many, "Content-Length: 0"))).status == 431
        started = time.monotonic()
        assert await stand.raw(b"POST /openai/chat/completions HTTP/1.1\r\nHost: ") == b""
        assert await stand.raw(b"") == b""
        assert time.monotonic() - started < 10
        assert not stand.provider.log

    on_stand(tmp_path, act, limits=limits)


def test_a_body_that_never_comes_ends_its_connection(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert await stand.raw(head(stand.port, "Content-Length: 100") + b"{") == b""
        assert stand.buffers.held == 0

    on_stand(tmp_path, act, limits=GatewayLimits(body_ms=400))


def test_a_reader_that_never_reads_loses_its_connection_and_nobody_else_waits(tmp_path: Path) -> None:
    """Its answer is larger than every kernel buffer on the way."""
    limits = GatewayLimits(write_ms=500)

    async def act(stand: Stand) -> None:
        inputs = {"model": "m", "input": ["x"] * 150_000}
        payload = json.dumps(inputs).encode()
        request = head(
            stand.port, f"Content-Length: {len(payload)}", first="POST /openai/embeddings HTTP/1.1"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port, limit=1024)
        writer.write(request + payload)
        await eventually(lambda: stand.provider.log)
        assert (await asyncio.wait_for(stand.ask(), 30)).status == 200
        await eventually(lambda: stand.buffers.held == 0)  # the stalled answer is let go
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(100_000_000), 30)
        writer.close()

    on_stand(tmp_path, act, limits=limits)


def test_pipelined_refusals_and_slow_heads_do_not_keep_another_tenant_waiting(tmp_path: Path) -> None:
    """Eight connections of refusals, eight of one byte at a time; a neighbour's calls go on."""

    async def act(stand: Stand) -> None:
        theirs = "sk-bh-umbra-openai-4444444444444444"
        hostile = stand.port
        other = await stand.open(make_grant("umbra"), session="s-umbra", placeholders={"openai": theirs})
        ended = asyncio.Event()

        async def flood() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", hostile)
            refused = (
                b"POST /openai/files HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % hostile
            )
            while not ended.is_set():
                writer.write(refused * 50)
                try:
                    await asyncio.wait_for(writer.drain(), 0.1)
                except TimeoutError:
                    await asyncio.sleep(0.01)
            writer.transport.abort()

        async def dribble() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", hostile)
            while not ended.is_set():
                writer.write(b"A")
                await asyncio.sleep(0.001)
            writer.transport.abort()

        attackers = [asyncio.create_task(flood()) for _ in range(8)]
        attackers += [asyncio.create_task(dribble()) for _ in range(8)]
        await asyncio.sleep(0.5)
        for _ in range(10):
            assert (await asyncio.wait_for(stand.ask(key=theirs, port=other), 30)).status in (200, 401)
        ended.set()
        await asyncio.gather(*attackers, return_exceptions=True)
        refusals = len(stand.audit.of(EgressRefused))
        assert refusals < 500, f"{refusals} refusals were handled in seconds"
        assert len(stand.provider.log) == 10

    on_stand(tmp_path, act)


def test_refusals_past_the_bucket_are_folded_and_counted(tmp_path: Path) -> None:
    grant = make_grant(rate=Rate(audit_events_per_second=5))

    async def act(stand: Stand) -> None:
        one = b"POST /openai/files HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % stand.port
        last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        data = await stand.raw(one * 59 + last)
        assert data.count(b"HTTP/1.1 401") == 60
        await stand.gateways[0].close()
        written = len(stand.audit.of(EgressRefused))
        folded = sum(sum(event.folded.values()) for event in stand.audit.of(EventsFolded))
        assert written < 60
        assert written + folded == 60

    on_stand(tmp_path, act, grant, limits=GatewayLimits(refusals_per_second=400, requests_per_second=400))


def test_connections_past_the_bound_wait_outside(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        held = [await asyncio.open_connection("127.0.0.1", stand.port) for _ in range(4)]
        waiting = asyncio.create_task(stand.ask())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        for _, writer in held:
            writer.close()
        assert (await asyncio.wait_for(waiting, 30)).status == 200

    on_stand(tmp_path, act, limits=GatewayLimits(connections=4))


def test_closing_the_gateway_cuts_what_is_under_way(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(latency_ms=10_000))
        asking = asyncio.create_task(stand.ask())
        await eventually(lambda: stand.provider.log)
        await asyncio.wait_for(stand.gateways[0].close(), 30)
        assert (await asking).status == 0, "it was answered"
        assert stand.audit.events[-1].code == "cancelled"  # type: ignore[attr-defined]  # an outcome

    on_stand(tmp_path, act)


def test_no_tenants_connections_take_the_descriptors_that_others_need(tmp_path: Path) -> None:
    """Sessions of one tenant, 64 connections each: half of what the process has stays, and comes back."""

    async def act(stand: Stand) -> None:
        stand.descriptors = Places(64, lambda _: 2)
        ports = [await stand.open(session=f"s-{number}") for number in range(2)]
        other = await stand.open(make_grant("umbra"), session="s-umbra")
        assert stand.descriptors.taken == 0, "a session that nobody asks anything in holds none"
        idle = [await asyncio.open_connection("127.0.0.1", port) for port in ports * 30]
        await eventually(lambda: stand.descriptors.held_by("acme") == 48)
        replies = await asyncio.gather(*(stand.ask(port=other) for _ in range(20)))
        assert all(reply.status for reply in replies), "each is answered"
        assert stand.descriptors.held_by("acme") == 48
        for _, writer in idle[:50]:
            writer.close()
        assert (await stand.ask(port=ports[0])).status == 200, "what waited has its turn"
        for gateway in stand.gateways:
            await gateway.close()
        assert stand.descriptors.taken == 0
        for _, writer in idle[50:]:
            writer.close()

    on_stand(tmp_path, act)
