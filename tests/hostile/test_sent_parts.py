"""Bytes beside frames, from hostile sides: a guest's, whose session alone ends, and a caller's, whose connection does."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold import BridgeholdError
from bridgehold.protocol.frames import PARTED
from hostile.stage import PAIRED, Stage
from waiting import until

pytestmark = pytest.mark.hostile
WAYS = PAIRED
SEND = """
import fcntl, gc, json, os, stat, time
call = next(one for one in gc.get_objects() if type(one).__name__ == "Runtime")._current
out = [fd for fd in range(3, 1024) if os.path.exists(f"/proc/self/fd/{fd}")
       and stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY]
def number(value):
    return value.to_bytes(4, "big")
def send(said, part, *, first=None, more=0):
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    size = 4 + len(text) + len(part) + more
    data = number(1 << 31 | size) + number(len(text) if first is None else first) + text + part
    for fd in out:
        view = memoryview(data)
        while view: view = view[os.write(fd, view):]
answer = {"id": call, "success": True, "result": {"a": 1}, "part": "result.base64"}
"""
BREAKS = (
    'send({**answer, "part": "result.a"}, b"x")',
    'send(answer, b"x", first=1 << 20)',
    'send(b"[" * (1 << 20), b"x")',
    'send(answer, b"", more=9 << 20)',
    'send(answer, b"x" * 4096, more=-2048)',
)
"""One of each kind; tests/vectors/wire/parted_broken.json has the others."""


def test_a_guest_whose_bytes_are_no_part_loses_its_session_alone(host: Stage) -> None:
    with host.session() as other:
        for broken in BREAKS:
            code = f"{SEND}\n{broken}\ntime.sleep(60)"
            with host.session() as session:
                with contextlib.suppress(BridgeholdError):  # where a sound part came first, it was its answer
                    assert session.run("act", {"code": code})["a"] == 1
                with pytest.raises(BridgeholdError) as caught:
                    session.run("report")
            assert caught.value.code in ("protocol", "session_ended"), (broken, caught.value)
        assert other.run("act", {"code": "result = {'ok': 1}"}) == {"ok": 1}


def test_a_part_is_its_calls_and_text_for_who_asks_for_none(host: Stage) -> None:
    """Sound frames of a hostile guest: for its own call, for one that nobody sent, as large as a frame may be."""
    own = f'{SEND}\nsend(answer, b"\\0\\xff")\ntime.sleep(0.01)\nresult = {{}}'
    other = f'{SEND}\nsend({{**answer, "id": call + 1000}}, bytes(1000 << 10))\nresult = {{"mine": len(out)}}'
    with host.session() as session:
        assert session.run("act", {"code": own}) == {"a": 1, "base64": "AP8="}
        assert session.run("act", {"code": other}) == {"mine": 1}
        until(lambda: [e for e in host.events("protocol.violation") if e["session"] == session.id])


def test_a_guest_that_sends_parts_nobody_waits_for_keeps_no_other_waiting(host: Stage) -> None:
    flood = f"""{SEND}
end = time.monotonic() + 0.7
while time.monotonic() < end:
    send({{**answer, "id": 99999}}, bytes(1000 << 10))
result = {{"done": True}}
"""
    with host.session() as one, host.session() as two:
        seen: list[Any] = []

        def run() -> None:
            with contextlib.suppress(BridgeholdError):
                seen.append(one.run("act", {"code": flood}))

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: host.busy(one.id) or seen)
        for _ in range(10):
            assert two.run("act", {"code": "result = {'ok': 1}"}) == {"ok": 1}
        thread.join(60)
        assert seen in ([{"done": True}], [])


def frame(said: dict[str, Any], part: bytes | None = None, first: int | None = None) -> bytes:
    text = json.dumps(said).encode()
    if part is None:
        return len(text).to_bytes(4, "big") + text
    size = 4 + len(text) + len(part)
    length = (len(text) if first is None else first).to_bytes(4, "big")
    return (PARTED | size).to_bytes(4, "big") + length + text + part


def answers(caller: socket.socket) -> Iterator[tuple[dict[str, Any], bytes]]:
    with caller.makefile("rb") as file:
        while head := file.read(4):
            length, part = int.from_bytes(head, "big"), b""
            if length > PARTED:
                first = int.from_bytes(file.read(4), "big")
                text, part = file.read(first), file.read(length - PARTED - 4 - first)
            else:
                text = file.read(length)
            yield json.loads(text), part


def put(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "method": "artifact.put", "params": {"tenant": "local"}, "part": "data", **more}


def test_a_caller_whose_bytes_belong_nowhere_is_told_so(host: Stage) -> None:
    """A part where its method takes none is its request's error; a frame that is none ends its connection."""

    def said(sent: bytes) -> tuple[dict[str, Any], bytes]:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(30)
            caller.connect(str(host.layout.socket))
            caller.sendall(sent)
            return next(answers(caller))

    def code(sent: bytes) -> str:
        answer, _ = said(sent)
        return str(answer["error"]["code"])

    ping = {"id": 1, "method": "ping", "params": {}}
    assert said(frame(ping))[0]["result"]["parts"] is True
    assert code(frame({**ping, "part": "data"}, b"x")) == "usage"
    assert code(frame({**ping, "part": "value.base64"}, b"x")) == "protocol"
    assert code(frame(put(1, params={"data": "eA=="}), b"x")) == "protocol"
    assert code(frame(put(1, part="arguments.base64"), b"x")) == "protocol"
    assert code(frame(put(1, part=7), b"x")) == "protocol"
    long = {"id": 1, "method": "run", "params": {"operation": "x:y", "arguments": {"x": "y" * (2 << 20)}}}
    assert code(frame({**long, "part": "arguments.base64"}, b"x")) == "usage"
    for broken in (
        frame(ping, b"x"),
        frame(put(1), b"x", first=4096),
        PARTED.to_bytes(4, "big") + b"\0\0\0\0",
    ):
        assert code(broken) == "protocol"
    assert code((PARTED | 65 << 20).to_bytes(4, "big")) == "protocol"
    kept, _ = said(frame(put(1), b"\0\xff"))
    digest = kept["result"]["digest"]
    get = {"id": 2, "method": "artifact.get", "params": {"digest": digest}}
    assert said(frame(get))[0]["result"]["data"] == "AP8="
    told, part = said(frame({**get, "parts": True}))
    if host.events("cell.started"):  # a front passes on what a cell has answered: text
        assert (part, told.get("part"), told["result"]["data"]) == (b"", None, "AP8=")
    else:
        assert (part, told["part"], "data" in told["result"]) == (b"\0\xff", "data", False)
    host.client.remove(digest)
