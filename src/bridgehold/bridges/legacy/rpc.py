"""The gRPC service of Snakepit's workers, as far as a decision needs it (pure).

Which calls there are in which direction, what of their messages is judged, how a message lies on the wire,
and which status says what was refused. All else passes as it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

import msgspec

from bridgehold.bridges.legacy import protobuf
from bridgehold.errors import BridgeholdError, LimitError, ProtocolError, UsageError

SERVICE = "/snakepit.bridge.BridgeService/"
PREFIX = 5
"""Bytes before a message: whether it is compressed, and its length."""
Kind = Literal["command", "tool", "pass"]
_PLACES = {"session": 1, "name": 2}
_PARAMETERS, _BINARY = 3, 6
_WORKER_ID = re.compile(r"python-[0-9]{1,24}")
_MOST_SEARCHED, _MOST_SHOWN = 4 * 1024 * 1024, 256 * 1024
"""Bytes of a command's parameters that are decoded and looked through, and of a tool's that are for the
audit; of those past it sizes are said."""
_MOST_TOLD = 64 * 1024
"""Of one event of telemetry: some names and numbers."""
_MOST_VALUES, _VALUE = 100_000, 72
"""Of all parameters of a call: marks between values, past which sizes are said; and bytes that each mark may
come to: an empty table has two on the wire."""


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One call: what it is to policy and audit, and where its messages' judged fields are."""

    name: str
    kind: Kind = "pass"
    session: bool = True
    """Whether its request's first field is a session's id."""
    streams: bool = False
    """Whether its requests come as a stream; otherwise there is exactly one."""
    worker: bool = False
    """Whether its request's third field is a worker's id."""
    answers: bool = False
    """Whether its answer says by its fields 1 and 3 whether it succeeded, and why not."""
    most: int = 1 << 62
    """Bytes of one message of either way, within what the policy allows."""


_SESSIONS = tuple(
    Method(name=name) for name in ("InitializeSession", "CleanupSession", "GetSession", "Heartbeat")
)
_PING = Method(name="Ping", session=False)
TO_WORKER: Mapping[str, Method] = {
    method.name: method
    for method in (
        _PING,
        *_SESSIONS,
        Method(name="ExecuteTool", kind="command", answers=True),
        Method(name="ExecuteStreamingTool", kind="command"),
        Method(name="StreamTelemetry", session=False, streams=True, most=_MOST_TOLD),
    )
}
"""What a BEAM calls in its worker."""
FROM_WORKER: Mapping[str, Method] = {
    method.name: method
    for method in (
        _PING,
        *_SESSIONS,
        Method(name="RegisterTools", worker=True),
        Method(name="GetExposedElixirTools"),
        Method(name="ExecuteElixirTool", kind="tool", answers=True),
    )
}
"""What a worker calls back."""


class CallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is judged of a request."""

    session: str = ""
    name: str = ""
    """Of the tool, in the two calls that run one."""
    parameters: dict[str, object] = {}
    cost: int = 0
    """About how many bytes of memory the parameters take."""
    unread: tuple[str, ...] = ()
    """Parameters that are told by their size: too large, too many values, or nothing that is known."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of an answer."""

    ok: bool
    error: str = ""


def method_of(path: str, table: Mapping[str, Method]) -> Method | None:
    """The call that a request's path names; None where there is none in this direction."""
    return table.get(path.removeprefix(SERVICE)) if path.startswith(SERVICE) else None


def read_request(method: Method, message: bytes | memoryview) -> CallFacts:
    """Raises `ProtocolError` for what has no one meaning, and for a worker's id that isn't a worker's own."""
    wanted = {_PLACES["session"]} if method.session else set()
    if method.kind != "pass":
        wanted.add(_PLACES["name"])
    if method.worker:
        wanted.add(3)
    found = protobuf.singles(message, frozenset(wanted))
    if method.worker and not _WORKER_ID.fullmatch(protobuf.text(found.get(3))):
        raise UsageError("a worker's id that is no worker's own")
    session = protobuf.text(found.get(_PLACES["session"]))
    if method.kind == "pass":
        return CallFacts(session=session)
    room = _Room(_MOST_SEARCHED if method.kind == "command" else _MOST_SHOWN)
    return CallFacts(
        session=session,
        name=protobuf.text(found.get(_PLACES["name"])),
        parameters=_parameters(method, message, room),
        cost=room.cost,
        unread=tuple(room.unread),
    )


class _Room:
    """What the parameters of one call may still come to, decoded."""

    def __init__(self, most_bytes: int) -> None:
        self._values = _MOST_VALUES
        self._bytes = most_bytes
        self.cost = 0
        self.unread: list[str] = []

    def read(self, name: str, payload: memoryview) -> object:
        """What stands there: JSON, or a StringValue whose text is JSON, or any other text. What is none of
        them, or more than there is room for, is told by its size."""
        try:
            self._take(bytes(payload[: self._bytes + 1]))
            try:
                return msgspec.json.decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                text = protobuf.text(protobuf.singles(payload, frozenset({1})).get(1), len(payload))
            try:
                return msgspec.json.decode(text)
            except msgspec.DecodeError:
                return text
        except (ProtocolError, RecursionError):
            self.unread.append(name)
            return f"{len(payload)} bytes"

    def _take(self, text: bytes) -> None:
        """Raises `ProtocolError` where it is too much."""
        marks = sum(text.count(mark) for mark in (b"[", b"{", b",", b":"))
        if len(text) > self._bytes or marks > self._values:
            raise ProtocolError("more than is looked through")
        self._bytes, self._values = self._bytes - len(text), self._values - marks
        self.cost += len(text) + _VALUE * marks


def _parameters(method: Method, message: bytes | memoryview, room: _Room) -> dict[str, object]:
    """By name; both maps of a command have the same names' space, as its worker merges them."""
    told: dict[str, object] = {}
    for name, value in protobuf.entries(message, _PARAMETERS).items():
        told[name] = _any(name, value, room)
    if method.name != "ExecuteElixirTool":
        for name, value in protobuf.entries(message, _BINARY).items():
            if name in told:
                raise ProtocolError(f"the parameter {name[:80]!r} stands twice")
            told[name] = f"{len(value) if not isinstance(value, int) else 0} bytes"
    return told


def _any(name: str, value: protobuf.Value, room: _Room) -> object:
    """What an `Any` holds: Snakepit's is JSON."""
    if isinstance(value, int):
        raise ProtocolError("a parameter that is no message")
    payload = protobuf.singles(value, frozenset({1, 2})).get(2, memoryview(b""))
    if isinstance(payload, int):
        raise ProtocolError("a parameter whose value is no bytes")
    return room.read(name, payload)


def unsearched(name: str) -> str:
    """Why a command with such a parameter isn't passed."""
    return (
        f"the parameter {name[:80]!r} can't be looked through for a key: of a call {_MOST_SEARCHED >> 20} "
        f"MiB and {_MOST_VALUES:,} values are, as JSON or text. Send it as a binary parameter; a policy that "
        'passes keys on (inline_keys = "pass") passes it too'
    )


def read_answer(method: Method, message: bytes | memoryview) -> Answered:
    """What the answer says of itself. Raises `ProtocolError`."""
    if not method.answers:
        return Answered(ok=True)
    found = protobuf.singles(message, frozenset({1, 3}))
    ok = found.get(1, 0)
    if not isinstance(ok, int):
        raise ProtocolError("an answer whose first field is no truth value")
    return Answered(ok=bool(ok), error=protobuf.text(found.get(3), 1 << 20)[:2_000])


def operation_of(tool: str) -> str:
    """A tool's name as policies and audit know operations: ``snakebridge.call`` is ``snakebridge_call``."""
    return tool.replace(".", "_")


def head(prefix: bytes | memoryview, most: int) -> int:
    """The length of the message behind a prefix. Raises `ProtocolError`, `LimitError`."""
    if prefix[0]:
        raise ProtocolError("a message is compressed, though nobody offered to read that")
    size = int.from_bytes(prefix[1:PREFIX], "big")
    if size > most:
        raise LimitError(f"a message has {size} bytes; {most} are allowed")
    return size


OK, CANCELLED, INVALID, DEADLINE, DENIED, EXHAUSTED = 0, 1, 3, 4, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
_STATUSES = {
    "denied": DENIED,
    "policy": DENIED,
    "limit": EXHAUSTED,
    "budget": EXHAUSTED,
    "busy": UNAVAILABLE,
    "usage": INVALID,
    "protocol": INVALID,
    "timeout": DEADLINE,
    "unsupported": UNIMPLEMENTED,
    "not_found": 5,
    "internal": INTERNAL,
}


def status_of(error: BridgeholdError) -> int:
    """The gRPC status that says why something was refused; UNAVAILABLE for what may be tried again."""
    return _STATUSES.get(error.code, UNAVAILABLE)


def refusal(status: int, message: str, *, rule: str = "", event: str = "") -> list[tuple[str, str]]:
    """An answer that is its trailers alone, with the rule and the event that a refusal has."""
    told = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(status)),
        ("grpc-message", quote(message[:2_000], safe=" ,.:;'()[]<>=/!?-_`*+&@")),
    ]
    told += [
        (name, quote(value[:200]))
        for name, value in (("bridgehold-rule", rule), ("bridgehold-event", event))
        if value
    ]
    return told
