"""Clients ↔ host: length-prefixed JSON frames on the unix socket, requests multiplexed by id.

``{"id", "method", "params"}`` → any number of ``{"id", "event"}`` → one ``{"id", "result"}`` or
``{"id", "error"}``. `docs/reference/host-protocol.md` lists the methods.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Literal

import msgspec

from bridgehold.errors import ErrorInfo, HostUnavailableError, ProtocolError

INPUT_CLOSED = "its caller closed its input"
"""Why a foreign script's session ended, where it stayed after the end of its input."""
MAX_FRAME = 64 * 1024 * 1024
_HEADER = struct.Struct(">I")


class RequestFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class AnswerFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: int
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: ErrorInfo | None = None


def pack(frame: msgspec.Struct) -> bytes:
    body = msgspec.json.encode(frame)
    return _HEADER.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader, limit: int = MAX_FRAME) -> bytes | None:
    """One frame's body, or None at a clean end. Raises `ProtocolError` beyond `limit`."""
    try:
        header = await reader.readexactly(_HEADER.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ProtocolError("the connection ended inside a frame's length") from error
        return None
    except ConnectionError as error:
        raise HostUnavailableError(f"the connection was lost: {error}") from error
    (length,) = _HEADER.unpack(header)
    if length > limit:
        raise ProtocolError(f"a frame of {length} bytes; at most {limit} are taken")
    try:
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise HostUnavailableError("the connection ended inside a frame") from error


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool as its caller describes it."""

    name: str
    description: str = ""
    parameters: dict[str, object] = {}
    """JSON Schema of its arguments."""
    result: dict[str, object] = {}
    """JSON Schema of what it gives; anything if empty."""


class RunParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    operation: str
    arguments: dict[str, object] = {}
    tenant: str = "local"
    session: str = "anonymous"
    deadline_ms: int = 0
    stream: bool = False
    tools: tuple[OfferedTool, ...] = ()
    """Functions of the caller's own that the bridge may call: each comes as an event ``tool_call``."""
    parent: str = ""
    """The command whose tool asks for this one."""


class HelloParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: str = ""


class CancelParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: int


class SessionParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: str
    reason: str = "asked by the caller"


class SessionsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant: str | None = None
    """Of this one only; of all that the caller may see, if left out."""


class FindParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: str


class ProfileParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: str
    seconds: float = 5.0


class DrainParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bridge: str = ""
    tenant: str = ""
    seconds: float = 30.0


class OpenParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bridge: str
    name: str = ""
    tenant: str = "local"


class ForeignParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bridge: str
    kind: Literal["script", "code", "module", "stdin"]
    text: str = ""
    args: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    tenant: str = "local"


class ForeignSendParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: str
    data: bytes


class ForeignEofParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    session: str


class BridgeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bridge: str
    tenant: str = "local"


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method without parameters."""
