"""The host's end of the wire, without I/O: frames to bytes, hostile bytes to frames.

`docs/reference/wire.md` is the description for bridge authors; the guest's codec shares the golden
vectors of ``tests/vectors/wire`` with this one, and no code.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar, get_args

import msgspec

from bridgehold import strict
from bridgehold.bridges.frames import (
    BootFrame,
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

HEADER_BYTES = 4
ENVELOPE_BYTES = 1024
"""What a frame may hold beside its result; `response_bytes` and this bound a frame's length."""
MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_ID = 2**53 - 1
"""Ids stay exact where a client reads numbers as doubles."""
BOOT_ID = 0
"""A fault with this id before `ready` says why the bridge could not be imported."""

_T = TypeVar("_T")

WireReason = Literal[strict.Reason, "length", "shape", "order", "unexpected_end"]
WIRE_REASONS: tuple[str, ...] = get_args(WireReason)


class WireError(ProtocolError):
    """The guest broke the wire. `reason` is one of `WIRE_REASONS`; the stream can't be read on."""

    default_hint = "The bridge wrote what is no frame; its worker is ended. `bridgehold logs` shows its log."

    def __init__(self, reason: WireReason, message: str) -> None:
        super().__init__(f"{reason}: {message}", where="wire")
        self.reason: WireReason = reason


_Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
_Short = Annotated[str, msgspec.Meta(max_length=200)]
_Message = Annotated[str, msgspec.Meta(max_length=4096)]
_Traceback = Annotated[str, msgspec.Meta(max_length=16_384)]
_Stamp = Annotated[str, msgspec.Meta(max_length=64)]
FaultCode = Literal[
    "application",
    "invalid_input",
    "missing_module",
    "cancelled",
    "not_found",
    "unknown_command",
    "limit",
    "memory",
    "provider",
    "provider_auth",
    "rate_limit",
    "context_length",
    "refused",
    "budget",
]


class _Ready(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["ready"]
    bridge: _Short
    version: _Short
    operations: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=1000)]
    python: _Short = ""
    sdk: _Short = ""


class _Warmed(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["warmed"]
    modules: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=1000)]
    threads: _Count
    threaded: Annotated[tuple[_Message, ...], msgspec.Meta(max_length=1000)] = ()
    reason: _Message = ""
    ms: _Count = 0


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    success: bool
    result: object
    timestamp: _Stamp = ""


class _Fault(msgspec.Struct, forbid_unknown_fields=True):
    type: _Short
    message: _Message
    traceback: _Traceback = ""
    code: FaultCode = "application"
    alive: bool = True


class _Failure(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    success: bool
    error: _Fault
    timestamp: _Stamp = ""


class _Progress(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["progress"]
    id: _Id
    done: _Count
    total: _Count
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class _Chunk(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["chunk"]
    id: _Id
    seq: _Count
    data: object


class _ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["tool_call"]
    id: _Id
    call: _Count
    tool: _Short
    arguments: dict[str, object]


def encode(frame: HostFrame, *, max_bytes: int = MAX_FRAME_BYTES, timestamp: str | None = None) -> bytes:
    """The bytes of one frame, header included.

    `max_bytes` bounds the body (the grant's `request_bytes`). Raises `UsageError` where arguments
    hold what JSON or the guest's codec can't carry, `LimitError` where they are too large.
    """
    body = _body(frame, timestamp)
    try:
        data = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the arguments can't be sent: {error}",
            hint="Arguments are JSON: finite numbers, text, lists, and objects with text keys.",
            where="arguments",
        ) from None
    if len(data) > max_bytes:
        raise LimitError(
            f"the request has {len(data)} bytes; {max_bytes} are allowed",
            hint="Raise `limits.request` in the policy, or send the data as a file.",
            where="arguments",
        )
    try:
        strict.loads(data)
    except strict.StrictError as error:
        raise UsageError(
            f"the arguments can't be sent: {error}",
            hint=f"Nest at most {strict.MAX_DEPTH} deep, keep integers within 64 bits and keys unique.",
            where="arguments",
        ) from None
    return len(data).to_bytes(HEADER_BYTES, "big") + data


def _body(frame: HostFrame, timestamp: str | None) -> dict[str, object]:
    if isinstance(frame, CancelFrame):
        return {"type": "cancel", "id": frame.id}
    if isinstance(frame, ToolReplyFrame):
        said: dict[str, object] = {"type": "tool_reply", "id": frame.id, "call": frame.call}
        if frame.error is not None:
            return {**said, "error": msgspec.to_builtins(frame.error)}
        return {**said, "result": frame.result}
    if isinstance(frame, WarmFrame):
        warm: dict[str, object] = msgspec.to_builtins(frame)
        return {"type": "warm", **warm}
    if isinstance(frame, BootFrame):
        boot: dict[str, object] = msgspec.to_builtins(frame)
        return {"type": "boot", **boot}
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds") if timestamp is None else timestamp
    body: dict[str, object] = {
        "id": frame.id,
        "command": frame.command,
        "args": frame.args,
        "timestamp": stamp,
    }
    if frame.deadline_ms:
        body["deadline_ms"] = frame.deadline_ms
    if frame.tools:
        body["tools"] = msgspec.to_builtins(frame.tools)
    return body


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
        self._live: dict[int, int] = {}
        self._highest = -1
        self._ready = False
        self._broken = False
        self.frames = 0
        """Frames read so far, strays included, for the session's rate."""

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not complete: what the host's budget is charged with."""
        return len(self._buffer)

    def expect(self, call_id: int) -> None:
        """A call with this id has been sent."""
        self._live[call_id] = 0
        self._highest = max(self._highest, call_id)

    def forget(self, call_id: int) -> None:
        """Nobody waits for this call any more; its frames are strays from now on."""
        self._live.pop(call_id, None)

    def feed(self, data: bytes) -> list[GuestFrame | StrayFrame]:
        """The frames that `data` completes, in order. Raises `WireError`, and nothing else."""
        if self._broken:
            raise WireError("order", "the stream is broken already")
        self._buffer += data
        frames: list[GuestFrame | StrayFrame] = []
        start = 0
        try:
            while (body := self._next_body(start)) is not None:
                start += HEADER_BYTES + len(body)
                frames.append(self._frame(body))
        except WireError:
            self._broken = True
            self._buffer.clear()
            raise
        del self._buffer[:start]
        self.frames += len(frames)
        return frames

    def end(self) -> None:
        """The stream ended. Raises `WireError` where it ended inside a frame."""
        if self._buffer:
            held = len(self._buffer)
            self._buffer.clear()
            self._broken = True
            raise WireError("unexpected_end", f"the stream ended {held} bytes into a frame")

    def _next_body(self, start: int) -> bytes | None:
        held = len(self._buffer) - start
        if held < HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
        if not 2 <= length <= self._max_frame:
            raise WireError("length", f"a frame of {length} bytes; {self._max_frame} are allowed")
        if held - HEADER_BYTES < length:
            return None
        with memoryview(self._buffer) as view:
            return bytes(view[start + HEADER_BYTES : start + HEADER_BYTES + length])

    def _frame(self, body: bytes) -> GuestFrame | StrayFrame:
        try:
            value = strict.loads(body, max_depth=self._max_depth)
        except strict.StrictError as error:
            raise WireError(error.reason, str(error)) from None
        try:
            return self._believe(value)
        except msgspec.ValidationError as error:
            raise WireError("shape", str(error)[:300]) from None

    def _believe(self, value: object) -> GuestFrame | StrayFrame:
        if not isinstance(value, dict):
            raise WireError("shape", "a frame is an object")
        if "success" in value:
            if value["success"] is True:
                result = _convert(value, _Result)
                return self._settle(result.id, "result", ResultFrame(id=result.id, result=result.result))
            return self._fault(_convert(value, _Failure))
        return self._believe_kind(value.get("type"), value)

    def _believe_kind(self, kind: object, value: dict[str, object]) -> GuestFrame | StrayFrame:
        if kind == "ready" and not self._zygote:
            return self._become_ready(_convert(value, _Ready))
        if kind == "warmed" and self._zygote:
            return self._become_warm(_convert(value, _Warmed))
        if kind == "progress":
            note = _convert(value, _Progress)
            return self._within(
                note.id,
                "progress",
                ProgressFrame(id=note.id, done=note.done, total=note.total, note=note.note),
            )
        if kind == "tool_call":
            asked = _convert(value, _ToolCall)
            call = ToolCallFrame(id=asked.id, call=asked.call, tool=asked.tool, arguments=asked.arguments)
            return self._within(asked.id, "tool_call", call)
        if kind == "chunk":
            return self._chunk(_convert(value, _Chunk))
        raise WireError("shape", "neither a reply nor a frame of a known type")

    def _become_ready(self, ready: _Ready) -> ReadyFrame:
        if self._ready:
            raise WireError("order", "`ready` a second time")
        self._ready = True
        return ReadyFrame(
            bridge=ready.bridge,
            version=ready.version,
            operations=ready.operations,
            python=ready.python,
            sdk=ready.sdk,
        )

    def _become_warm(self, warmed: _Warmed) -> WarmedFrame:
        if self._ready:
            raise WireError("order", "`warmed` a second time")
        self._ready = True
        return WarmedFrame(
            modules=warmed.modules,
            threads=warmed.threads,
            threaded=warmed.threaded,
            reason=warmed.reason,
            ms=warmed.ms,
        )

    def _fault(self, failure: _Failure) -> FaultFrame | StrayFrame:
        if failure.success:
            raise WireError("shape", "`success` is neither true nor false")
        fault = FaultFrame(
            id=failure.id,
            type=failure.error.type,
            message=failure.error.message,
            traceback=failure.error.traceback,
            code=failure.error.code,
            alive=failure.error.alive,
        )
        if not self._ready and failure.id == BOOT_ID:
            return fault
        return self._settle(failure.id, "fault", fault)

    def _chunk(self, chunk: _Chunk) -> ChunkFrame | StrayFrame:
        expected = self._live.get(chunk.id)
        if expected is not None:
            if chunk.seq != expected:
                raise WireError("order", f"chunk {chunk.seq} where {expected} was due")
            self._live[chunk.id] = expected + 1
        return self._within(chunk.id, "chunk", ChunkFrame(id=chunk.id, seq=chunk.seq, data=chunk.data))

    def _settle(self, call_id: int, kind: str, frame: _T) -> _T | StrayFrame:
        known = self._within(call_id, kind, frame)
        self._live.pop(call_id, None)
        return known

    def _within(self, call_id: int, kind: str, frame: _T) -> _T | StrayFrame:
        if not self._ready:
            raise WireError("order", f"a {kind} before `ready`")
        if call_id in self._live:
            return frame
        return StrayFrame(id=call_id, kind=kind, reason="late" if call_id <= self._highest else "unknown")


def _convert(value: object, kind: type[_T]) -> _T:
    return msgspec.convert(value, kind, strict=True)
