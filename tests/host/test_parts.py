"""Bytes beside a frame's JSON: hosts and callers that take them, and those that are older."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold import Client
from bridgehold.audit.arguments import CONTENTS, judged_as
from bridgehold.bridges.frames import ResultFrame
from bridgehold.bridges.wire import PARTED as GUEST_PARTED
from bridgehold.client.session_files import PART_BYTES, SessionFiles
from bridgehold.errors import LimitError, ProtocolError
from bridgehold.host.cell.commands.command_log import Came, ending_of
from bridgehold.host.cell.workers import pipes as guest_pipes
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.logs import SessionLog
from bridgehold.ids import digest_bytes
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.model import MIB, Limits, Rate
from bridgehold.protocol import parts
from bridgehold.protocol.frames import HEADER, PARTED, read_frame
from bridgehold.protocol.parts import Moved
from bridgehold.protocol.values import Artifact, Reply
from waiting import eventually

Answer = tuple[dict[str, Any], bytes]
BYTES = bytes(range(256)) * 1000


class Standing:
    """A host that knows how its callers' frames look, and answers `ping` and what it is told to."""

    def __init__(self, ping: dict[str, Any], answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.ping, self.answer = ping, answer
        self.asked: list[tuple[dict[str, Any], bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beside: list[bytes] = []
        while (body := await read_frame(reader, beside=beside)) is not None:
            said = json.loads(body)
            self.asked.append((said, beside.pop() if beside else b""))
            answer: Answer = ({"result": self.ping}, b"") if said["method"] == "ping" else self.answer(said)
            text = json.dumps({"id": said["id"], **answer[0]}).encode()
            if "part" not in answer[0]:
                writer.write(HEADER.pack(len(text)) + text)
                continue
            size = HEADER.size + len(text) + len(answer[1])
            writer.write(HEADER.pack(PARTED | size) + HEADER.pack(len(text)) + text + answer[1])
        writer.close()


def with_client(standing: Standing, place: Path, act: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = await asyncio.start_unix_server(standing.serve, str(place / "s"))
        async with server, Client.connect(place / "s") as client:
            return await act(client)

    return asyncio.run(run())


def kept(_: dict[str, Any]) -> Answer:
    return {"result": {"digest": "sha256:x", "size_bytes": len(BYTES)}}, b""


def test_to_an_older_host_bytes_go_as_text(tmp_path: Path) -> None:
    standing = Standing({"status": "ok", "version": "0"}, kept)
    with_client(standing, tmp_path, lambda client: client.put(BYTES))
    (ping, _), (asked, beside) = standing.asked
    assert (ping["method"], beside, asked.keys()) == ("ping", b"", {"id", "method", "params"})
    assert parts.bytes_of(asked["params"]["data"]) == BYTES


def test_to_a_host_that_takes_them_they_go_as_they_are(tmp_path: Path) -> None:
    def answer(asked: dict[str, Any]) -> Answer:
        if asked["method"] == "artifact.put":
            return kept(asked)
        offset = asked["params"]["offset"]
        said = {"result": {"size_bytes": len(BYTES), "offset": offset}}
        return ({**said, "part": "data"}, BYTES[offset:]) if offset == 0 else kept(asked)

    standing = Standing({"parts": True}, answer)

    async def act(client: Client) -> bytes:
        await client.put(BYTES)
        return await client.get("sha256:x")

    assert with_client(standing, tmp_path, act) == BYTES
    _, (asked, beside), (got, _) = standing.asked  # it is asked once whether it takes them
    assert (beside, asked["part"], asked["parts"], "data" in asked["params"]) == (BYTES, "data", True, False)
    assert (got["parts"], "part" in got) == (True, False)


@pytest.mark.parametrize("place", ["", "arguments.base64", "result", "value.base64.x"])
def test_a_hosts_part_that_belongs_nowhere_is_the_requests_error(tmp_path: Path, place: str) -> None:
    def answer(_: dict[str, Any]) -> Answer:
        return {"result": {"size_bytes": 1}, "part": place or "data.x"}, b"x"

    with pytest.raises(ProtocolError, match="no place"):
        with_client(Standing({"parts": True}, answer), tmp_path, lambda client: client.get("sha256:x"))


class OneFile:
    """A session with one file, which gives at most `most` bytes of it at once."""

    tenant = "local"

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.most = data, most
        self.asked: list[tuple[int, int]] = []
        self.under_way = self.side_by_side = 0
        self.fails_at = -1

    async def run(self, operation: str, arguments: dict[str, Any] | None = None) -> Any:
        assert (operation, arguments) == ("files_stat", {"path": "f"})
        return {"path": "f", "kind": "file", "size_bytes": len(self.data), "mode": 0o644, "modified": 0.0}

    async def artifacts(self) -> list[Artifact]:
        return []

    async def call(
        self, operation: str, arguments: dict[str, Any] | None = None, *, moved: Moved | None = None
    ) -> Reply:
        assert arguments is not None
        assert moved is not None
        offset = arguments["offset"]
        self.asked.append((offset, arguments.get("length", len(moved.data))))
        self.under_way += 1
        self.side_by_side = max(self.side_by_side, self.under_way)
        try:
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        if operation == "files_write":
            if offset == self.fails_at:
                raise LimitError("no room")
            assert offset == len(self.data)
            self.data += moved.data
            return Reply(value={}, session="s")
        data = self.data[offset : offset + min(self.most, arguments["length"])]
        end = len(data) < arguments["length"] and offset + len(data) == len(self.data)
        said = {"base64": data, "end": end, "size_bytes": self.size_told}
        return Reply(value=said, session="s")

    @property
    def size_told(self) -> int:
        return len(self.data)


@pytest.mark.parametrize("most", [PART_BYTES, 700_001])
@pytest.mark.parametrize("told", [None, 0, 1 << 50])
def test_a_file_is_whole_whatever_its_session_gives_at_once_and_says_of_its_size(
    monkeypatch: pytest.MonkeyPatch, most: int, told: int | None
) -> None:
    data = os.urandom(2 * PART_BYTES + 12_345)
    if told is not None:
        monkeypatch.setattr(OneFile, "size_told", told)
    for offset, length in ((0, None), (5, None), (7, PART_BYTES + 1), (0, len(data)), (3, 0)):
        session = OneFile(data, most)
        got = asyncio.run(SessionFiles(session).read("f", offset=offset, length=length))
        assert got == data[offset:][:length]
        assert session.side_by_side <= 2
        assert session.under_way == 0
        if told is None:  # nothing past its end or its range is asked for, but for whether that is the end
            assert all(place + n <= offset + len(got) for place, n in session.asked[1:-1])


def test_a_file_is_written_in_order_two_parts_at_a_time_and_a_refusal_ends_it() -> None:
    data = os.urandom(3 * PART_BYTES + 5)
    session = OneFile(b"", 0)
    asyncio.run(SessionFiles(session).write("f", data))
    assert session.data == data
    assert [offset for offset, _ in session.asked] == [n * PART_BYTES for n in range(4)]
    assert (session.side_by_side, session.under_way) == (2, 0)
    for fails_at, written in ((0, 0), (PART_BYTES, PART_BYTES)):
        session = OneFile(b"", 0)
        session.fails_at = fails_at
        with pytest.raises(LimitError, match="no room"):
            asyncio.run(SessionFiles(session).write("f", data))
        assert (len(session.data), session.under_way) == (written, 0)
        assert len(session.asked) <= 1 + 2 * (fails_at > 0)


def test_what_is_long_goes_whole_and_in_order_although_who_sends_it_is_cancelled() -> None:
    async def act() -> None:
        one, other = socket.socketpair()
        reader, _ = await asyncio.open_connection(sock=one, limit=1 << 16)
        _, writer = await asyncio.open_connection(sock=other)
        sending, long = parts.Sending(writer), os.urandom(16 * MIB)
        sending.write(b"a")
        sending.write(long)
        waits = asyncio.ensure_future(sending.drain())
        await asyncio.sleep(0)
        sending.write(b"b")
        assert sending.unsent > 0
        waits.cancel()
        sending.write(b"")
        sending.close()
        assert await reader.read(-1) == b"a" + long + b"b"
        await sending.closed()
        assert sending.unsent == 0
        one.close()

    asyncio.run(act())


def test_what_is_answered_is_the_same_with_a_part_and_without() -> None:
    reply = Reply(value={"base64": BYTES, "end": True}, session="s-1")
    head, beside = parts.answered(7, reply)
    said = json.loads(head[8:])
    assert (said["part"], said["result"]["value"], beside) == ("value.base64", {"end": True}, BYTES)
    assert reply.value == {"base64": BYTES, "end": True}
    for made in ({"data": b""}, {"data": "text"}, {"value": {"base64": BYTES}}, [BYTES], None):
        head, beside = parts.answered(7, made)
        assert (beside, HEADER.unpack(head[:4])[0]) == (b"", len(head) - 4)
        assert "part" not in json.loads(head[4:])
    head, beside = parts.told(7, {"type": "wire", "data": b"xy"})
    assert (head[-2:], beside) == (b"xy", b"")  # few bytes are one write


def test_a_part_is_counted_and_told_by_size_and_digest_alone() -> None:
    frame = ResultFrame(id=1, result={"base64": BYTES, "end": True})
    ending = asyncio.run(ending_of(Came(frame)))
    assert (ending.beside, ending.application_ok) == (len(BYTES), True)
    assert f"{len(BYTES)} bytes, {digest_bytes(BYTES)}".encode() in ending.result
    assert len(ending.result) < 200


def test_bytes_are_judged_as_the_text_that_they_would_be() -> None:
    schema: dict[str, object] = {"properties": {CONTENTS: {"type": "string", "maxLength": 8}}}
    assert judged_as(b"123456", schema, 100) == "AAAAAAAA"
    with pytest.raises(LimitError, match="6 are allowed"):
        judged_as(b"1234567", schema, 100)
    with pytest.raises(LimitError, match="5 are allowed"):
        judged_as(b"123456", schema, 5)
    assert len(judged_as(bytes(1 << 20), {}, 1 << 20)) <= 4096


def test_what_goes_on_to_another_process_is_text_and_no_longer_than_a_frame() -> None:
    assert json.loads(bytes(asyncio.run(parts.merged(msgspec.Raw(b'{"last":true}'), "data", b"\0\xff")))) == {
        "last": True,
        "data": "AP8=",
    }
    with pytest.raises(LimitError):
        asyncio.run(parts.merged(msgspec.Raw(b"{}"), "data", bytes(49 * MIB)))
    for place in ("", "value.base64", "data"):
        with pytest.raises(ProtocolError):
            asyncio.run(parts.merged(msgspec.Raw(b'{"data":"x"}'), place, b"x"))


class Guest:
    """A worker's pipes; what of them is paced is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[Any] = []
        self.ended: list[Any] = []
        self.taken: list[float] = []
        guest = self

        class Paced(TokenBucket):
            def take(self, amount: float, now: float) -> float:
                guest.taken.append(amount)
                return super().take(amount, now)

        monkeypatch.setattr(guest_pipes, "TokenBucket", Paced)
        input_, to_guest = os.pipe()
        from_guest, self.frames = os.pipe()
        errors, errors_in = os.pipe()
        self.others = (input_, errors_in)
        self.pipes = GuestPipes(
            [to_guest, from_guest, errors],
            limits=Limits(response_bytes=8 * MIB),
            rate=Rate(),
            log=SessionLog(1024),
            on_frame=self.found.append,
            on_end=self.ended.append,
            budget=FrameBudget(Shares(64 * MIB, part=0)),
        )
        self.pipes.reader.expect(1)

    def close(self) -> None:
        self.pipes.close()
        for one in (self.frames, *self.others):
            os.close(one)


def parted(part: bytes, more: int = 0) -> bytes:
    text = b'{"id":1,"success":true,"result":{},"part":"result.base64"}'
    size = 4 + len(text) + len(part) + more
    return (GUEST_PARTED | size).to_bytes(4, "big") + len(text).to_bytes(4, "big") + text + part


READY = b'{"type":"ready","bridge":"b","version":"1","operations":[]}'


def test_bytes_that_nobody_looks_through_are_paced_as_a_sixteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        guest = Guest(monkeypatch)
        sent = len(READY).to_bytes(4, "big") + READY + parted(bytes(7 * MIB))
        writer = threading.Thread(target=lambda: os.write(guest.frames, sent))
        writer.start()
        await eventually(lambda: len(guest.found) == 2)
        writer.join()
        assert len(guest.found[1].result["base64"]) == 7 * MIB
        assert 7 * MIB / 16 <= sum(guest.taken) <= 7 * MIB / 8
        guest.close()

    asyncio.run(act())


def test_a_guest_that_promises_bytes_and_sends_none_has_a_typed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_pipes, "_HALF_FRAME_SECONDS", 0.05)

    async def act() -> None:
        guest = Guest(monkeypatch)
        os.write(guest.frames, len(READY).to_bytes(4, "big") + READY + parted(b"some", more=4 * MIB))
        await eventually(lambda: bool(guest.ended))
        assert isinstance(guest.ended[0], ProtocolError)
        assert guest.pipes.buffered < 1024
        guest.close()

    asyncio.run(act())


def test_a_tenants_files_leave_pipes_to_others_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past 64 MiB of an ordinary user's account, new pipes hold two pages: eight that are wide took 16 of it."""

    async def act() -> None:
        guests = [Guest(monkeypatch) for _ in range(10)]

        def widths() -> list[int]:
            for guest in guests:
                guest.pipes._widen()
            return [fcntl.fcntl(guest.frames, fcntl.F_GETPIPE_SZ) // MIB for guest in guests]

        assert widths() == [1] * 8 + [0] * 2
        guests.pop(0).close()
        guests.append(Guest(monkeypatch))
        assert widths() == [1] * 7 + [0] * 2 + [1]
        for guest in guests:
            guest.close()

    asyncio.run(act())


def test_who_sends_a_part_byte_by_byte_has_no_object_kept_of_each() -> None:
    async def act() -> int:
        reader = asyncio.StreamReader()
        sent = 20_000
        reader.feed_data(HEADER.pack(PARTED | HEADER.size + 2 + sent) + HEADER.pack(2) + b"{}")
        beside: list[bytes] = []
        reading = asyncio.create_task(read_frame(reader, beside=beside))
        await asyncio.sleep(0)
        tracemalloc.start()
        for _ in range(sent // 2):
            reader.feed_data(b"ab")
            await asyncio.sleep(0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert await reading == b"{}"
        assert beside == [b"ab" * (sent // 2)]
        return peak

    assert asyncio.run(act()) < 4 * 20_000
