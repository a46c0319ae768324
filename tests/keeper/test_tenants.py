"""One keeper, one socket, two tenants: whatever one of them has under way, the other doesn't notice (ABUSE 57)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_support import KEYS, credentials, keeper_inside
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.audit.anchors import key_id
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BusyError
from bridgehold.keeper import protocol
from bridgehold.keeper.channel import Channel, Stream
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.paced import PacedSocket, Reads
from bridgehold.keeper.places import QUESTIONS_EACH, Places, Turns
from bridgehold.keeper.resolve import shared, system_lookup
from bridgehold.keeper.values import KeeperConfig
from waiting import eventually


@contextlib.asynccontextmanager
async def beside_a_slow_provider(folder: Path, flood: bytes = b"") -> AsyncIterator[tuple[KeeperClient, str]]:
    """A keeper's host; its provider answers umbra at once, and acme never, or with `flood` for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if KEYS["umbra"].encode() in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
                    continue
                while flood:
                    writer.write(flood)
                    await writer.drain()
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1_000)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    entry = ProviderEntry(name="openai", base_url=base, private=True)
    config = KeeperConfig(secrets=credentials(folder / "c"), providers=(entry,))
    async with keeper_inside(config, system_lookup) as client:
        yield client, base
    server.close()


def ask(tenant: str) -> protocol.UpstreamRequest:
    return protocol.UpstreamRequest(
        tenant=tenant, session=f"s-{tenant}", provider="openai", method="GET", path="/x"
    )


async def others_are_served(client: KeeperClient) -> None:
    assert await client.redact("umbra", [f"a {KEYS['umbra']}"]) == ["a [redacted]"]
    assert (await client.marks("umbra")).begins
    await client.prefetch("umbra", "openai")
    key = key_id((await client.anchor_key()).public)
    assert len(await client.sign(b"bridgehold-audit-anchor-v1\nx\nkey %b\n" % key.encode())) == 64
    assert (await client.status()).held
    async with await client.request(ask("umbra"), b"") as answer:
        assert [piece async for piece in answer.body() if piece] == [b"hi"]


@pytest.mark.parametrize("host", ["of ours", "taken over"])
def test_slow_requests_take_no_place_of_another_tenant_and_none_of_a_question(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = 64
    for end in ("keeper.main", "keeper.client"):
        monkeypatch.setattr(f"bridgehold.{end}.REQUESTS", places)

    async def act() -> None:
        async with beside_a_slow_provider(tmp_path) as (client, _):
            if host == "taken over":  # it counts nothing; the keeper does
                client._requests = Places(10**9, lambda _: 1)
            slow = [asyncio.create_task(client.request(ask("acme"), b"")) for _ in range(places)]
            done, under_way = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
            await eventually(lambda: sum(task.done() for task in slow) == places // 4)
            assert all(isinstance(task.exception(), BusyError) for task in done)
            await others_are_served(client)
            assert (await client.marks("acme")).begins, "its own questions have places of their own"
            for task in under_way:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            async with asyncio.timeout(30):
                while (await client.status()).streams > 1:
                    await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(act(), 100))


def test_a_flood_of_questions_waits_in_its_own_line(tmp_path: Path) -> None:
    async def act() -> None:
        async with beside_a_slow_provider(tmp_path) as (client, _):
            text = [f"{KEYS['acme']} " * 100]
            flood = [asyncio.create_task(client.redact("acme", text)) for _ in range(10 * QUESTIONS_EACH)]
            await asyncio.sleep(0)
            await others_are_served(client)
            assert not all(task.done() for task in flood), "the other one did not wait behind them"
            assert all(await asyncio.gather(*flood))
            client._questions = Places(10**9, lambda _: 1)  # taken over
            flood = [asyncio.create_task(client.redact("acme", text)) for _ in range(10 * QUESTIONS_EACH)]
            await asyncio.sleep(0)
            await others_are_served(client)
            said = await asyncio.gather(*flood, return_exceptions=True)
            assert any(isinstance(one, BusyError) for one in said)

    asyncio.run(asyncio.wait_for(act(), 100))


def test_long_texts_of_one_tenant_are_looked_through_beside_those_of_another(tmp_path: Path) -> None:
    async def act() -> None:
        async with beside_a_slow_provider(tmp_path) as (client, _):
            await client.redact("acme", ["x"])
            await client.redact("umbra", ["x"])
            long = ["key=" * 40_000 + "\\" * 40_000]
            flood = [asyncio.create_task(client.redact("acme", long)) for _ in range(QUESTIONS_EACH)]
            for _ in range(3):
                await others_are_served(client)
            assert not all(task.done() for task in flood), "who comes later has waited for all of them"
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
            await others_are_served(client)

    asyncio.run(asyncio.wait_for(act(), 100))


FLOODS = {
    "heads without an end": b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000,
    "chunks of a byte": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_what_a_tenants_provider_floods_with_is_taken_in_its_own_turns(
    tmp_path: Path, flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    spend = Reads.spend

    def counted(reads: Reads, size: int) -> None:
        taken.append(size)
        spend(reads, size)

    monkeypatch.setattr(Reads, "spend", counted)

    async def act() -> None:
        async with beside_a_slow_provider(tmp_path, flood) as (client, _):

            async def hang() -> None:
                async with await client.request(ask("acme"), b"") as answer:
                    async for _ in answer.body():
                        pass

            hostile = [asyncio.create_task(hang()) for _ in range(20)]
            await eventually(lambda: sum(taken) > 2**20)
            before = sum(taken)
            await others_are_served(client)
            assert sum(taken) - before < 8 * 2**20, "of 20 connections with 256 KiB ready at each turn"
            for task in hostile:
                task.cancel()
            await asyncio.gather(*hostile, return_exceptions=True)

    asyncio.run(asyncio.wait_for(act(), 100))


def test_all_connections_of_a_tenant_give_no_more_in_a_turn_than_one() -> None:
    async def act() -> None:
        loop, reads = asyncio.get_running_loop(), Reads()
        ends = [socket.socketpair() for _ in range(3)]
        paced = [PacedSocket.over(theirs, reads) for _, theirs in ends]
        for (ours, _), one in zip(ends, paced, strict=True):
            ours.sendall(bytes(60_000))
            one.setblocking(False)
        buffer = bytearray(100_000)
        for _ in range(3):
            got = len(paced[0].recv(10_000)) + paced[1].recv_into(buffer)
            for one in paced:
                with pytest.raises(BlockingIOError):
                    one.recv(1)
                with pytest.raises(BlockingIOError):
                    one.recv_into(buffer)
            assert got == 16 * 1024
            await asyncio.sleep(0)
        assert len(await loop.sock_recv(paced[2], 1_000)) == 1_000
        other = PacedSocket.over(paced[2], Reads())
        assert len(other.recv(10_000)) == 10_000
        for one in (*paced, other, *(ours for ours, _ in ends)):
            one.close()

    asyncio.run(act())


def test_a_frame_waits_behind_few_bytes_of_another_tenant() -> None:
    """However many streams of one tenant send as much as they can, and whether or not they are read."""

    async def act() -> None:
        sending: list[asyncio.Task[None]] = []
        tenants: list[str] = []
        arrived = 0

        async def bulk(stream: Stream) -> None:
            while True:
                await stream.send(bytes(protocol.CHUNK_BYTES))

        def opened(stream: Stream, payload: bytes) -> None:
            stream.tenant = payload.decode()
            tenants.append(stream.tenant)
            work = bulk(stream) if payload == b"acme" else stream.send_head(b"hi")
            sending.append(asyncio.create_task(work))

        async def read(stream: Stream) -> None:
            nonlocal arrived
            while True:
                piece = (await stream.receive()).payload
                arrived += len(piece)

        left, right = socket.socketpair()
        ours, theirs = await Channel.connect(left), await Channel.connect(right, opened)
        running = [asyncio.create_task(channel.run()) for channel in (ours, theirs)]
        streams = [await ours.open(b"acme", "acme") for _ in range(400)]
        readers = [asyncio.create_task(read(stream)) for stream in streams[:300]]
        await eventually(lambda: arrived > 300 * protocol.WINDOW_BYTES)
        behind = []
        for _ in range(20):
            before = arrived
            stream = await ours.open(b"umbra", "umbra")
            assert (await stream.receive()).payload == b"hi"
            stream.close()
            behind.append(arrived - before)
        assert sorted(behind)[10] < 2 * 1024 * 1024, behind
        for task in (*readers, *sending):
            task.cancel()
        ours.close()
        await asyncio.gather(*running, *readers, *sending, return_exceptions=True)

    asyncio.run(asyncio.wait_for(act(), 100))


NAMES = ["a", "b", "c", "d"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-20, 40)), max_size=60))
def test_each_tenant_always_finds_its_part(acts: list[tuple[str, int]]) -> None:
    places = Places(80, lambda _: len(NAMES))
    for name, amount in acts:
        before = places.held_by(name)
        if amount < 0:
            places.give_back(name, min(before, -amount)) if before else None
        else:
            places.take(name, amount or 1)
        assert places.taken == sum(places.held_by(one) for one in NAMES) <= 80
    for name in NAMES:
        while places.held_by(name) < 10:
            assert places.take(name)


def test_who_waits_for_a_place_gets_it_also_where_others_give_up() -> None:
    async def act() -> None:
        places = Places(10, lambda _: 1, each=1)
        assert places.take("a")
        waiting = [asyncio.create_task(places.wait("a")) for _ in range(3)]
        await asyncio.sleep(0)
        places.give_back("a")  # the first is woken, and gives up before it looks
        waiting[0].cancel()
        await asyncio.wait_for(waiting[1], 30)
        waiting[2].cancel()
        places.give_back("a")
        await asyncio.gather(*waiting, return_exceptions=True)
        assert places.taken == 0
        assert places.take("a")

    asyncio.run(act())


def test_turns_go_round_by_tenant_and_one_to_a_turn_of_the_loop() -> None:
    async def act() -> None:
        turns, order = Turns(), []

        async def work(tenant: str) -> None:
            for _ in range(3):
                await turns.take(tenant)
                order.append(tenant)

        await asyncio.gather(*[work("a") for _ in range(20)], *[work("b") for _ in range(2)])
        assert order[1:13].count("b") == 6, order
        assert len(order) == 66

    asyncio.run(act())


def test_a_name_server_that_does_not_answer_keeps_one_question_and_not_each_of_a_tenant() -> None:
    async def act() -> None:
        asked: list[str] = []
        answer = asyncio.Event()

        async def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            if host == "slow.example":
                await answer.wait()
                raise OSError("no such name")
            return ["127.0.0.1"]

        one = shared(lookup)
        waiting = [asyncio.create_task(one("slow.example", 1)) for _ in range(50)]
        await asyncio.sleep(0)
        assert await one("fast.example", 1) == ["127.0.0.1"]
        waiting[0].cancel()
        await asyncio.sleep(0)
        answer.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] + [OSError] * 49
        assert sorted(asked) == ["fast.example", "slow.example"]
        await asyncio.gather(one("slow.example", 1), return_exceptions=True)
        assert asked.count("slow.example") == 2, "an answer is not kept"

    asyncio.run(act())
