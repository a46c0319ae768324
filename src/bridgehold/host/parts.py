"""The parts of a host, and what they are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from bridgehold.host.cell_parts import Ground, Shared
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.tenants import TokenFiles
from bridgehold.host.lifetime import Lifetime
from bridgehold.host.proposals import Proposals
from bridgehold.host.reviews import Reviews
from bridgehold.host.serving import Serving
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.startup import Ends, HostConfig
from bridgehold.host.submissions import Submissions
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.host.template import Begun
from bridgehold.host.tenancy import Tenancy


class Foundation(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts are made of."""

    ground: Ground
    host: HostConfig
    ends: Ends
    supervisor: SupervisorLink
    lifetime: Lifetime
    template: Begun | None = None
    """What cells are forked from; without it there is one for all tenants, in this process."""


class HostParts(msgspec.Struct, frozen=True, kw_only=True):
    """A whole host, to be started and ended by `main`."""

    shared: Shared
    environments: Environments
    orders: Orders
    serving: Serving
    refusals: Refusals
    tokens: TokenFiles
    tenancy: Tenancy
    submissions: Submissions
    proposals: Proposals
    reviews: Reviews
    servers: list[SocketServer]

    async def look_up_again(self) -> None:
        """Tokens have changed: who is connected may be somebody else now, or nobody."""
        await look_up_again(self.servers)

    async def sweep(self) -> None:
        """Remove what crashes left of builds, and environments that nobody has used for long."""
        await self.environments.sweep(self.shared.registry.manifests)


async def look_up_again(servers: Iterable[SocketServer]) -> None:
    """As `HostParts.look_up_again`."""
    await asyncio.gather(*(server.look_up_again() for server in servers))
