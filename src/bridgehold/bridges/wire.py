"""The host's end of the wire, without I/O: frames to bytes, hostile bytes to frames.

`docs/reference/wire.md` is the description for bridge authors; the guest's codec shares the golden
vectors of ``tests/vectors/wire`` with this one, and no code.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Iterable
from datetime import UTC, datetime
from typing import Literal, TypeVar, cast, get_args

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.bridges import wire_steps
from bridgehold.bridges.frames import (
    CallFrame,
    CancelFrame,
    ChunkFrame,
    FaultFrame,
    GuestFrame,
    HostFrame,
    ProgressFrame,
    ReadyFrame,
    ResultFrame,
    StrayFrame,
    ToolCallFrame,
    ToolReplyFrame,
    WarmedFrame,
    WarmFrame,
)
from bridgehold.errors import LimitError, ProtocolError, UsageError
from bridgehold.steps import finished

HEADER_BYTES = 4
ENVELOPE_BYTES = 1024
"""What a frame may hold beside its result; `response_bytes` and this bound a frame's length."""
MAX_FRAME_BYTES = 8 * 1024 * 1024
PARTED = 1 << 31
"""In a frame's length: a length of JSON, that JSON and bytes follow, which belong where its ``part`` says."""
PART_JSON_BYTES = 64 * 1024
"""The most JSON beside a guest's part: judging it costs far more than passing bytes on."""
PART_OF_CALL, PART_OF_RESULT = "args.base64", "result.base64"
_PIECE_BYTES = 16 * 1024
"""Of a part, what is kept as it came."""
_VALUE_BYTES = 128
"""Of memory, for each bracket and comma: an object with one key has two, and takes some 230."""
_LEAST_PARTED = HEADER_BYTES + 2
BOOT_ID = 0
"""A fault with this id before `ready` says why the bridge could not be imported."""

_T = TypeVar(
    "_T", ResultFrame, FaultFrame, ProgressFrame, ChunkFrame, ToolCallFrame, ResultFrame | FaultFrame
)

WireReason = Literal[strict.Reason, "length", "shape", "order", "unexpected_end"]
WIRE_REASONS: tuple[str, ...] = get_args(WireReason)


class WireError(ProtocolError):
    """The guest broke the wire. `reason` is one of `WIRE_REASONS`; the stream can't be read on."""

    default_hint = "The bridge wrote what is no frame; its worker is ended. `bridgehold logs` shows its log."

    def __init__(self, reason: WireReason, message: str) -> None:
        super().__init__(f"{reason}: {message}", where="wire")
        self.reason: WireReason = reason


_STAMP = 64
"""Characters of a reply's ``timestamp``, which nobody reads."""
AT_ONCE = 8_000
"""What a frame may weigh that is written in one go: a millisecond or two."""
_TEXT, _SHORT = frozenset({str}), 1 << 16
"""Arguments that are short texts need no weighing."""
_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(
    frame: HostFrame,
    *,
    max_bytes: int = MAX_FRAME_BYTES,
    timestamp: str | None = None,
    parts: bool = False,
) -> bytes:
    """The bytes of one frame, header included; else as `pieces`, at once."""
    return b"".join(finished(pieces(frame, max_bytes=max_bytes, timestamp=timestamp, parts=parts)))


def pieces(
    frame: HostFrame,
    *,
    max_bytes: int = MAX_FRAME_BYTES,
    timestamp: str | None = None,
    parts: bool = False,
) -> Generator[None, None, tuple[bytes, ...]]:
    """One frame, header included, in pieces that are to be sent one after the other; made in turns.

    `parts`: the guest takes them; otherwise bytes go as base64 text. `max_bytes` bounds the body, a part
    included (the grant's `request_bytes`). Raises `UsageError` where arguments hold what JSON or the guest's
    codec can't carry, `LimitError` where they are too large.
    """
    body, part = _body(frame, timestamp), None
    if isinstance(frame, CallFrame) and isinstance(found := frame.args.get("base64"), bytes):
        args = {name: item for name, item in frame.args.items() if name != "base64"}
        if parts:
            body, part = {**body, "args": args, "part": PART_OF_CALL}, found
        else:
            body["args"] = {**args, "base64": base64.b64encode(found).decode("ascii")}
    try:
        texts = frame.args.values() if isinstance(frame, CallFrame) else (None,)
        short = _TEXT.issuperset(map(type, texts)) and sum(map(len, cast("Iterable[str]", texts))) < _SHORT
        if short or strict.weigh(body, AT_ONCE) < AT_ONCE:
            strict.measured(data := _json(body).encode())
        else:
            data = yield from wire_steps.steps(body)
    except strict.StrictError as error:
        raise UsageError(
            f"the arguments can't be sent: {error}",
            hint=f"Nest at most {strict.MAX_DEPTH} deep, keep integers within 64 bits and keys unique.",
            where="arguments",
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the arguments can't be sent: {error}",
            hint="Arguments are JSON: finite numbers, text, lists, and objects with text keys.",
            where="arguments",
        ) from None
    size = len(data) if part is None else len(data) + len(part)
    if size > max_bytes:
        raise LimitError(
            f"the request has {size} bytes; {max_bytes} are allowed",
            hint="Raise `limits.request` in the policy, or send the data as a file.",
            where="arguments",
        )
    length = len(data).to_bytes(HEADER_BYTES, "big")
    if part is None:
        return (length + data,)
    return (PARTED | size + HEADER_BYTES).to_bytes(HEADER_BYTES, "big") + length + data, part


def _body(frame: HostFrame, timestamp: str | None) -> dict[str, object]:
    if isinstance(frame, CallFrame):
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds") if timestamp is None else timestamp
        body = {"id": frame.id, "command": frame.command, "args": frame.args, "timestamp": stamp}
        if frame.deadline_ms:
            body["deadline_ms"] = frame.deadline_ms
        if frame.tools:
            body["tools"] = msgspec.to_builtins(frame.tools)
        return body
    if isinstance(frame, CancelFrame):
        return {"type": "cancel", "id": frame.id}
    if isinstance(frame, ToolReplyFrame):
        said: dict[str, object] = {"type": "tool_reply", "id": frame.id, "call": frame.call}
        if frame.error is not None:
            return {**said, "error": msgspec.to_builtins(frame.error)}
        return {**said, "result": frame.result}
    first: dict[str, object] = msgspec.to_builtins(frame)
    return {"type": "warm" if isinstance(frame, WarmFrame) else "boot", **first}


class FrameReader:
    """A guest's stream, frame by frame. Feed it bytes as they come; it never reads or blocks.

    The host says with `expect` which calls it has sent. A frame of a call that was answered, given
    up (`forget`) or never sent comes out as a `StrayFrame`; it reaches no caller. After a
    `WireError` the reader refuses everything: the worker is to be ended.
    """

    def __init__(
        self,
        *,
        max_frame: int = MAX_FRAME_BYTES,
        max_depth: int = strict.MAX_DEPTH,
        zygote: bool = False,
    ) -> None:
        """`zygote`: the one frame that may come is `warmed`."""
        self._zygote = zygote
        self._max_frame = max_frame + ENVELOPE_BYTES
        self._max_depth = max_depth
        self._buffer = bytearray()
        self._pieces: list[bytes | bytearray] = []
        """Of a part that is under way, what came after `_buffer`: joined once, when it is complete."""
        self._missing = 0
        """Bytes of that part that are still to come."""
        self._live: dict[int, int] = {}
        self._highest = -1
        self._ready = False
        self._broken = False
        self.buffered = 0
        """Bytes held of a frame that is not complete: what the host's budget is charged with."""
        self.frames = 0
        """Frames read so far, strays included, for the session's rate."""
        self.within_part = False
        """Whether what is held is the beginning of a frame with a part, its JSON complete."""
        self.of_part = 0
        """Of what was fed last, the bytes that went on with a part."""
        self.values_bytes = 0
        """What a frame that is read in turns may take as values, at the most; more than it is long."""

    def expect(self, call_id: int) -> None:
        """A call with this id has been sent."""
        self._live[call_id] = 0
        self._highest = max(self._highest, call_id)

    def expects(self, call_id: int) -> bool:
        """Whether its reply is still to come."""
        return call_id in self._live

    def forget(self, call_id: int) -> None:
        """Nobody waits for this call any more; its frames are strays from now on."""
        self._live.pop(call_id, None)

    def feed(self, data: bytes) -> list[GuestFrame | StrayFrame]:
        """The frames that `data` completes, in order. Raises `WireError`, and nothing else."""
        steps = self.steps(data)
        del data
        return finished(steps)

    def steps(self, data: bytes) -> Generator[None, None, list[GuestFrame | StrayFrame]]:
        """As `feed`, in turns; nothing else is fed meanwhile.

        What is raised holds nothing of the stream, however long somebody keeps it.
        """
        if self._broken:
            raise WireError("order", "the stream is broken already")
        self.of_part = min(len(data), self._missing)
        if len(data) < self._missing:
            self._keep(data)
            return []
        frames: list[GuestFrame | StrayFrame] = []
        part: bytes | None
        start = 0
        try:
            self.within_part = False
            if self._missing:
                body, part, data = self._whole(data)
                frames.append((yield from self._frame(body, part)))
            self._buffer += data
            while (held := len(self._buffer) - start) >= HEADER_BYTES:
                length = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
                parted = length > PARTED
                if parted:
                    length -= PARTED
                if not (_LEAST_PARTED if parted else 2) <= length <= self._max_frame:
                    said = f"a frame of {length} bytes; {self._max_frame} are allowed"
                    raise WireError("length", said)  # noqa: TRY301 - it breaks the stream as what is below does
                place, end = start + HEADER_BYTES, start + HEADER_BYTES + length
                if parted:
                    place = self._json_end(start, length, held)
                if held - HEADER_BYTES < length:
                    self._missing = HEADER_BYTES + length - held if self.within_part else 0
                    break
                with memoryview(self._buffer) as view:
                    begins, ends = (start + 2 * HEADER_BYTES, place) if parted else (place, end)
                    body, part = bytes(view[begins:ends]), bytes(view[place:end]) if parted else None
                start, self.within_part = end, False
                frames.append((yield from self._frame(body, part)))
        except WireError as error:
            self._broken, self.buffered = True, 0
            self._forget_held()
            broken = error.bare()
        else:
            del self._buffer[:start]
            self.buffered = len(self._buffer)
            self.frames += len(frames)
            return frames
        data, body, part, frames = b"", b"", None, []  # its traceback holds these names
        try:
            raise broken
        finally:
            del broken

    def _keep(self, data: bytes) -> None:
        """More of a part. Who sends it byte by byte makes no object of each."""
        if len(data) >= _PIECE_BYTES:
            self._pieces.append(data)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += data
        else:
            self._pieces.append(bytearray(data))
        self._missing -= len(data)
        self.buffered += len(data)

    def _whole(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        """The JSON and the part of a frame that `data` completes, and what of `data` comes after it."""
        place = 2 * HEADER_BYTES + int.from_bytes(self._buffer[HEADER_BYTES : 2 * HEADER_BYTES], "big")
        body, first = bytes(self._buffer[2 * HEADER_BYTES : place]), bytes(self._buffer[place:])
        part = b"".join((first, *self._pieces, memoryview(data)[: self._missing]))
        rest = data[self._missing :]
        self._forget_held()
        return body, part, rest

    def _forget_held(self) -> None:
        self._buffer.clear()
        self._pieces.clear()
        self._missing = 0

    def end(self) -> None:
        """The stream ended. Raises `WireError` where it ended inside a frame."""
        if held := self.buffered:
            self._forget_held()
            self._broken, self.buffered = True, 0
            raise WireError("unexpected_end", f"the stream ended {held} bytes into a frame")

    def _json_end(self, start: int, length: int, held: int) -> int:
        """Where the JSON of a frame with a part ends, whose length is judged as soon as it is there."""
        if held < 2 * HEADER_BYTES:
            return start
        place = start + HEADER_BYTES
        first = int.from_bytes(self._buffer[place : place + HEADER_BYTES], "big")
        if not 2 <= first <= min(PART_JSON_BYTES, length - HEADER_BYTES):
            raise WireError("length", f"{first} bytes of JSON in a frame of {length}")
        self.within_part = held >= 2 * HEADER_BYTES + first
        return place + HEADER_BYTES + first

    def _frame(
        self, body: bytes, part: bytes | None = None
    ) -> Generator[None, None, GuestFrame | StrayFrame]:
        try:
            if len(body) <= strict_turns.AT_ONCE:
                value = strict.loads(body, max_depth=self._max_depth)
            else:
                self.values_bytes = _VALUE_BYTES * sum(map(body.count, (b"[", b"{", b",")))
                value = yield from strict_turns.steps(body, max_depth=self._max_depth)
        except strict.StrictError as error:
            raise WireError(error.reason, str(error)) from None
        if not isinstance(value, dict):
            raise WireError("shape", "a frame is an object")
        if part is not None:
            result = value.get("result")
            if value.pop("part", None) != PART_OF_RESULT or not isinstance(result, dict):
                raise WireError("shape", f"a part that is not {PART_OF_RESULT}")
            if result.setdefault("base64", part) is not part:
                raise WireError("shape", f"{PART_OF_RESULT} twice")
        try:
            return self._reply(value) if "success" in value else self._said(value)
        except msgspec.ValidationError as error:
            raise WireError("shape", str(error)[:300]) from None

    def _reply(self, value: dict[str, object]) -> ResultFrame | FaultFrame | StrayFrame:
        """A call's end: its result, or the fault that stands in its ``error``."""
        success, stamp = value.pop("success"), value.pop("timestamp", "")
        if not isinstance(success, bool) or not isinstance(stamp, str) or len(stamp) > _STAMP:
            raise WireError("shape", "`success` is neither true nor false, or `timestamp` is none")
        frame: ResultFrame | FaultFrame
        if success:
            frame = msgspec.convert(value, ResultFrame)
        else:
            error = value.pop("error", None)
            if not isinstance(error, dict) or "id" in error or value.keys() != {"id"}:
                raise WireError("shape", "a reply that is no success has an `id` and an `error` alone")
            frame = msgspec.convert({**value, **error}, FaultFrame)
            if not self._ready and frame.id == BOOT_ID:
                return frame
        if self._ready and self._live.pop(frame.id, None) is not None:
            return frame
        return self._within(frame, "result" if success else "fault")

    def _said(self, value: dict[str, object]) -> GuestFrame | StrayFrame:
        """What comes before a call's end, or before all calls."""
        kind = value.pop("type", None)
        if kind == ("warmed" if self._zygote else "ready"):
            first: type[WarmedFrame | ReadyFrame] = WarmedFrame if self._zygote else ReadyFrame
            frame = msgspec.convert(value, first)
            if self._ready:
                raise WireError("order", f"`{kind}` a second time")
            self._ready = True
            return frame
        if kind == "chunk":
            return self._chunk(msgspec.convert(value, ChunkFrame))
        if kind == "progress":
            return self._within(msgspec.convert(value, ProgressFrame), kind)
        if kind == "tool_call":
            return self._within(msgspec.convert(value, ToolCallFrame), kind)
        raise WireError("shape", "neither a reply nor a frame of a known type")

    def _chunk(self, chunk: ChunkFrame) -> ChunkFrame | StrayFrame:
        expected = self._live.get(chunk.id)
        if expected is not None:
            if chunk.seq != expected:
                raise WireError("order", f"chunk {chunk.seq} where {expected} was due")
            self._live[chunk.id] = expected + 1
        return self._within(chunk, "chunk")

    def _within(self, frame: _T, kind: str) -> _T | StrayFrame:
        """`frame`, where its call is awaited."""
        if not self._ready:
            raise WireError("order", f"a {kind} before `ready`")
        if frame.id in self._live:
            return frame
        late = frame.id <= self._highest
        return StrayFrame(id=frame.id, kind=kind, reason="late" if late else "unknown")
