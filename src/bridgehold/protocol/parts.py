"""Bytes that cross beside a frame's JSON, as they are: in no base64, and nothing looks through them.

In a frame whose length has its highest bit set (`PARTED`) stand a length of JSON (4 bytes, big-endian), the
JSON, and bytes to the frame's end. `part` of the JSON says which member they are, one of `frames.PLACES`. A
host takes such frames where its `ping` says so, and answers with them whoever says ``"parts": true`` in a
request; any other peer reads and writes the same member as base64 text (docs/adr/0019).
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections import deque
from typing import Any, NamedTuple

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.errors import LimitError, ProtocolError, UsageError
from bridgehold.protocol.frames import HEADER, MAX_FRAME, PARTED, AnswerFrame, RequestFrame, put
from bridgehold.protocol.frames import pack as pack_plain
from bridgehold.protocol.values import Reply
from bridgehold.steps import in_turns

FROM_BODY = "body"
"""Of a request that takes a member from what came before it (`protocol.bodies`), with no bytes of its own."""
MOST_JSON = 1024 * 1024
"""Of the JSON beside a caller's part: whoever passes it on reads all of it, on a loop that tenants share."""
_JOINED = 64 * 1024
"""Bytes that are copied rather than sent on their own."""
_PIECE = 256 * 1024
"""Bytes that are given to a stream at once: what a socket doesn't take of them, the stream copies."""


class Moved(NamedTuple):
    """What a request carries, or none: then its answers may."""

    place: str = ""
    data: bytes = b""

    def as_text(self, params: bytes) -> bytes:
        """The parameters for a peer that takes no such frames."""
        if not self.place:
            return params
        value = msgspec.json.decode(params)
        put(value, self.place, base64.b64encode(self.data).decode("ascii"))
        return msgspec.json.encode(value)

    def within(self, params: dict[str, Any]) -> dict[str, Any]:
        """As `as_text`, of parameters that aren't JSON yet."""
        if not self.place:
            return params
        found: dict[str, Any] = msgspec.json.decode(self.as_text(msgspec.json.encode(params)))
        return found


def pack(frame: RequestFrame | AnswerFrame, data: bytes) -> tuple[bytes, bytes]:
    """The bytes of `frame`, whose `part` names a place, and those to be written after them at once."""
    body = msgspec.json.encode(frame)
    size = HEADER.size + len(body) + len(data)
    head = b"".join((HEADER.pack(PARTED | size), HEADER.pack(len(body)), body))
    return (head + data, b"") if len(data) < _JOINED else (head, data)


def packed(request_id: int, method: str, params: bytes, moved: Moved | None) -> tuple[bytes, ...]:
    """A request's bytes. Raises `LimitError` where no host takes so many: it would end the connection."""
    raw = msgspec.Raw(params)
    frame = RequestFrame(id=request_id, method=method, params=raw)
    if moved is not None:
        answered_so = moved.place != FROM_BODY
        frame = RequestFrame(id=request_id, method=method, params=raw, part=moved.place, parts=answered_so)
    pieces = pack(frame, moved.data) if moved is not None and moved.place else (pack_plain(frame),)
    if (size := sum(map(len, pieces)) - HEADER.size) > MAX_FRAME:
        raise LimitError(f"a request of {size} bytes; {MAX_FRAME} are possible", where=method)
    return pieces


def too_much(size: int) -> UsageError:
    """What says that so many bytes of JSON are beside a part."""
    return UsageError(
        f"{size} bytes of JSON beside a part; {MOST_JSON} are taken", hint="Send it without a part."
    )


async def merged(raw: msgspec.Raw, place: str, data: bytes) -> msgspec.Raw:
    """The parameters as JSON, with the part as base64: for what goes on to another process.

    Raises `LimitError` where that is more than a frame holds, `ProtocolError` as `put`.
    """
    if len(memoryview(raw)) + len(data) * 4 // 3 > MAX_FRAME:
        raise LimitError(f"{len(data)} bytes are more than a frame holds as base64", where="parameters")
    try:
        value = await in_turns(strict_turns.steps(bytes(raw), max_depth=strict.CALLERS_DEPTH + 1))
    except strict.StrictError as error:
        raise UsageError(f"parameters with a part: {error}") from None
    put(value, place, data)
    return msgspec.Raw(msgspec.json.encode(value))


def answered(number: int, made: object) -> tuple[bytes, bytes]:
    """The result of request `number`, whose bytes, if it has any, go beside it."""
    raw = made if isinstance(made, msgspec.Raw) else None
    place, data = "", b""
    if isinstance(made, Reply) and isinstance(made.value, dict):
        found = made.value.get("base64")
        if isinstance(found, bytes) and found:
            place, data = "value.base64", found
            rest = {name: item for name, item in made.value.items() if name != "base64"}
            made = msgspec.structs.replace(made, value=rest)
    elif isinstance(made, dict):
        made, data = _without_data(made)
        place = "data" if data else ""
    frame = AnswerFrame(id=number, result=raw or msgspec.Raw(msgspec.json.encode(made)), part=place)
    return pack(frame, data) if place else _plain(frame)


def told(number: int, event: object) -> tuple[bytes, bytes]:
    """An event of request `number`, as `answered`."""
    data = b""
    if isinstance(event, dict):
        event, data = _without_data(event)
    raw = event if isinstance(event, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(event))
    frame = AnswerFrame(id=number, event=raw, part="data" if data else "")
    return pack(frame, data) if data else _plain(frame)


def bytes_of(said: Any) -> bytes:
    """A member that came beside its frame, or as base64 text. Raises `ProtocolError`."""
    if isinstance(said, bytes):
        return said
    try:
        return base64.b64decode(said, validate=True)
    except (TypeError, ValueError):
        raise ProtocolError("the host's bytes are no base64") from None


def _without_data(value: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    found = value.get("data")
    if not isinstance(found, bytes) or not found:
        return value, b""
    return {name: item for name, item in value.items() if name != "data"}, found


def _plain(frame: AnswerFrame) -> tuple[bytes, bytes]:
    body = msgspec.json.encode(frame)
    return HEADER.pack(len(body)) + body, b""


class Sending:
    """What goes out on one stream, in order; what is long goes a piece at a time, and is copied nowhere."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: deque[memoryview] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wide = False
        self.unsent = 0
        """Bytes that the stream was not given yet."""

    def write(self, data: bytes) -> None:
        """Send `data` after all that came before, without waiting."""
        if not self.unsent and len(data) <= _PIECE:
            self._writer.write(data)
            return
        if not self._wide and (sock := self._writer.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)  # or what the machine allows
        self._wide = True
        self._waiting.append(memoryview(data))
        self.unsent += len(data)
        if self._task is None:
            self._task = asyncio.create_task(self._send())

    async def drain(self) -> None:
        """Wait until the stream has all, and little of it waits there. Cancelling takes nothing back."""
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._writer.drain()

    def close(self) -> None:
        """Close the stream, after what waits."""
        if self._task is None:
            self._writer.close()
        else:
            self._task.add_done_callback(lambda _: self._writer.close())

    async def closed(self) -> None:
        """Wait until the stream is closed: after `close`."""
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._writer.wait_closed()

    def stop(self) -> None:
        """Send nothing more of what waits."""
        if self._task is not None:
            self._task.cancel()

    async def _send(self) -> None:
        try:
            while self._waiting:
                data = self._waiting.popleft()
                for start in range(0, len(data), _PIECE):
                    piece = data[start : start + _PIECE]
                    self._writer.write(piece)
                    self.unsent -= len(piece)
                    await self._writer.drain()
        except OSError:
            pass  # the reading half says that the connection is lost
        finally:
            self._task = None
            self._waiting.clear()
            self.unsent = 0
