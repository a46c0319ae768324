"""What every request at a session's gateway needs: its session, its grant, its audit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bridgehold import clock
from bridgehold.host.cell.gateway.records import Records
from bridgehold.host.cell.gateway.values import GatewayLimits, ProviderFacts, SessionFacts
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.shares.buffers import Buffers
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.client import UpstreamResponse
from bridgehold.keeper.protocol import UpstreamRequest
from bridgehold.policies.model import Grant

Slow = Callable[[], Awaitable[None]]
"""Wait as a session's refusals require."""


class Keeper(Protocol):
    """The keeper's client, as the gateway uses it."""

    keeps_account: bool
    """See `KeeperClient.keeps_account`."""

    async def request(self, request: UpstreamRequest, body: bytes) -> UpstreamResponse:
        """See `KeeperClient.request`."""

    async def prefetch(self, tenant: str, provider: str, secret: str = "") -> None:
        """See `KeeperClient.prefetch`."""

    async def drop_session(self, session: str, *, tenant: str) -> None:
        """See `KeeperClient.drop_session`."""


@dataclass(frozen=True, slots=True)
class Served:
    """Of every request, wherever it goes."""

    granted: Grant
    facts: SessionFacts
    records: Records
    buffers: Buffers
    limits: GatewayLimits

    @property
    def grant(self) -> Grant:
        """What of the session's grant holds now: what was approved for a while ends in open sessions."""
        return self.granted.at(clock.now())


@dataclass(frozen=True, slots=True)
class Upstream:
    """Of a request to a provider: who has the key, what it may cost, and where files are kept."""

    keeper: Keeper
    budgets: Budgets
    downloads: Downloads
    providers: Mapping[str, ProviderFacts]
