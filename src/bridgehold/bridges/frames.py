"""The frames of the wire after the codec: what the host believes of a guest's bytes, and no more.

`docs/reference/wire.md` describes them for bridge authors. A frame on the wire is a 4-byte
big-endian length and UTF-8 JSON.
"""

from __future__ import annotations

import msgspec


class CallFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest: run `command` (``bridge:operation`` or ``common:ping``)."""

    id: int
    command: str
    args: dict[str, object]
    deadline_ms: int = 0
    """Time left, for the guest's information; the host enforces it."""


class CancelFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest: interrupt call `id`."""

    id: int


class ReadyFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Guest to host, once: preload done. Must agree with the manifest."""

    bridge: str
    version: str
    operations: tuple[str, ...]
    python: str = ""
    sdk: str = ""


class ResultFrame(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    result: object


class FaultFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge's code raised, or was interrupted (`type` ``Cancelled``). Bounded texts."""

    id: int
    type: str
    message: str
    traceback: str = ""
    code: str = "application"
    """``application``, ``invalid_input``, ``missing_module``, ``cancelled``, ``not_found``, ``unknown_command``."""
    alive: bool = True


class ProgressFrame(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    done: int
    total: int
    note: str = ""


class ChunkFrame(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    seq: int
    data: object


GuestFrame = ReadyFrame | ResultFrame | FaultFrame | ProgressFrame | ChunkFrame
