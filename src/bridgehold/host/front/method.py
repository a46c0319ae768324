"""One method of the protocol: the type of its parameters, its handler, who may call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.host.front.callers import SMALL, Callers
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.logs import LAST_OUTPUT
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import LOCAL_TENANT
from bridgehold.protocol.values import Principal

if TYPE_CHECKING:
    from bridgehold.host.front.entrances import Entrances

Handler = Callable[[Principal, Any, Emit], Awaitable[object]]


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Of parameters that a cell reads: for whom they are. What is left out is as the method says."""

    tenant: str | None = None
    bridge: str = ""
    session: str = ""
    operation: str = ""


class OfTenant(Scope, frozen=True, kw_only=True):
    """What is left out is for the local tenant."""

    tenant: str | None = LOCAL_TENANT


class Forwarded(msgspec.Struct, frozen=True, kw_only=True):
    """A request that goes on to a cell."""

    scope: Scope
    raw: msgspec.Raw

    @property
    def tenant(self) -> str | None:
        """Whom it is for; None: whoever its caller may act for."""
        if self.scope.tenant is None and isinstance(self.scope, OfTenant):
            return LOCAL_TENANT  # said as null: what it is for is decided, and checked, all the same
        return self.scope.tenant

    @property
    def bridge(self) -> str:
        """The bridge that it names; empty: none."""
        return self.scope.bridge

    @property
    def operation(self) -> str:
        """The command that it names; empty: none."""
        return self.scope.operation

    @property
    def session(self) -> str:
        """The session that it names, by id or name; empty: none."""
        return self.scope.session


def forwarded(method: str, params: msgspec.Raw, kind: type[Scope]) -> Forwarded:
    """What goes on to a cell, which reads all of it but for whom it is. Raises `UsageError`."""
    try:
        scope = msgspec.json.decode(params, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"parameters of {method[:80]}: {error}") from error
    return Forwarded(scope=scope, raw=params)


class Method(msgspec.Struct, frozen=True):
    """One method of the protocol: its parameters' type and its handler."""

    params: type[msgspec.Struct]
    handler: Handler
    operator: bool = False
    gives: int = SMALL
    """Bytes that its answer takes while it is made; counted before it begins."""
    reads: bool = False
    """It changes nothing and runs nothing: also for a principal that may only read."""
    decides: bool = False
    """It decides by itself for which tenant it is asked, and writes its own refusals."""


class ServerContext(Protocol):
    """What a connection asks of the server that took it."""

    callers: Callers
    refusals: Refusals
    tokens_only: bool
    takes_bodies: bool
    """Whether bodies come in parts over its connections: where they are a cell's."""

    @property
    def leaving(self) -> bool:
        """Whether another host takes this one's place."""

    @property
    def entrances(self) -> Entrances | None:
        """Where connections of one tenant's callers go; None: all that comes is answered here."""

    def known(self, uid: int) -> Principal | None:
        """The principal of a uid, where that alone decides; None where a token is needed."""

    async def principal_of(self, uid: int, token: str, tenant: str) -> Principal:
        """Who `uid` and `token` are, for `tenant` alone if there is one. A `DeniedError` is written."""

    def identify(self, uid: int, token: str) -> Principal:
        """As `principal_of`; nothing is written."""

    def demand(self, tenant: str | None) -> None:
        """Raise the typed refusal where `tenant` may not ask now."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """All of them, by name."""


def visible_info(error: BridgeholdError, principal: Principal | None) -> ErrorInfo:
    """What `principal` may know of it: who may not read a session's log reads none of it here either."""
    info = error.info()
    if principal is not None and principal.may_read:
        return info
    hint = info.hint.partition(LAST_OUTPUT)[0].strip()
    return msgspec.structs.replace(info, traceback="", output=msgspec.UNSET, hint=hint)
