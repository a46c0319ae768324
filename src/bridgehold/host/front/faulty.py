"""Frames that are no request as they came: whose answer the refusal is, where that can be told."""

from __future__ import annotations

import contextlib
import re

import msgspec

from bridgehold.bridges.legacy.bodies import plain_json
from bridgehold.errors import (
    ProtocolError,
    UsageError,
)
from bridgehold.protocol.frames import (
    RequestFrame,
)
from bridgehold.protocol.plain import loads

_AROUND = 2
"""Containers around an argument: the frame, and its parameters."""
_REPAIRED_BYTES = 32 * 1024
"""Of a frame that is repaired, which takes some fifty times as long, to learn whose answer its refusal is."""
_EXPLAINED_BYTES = 1024 * 1024
"""Of a frame whose fault is looked for: everybody waits meanwhile."""
_MEMBER = rb'\s*"(?:id"\s*:\s*(?P<id>\d{1,18})|method"\s*:\s*"(?P<method>[a-z._]{1,64})")\s*'
_BEFORE = re.compile(rb'\s*\{(?:%b,){0,2}\s*"params"\s*:' % _MEMBER)
_AFTER = re.compile(rb"(?:,%b){0,2}\}\s*\Z" % _MEMBER)
"""What stands beside a frame's parameters, whichever way round: a few bytes, however large those are."""
_BESIDE_BYTES = 512
"""How a larger one has to begin for that."""


class Request(msgspec.Struct, kw_only=True):
    """As `RequestFrame`; its parameters are read once there is room for what they become."""

    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    part: str = ""
    parts: bool = False
    data: bytes = b""
    """What came beside it."""
    fault: UsageError | None = None
    """What of it can't arrive as it was sent: its own answer, and nobody else's."""


def _explain(body: bytes, error: Exception) -> None:
    """Raises `UsageError`: what can't arrive as it was sent, and its place, where that is soon found."""
    if len(body) > _EXPLAINED_BYTES:
        raise UsageError(f"not JSON that is taken: {error}", where="params")
    loads(body, above=_AROUND, below="params")


def _beside(body: bytes) -> tuple[int, str] | None:
    """`id` and `method` of a frame whose parameters can't be read, wherever they stand; each there once."""
    before, after = _BEFORE.match(body), _AFTER.search(body, len(body) - _BESIDE_BYTES)
    if before is None or after is None:
        return None
    number, method = (
        [said for said in (before[name], after[name]) if said is not None] for name in ("id", "method")
    )
    return (int(number[0]), method[0].decode()) if len(number) == len(method) == 1 else None


def faulty(body: bytes, error: Exception) -> Request:
    """The request that a frame is but for a value that JSON hasn't. Raises `ProtocolError`."""
    try:
        _explain(body, error)
    except UsageError as fault:
        if len(body) <= _REPAIRED_BYTES:
            with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                frame = msgspec.json.decode(plain_json(body), type=RequestFrame)
                return Request(id=frame.id, method=frame.method, fault=fault)
        elif fault.where and not isinstance(error, RecursionError) and (whose := _beside(body)) is not None:
            return Request(id=whose[0], method=whose[1], fault=fault)
    said = "nested deeper than anything that is taken" if isinstance(error, RecursionError) else str(error)
    said = said if isinstance(error, msgspec.ValidationError) else f"not JSON that is taken: {said}"
    raise ProtocolError(f"not a request frame: {said}") from error
