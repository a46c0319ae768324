"""What callers send and get, as types: the border's check, and the source of the OpenAPI document."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import UsageError
from bridgehold.ids import ANONYMOUS_SESSION
from bridgehold.protocol.bodies import split
from bridgehold.protocol.frames import OfferedTool, SessionLimits, misfit
from bridgehold.protocol.plain import loads
from bridgehold.protocol.proposals import LONGEST, SHORTEST, WEEK
from bridgehold.protocol.values import Answer

SMALL = 64 * 1024
"""Bytes of a body, up to which all of it is read here."""
_PASSED_ON = ("arguments", "result")
Name = Annotated[str, msgspec.Meta(max_length=200)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]


class _Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body: unknown fields are refused."""


class OpenSession(_Sent, frozen=True, kw_only=True):
    """A session's bridge; without a name one is drawn, with it the open one of that name is given.

    `limits`: its own (`memory`, `cpu`, `session`, `idle`), written as in a policy, at most what that gives.
    """

    bridge: Name
    name: Name = ""
    tenant: Name = ""
    limits: SessionLimits = {}


class ExtendSession(_Sent, frozen=True, kw_only=True):
    """`limits`: `session`, how long it may live from now on, and `idle`; at most what the policy gives."""

    limits: SessionLimits


class ExtendedSession(msgspec.Struct, frozen=True, kw_only=True):
    """How long it may live from now on, and without a command."""

    id: str
    left_ms: int
    idle_ms: int


class _CommandFields(_Sent, frozen=True, kw_only=True):
    arguments: dict[str, object] = {}
    deadline_ms: Milliseconds = 0
    tools: tuple[OfferedTool, ...] = ()
    parent: Name = ""
    id: Name = ""
    resumable: bool = False


class Command(_CommandFields, frozen=True, kw_only=True):
    """A command of a session's own bridge, whose name may be left out of `operation`.

    `deadline_ms` may only shorten what policy and manifest give; 0: theirs. `tools`: functions of the
    caller's that the bridge may call back, which needs a stream. `id`: what the command is called in
    `/v1/commands/{command}`; drawn if empty. `parent`: the command whose tool runs this one.
    `resumable`: a stream that is lost leaves it running for a while, and `/v1/commands/{command}/events`
    goes on with it.
    """

    operation: Name


class Run(_CommandFields, frozen=True, kw_only=True):
    """The same with `operation` as `bridge:operation`, in `anonymous`, or in a session that is named."""

    operation: Name
    session: Name = ANONYMOUS_SESSION
    tenant: Name = ""


class RunOperation(_CommandFields, frozen=True, kw_only=True):
    """As `Run`, the operation being named in the path."""

    session: Name = ANONYMOUS_SESSION
    tenant: Name = ""


class ToolAnswer(_Sent, frozen=True, kw_only=True):
    """What a tool call came to: a result, or an error."""

    result: object = None
    error: str = ""


class CreateResource(_Sent, frozen=True, kw_only=True):
    """As `create_resource` and `configure` of the unified interface."""

    kind: Name = ""
    arguments: dict[str, object] = {}
    bridge: Name = ""
    session: Name = ANONYMOUS_SESSION
    tenant: Name = ""
    operation: Name = ""
    deadline_ms: Milliseconds = 0


class ExecuteResource(_Sent, frozen=True, kw_only=True):
    """As `execute_resource`; `bridge`, `kind` and `session` where ids are alike."""

    arguments: dict[str, object] = {}
    kind: Name = ""
    bridge: Name = ""
    session: Name = ""
    tenant: Name = ""
    operation: Name = ""
    deadline_ms: Milliseconds = 0


class NewTenant(_Sent, frozen=True, kw_only=True):
    """A tenant to be made, with its ceilings."""

    name: Name
    limits: dict[str, str | int | float | None] = {}


class TenantLimits(_Sent, frozen=True, kw_only=True):
    """Ceilings by key, as `tenants/NAME.toml` has them; null takes one away, what is left out stays."""

    limits: dict[str, str | int | float | None]


class Reason(_Sent, frozen=True, kw_only=True):
    """Why; the tenant's callers are told."""

    reason: Name = ""


class NewTokenAsked(_Sent, frozen=True, kw_only=True):
    """A token to be made. `bridges`, `operations` (patterns of `bridge:operation`): empty is all.

    `read_only`: it looks, and runs nothing. `expires_s`: from now on; 0: until it is revoked.
    """

    name: Name
    tenants: tuple[Name, ...]
    bridges: tuple[Name, ...] = ()
    operations: tuple[Name, ...] = ()
    read_only: bool = False
    logs: bool = True
    expires_s: float = 0.0


class Rotation(_Sent, frozen=True, kw_only=True):
    """`grace_s`: how long the secret before is taken as well."""

    grace_s: float = 0.0


class SubmissionAsked(_Sent, frozen=True, kw_only=True):
    """`archive`: the digest of an artifact of the tenant's, a zip of the bridge's folder; it is let go of."""

    archive: Name
    tenant: Name = ""


class Approval(_Sent, frozen=True, kw_only=True):
    """`seen`: as the submission said it when it was looked at."""

    seen: Name


class Rejection(_Sent, frozen=True, kw_only=True):
    """Why; whoever submitted it can read it."""

    reason: Name = ""


class ProposalAsked(_Sent, frozen=True, kw_only=True):
    """`event`: the refusal's, or the command's id. `weakenings`: those that the rule may bring, by name.
    `seconds`: how long it holds once it is approved."""

    event: Name
    reason: Name = ""
    weakenings: tuple[Name, ...] = ()
    seconds: Annotated[int, msgspec.Meta(ge=SHORTEST, le=LONGEST)] = WEEK


class CommandFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A command under way, or one that is over and still kept. `events`: the id of a resumable one's last."""

    id: str
    state: Literal["running", "done", "failed", "cancelled"]
    age_ms: int
    events: int = 0
    answer: Answer | None = None
    error: ErrorInfo | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a session's log."""

    session: str
    text: str


class ClosedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was closed; `emptied_ms`: from the kill to an empty cgroup."""

    id: str
    emptied_ms: int = 0


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """An answer for a tool's call was taken."""

    status: str


class BridgeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge, and the operations that the caller's tenant may run."""

    name: str
    tenant: str
    """Whose alone it is; empty: everybody's."""
    version: str
    summary: str
    operations: list[str]
    problems: list[str]


T = TypeVar("T", bound=msgspec.Struct)
_TAKES = "GET /openapi.json says what this path takes."


def read_body(data: bytes, kind: type[T], weigh: Callable[[bytes], None]) -> T:
    """`data` as a `kind` (pure). Raises `UsageError`.

    Of a large one `arguments`, or `result`, stays JSON as it came (`msgspec.Raw`): whoever answers reads it.
    `weigh`: told of the JSON that values are made of, before they are.
    """
    beside, large = split(data, passed_on(kind)) if len(data) > SMALL else (data, b"")
    weigh(beside)
    if len(data) > SMALL:
        return read_beside(beside, large, kind)
    try:
        return msgspec.convert(loads(data, above=1), type=kind)
    except msgspec.ValidationError as error:
        raise _unfit(error, kind) from None


def read_beside(beside: bytes, large: object, kind: type[T]) -> T:
    """A `kind` of what `split` gives: `large` stands for the member that is passed on, if anything does."""
    name = passed_on(kind)
    try:
        found = _twin(kind).decode(beside)
    except msgspec.ValidationError as error:
        raise _unfit(error, kind) from None
    fields = msgspec.structs.asdict(found)
    if large:
        fields[name] = msgspec.Raw(large) if isinstance(large, bytes) else large
    raw = fields.get("arguments")
    if isinstance(raw, msgspec.Raw) and bytes(memoryview(raw)[:1]) != b"{":
        raise UsageError("the body: Expected `object` - at `$.arguments`", where="body", hint=_TAKES)
    return kind(**fields)


def _unfit(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> UsageError:
    return UsageError(f"the body: {misfit(error, kind)}"[:500], where="body", hint=_TAKES)


def passed_on(kind: type[msgspec.Struct]) -> str:
    """Which member of a `kind` is passed on as it came, where it is large; empty: none."""
    return next((one.name for one in msgspec.structs.fields(kind) if one.name in _PASSED_ON), "")


@functools.cache
def _twin(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    """What reads all of a `kind` but the member that is passed on."""
    name = passed_on(kind)
    members = [
        (field.name, msgspec.Raw if field.name == name else field.type, _default(field, name))
        for field in msgspec.structs.fields(kind)
    ]
    twin = msgspec.defstruct(kind.__name__, members, kw_only=True, frozen=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(twin)


def _default(field: msgspec.structs.FieldInfo, name: str) -> Any:
    if field.name == name:
        return msgspec.Raw(b"{}" if name == "arguments" else b"null")
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return field.default
