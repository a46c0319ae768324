"""What the bodies say: requests, answers and the negotiation of the format."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from bridgehold.bridges.legacy.bodies import (
    Format,
    T,
    decode,
    decode_text,
    decode_values,
    encode,
    format_of,
    whole_steps,
)
from bridgehold.errors import ProtocolError
from bridgehold.steps import finished

_Short = Annotated[str, msgspec.Meta(max_length=200)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
RequestId = _Number | _Short | None

NEGOTIATION = "protocol_negotiation"
SELECTED = "protocol_selected"
RPC_CALL, RPC_RESPONSE = "rpc_call", "rpc_response"
_MAX_ERROR = 500
_EXITED = b'{"type":"bridgehold_exited",'


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A command as the caller sent it; nothing of it has been believed yet."""

    id: int | str | None
    command: str
    args: dict[str, object]
    format: Format


class Negotiation(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's offer of formats. It always comes, and is answered, in JSON."""

    supported: tuple[str, ...]
    preferred: str

    def choose(self, ours: tuple[Format, ...]) -> Format:
        """The caller's preferred one where it is ours, else the first it knows that is, else JSON."""
        return next(
            (name for want in (self.preferred, *self.supported) for name in ours if name == want), "json"
        )


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says of itself, for the audit: nothing of the result but whether it is an error."""

    id: int | str | None
    transport_ok: bool
    application_ok: bool
    error: str = ""


class RpcAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says a call back of ours came to; with `error` where it failed."""

    rpc_id: int
    result: object = None
    error: str = ""


class _RpcBody(msgspec.Struct, frozen=True):
    rpc_id: _Number
    status: _Short = "ok"
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _RequestBody(msgspec.Struct, frozen=True):
    id: RequestId = None
    type: _Short | msgspec.UnsetType = msgspec.UNSET
    command: _Short | msgspec.UnsetType = msgspec.UNSET
    args: dict[str, object] | None = None


class _HeadBody(msgspec.Struct, frozen=True):
    """What tells a frame's kind and whose it is."""

    id: RequestId = None
    type: _Short | msgspec.UnsetType = msgspec.UNSET
    command: _Short | msgspec.UnsetType = msgspec.UNSET


class _NegotiationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No command passes as a negotiation: a script may read more of a frame than we do."""

    type: _Short
    supported: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=16)] = ()
    preferred: _Short = ""
    timestamp: _Short | float | None = None


class _AnswerBody(msgspec.Struct, frozen=True):
    id: RequestId = None
    type: _Short | msgspec.UnsetType = msgspec.UNSET
    success: bool | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


class _ExitBody(msgspec.Struct, frozen=True):
    status: Annotated[int, msgspec.Meta(ge=0, le=255)]


class _ResultBody(msgspec.Struct, frozen=True):
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def read_request(body: bytes) -> Request | Negotiation:
    """A caller's frame. Raises `ProtocolError`."""
    return finished(request_steps(body))


def request_steps(body: bytes) -> Generator[None, None, Request | Negotiation]:
    """As `read_request`, with the stops of `whole_steps`."""
    whole, written_in = (yield from whole_steps(body)), format_of(body)
    told = _convert(whole, _RequestBody)
    if told.type == NEGOTIATION:
        if written_in != "json":
            raise ProtocolError("a negotiation comes in JSON")
        offer = _convert(whole, _NegotiationBody)
        return Negotiation(supported=offer.supported, preferred=offer.preferred)
    if not isinstance(told.command, str):
        raise ProtocolError("a frame without a command", where=str(told.id))
    return Request(id=told.id, command=told.command, args=told.args or {}, format=written_in)


def _convert(whole: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(whole, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"not a frame that is taken: {str(error)[:200]}") from None


def read_rpc_answer(body: bytes) -> RpcAnswer | None:
    """An ``rpc_response``; None for any other frame. Raises `ProtocolError` for a broken one."""
    if b"rpc_id" not in body:
        return None
    told = decode(body, _HeadBody)
    if told.command is not msgspec.UNSET or told.type not in (RPC_RESPONSE, msgspec.UNSET):
        return None
    answer, written_in = decode(body, _RpcBody), format_of(body)
    try:
        if answer.error is not msgspec.UNSET or answer.status != "ok":
            raw = b"" if answer.error is msgspec.UNSET else bytes(answer.error)
            return RpcAnswer(rpc_id=answer.rpc_id, error=_rpc_error(raw, written_in))
        raw = b"" if answer.result is msgspec.UNSET else bytes(answer.result)
        return RpcAnswer(rpc_id=answer.rpc_id, result=decode_values(raw, written_in) if raw else None)
    except ProtocolError as error:  # of what it says alone: whoever waits for it is told
        return RpcAnswer(rpc_id=answer.rpc_id, error=f"result: {error.message}"[:_MAX_ERROR])


def _rpc_error(raw: bytes, written_in: Format) -> str:
    """``{type, message, stacktrace}``, or a text."""
    told = decode_values(raw, written_in) if raw else None
    if isinstance(told, dict):
        told = f"{told.get('type', 'error')}: {told.get('message', '')}"
    return str(told or "the caller's tool failed")[:_MAX_ERROR]


def rpc_call(number: int, tool: str, arguments: dict[str, object], written_in: Format) -> bytes:
    """Ask the caller to run one of its tools."""
    asked = {"type": RPC_CALL, "rpc_id": number, "tool_id": tool, "args": [], "kwargs": arguments}
    return encode(asked, written_in)


def read_id(body: bytes) -> int | str | None:
    """The id of a frame that may be broken otherwise; None where it has none."""
    try:
        return decode(body, _HeadBody).id
    except ProtocolError:
        return None


def read_exit(body: bytes) -> int | None:
    """The exit status in the last frame of our runner inside (-1: a false one); None for other frames.

    A script can write it too: it says no more than what the script's end is, to the script's own caller.
    """
    if not body.startswith(_EXITED):
        return None
    try:
        return decode(body, _ExitBody).status
    except ProtocolError:
        return -1


def read_answer(body: bytes) -> Answer | None:
    """What a bridge's frame says; None where it is no answer (a negotiation, a call back).

    All the shapes that errors have: ``success: false``; ``success: true`` with a result that has an
    `error`, or the status `error`. Raises `ProtocolError`.
    """
    told = decode(body, _AnswerBody)
    if told.type is not msgspec.UNSET and told.success is msgspec.UNSET:
        return None
    written_in = format_of(body)
    if told.success is not True:
        return Answer(
            id=told.id,
            transport_ok=told.success is False,
            application_ok=False,
            error=_text(bytes(told.error), written_in),
        )
    inside = _inside(bytes(told.result), written_in)
    status = _text(bytes(inside.status), written_in) if inside.status is not msgspec.UNSET else ""
    failed = inside.error is not msgspec.UNSET or status == "error"
    error = _text(bytes(inside.error), written_in) if inside.error is not msgspec.UNSET else ""
    return Answer(id=told.id, transport_ok=True, application_ok=not failed, error=error)


def success(request_id: int | str | None, result: object, written_in: Format) -> bytes:
    """The frame that answers request `request_id` with `result`, in the format of the request."""
    return encode({"id": request_id, "success": True, "result": result, "timestamp": _now()}, written_in)


def failure(request_id: int | str | None, error: str, written_in: Format) -> bytes:
    """The frame that answers request `request_id` with `error`, in the format of the request."""
    return encode({"id": request_id, "success": False, "error": error, "timestamp": _now()}, written_in)


def selected(chosen: Format) -> bytes:
    """The answer to a negotiation."""
    return encode({"type": SELECTED, "protocol": chosen, "timestamp": _now()}, "json")


def _inside(raw: bytes, written_in: Format) -> _ResultBody:
    """`error` and `status` of a result that is an object."""
    try:
        return decode(raw, _ResultBody) if raw else _ResultBody()
    except ProtocolError:
        return _ResultBody()


def _text(raw: bytes, written_in: Format) -> str:
    """A field that should be text, bounded."""
    return decode_text(raw, written_in)[:_MAX_ERROR] if raw else ""


def _now() -> str:
    """As Snakepit's bridges write it, and DSPex takes it: ISO 8601 without a zone, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
