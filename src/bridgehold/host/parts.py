"""The parts of a host, and what they are made of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.entries import printable
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.artifact_methods import Artifacts
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.methods import Methods
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.store.artifacts import ArtifactStore, SerialChanges
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.offers import Offers
from bridgehold.host.cell.tools.process import ProcessTools
from bridgehold.host.cell.workers.live import Services
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.redaction import Redaction
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.tenants import TenantFiles, TokenFiles
from bridgehold.host.lifetime import Lifetime
from bridgehold.host.shares.buckets import CommandRates
from bridgehold.host.shares.budgets import Budgets
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.startup import Ends, HostConfig, SupervisorLink
from bridgehold.host.submissions import Submissions
from bridgehold.host.tenancy import Tenancy
from bridgehold.keeper.client import KeeperClient
from bridgehold.policies.model import Machine
from bridgehold.sandbox.launcher.control import LauncherClient


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The three other processes, as the host talks to them."""

    journal: JournalClient
    launcher: LauncherClient
    keeper: KeeperClient


class Foundation(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts are made of."""

    host: HostConfig
    config: Config
    layout: Layout
    ends: Ends
    peers: Peers
    machine: Machine
    redaction: Redaction
    supervisor: SupervisorLink
    lifetime: Lifetime


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What most parts of the host ask for something."""

    settings: Settings
    tenants: TenantFiles
    rates: CommandRates
    registry: Registry
    environments: Environments
    orders: Orders
    store: ArtifactStore
    changes: SerialChanges
    resources: Resources
    metrics: Metrics


class Working(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, and how their workers start."""

    services: Services
    sessions: Sessions
    zygotes: Zygotes
    pool: WarmPool
    recovery: Recovery
    budgets: Budgets


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """What the methods rest on."""

    refusals: Refusals
    artifacts: Artifacts
    http_tools: HttpTools
    process_tools: ProcessTools
    offers: Offers
    dispatch: Dispatch
    methods: Methods


class HostParts(msgspec.Struct, frozen=True, kw_only=True):
    """A whole host, to be started and ended by `main`."""

    shared: Shared
    working: Working
    answering: Answering
    tokens: TokenFiles
    tenancy: Tenancy
    submissions: Submissions
    servers: list[SocketServer]

    async def look_up_again(self) -> None:
        """Tokens have changed: who is connected may be somebody else now, or nobody."""
        await look_up_again(self.servers)

    async def prestart(self) -> None:
        """Have zygotes warm before anybody asks. What fails is tried again by the first session."""
        await prestart(self.shared, self.working)

    async def sweep(self) -> None:
        """Remove what crashes left of builds, and environments that nobody has used for long."""
        await self.shared.environments.sweep(self.shared.registry.manifests())


async def look_up_again(servers: Iterable[SocketServer]) -> None:
    """As `HostParts.look_up_again`."""
    await asyncio.gather(*(server.look_up_again() for server in servers))


async def prestart(shared: Shared, working: Working) -> None:
    """As `HostParts.prestart`."""
    for bridge, section in shared.settings.now.bridges.items():
        for tenant in section.prestart:
            try:
                await working.zygotes.warm(await shared.orders.make(tenant, bridge, "", "", ""))
            except BridgeholdError as error:
                line = printable(f"{bridge} is not warm for {tenant}: {error.message}")
                sys.stderr.write(f"bridgehold: {line}\n")
