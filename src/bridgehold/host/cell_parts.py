"""The parts of a cell, joined: all that touches what callers, guests and providers send.

Where tenants have cells of their own, each is a process; where they have none, one stands for all of them in
the host's own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.entries import printable
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError
from bridgehold.hardening import open_descriptors
from bridgehold.host.cell.artifact_methods import Artifacts, inside_tools
from bridgehold.host.cell.bench import CellBench
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.commands.inline_keys import KeyKeeper
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.gateway.opener import GatewayOpener
from bridgehold.host.cell.gateway.values import Attribution
from bridgehold.host.cell.methods import Methods
from bridgehold.host.cell.scripts.user_scripts import UserScripts
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.store.artifacts import ArtifactStore, SerialChanges
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.offers import Offers
from bridgehold.host.cell.tools.process import ProcessTools
from bridgehold.host.cell.unified import Unified
from bridgehold.host.cell.workers.forks import ForkStart
from bridgehold.host.cell.workers.live import Services
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.trial import Trial
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.boots import OrderMaker
from bridgehold.host.front.in_force import Records
from bridgehold.host.front.method import Method
from bridgehold.host.front.redaction import Redaction
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.tenants import TenantFiles
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.host.shares.dialling import connect_inside
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.handed_files import HandedBridges, HandedFiles
from bridgehold.host.shares.lending import Lent
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.openings import Openings
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.shares.session_ends import SessionEnd
from bridgehold.host.shares.tool_starts import as_child, by_front
from bridgehold.host.startup import FileChange
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.places import Places
from bridgehold.keeper.spending import prices_of
from bridgehold.policies.approved import by_key
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import Machine
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.launcher.control import LauncherClient

_OF_DESCRIPTORS, _FEWEST = 4, 64
"""Sandboxes' connections get one of so many of the process's descriptors, and so many at the least."""


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The three other processes, as the host or a cell talks to them."""

    journal: JournalClient
    launcher: LauncherClient
    keeper: KeeperClient


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts stand on."""

    config: Config
    layout: Layout
    peers: Peers
    machine: Machine
    redaction: Redaction
    degraded: Callable[[str], None]
    """An event that must be in the audit can't be written."""
    approvals: bytes = b""
    """The public half of the key that signs approved rules."""
    openings: Openings | None = None
    """Of a cell of its own, which opens little itself."""
    lent: Lent | None = None
    """The same: what it has of the bytes that all cells may hold for their guests."""
    tenant: str = ""
    """Whose alone it is."""


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What most parts ask for something."""

    settings: Settings
    registry: Registry
    tenants: TenantFiles
    metrics: Metrics


def share(ground: Ground, write: Callable[[FileChange], Awaitable[None]], records: Records) -> Shared:
    """`write`: has the supervisor write a file of the configuration. `records`: as the registry's."""
    layout, files, own = ground.layout, None, None
    if (openings := ground.openings) is not None:
        files = HandedFiles(layout.policies, layout.tenants, ground.tenant, openings.rules)
        own = HandedBridges(layout.own_bridges(ground.tenant), ground.tenant, openings)
    registry = Registry(layout, ground.config, ground.machine, records, files, own)
    registry.verified = by_key(ground.approvals)
    ground.peers.keeper.tenants_with = registry.tenants_with
    return Shared(
        settings=Settings(ground.config),
        registry=registry,
        tenants=TenantFiles(registry.files, ground.layout.tenants, write, registry.signed.demand),
        metrics=Metrics(),
    )


class CellParts(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cell, to be served and ended by whoever joined it."""

    shared: Shared
    services: Services
    make_order: OrderMaker
    sessions: Sessions
    zygotes: Zygotes
    pool: WarmPool
    gateways: GatewayOpener
    budgets: Budgets
    store: ArtifactStore
    http_tools: HttpTools
    process_tools: ProcessTools
    offers: Offers
    methods: Methods
    unified: Unified
    artifacts: Artifacts
    refusals: Refusals
    bench: CellBench

    def table(self) -> dict[str, Method]:
        """The methods that it answers, by name."""
        return self.methods.table() | self.unified.table() | self.artifacts.table()

    def check(self, config: Config) -> None:
        """Raise `UsageError` for a configuration that can't be taken over."""
        self.offers.specs(config.tools)

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        """Give each part what it keeps of `config`. `gone`: rules and bridges that nobody is to miss."""
        tools = config.tools
        self.shared.registry.replace(config, gone)
        self.gateways.replace(config)
        self.budgets.spending.prices = prices_of(config)
        self.sessions.admission.bound = config.host.max_sessions
        self.zygotes.replace(Settings(config).zygotes())
        self.store.quota = parse_size(config.host.artifacts)
        self.offers.replace(self.offers.specs(tools))
        self.http_tools.replace(
            {
                name: (tool.provider, tool.path, tool.names_model)
                for name, tool in tools.items()
                if tool.provider
            }
        )
        self.process_tools.replace({name: tool.entry for name, tool in tools.items() if tool.entry})

    async def prestart(self, tenant: str = "") -> None:
        """Have zygotes warm before anybody asks, of one tenant or of all.

        What fails is tried again by the first session.
        """
        for bridge, section in self.shared.settings.now.bridges.items():
            for one in section.prestart:
                if tenant not in ("", one):
                    continue
                try:
                    await self.zygotes.warm(await self.make_order(one, AskOrder(bridge=bridge)))
                except BridgeholdError as error:
                    line = printable(f"{bridge} is not warm for {one}: {error.message}")
                    sys.stderr.write(f"bridgehold: {line}\n")

    async def finish(self, drain_s: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """Let what runs end as it ends, for so long, or until `hurry` is set."""
        await self.sessions.finish(drain_s, hurry, leaving=leaving)

    async def stop(self, reason: str) -> None:
        """End what runs, from the outside in."""
        await self.sessions.stop(reason)
        await self.pool.stop()
        await self.process_tools.stop()
        await self.zygotes.stop()


def join_cell(
    ground: Ground,
    shared: Shared,
    make_order: OrderMaker,
    budgets: Budgets,
    over: Callable[[str], None] = lambda _session: None,
    opened: Callable[[str, SessionKey], None] = lambda _session, _key: None,
    tell_end: Callable[[SessionEnd], Awaitable[None]] | None = None,
    account: str = "",
) -> CellParts:
    """Join the parts; nothing is started yet.

    `over`, `opened` and `tell_end`: as `Sessions`'. `account`: as `Refusals`'.
    """
    config, peers, settings = ground.config, ground.peers, shared.settings
    store = ArtifactStore(
        ground.layout.artifacts, parse_size(config.host.artifacts), shared.tenants.artifacts
    )
    changes, resources, rates = SerialChanges(), Resources(), CommandRates()
    recovery = Recovery(resources, shared.metrics, settings.recovers)
    downloads = Downloads(
        store,
        changes,
        ground.layout.artifacts,
        peers.journal,
        demand=lambda tenant: settings.features.demand("artifacts", tenant),
    )

    def attribute(session: str) -> Attribution:  # asked by what a session has, so after there are sessions
        return sessions.attribute(session)

    def calling_out(session: str) -> Attribution:
        return sessions.calling_out(session)

    gateways = GatewayOpener(
        config,
        keeper=peers.keeper,
        budgets=budgets,
        downloads=downloads,
        attribution=calling_out,
        openings=ground.openings,
        lent=ground.lent,
        descriptors=Places(max(_FEWEST, open_descriptors() // _OF_DESCRIPTORS), shared.registry.tenants_with),
    )
    services, zygotes, pool = _workers(ground, shared, gateways, attribute)
    sessions = Sessions(
        pool,
        peers.journal,
        bound=config.host.max_sessions,
        tenants=shared.registry.tenants_with,
        recovery=recovery,
        metrics=shared.metrics,
        on_degraded=ground.degraded,
        over=over,
        opened=opened,
        tell_end=tell_end,
    )
    refusals = Refusals(peers.journal, shared.metrics, account)
    artifacts = Artifacts(store, peers.journal, settings, changes)
    http_tools = HttpTools(peers.keeper, budgets, gateways.providers)
    starts = as_child(ground.layout.tools) if ground.openings is None else by_front(ground.openings)
    process_tools = ProcessTools(starts)
    offers = Offers(settings, http_tools, process_tools, (inside_tools(), artifacts))
    keys = KeyKeeper(peers.keeper, peers.journal, ground.redaction.forget)
    dispatch = Dispatch(
        registry=shared.registry,
        sessions=sessions,
        journal=peers.journal,
        keys=keys,
        make_order=make_order,
        offers=offers,
        resources=resources,
        recovery=recovery,
        metrics=shared.metrics,
        refused=refusals,
        rates=rates,
        on_degraded=ground.degraded,
        redact=ground.redaction.text,
    )
    user_scripts = UserScripts(
        registry=shared.registry,
        sessions=sessions,
        journal=peers.journal,
        make_order=make_order,
        settings=settings,
        metrics=shared.metrics,
        refusals=refusals,
        rates=rates,
        keys=keys,
        on_degraded=ground.degraded,
        connect=connect_inside if ground.openings is None else ground.openings.connect,
    )
    methods = Methods(
        dispatch=dispatch,
        sessions=sessions,
        registry=shared.registry,
        launcher=peers.launcher,
        make_order=make_order,
        zygotes=zygotes.infos,
        metrics=shared.metrics,
        pool_counts=pool.counts,
        scripts=user_scripts,
        redact=ground.redaction.text,
        journal=peers.journal,
    )
    return CellParts(
        shared=shared,
        services=services,
        make_order=make_order,
        sessions=sessions,
        zygotes=zygotes,
        pool=pool,
        gateways=gateways,
        budgets=budgets,
        store=store,
        http_tools=http_tools,
        process_tools=process_tools,
        offers=offers,
        methods=methods,
        unified=Unified(dispatch, shared.registry, resources, sessions.why_missing),
        artifacts=artifacts,
        refusals=refusals,
        bench=CellBench(
            artifacts, Trial(services, ForkStart(services, zygotes), peers.journal), sessions, zygotes, pool
        ),
    )


def _workers(
    ground: Ground, shared: Shared, gateways: GatewayOpener, attribute: Callable[[str], Attribution]
) -> tuple[Services, Zygotes, WarmPool]:
    """`attribute`: asked by what a session has, so after there are sessions."""
    services = Services(
        launcher=ground.peers.launcher,
        journal=ground.peers.journal,
        frames=FrameBudget(ground.lent or Shares(parse_size(ground.config.host.buffered_bytes))),
        open_gateway=gateways.open,
        on_degraded=ground.degraded,
        attribute=attribute,
    )
    zygotes = Zygotes(services, shared.settings.zygotes())
    return services, zygotes, WarmPool(services, ForkStart(services, zygotes), shared.settings.pool)
