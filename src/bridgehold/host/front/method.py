"""One method of the protocol, as the door's servers know it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from bridgehold.host.front.callers import SMALL, Callers
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.refusals import Refusals
from bridgehold.protocol.values import Principal

Handler = Callable[[Principal, Any, Emit], Awaitable[object]]


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
    leaving: bool

    def known(self, uid: int) -> Principal | None: ...

    async def principal_of(self, uid: int, token: str) -> Principal: ...

    def demand(self, tenant: str | None) -> None: ...

    @property
    def methods(self) -> Mapping[str, Method]: ...
