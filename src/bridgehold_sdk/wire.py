"""The guest's end of the wire: a 4-byte big-endian length and UTF-8 JSON, over two pipes.

The host has a codec of its own; the two share golden vectors, never code.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from typing import Any, NoReturn

from bridgehold_sdk.errors import ResultTooLarge, WireError

HEADER_BYTES = 4
ENVELOPE_BYTES = 1024
"""What a frame may hold beside its arguments or its result."""
MAX_FRAME_BYTES = 8 * 1024 * 1024
PARTED = 1 << 31
"""In a frame's length: a length of JSON, that JSON, and bytes follow."""
PART_OF_CALL, PART_OF_RESULT = "args.base64", "result.base64"
"""Where such a frame's bytes belong, as its ``part`` says: to the host one way, from it the other."""
MAX_DEPTH = 64
MAX_VALUES = 1_000_000

Frame = dict[str, Any]

_READ_BYTES = 1 << 20
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = bytes.maketrans(b"[{]},", b"\x01\x01\xff\xff\x00")
_ODD_NUMBER = re.compile(rb"\d{19}|[eE]\+?\d{3}")
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1


def decode(body: bytes) -> Frame:
    """The object in `body`, or `WireError`: strict UTF-8, finite numbers, 64-bit integers, unique keys."""
    _check_structure(body)
    hooks: dict[str, Any] = {"parse_constant": _refuse_constant, "object_pairs_hook": _unique}
    if _ODD_NUMBER.search(body):
        hooks.update(parse_int=_integer, parse_float=_float)
    try:
        value = json.loads(body.decode("utf-8"), **hooks)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses a lone surrogate
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a frame: {error}") from None
    if not isinstance(value, dict):
        raise WireError("a frame is an object")
    return value


def encode(frame: Frame, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The bytes of a frame of plain values, header included. `ResultTooLarge` above `max_bytes`."""
    data = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    if len(data) > max_bytes + ENVELOPE_BYTES:
        raise ResultTooLarge(
            f"the result takes {len(data)} bytes; this session may send {max_bytes}. "
            "Return less, or stream it in chunks."
        )
    return len(data).to_bytes(HEADER_BYTES, "big") + data


class Parted:
    """A result whose member `base64` is bytes that go beside its JSON."""

    def __init__(self, said: Frame, data: Any) -> None:
        self.said = said
        self.data = data


def encode_parted(call_id: int, value: Parted, max_bytes: int = MAX_FRAME_BYTES) -> list[Any]:
    """The frame that ends command `call_id`, in pieces. `ResultTooLarge` above `max_bytes`."""
    body = encode({**result(call_id, value.said), "part": PART_OF_RESULT}, max_bytes)
    size = len(body) + len(value.data)
    if size > max_bytes + ENVELOPE_BYTES:
        raise ResultTooLarge(f"the result takes {size} bytes; this session may send {max_bytes}.")
    return [(PARTED | size).to_bytes(HEADER_BYTES, "big") + body, value.data]


def joined(frame: Frame, data: Any) -> Frame:
    """`frame` with what came beside it. Raises `WireError`."""
    args = frame.get("args")
    if frame.pop("part", None) != PART_OF_CALL or not isinstance(args, dict) or "base64" in args:
        raise WireError("a part that belongs nowhere")
    args["base64"] = data
    return frame


def encode_fault(call_id: int, error: Frame, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The bytes of a fault, without its traceback where that would be more than the session may send."""
    try:
        return encode(fault(call_id, error), max_bytes)
    except ResultTooLarge:
        return encode(
            fault(call_id, {**error, "message": error["message"][:100], "traceback": ""}), max_bytes
        )


def result(call_id: int, value: object) -> Frame:
    """The frame that ends command `call_id` with `value`."""
    return {"id": call_id, "success": True, "result": value, "timestamp": _now()}


def fault(call_id: int, error: Frame) -> Frame:
    """The frame that ends command `call_id` with `error` (code, message, …)."""
    return {"id": call_id, "success": False, "error": error, "timestamp": _now()}


def progress(call_id: int, done: int, total: int, note: str) -> Frame:
    """The frame that says how far command `call_id` is."""
    return {"type": "progress", "id": call_id, "done": done, "total": total, "note": note}


def chunk(call_id: int, seq: int, data: object) -> Frame:
    """The frame with piece `seq` of the stream of command `call_id`."""
    return {"type": "chunk", "id": call_id, "seq": seq, "data": data}


def tool_call(call_id: int, number: int, tool: str, arguments: object) -> Frame:
    """The frame that asks the host to run `tool` for command `call_id`; `number` comes back in the reply."""
    return {"type": "tool_call", "id": call_id, "call": number, "tool": tool, "arguments": arguments}


def ready(
    bridge: str, version: str, operations: list[str], python: str, sdk: str, *, parts: bool = False
) -> Frame:
    """The frame that says that the bridge is loaded, and which operations its class has."""
    return {
        **({"parts": True} if parts else {}),
        "type": "ready",
        "bridge": bridge,
        "version": version,
        "operations": operations,
        "python": python,
        "sdk": sdk,
    }


class Reader:
    """Blocking reads of whole frames from one descriptor."""

    def __init__(self, fd: int, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._fd = fd
        self.max_bytes = max_bytes

    def read(self) -> Frame | None:
        """The next frame; None where the stream ended. `WireError` for what is no frame."""
        header = self._exactly(HEADER_BYTES, at_start=True)
        if header is None:
            return None
        length = int.from_bytes(header, "big")
        parted = length > PARTED
        if parted:
            length -= PARTED
        if not 2 <= length <= self.max_bytes + ENVELOPE_BYTES:
            raise WireError(f"a frame of {length} bytes")
        if not parted:
            return decode(bytes(self._exactly(length) or b""))
        first = int.from_bytes(self._exactly(HEADER_BYTES) or b"", "big")
        rest = length - HEADER_BYTES - first
        if first < 2 or rest < 0:
            raise WireError(f"{first} bytes of JSON in a frame of {length}")
        frame = decode(bytes(self._exactly(first) or b""))
        return joined(frame, self._exactly(rest))

    def _exactly(self, count: int, *, at_start: bool = False) -> bytearray | None:
        data = bytearray(count)
        done = 0
        with memoryview(data) as view:
            while done < count:
                got = os.readv(self._fd, [view[done : done + _READ_BYTES]])
                if not got:
                    if at_start and not done:
                        return None
                    raise WireError("the stream ended inside a frame")
                done += got
        return data


class Writer:
    """Whole frames to one descriptor, from any thread."""

    def __init__(self, fd: int, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self.max_bytes = max_bytes
        self.parts = False
        """The host takes frames with parts."""

    def write(self, frame: Frame) -> None:
        """Send `frame`. Raises `ResultTooLarge`, `NotPlain` before a byte is sent."""
        self.write_bytes(encode(frame, self.max_bytes))

    def write_bytes(self, *pieces: Any) -> None:
        """One frame that `encode` made, or another of them in pieces; never interleaved with another."""
        with self._lock:
            for data in pieces:
                with memoryview(data) as view:
                    start = 0
                    while start < len(view):
                        start += os.write(self._fd, view[start:])


def _now() -> str:
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}+00:00"


def _check_structure(body: bytes) -> None:
    opened = body.count(b"[") + body.count(b"{")
    if opened <= MAX_DEPTH and opened + body.count(b",") < MAX_VALUES:
        return
    skeleton = _STRING.sub(b"", body).translate(None, _NOT_STRUCTURE)
    opened = skeleton.count(b"[") + skeleton.count(b"{")
    if opened + skeleton.count(b",") + 1 > MAX_VALUES:
        raise WireError(f"more than {MAX_VALUES} values")
    if opened > MAX_DEPTH and _depth(skeleton) > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")


def _depth(skeleton: bytes) -> int:
    from array import array  # rarely needed, and a millisecond of every start
    from itertools import accumulate

    return max(accumulate(array("b", skeleton.translate(_STEPS))))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> Frame:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not _MIN_INTEGER <= int(text) <= _MAX_INTEGER:
        raise ValueError("an integer lies beyond 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number lies beyond the range of a double")
    return value


_silenced: set[int] = set()


def silence_in_forks(*descriptors: int) -> None:
    """In a child that a handler forks, the wire's descriptors become /dev/null: the wire is one's own."""

    def close() -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _silenced:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)

    _silenced.update(descriptors)
    os.register_at_fork(after_in_child=close)


def let_go(descriptor: int) -> None:
    """Close one of them: its number may be anybody's from now on."""
    _silenced.discard(descriptor)
    os.close(descriptor)
