"""Calls between two real HTTP/2 ends through the relay's pair: who doesn't read stops its writer alone."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamReset
from h2.exceptions import DenialOfServiceError
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from bridgehold.bridges.legacy import rpc
from bridgehold.errors import BusyError, LimitError
from bridgehold.faces.legacy import rpc as shim
from bridgehold.host.cell.scripts.rpc_call import Call
from bridgehold.host.cell.scripts.rpc_flow import Bytes
from bridgehold.host.cell.scripts.rpc_judge import Callbacks, past_held
from bridgehold.host.cell.scripts.rpc_links import AT_ONCE, MOST_WAITING, InsideLink, Pace
from bridgehold.host.cell.scripts.rpc_pair import Pair
from bridgehold.host.cell.scripts.rpc_peer import MOST_STREAMS, Peer
from bridgehold.host.cell.scripts.rpc_relay import RpcRelay
from bridgehold.policies.buckets import CommandRates
from legacy.conftest import SCRIPTS

sys.path.append(str(SCRIPTS))
import rpcwire

MIB = 1 << 20
HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), ("te", "trailers")]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]


class Judge:
    """Lets each call through; counts what is held."""

    methods: Mapping[str, rpc.Method] = rpc.TO_WORKER
    request_bytes = answer_bytes = 8 * MIB

    def __init__(self) -> None:
        self.held = self.peak = 0
        self.oddities: list[str] = []

    def judge(self, call: Call, _message: memoryview | None) -> None:
        call.let_through()

    def hold(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)
        if size > 0 and self.held > 16 * MIB:
            raise past_held(self.held, 16 * MIB)

    def odd(self, what: str) -> None:
        self.oddities.append(what)


class End:
    """One end's own HTTP/2, and the transport between it and the pair."""

    def __init__(self, pair: Pair, peer: Peer, *, client: bool) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(16 * MIB)  # of all streams: each one bounds itself
        self._pair, self._peer = pair, peer
        self.wire = bytearray()
        self.events: list[Event] = []
        self.full = self.closed = False
        pair.connect(peer, self)

    def write(self, data: bytes) -> None:
        self.wire += data

    def close(self) -> None:
        self.closed = True

    def say(self, data: bytes = b"") -> None:
        """To the pair: what its HTTP/2 has to say, and `data` behind it."""
        self._pair.feed(self._peer, self.h2.data_to_send() + data)

    def hear(self) -> list[Event]:
        data, self.wire = bytes(self.wire), bytearray()
        found = self.h2.receive_data(data)
        self.events += found
        return found

    def read(self) -> int:
        """Bytes of messages that came, which are given back."""
        total = 0
        for event in self.hear():
            if isinstance(event, DataReceived):
                total += len(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.say()
        return total

    def ask(self, name: str, message: bytes | None, *, end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(":path", rpc.SERVICE + name), *HEADERS])
        if message is not None:
            self.h2.send_data(stream, framed(message), end_stream=end)
        self.say()
        return stream

    def send(self, stream: int, data: bytes) -> int:
        """What of `data` the window takes; how many bytes that was."""
        if any(isinstance(one, StreamReset) and one.stream_id == stream for one in self.events):
            return 0
        size = min(self.h2.local_flow_control_window(stream), len(data))
        for at in range(0, size, 16_384):
            self.h2.send_data(stream, data[at : min(at + 16_384, size)])
        self.say()
        self.read()
        return size

    def status(self, stream: int) -> str:
        self.hear()
        found = [
            dict(one.headers) for one in self.events if hasattr(one, "headers") and one.stream_id == stream
        ]
        return next((str(one["grpc-status"]) for one in found if "grpc-status" in one), "")


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


class Between:
    """A BEAM and its worker with the pair between them."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.pair = Pair(self.judge, lambda _: None)
        self.beam = End(self.pair, self.pair.asking, client=True)
        self.worker = End(self.pair, self.pair.answering, client=False)
        for _ in range(3):
            self.beam.read()
            self.worker.read()

    def call(self, name: str = "Ping", message: bytes = b"") -> tuple[int, int]:
        """(the BEAM's stream, the worker's) of a call that the worker has taken."""
        asked = self.beam.ask(name, message)
        self.worker.hear()
        taken = max(one.stream_id for one in self.worker.events if isinstance(one, RequestReceived))
        self.worker.h2.send_headers(taken, ANSWER)
        self.worker.say()
        return asked, taken

    def finish(self, taken: int) -> None:
        self.worker.h2.send_headers(taken, [("grpc-status", "0")], end_stream=True)
        self.worker.say()

    def pings(self) -> None:
        """A neighbour on the same connections goes on."""
        asked, taken = self.call()
        self.worker.send(taken, framed(b"pong"))
        self.finish(taken)
        assert self.beam.status(asked) == "0"


@pytest.fixture
def between() -> Between:
    return Between()


@pytest.fixture
def costs() -> Iterator[Callable[[], int]]:
    """Bytes of memory that are in use beyond those of the test's begin."""
    gc.collect()
    tracemalloc.start()
    first = tracemalloc.get_traced_memory()[0]

    def cost() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - first

    yield cost
    tracemalloc.stop()


def test_a_beam_that_never_reads_stops_that_stream_and_no_other(between: Between) -> None:
    asked, taken = between.call("ExecuteStreamingTool", b"")
    stream, sent = framed(b"x" * 60_000) * 100, 0
    while size := between.worker.send(taken, stream[sent:]):
        sent += size
    assert 65_535 <= sent < 2 * MIB, "its own window stops the worker"
    assert between.judge.held < 2 * MIB
    between.pings()
    got = between.beam.events and sum(
        len(one.data)
        for one in between.beam.events
        if isinstance(one, DataReceived) and one.stream_id == asked
    )
    for one in between.beam.events:
        if isinstance(one, DataReceived) and one.stream_id == asked:
            between.beam.h2.acknowledge_received_data(one.flow_controlled_length, asked)
    between.beam.say()
    while sent < len(stream) or got < len(stream):
        sent += between.worker.send(taken, stream[sent:])
        got += between.beam.read()
    between.finish(taken)
    assert between.beam.status(asked) == "0"
    assert between.judge.held == 0


def test_a_worker_that_never_reads_stops_its_caller_and_no_neighbour(between: Between) -> None:
    asked = between.beam.ask("StreamTelemetry", None)
    data, sent = framed(b"x" * 60_000) * 100, 0
    while size := between.beam.send(asked, data[sent:]):
        sent += size
    assert sent < 2 * MIB
    assert between.judge.held < 2 * MIB
    between.pings()
    between.beam.h2.reset_stream(asked)
    between.beam.say()
    assert between.judge.held == 0
    assert any(isinstance(one, StreamReset) for one in between.worker.hear())


def test_a_transport_that_is_full_takes_nothing_until_it_has_room(between: Between) -> None:
    asked, taken = between.call("ExecuteStreamingTool", b"")
    between.beam.hear()
    between.beam.full = True
    between.worker.send(taken, framed(b"x" * 30_000))
    assert len(between.beam.wire) < 1_000
    between.beam.full = False
    between.pair.resume(between.pair.asking)
    assert between.beam.read() == 30_005
    between.finish(taken)
    assert between.beam.status(asked) == "0"


@pytest.mark.parametrize(("piece", "ends"), [(b"", False), (b"xy", False), (framed(b""), True)])
def test_what_comes_in_the_smallest_pieces_costs_what_is_counted(
    between: Between, costs: Callable[[], int], piece: bytes, ends: bool
) -> None:
    """Frames without a byte, a long message in frames of two, and messages of no byte that nobody reads."""
    _, taken = between.call("ExecuteStreamingTool", b"")
    between.beam.full = True
    between.worker.say(DataFrame(taken, b"" if ends else (MIB).to_bytes(5, "big")).serialize())
    many = DataFrame(taken, piece).serialize() * 2_000
    between.worker.say(many)
    before = costs()
    for _ in range(4):
        between.worker.say(many)
    assert not between.pair.closed
    assert costs() - before < 3 * 4 * 2_000 * len(piece) + 30_000
    between.beam.full = False
    between.pings()


def test_what_all_calls_hold_is_bounded_and_given_back(between: Between) -> None:
    between.beam.full = True
    calls = [between.call("ExecuteTool", b"") for _ in range(6)]
    message = framed(b"x" * (7 * MIB))
    for _, taken in calls:
        sent = 0
        while sent < len(message) and (size := between.worker.send(taken, message[sent:])):
            sent += size
    assert between.judge.peak <= 17 * MIB
    between.beam.full = False
    between.pair.resume(between.pair.asking)
    statuses = [between.beam.status(asked) for asked, _ in calls]
    assert statuses.count("8") >= 3, "typed: RESOURCE_EXHAUSTED"
    for asked, _ in calls:
        if not between.beam.status(asked):
            between.beam.h2.reset_stream(asked)
    between.beam.say()
    assert between.judge.held == 0
    between.pings()


def test_streams_that_are_opened_and_left_are_bounded(between: Between, costs: Callable[[], int]) -> None:
    before = costs()
    left = [between.beam.ask("ExecuteTool", b"x" * 100, end=False) for _ in range(100)]
    for _ in range(300):
        stream = between.beam.ask("ExecuteTool", b"x" * 100, end=False)
        between.beam.h2.reset_stream(stream)
        between.beam.say()
    assert len(between.pair.by_stream) == len(left)
    assert between.judge.held < 2_000 * len(left)
    assert costs() - before < 4 * MIB
    between.pings()
    other = Between()
    between.beam.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1_000
    between.beam.h2.remote_settings.acknowledge()
    for _ in range(MOST_STREAMS - len(left) + 1):
        between.beam.ask("ExecuteTool", None)
    assert between.pair.closed, "past what its settings allow, the connection ends"
    assert between.judge.oddities
    assert between.judge.held == 0
    other.pings()


def test_one_call_takes_one_message_and_leaves_nothing(between: Between) -> None:
    for _ in range(5):
        stream = between.beam.ask("ExecuteTool", b"x" * 10_000, end=False)
        between.beam.h2.send_data(stream, framed(b"y" * 10_000), end_stream=True)
        between.beam.say()
        assert between.beam.status(stream) == "3"
    assert between.judge.held == 0
    between.pings()


@pytest.mark.parametrize("size", [9, 60_000])
def test_a_long_block_of_headers_ends_its_connection_before_it_is_kept_or_unpacked(
    costs: Callable[[], int], size: int
) -> None:
    """Whatever frames it comes in, and wherever these are cut: texts of codes of five bits take a second for 10 MiB."""
    other, between = Between(), Between()
    block = b"\x00\x01a\xff" + b"\x80\x80\x80\x01" + b"\x1c" * 300_000
    frames = HeadersFrame(1, block[:size]).serialize()
    frames += b"".join(
        ContinuationFrame(1, block[at : at + size]).serialize() for at in range(size, 60 * size, size)
    )
    before = costs()
    for at in range(0, len(frames), 1_001):
        between.beam.say(frames[at : at + 1_001])
    assert between.pair.closed is (size > 9)
    assert costs() - before < 64 * 1024
    other.pings()
    with pytest.raises(DenialOfServiceError):
        Peer(client=True).receive(frames[:9].replace(b"\0\0\x09", b"\x01\0\0", 1))


def test_lists_of_headers_that_wait_are_counted(between: Between, costs: Callable[[], int]) -> None:
    """Each entry of a table of headers is a byte on the wire; what it stands for waits with its call."""
    before, held = costs(), between.judge.held
    many = [("a", f"{number:02}") for number in range(60)]
    for _ in range(100):
        stream = between.beam.h2.get_next_available_stream_id()
        between.beam.h2.send_headers(stream, [(":path", rpc.SERVICE + "ExecuteTool"), *HEADERS, *many * 12])
    between.beam.say()
    assert costs() - before < between.judge.held - held + MIB
    assert between.judge.held > 10 * MIB
    for stream in list(between.pair.by_stream):
        between.beam.h2.reset_stream(stream)
    between.beam.say()
    assert between.judge.held == 0
    between.pings()
    assert between.judge.held == 0


def test_windows_that_grow_bit_by_bit_are_looked_at_once(between: Between, monkeypatch: Any) -> None:
    looks: list[set[int]] = []
    pump = Pair._pump
    monkeypatch.setattr(
        Pair, "_pump", lambda self, peer, streams: (looks.append(streams), pump(self, peer, streams))
    )
    between.worker.say(WindowUpdateFrame(0, 1).serialize() * 10_000)
    assert looks == [{0}]
    between.pings()


def test_a_table_of_headers_stays_small_and_is_not_resized_for_ever(between: Between) -> None:
    def resize(size: int) -> bytes:
        return SettingsFrame(0, {SettingCodes.HEADER_TABLE_SIZE: size}).serialize()

    between.worker.say(resize(1 << 30))
    assert between.pair.answering.h2.encoder.header_table_size == 4_096
    between.worker.h2.decoder.max_allowed_table_size = 1 << 30
    between.pings()
    between.worker.say(b"".join(map(resize, range(100))))
    assert between.pair.closed


def test_settings_that_nobody_knows_are_not_kept(between: Between, costs: Callable[[], int]) -> None:
    """Each is six bytes."""
    numbers, before = range(512, 8_192, 512), costs()
    for first in numbers:
        body = b"".join(struct.pack(">HL", number, 1) for number in range(first, first + 512))
        between.worker.say(b"\0\x0c\0\4\0\0\0\0\0" + body)
        between.worker.wire.clear()
    assert costs() - before < 128 * 1024
    between.pings()


@pytest.mark.parametrize(
    "flood",
    [
        PingFrame(0, b"12345678").serialize(),
        SettingsFrame(0).serialize(),
        SettingsFrame(0, {SettingCodes.INITIAL_WINDOW_SIZE: 0}).serialize()
        + SettingsFrame(0, {SettingCodes.INITIAL_WINDOW_SIZE: MIB}).serialize(),
        PriorityFrame(9_999, stream_weight=3).serialize(),
        b"\0\0\0\x77\0\0\0\0\0",
    ],
    ids=["ping", "settings", "windows", "priority", "unknown"],
)
def test_a_flood_of_small_frames_leaves_nothing_and_is_answered_by_no_more_than_it_is(
    between: Between, costs: Callable[[], int], flood: bytes
) -> None:
    """What is answered waits in the transport, past whose bound nothing more is read."""
    for end in (between.worker, between.beam):
        before = costs()
        for _ in range(4):
            part = flood * (8 * 1024 // len(flood))
            end.say(part)
            assert len(end.wire) <= len(part)
            end.wire.clear()
        assert costs() - before < 64 * 1024
    assert not between.pair.closed


def test_calls_that_wait_for_a_decision_are_bounded_however_they_are_given_up() -> None:
    waiting: list[Coroutine[None, None, None]] = []

    class Held:
        sessions: Mapping[str, str] = {"s": ""}

        def spawn(self, work: Coroutine[None, None, None]) -> None:
            waiting.append(work)

        def hold(self, size: int) -> None:
            assert size == 0

    class Given:
        method = rpc.FROM_WORKER["ExecuteElixirTool"]

    judge = Callbacks(cast(Any, Held()), CommandRates())
    message = memoryview(b"\x0a\x01s\x12\x01t")
    for _ in range(256):
        judge.judge(cast(Call, Given()), message)
    with pytest.raises(BusyError):
        judge.judge(cast(Call, Given()), message)
    assert len(waiting) == 256
    for one in waiting:
        one.close()


def test_calls_back_that_nobody_judges_reach_their_beam_at_a_pace_and_past_it_wait() -> None:
    waiting: list[Coroutine[None, None, None]] = []
    passed: list[int] = []

    class Held:
        sessions: Mapping[str, str] = {"s": ""}

        def spawn(self, work: Coroutine[None, None, None]) -> None:
            waiting.append(work)

        def hold(self, size: int) -> None:
            assert size == 0

    class Given:
        def __init__(self, name: str) -> None:
            self.method = rpc.FROM_WORKER[name]

        def let_through(self) -> None:
            passed.append(1)

    judge = Callbacks(cast(Any, Held()), CommandRates())

    def ask_many() -> None:
        for _ in range(100_000):
            for name, message in (
                ("Ping", b""),
                ("Heartbeat", b"\x0a\x01s"),
                ("GetExposedElixirTools", b"\x0a\x01s"),
            ):
                judge.judge(cast(Call, Given(name)), memoryview(message))

    began = time.monotonic()
    with pytest.raises(BusyError):
        ask_many()
    assert 200 <= len(passed) <= 200 + 50 * (time.monotonic() - began + 1)
    assert len(waiting) == 256
    before = len(passed)
    asyncio.run(asyncio.wait_for(cast(Any, waiting.pop(0)), 30))
    assert len(passed) == before + 1
    for one in waiting:
        one.close()


def test_what_is_read_of_a_call_is_bounded_and_counted_until_it_is_decided(costs: Callable[[], int]) -> None:
    """An empty table is three bytes on the wire and seventy in memory, and a call may wait for the audit."""
    waiting: list[Coroutine[None, None, None]] = []
    held: list[int] = []

    class Held:
        sessions: Mapping[str, str] = {"s": ""}

        def spawn(self, work: Coroutine[None, None, None]) -> None:
            waiting.append(work)

        def hold(self, size: int) -> None:
            held.append(size)
            if sum(held) > 64 * MIB:
                raise past_held(sum(held), 64 * MIB)

    class Given:
        method = rpc.FROM_WORKER["ExecuteElixirTool"]

    def message(tables: int, parameters: int) -> memoryview:
        text = rpcwire.field(1, "json") + rpcwire.field(2, b"[" + b"{}," * tables + b"{}]")
        names = (rpcwire.pair(3, f"p{number}", text) for number in range(parameters))
        return memoryview(rpcwire.field(1, "s") + rpcwire.field(2, "t") + b"".join(names))

    judge = Callbacks(cast(Any, Held()), CommandRates())
    before = costs()
    judge.judge(cast(Call, Given()), message(80_000, 30))
    assert costs() - before < 2 * MIB, "past the bound its size is said"
    small = message(40_000, 1)

    def ask_many() -> None:
        for _ in range(256):
            judge.judge(cast(Call, Given()), small)

    with pytest.raises(LimitError):
        ask_many()
    assert 5 < len(waiting) < 30
    assert costs() - before < sum(held) + 2 * MIB
    for one in waiting:
        one.close()
    assert rpc.read_request(Given.method, message(10, 2)).parameters == {"p0": [{}] * 11, "p1": [{}] * 11}


def test_bytes_come_out_as_they_went_in() -> None:
    kept, whole, out = Bytes(), b"", b""
    for step in range(300):
        piece = bytes([step % 256]) * (step * 37 % 9_000)
        kept.put(piece)
        whole += piece
        out += kept.take(step * 53 % 7_000)
        assert kept.size == len(whole) - len(out)
    assert out + kept.take(1 << 30) == whole
    assert kept.size == 0


def test_a_worker_that_never_reads_its_socket_is_not_read_either() -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        taken, room = asyncio.Event(), asyncio.Event()
        link = InsideLink(lambda _: taken.set(), room.set, lambda: None, Pace())
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: link, sock=ours)
        while not link.full:
            link.write(b"x" * 65_536)
        assert transport.get_write_buffer_size() < MOST_WAITING + 2 * 65_536
        assert not transport.is_reading()
        await loop.sock_sendall(theirs, b"ping")
        assert not taken.is_set()
        async with asyncio.timeout(30):
            while not room.is_set():
                await loop.sock_recv(theirs, MIB)
            await taken.wait()
        link.close()
        theirs.close()

    asyncio.run(act())


def test_bytes_of_either_side_are_taken_in_parts_between_which_others_have_their_turn() -> None:
    """Of the smallest frames: a worker's by its socket, a caller's by one request, which keep their order."""
    frames = PingFrame(0, b"12345678").serialize() * 20_000

    async def act() -> None:
        taken: list[bytes] = []
        turns: list[int] = []
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        link = InsideLink(taken.append, lambda: None, lambda: None, Pace())
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, frames))
        async with asyncio.timeout(30):
            while sum(map(len, taken)) < len(frames):
                await asyncio.sleep(0)
        await sending
        assert b"".join(taken) == frames
        assert max(map(len, taken)) <= AT_ONCE
        link.close()
        theirs.close()

        taken.clear()
        pair = cast(Any, SimpleNamespace(feed=lambda _, data: taken.append(data), closed=False))
        feeding = asyncio.create_task(
            RpcRelay._feed(cast(Any, SimpleNamespace(_pace=Pace())), pair, cast(Any, None), frames)
        )
        while not feeding.done():
            turns.append(len(taken))
            await asyncio.sleep(0)
        assert b"".join(taken) == frames
        assert len(set(turns)) >= len(taken) - 1 > 5

    asyncio.run(act())


def test_a_beam_that_offers_room_and_reads_nothing_loses_its_connection(monkeypatch: Any) -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        conn = shim._Conn(1)
        conn.put(b"early")
        conn.take(writer)
        while not writer.transport.is_closing():
            conn.put(b"x" * 65_536)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        theirs.close()

    monkeypatch.setattr(shim, "_MOST_UNREAD", MIB)
    asyncio.run(act())
