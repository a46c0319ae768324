"""Clients ↔ host: length-prefixed JSON frames on the unix socket, requests multiplexed by id.

``{"id", "method", "params"}`` → any number of ``{"id", "event"}`` → one ``{"id", "result"}`` or
``{"id", "error"}``. `docs/reference/host-protocol.md` lists the methods.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec.structs import fields

from bridgehold import strict, strict_turns
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import HostUnavailableError, ProtocolError, UsageError
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT, nearest
from bridgehold.steps import in_turns

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T", bound=msgspec.Struct)

INPUT_CLOSED = "its caller closed its input"
"""Why a foreign script's session ended, where it stayed after the end of its input."""
MAX_FRAME = 64 * 1024 * 1024
MAX_TOKEN = 512
WHOLE_CONNECTION = 0
"""The id of an error that is no request's: why the host ends the connection."""
HEADER = struct.Struct(">I")
"""The length of a frame's body."""
PARTED = 1 << 31
"""In a frame's length: bytes come beside its JSON (`protocol.parts`)."""
PLACES = {
    "data": ("data",),
    "arguments.base64": ("arguments", "base64"),
    "value.base64": ("value", "base64"),
}
"""Of the parameters, the result or the event of a frame: where its bytes may stand."""

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`$")
_PACE = 1024 * 1024
_FEW = 16 * 1024
_VALUE_BYTES = 32
LimitValue = Annotated[str, msgspec.Meta(max_length=40)] | int | float
SessionLimits = Annotated[dict[str, LimitValue], msgspec.Meta(max_length=8)]


class RequestFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A caller's frame. `id` is new on its connection; `method` decides the type of `params`."""

    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    part: str = ""
    """Which member of `params` came beside the JSON; empty: none."""
    parts: bool = False
    """Its answers may have such a member."""


class AnswerFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The host's frame for the request `id`: any number of events, then one result or one error."""

    id: int
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: ErrorInfo | None = None
    part: str = ""
    """Which member of the event or the result came beside the JSON; empty: none."""


async def read_params(
    method: str, params: msgspec.Raw, kind: type[T], part: tuple[str, bytes] | None = None
) -> T:
    """What `method` was sent, as `kind`, read in turns. Raises `UsageError`, also for what can't arrive as it
    was sent.

    `part`: what came beside it, and where it belongs.
    """
    raw, depth = bytes(params), strict.CALLERS_DEPTH + 1
    try:
        if len(raw) <= strict_turns.AT_ONCE:
            value = strict.loads(raw, max_depth=depth)
        else:
            value = await in_turns(strict_turns.steps(raw, max_depth=depth))
        if part is not None:
            put(value, *part)
        return msgspec.convert(value, type=kind)
    except strict.StrictError:
        from bridgehold.protocol.plain import loads_steps  # of no use to a client that sends

        await in_turns(loads_steps(raw, above=1))  # raises what its caller is told
        raise
    except msgspec.ValidationError as error:
        raise UsageError(f"parameters of {method[:80]}: {misfit(error, kind)}") from error


def put(value: object, place: str, data: bytes | str) -> None:
    """Make `data` the member of `value` that `place` names. Raises `ProtocolError` where it can't be."""
    *above, name = PLACES.get(place, ("",))
    for one in above:
        value = value.get(one) if isinstance(value, dict) else None
    if not name or not isinstance(value, dict) or name in value:
        raise ProtocolError(f"a frame's part has no place at {place[:40]!r}")
    value[name] = data


def pack(frame: msgspec.Struct) -> bytes:
    """The bytes of `frame`: its length (4 bytes, big-endian), and its JSON."""
    body = msgspec.json.encode(frame)
    return HEADER.pack(len(body)) + body


def misfit(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """What keeps JSON from being a `kind`; of a field that it hasn't, the nearest that it has."""
    said = str(error)
    found = _UNKNOWN_FIELD.search(said)
    return said + nearest(found[1], [field.encode_name for field in fields(kind)]) if found else said


def weight(body: bytes) -> int:
    """Bytes that `body` takes once it is decoded (pure): a value costs more than it is long."""
    return len(body) + _VALUE_BYTES * sum(body.count(mark) for mark in (b"[", b"{", b",", b":"))


async def read_frame(
    reader: asyncio.StreamReader,
    limit: int = MAX_FRAME,
    *,
    room: Callable[[int], Awaitable[None]] | None = None,
    small: int = 0,
    patience_s: float | None = None,
    beside: list[bytes] | None = None,
) -> bytes | None:
    """One frame's JSON, or None at a clean end. Raises `ProtocolError` beyond `limit`.

    `beside`: gets the bytes that came beside it; None: such a frame is refused as any that is too long.
    `room`: asked with a length beyond `small` before a byte of the body is read. `patience_s`: from a
    frame's first byte to its last, and a second more for each MiB; a longer one is a `ProtocolError`.
    """
    import asyncio

    try:
        header = await reader.read(HEADER.size)
        if not header:
            return None
        async with asyncio.timeout(patience_s):
            header += await reader.readexactly(HEADER.size - len(header))
    except asyncio.IncompleteReadError as error:
        raise ProtocolError("the connection ended inside a frame's length") from error
    except TimeoutError as error:
        raise _too_slow(patience_s) from error
    except ConnectionError as error:
        raise HostUnavailableError(f"the connection was lost: {error}") from error
    (length,) = HEADER.unpack(header)
    parted = beside is not None and length > PARTED
    if parted:
        length -= PARTED
    if length > limit:
        raise ProtocolError(f"a frame of {length} bytes; at most {limit} are taken")
    if room is not None and length > small:
        await room(length)
    try:
        async with asyncio.timeout(None if patience_s is None else patience_s + length / _PACE):
            if beside is None or not parted:
                return await reader.readexactly(length)
            (first,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            rest = length - HEADER.size - first
            if rest < 0:
                raise ProtocolError(f"a frame of {length} bytes with {first} of JSON in it")
            body = await reader.readexactly(first)
            beside.append(await _joined(reader, rest))
            return body
    except TimeoutError as error:
        raise _too_slow(patience_s) from error
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise HostUnavailableError("the connection ended inside a frame") from error


async def _joined(reader: asyncio.StreamReader, left: int) -> bytes:
    """As `readexactly`, of many bytes: joined once. Who sends few at a time makes no object of each."""
    import asyncio

    pieces: list[bytes | bytearray] = [bytearray()]
    while left:
        piece = await reader.read(left)
        left -= len(piece)
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        if len(piece) < _FEW:
            pieces[-1] += piece
        else:
            pieces += (piece, bytearray())
    return b"".join(pieces)


def _too_slow(seconds: float | None) -> ProtocolError:
    return ProtocolError(f"the rest of a frame did not come within {seconds:g} s")


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool as its caller describes it."""

    name: str
    description: str = ""
    parameters: dict[str, object] = {}
    """JSON Schema of its arguments."""
    result: dict[str, object] = {}
    """JSON Schema of what it gives; anything if empty."""


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``run``: one command as a caller sent it; nothing of it has been believed yet."""

    operation: str
    """``bridge:operation``."""
    arguments: dict[str, object] = {}
    tenant: str = LOCAL_TENANT
    session: str = ANONYMOUS_SESSION
    """A session's name, or its id."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    """A caller may only shorten what the policy and the manifest give; 0: theirs."""
    stream: bool = False
    progress: bool = False
    """Events of type ``building`` while an environment is built for it."""
    tools: tuple[OfferedTool, ...] = ()
    """Functions of the caller's own that the bridge may call: each comes as an event ``tool_call``."""
    parent: str = ""
    """The command whose tool asks for this one."""


class HelloParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `hello`, the first request of a caller that its uid does not tell of, or that narrows itself."""

    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)] = ""
    tenant: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The only one that this connection is for; empty: all that its caller may act for."""


class CancelParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `cancel`. `id`: the request of this connection that should end."""

    id: int


class SessionParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of methods that act on one session, given by id. `reason` goes into the audit."""

    session: str
    reason: str = "asked by the caller"


class SessionsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `sessions`, which lists them."""

    tenant: str | None = None
    """Of this one only; of all that the caller may see, if left out."""


class FindParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `session.find`. `session`: an id, or the name of one that the caller may see."""

    session: str


class ProfileParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `session.profile`: sample the stacks of a session's guest for so many `seconds`."""

    session: str
    seconds: float = 5.0


class DrainParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `drain`: end the sessions of a bridge and tenant (empty: any), within `seconds` if they are busy."""

    bridge: str = ""
    tenant: str = ""
    seconds: float = 30.0
    cordon: bool = False
    """Open no new session there either, until `resume`."""


class ResumeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `resume`: open sessions again where `drain` had stopped that. The fields must be the same."""

    bridge: str = ""
    tenant: str = ""


class StopParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `stop`: end the host."""

    now: bool = False
    """Wait for nothing that runs."""
    again: bool = False
    """Another host takes this one's place: callers wait for it."""


class OpenParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `session.open` and `session.hold`. An empty `name` makes a session that only its id finds."""

    bridge: str
    progress: bool = False
    """As of `CommandRequest`."""
    name: str = ""
    tenant: str = "local"
    stays: bool = False
    """Without a name too: otherwise such a session ends soon after the connections that used it."""
    limits: SessionLimits = {}
    """Its own, by keys of the policy's ``[limits]`` and written as there: at most what the policy gives."""


class ExtendParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `session.extend`. `limits`: ``session``, how long it may live from now on, and ``idle``."""

    session: str
    limits: SessionLimits


class OpenScriptParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `foreign.open`: run a user script, code or a module in a session of `bridge`."""

    bridge: str
    kind: Literal["script", "code", "module", "stdin"]
    text: str = ""
    args: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    tenant: str = "local"
    callback: int = 0
    """Of a worker that speaks gRPC: the port of its starter's machine that it calls back at."""
    environment: dict[str, str] = {}
    """Of its starter's variables, those that may matter to it; the host passes those that it knows."""
    kept_back: tuple[str, ...] = ()
    """Names of those that stay outside, for the audit; their values don't leave their starter."""


class ScriptWireParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `foreign.wire`: bytes of connection `conn` of a gRPC worker's starter.

    Its own connections have numbers above 0; those that the worker makes come in events, with numbers below.
    """

    session: str
    conn: int
    data: bytes = b""
    end: bool = False


class ScriptSendParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `foreign.send`: `data` for the standard input of the script in `session`."""

    session: str
    data: bytes


class ScriptEofParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `foreign.eof`: the end of that standard input."""

    session: str


class BridgeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of methods that act on one bridge of one tenant."""

    bridge: str
    tenant: str = "local"


class BuildParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `environments.build`: make the environment of a bridge now, not at its first session."""

    bridge: str
    tenant: str = "local"
    """Under whose policy: it decides on the weakening ``pth``."""
    anew: bool = False
    """Although it is there: what is there is set aside."""


class NamedBridgeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of methods that list or verify environments, of one bridge or of all."""

    bridge: str = ""
    """Empty: all."""
    tenant: str | None = None
    """Whose own bridge it may be; one of everybody's, if left out."""


class ScanParams(NamedBridgeParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a scan: as `NamedBridgeParams`, and what fails it."""

    fail_on: Literal["critical", "high", "medium", "low", "never"] = "high"
    """An advisory that is as grave; ``never``: none is."""


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method without parameters."""
