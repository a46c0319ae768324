"""Between host and keeper: what breaks one stream's bounds ends that stream, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from gateway_support import credentials

from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BridgeholdError, BusyError, LimitError, ProtocolError
from bridgehold.keeper import protocol
from bridgehold.keeper.channel import Channel, Stream
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.main import Keeper
from bridgehold.keeper.places import QUESTIONS, REQUESTS
from bridgehold.keeper.values import KeeperConfig
from waiting import eventually

STATUS = b'{"type":"status"}'
REQUEST = msgspec.json.encode(
    protocol.UpstreamRequest(
        tenant="acme", session="s", provider="openai", method="POST", path="/x", body_bytes=10**6
    )
)


async def stuck(host: str, port: int) -> list[str]:
    await asyncio.sleep(60)
    return []


@contextlib.asynccontextmanager
async def keeper_at(folder: Path) -> AsyncIterator[tuple[socket.socket, asyncio.Task[None]]]:
    """A whole keeper, whose host is the test; its provider's name never resolves."""
    entry = ProviderEntry(name="openai", base_url="https://api.example.com/v1")
    config = KeeperConfig(secrets=credentials(folder / "c"), providers=(entry,))
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(Keeper(config, stuck).serve(theirs))
    ours.setblocking(False)
    try:
        yield ours, serving
    finally:
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        with contextlib.suppress(BridgeholdError):
            await asyncio.wait_for(serving, 30)


async def frames(sock: socket.socket) -> AsyncIterator[protocol.Frame]:
    reader, _ = await asyncio.open_connection(sock=sock.dup())
    while True:
        length, kind, number = protocol.decode_header(await reader.readexactly(protocol.HEADER.size))
        yield protocol.Frame(kind, number, await reader.readexactly(length))


ONE_STREAM = {
    "opened twice": protocol.encode(protocol.OPEN, 1, REQUEST) * 2,
    "no request": protocol.encode(protocol.OPEN, 1, b"[" * 10_000),
    "empty data": protocol.encode(protocol.OPEN, 1, REQUEST) + protocol.encode(protocol.DATA, 1) * 2,
    "beyond its window": protocol.encode(protocol.OPEN, 1, REQUEST)
    + protocol.encode(protocol.DATA, 1, b"x" * 32_768) * 9,
    "beyond its window, byte by byte": protocol.encode(protocol.OPEN, 1, REQUEST)
    + protocol.encode(protocol.DATA, 1, b"x") * (protocol.WINDOW_BYTES * 2 + 1),
    "a window out of bounds": protocol.encode(protocol.OPEN, 1, REQUEST)
    + protocol.encode(protocol.WINDOW, 1, (2**32 - 1).to_bytes(4, "big")),
    "answers of its own": protocol.encode(protocol.OPEN, 1, REQUEST)
    + protocol.encode(protocol.HEAD, 1, b"x" * protocol.CONTROL_BYTES) * 20,
}


@pytest.mark.parametrize("attack", ONE_STREAM.values(), ids=ONE_STREAM)
def test_a_host_that_breaks_a_streams_bounds_loses_that_stream(tmp_path: Path, attack: bytes) -> None:
    async def act() -> None:
        async with keeper_at(tmp_path) as (ours, serving):
            loop = asyncio.get_running_loop()
            sending = loop.sock_sendall(ours, attack + protocol.encode(protocol.OPEN, 2, STATUS))
            said: dict[int, protocol.Frame] = {}
            task = asyncio.create_task(sending)
            async for frame in frames(ours):
                said.setdefault(frame.stream, frame)
                if set(said) == {1, 2}:
                    break
            await task
            assert said[1].kind == protocol.ERROR
            assert msgspec.json.decode(said[1].payload)["code"] == "protocol"
            told = msgspec.json.decode(said[2].payload, type=protocol.KeeperStatus)
            assert told.streams <= 2
            assert not serving.done()

    asyncio.run(asyncio.wait_for(act(), 30))


@pytest.mark.parametrize(
    "attack",
    [
        struct.pack(">IBI", 0xFFFFFFFF, protocol.DATA, 1),
        struct.pack(">IBI", 4, 99, 1) + b"xxxx",
        struct.pack(">IBI", 0, protocol.OPEN, 0),
    ],
)
def test_what_is_no_frame_ends_the_connection(tmp_path: Path, attack: bytes) -> None:
    async def act() -> None:
        async with keeper_at(tmp_path) as (ours, serving):
            await asyncio.get_running_loop().sock_sendall(ours, attack)
            with pytest.raises(ProtocolError):
                await asyncio.wait_for(serving, 30)

    asyncio.run(act())


def test_a_host_that_floods_with_streams_and_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    async def act() -> None:
        async with keeper_at(tmp_path) as (ours, serving):
            loop = asyncio.get_running_loop()
            opens = b"".join(protocol.encode(protocol.OPEN, n, b"?") for n in range(1, 1_000))
            with contextlib.suppress(OSError):
                while not serving.done():
                    await loop.sock_sendall(ours, opens)
            with pytest.raises(ProtocolError, match="reads no answer"):
                await asyncio.wait_for(serving, 30)

    asyncio.run(asyncio.wait_for(act(), 60))


@contextlib.asynccontextmanager
async def channels(
    serve: Callable[[Stream], object], *, bound: int = REQUESTS + QUESTIONS
) -> AsyncIterator[tuple[Channel, Channel]]:
    """(ours, theirs): `serve` gets each stream that we open; our own bound is larger by far."""
    tasks: list[asyncio.Future[object]] = []

    def opened(stream: Stream, payload: bytes) -> None:
        made = serve(stream)
        if asyncio.iscoroutine(made):
            tasks.append(asyncio.ensure_future(made))

    left, right = socket.socketpair()
    ours, theirs = await Channel.connect(left, bound=10**6), await Channel.connect(right, opened, bound=bound)
    reading = [asyncio.create_task(channel.run()) for channel in (ours, theirs)]
    yield ours, theirs
    ours.close()
    await asyncio.gather(*reading, *tasks, return_exceptions=True)


def test_single_bytes_for_a_reader_that_does_not_read_stall_their_own_stream() -> None:  # ABUSE 57
    """As many as the window holds are sent, joined into few pieces; then the sender waits."""

    async def act() -> None:
        sent = 0

        async def serve(stream: Stream) -> None:
            nonlocal sent
            if stream.number > 1:
                await stream.end(b"fine")
                return
            for _ in range(2 * protocol.WINDOW_BYTES):
                await stream.send(b"x")
                sent += 1
            await stream.end()

        async with channels(serve) as (ours, _):
            lazy = await ours.open(b"")
            other = await ours.open(b"")
            assert (await other.receive()).payload == b"fine"
            await eventually(lambda: not sent < protocol.WINDOW_BYTES)
            later = await ours.open(b"")
            assert (await later.receive()).payload == b"fine"
            assert sent == protocol.WINDOW_BYTES, "the window is the bound"
            pieces = [(await lazy.receive()).payload]
            while (frame := await lazy.receive()).kind == protocol.DATA:
                pieces.append(frame.payload)
            assert b"".join(pieces) == b"x" * (2 * protocol.WINDOW_BYTES)
            assert len(pieces[0]) == protocol.CHUNK_BYTES

    asyncio.run(asyncio.wait_for(act(), 60))


def test_one_stream_more_than_the_other_end_allows_is_refused_alone() -> None:  # ABUSE 57
    async def act() -> None:
        held: list[Stream] = []
        async with channels(held.append, bound=8) as (ours, theirs):
            streams = [await ours.open(b"") for _ in range(8)]
            for _ in range(3):
                with pytest.raises(BusyError):
                    await (await ours.open(b"")).receive()
            assert len(theirs) == 8
            for number, stream in enumerate(held):
                await stream.end(b"%d" % number)
            assert [(await stream.receive()).payload for stream in streams] == [b"%d" % n for n in range(8)]
            held[0].close()
            assert (await ours.open(b"")).number == 12

    asyncio.run(asyncio.wait_for(act(), 30))


def test_both_ends_have_one_bound(tmp_path: Path) -> None:  # ABUSE 57
    async def act() -> None:
        ours, theirs = socket.socketpair()
        keeper = Keeper(KeeperConfig(secrets=credentials(tmp_path / "c")), stuck)
        serving = asyncio.create_task(keeper.serve(theirs))
        client = await KeeperClient.connect(ours)
        await client.status()
        assert keeper._channel is not None
        assert client._channel._bound == keeper._channel._bound == REQUESTS + QUESTIONS
        for one, other in ((client._requests, keeper._requests), (client._questions, keeper._questions)):
            assert (one.whole, one._each) == (other.whole, other._each)
        await client.close()
        await serving

    asyncio.run(asyncio.wait_for(act(), 60))


def test_what_is_too_long_for_a_frame_is_refused_before_it_is_sent() -> None:
    """A request's head, an answer's head: the guest or a provider chose their length."""

    async def act() -> None:
        async def serve(stream: Stream) -> None:
            if stream.number == 1:
                await stream.end(b"fine")
                return
            try:
                await stream.send_head(b"h" * (protocol.CONTROL_BYTES + 1))
            except LimitError as error:
                await stream.fail(error)

        async with channels(serve) as (ours, _):
            first = await ours.open(b"")
            with pytest.raises(LimitError):
                await ours.open(b"o" * (protocol.CONTROL_BYTES + 1))
            with pytest.raises(LimitError):
                await (await ours.open(b"")).receive()
            assert (await first.receive()).payload == b"fine"

    asyncio.run(asyncio.wait_for(act(), 30))


def test_a_keeper_that_breaks_a_streams_bounds_is_cancelled_there() -> None:
    async def act() -> None:
        cancelled = asyncio.Event()

        async def serve(stream: Stream) -> None:
            if stream.number > 1:
                await stream.end(b"fine")
                return
            stream.on_cancel = cancelled.set
            for _ in range(5):  # a sender that heeds no window
                await stream._channel.send(protocol.DATA, 1, b"x" * protocol.CHUNK_BYTES)

        async with channels(serve) as (ours, _):
            broken = await ours.open(b"")
            await cancelled.wait()
            with pytest.raises(ProtocolError, match="window"):
                await broken.receive()
            assert (await (await ours.open(b"")).receive()).payload == b"fine"

    asyncio.run(asyncio.wait_for(act(), 30))


def test_an_ask_that_is_cancelled_at_once_keeps_no_stream(tmp_path: Path) -> None:
    """Both frames come out of one read: the task is cancelled before its first step, which runs no `finally`."""

    async def act() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        keeper = Keeper(KeeperConfig(secrets=credentials(tmp_path / "c")), stuck)
        serving = asyncio.create_task(keeper.serve(theirs))
        loop = asyncio.get_running_loop()
        pairs = [
            protocol.encode(protocol.OPEN, n, STATUS) + protocol.encode(protocol.CANCEL, n)
            for n in range(1, 201)
        ]
        for at in range(0, len(pairs), 40):
            await loop.sock_sendall(ours, b"".join(pairs[at : at + 40]))
            await asyncio.sleep(0.01)
        await eventually(lambda: not len(keeper._channel) and (not keeper._tasks))
        ours.close()
        await asyncio.wait_for(serving, 30)

    asyncio.run(act())


def test_a_redaction_that_is_given_up_leaves_nothing_at_the_keeper(tmp_path: Path) -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair()
        keeper = Keeper(KeeperConfig(secrets=credentials(tmp_path / "c")), stuck)
        serving = asyncio.create_task(keeper.serve(theirs))
        client = await KeeperClient.connect(ours)
        for _ in range(10):
            asking = asyncio.create_task(client.redact("acme", ["x" * 800_000]))
            await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: not len(keeper._channel) and (not keeper._tasks))
        assert await client.redact("acme", ["plain"]) == ["plain"]
        await client.close()
        await asyncio.wait_for(serving, 30)

    asyncio.run(act())
