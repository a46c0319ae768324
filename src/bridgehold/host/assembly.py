"""The host's parts, joined: each is whole before another one is given it, and nothing is started yet."""

from __future__ import annotations

import functools
import os
import socket

from bridgehold.audit.read import read_kind
from bridgehold.config.layout import Layout
from bridgehold.config.settings import Settings
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.cell.artifact_methods import Artifacts, inside_tools
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.commands.inline_keys import KeyKeeper
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.gateway.opener import GatewayOpener
from bridgehold.host.cell.gateway.values import Attribution
from bridgehold.host.cell.methods import Methods
from bridgehold.host.cell.scripts.user_scripts import UserScripts
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.store.artifacts import ArtifactStore, SerialChanges
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.cell.store.quarantine import Quarantine
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.offers import Offers
from bridgehold.host.cell.tools.process import ProcessTools
from bridgehold.host.cell.unified import Unified
from bridgehold.host.cell.workers.forks import ForkStart
from bridgehold.host.cell.workers.live import GatewayHandle, Services
from bridgehold.host.cell.workers.pipes import FrameBudget
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.trial import Trial
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.callers import Callers, limits, open_descriptors
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.locking import Locking
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.principals import Principals
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.tenants import TenantFiles, TokenFiles
from bridgehold.host.intake import Intake
from bridgehold.host.parts import Answering, Foundation, HostParts, Shared, Working, look_up_again, prestart
from bridgehold.host.reloading import Reloaded, Reloading
from bridgehold.host.shares.buckets import CommandRates
from bridgehold.host.shares.budgets import Budgets
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.host.shares.spending import Prices, Spending
from bridgehold.host.submissions import Submissions
from bridgehold.host.tenancy import Ending, Tenancy
from bridgehold.host.token_admin import TokenAdmin
from bridgehold.policies.units import parse_size


def assemble(given: Foundation) -> HostParts:
    """Join the parts. Raises what the configuration's faults are."""
    shared = _share(given)
    working = _work(given, shared)
    shared.environments.when_changed(working.zygotes.retire, working.pool.retire)
    shared.metrics.watch(working.sessions.__len__, lambda: len(working.zygotes.infos()))
    answering = _answer(given, shared, working)
    tokens = TokenFiles(given.layout.tokens, given.supervisor.write)
    servers: list[SocketServer] = []
    log = AdminLog(given.peers.journal)
    submissions = _submissions(given, shared, working, answering.artifacts, log)
    tenancy = _tenancy(given, shared, working, tokens, submissions, answering.artifacts, log, servers)
    _serve(given, shared, working, answering, tokens, tenancy, submissions, servers)
    return HostParts(
        shared=shared,
        working=working,
        answering=answering,
        tokens=tokens,
        tenancy=tenancy,
        submissions=submissions,
        servers=servers,
    )


def _share(given: Foundation) -> Shared:
    config, layout, peers = given.config, given.layout, given.peers
    settings = Settings(config)
    registry = Registry(layout, config, given.machine, peers.journal)
    peers.launcher.share_of = registry.share_of
    tenants = TenantFiles(registry.files, layout.tenants, given.supervisor.write)
    environments = Environments(layout, config, peers.launcher, peers.journal, tenants.environments)
    return Shared(
        settings=settings,
        tenants=tenants,
        rates=CommandRates(),
        registry=registry,
        environments=environments,
        orders=Orders(registry, environments, peers.keeper, settings, peers.journal),
        store=ArtifactStore(layout.artifacts, parse_size(config.host.artifacts), tenants.artifacts),
        changes=SerialChanges(),
        resources=Resources(),
        metrics=Metrics(),
    )


def _work(given: Foundation, shared: Shared) -> Working:
    config, peers, degraded = given.config, given.peers, given.lifetime.degraded

    def attribute(session: str) -> Attribution:  # asked by what a session has, so after there are sessions
        return sessions.attribute(session)

    def calling_out(session: str) -> Attribution:
        return sessions.calling_out(session)

    prices = Prices(
        {name: section.price for name, section in config.providers.items()},
        {
            (name, model): one.price
            for name, section in config.providers.items()
            for model, one in section.models.items()
        },
    )
    budgets = spent_before(given.layout, Spending(shared.tenants.of, prices))
    gateways = GatewayOpener(
        config,
        keeper=peers.keeper,
        audit=peers.journal,
        budgets=budgets,
        downloads=_downloads(given, shared),
        attribution=calling_out,
        on_degraded=degraded,
    )

    async def open_gateway(
        listener: socket.socket, order: StartOrder, placeholders: dict[str, str], events: SessionEvents
    ) -> GatewayHandle:
        return await gateways.open(listener, order.grant, order.session, placeholders, events=events)

    services = Services(
        launcher=peers.launcher,
        journal=peers.journal,
        frames=FrameBudget(parse_size(config.host.buffered_bytes)),
        open_gateway=open_gateway,
        on_degraded=degraded,
        attribute=attribute,
    )
    zygotes = Zygotes(services, shared.settings.zygotes())
    pool = WarmPool(services, ForkStart(services, zygotes), shared.settings.pool)
    recovery = Recovery(shared.resources, shared.metrics, shared.settings.recovers)
    sessions = Sessions(
        pool,
        peers.journal,
        bound=config.host.max_sessions,
        tenants=shared.registry.tenants_with,
        recovery=recovery,
        metrics=shared.metrics,
        on_degraded=degraded,
    )
    return Working(
        services=services, sessions=sessions, zygotes=zygotes, pool=pool, recovery=recovery, budgets=budgets
    )


def _downloads(given: Foundation, shared: Shared) -> Downloads:
    return Downloads(
        shared.store,
        shared.changes,
        given.layout.artifacts,
        given.peers.journal,
        demand=lambda tenant: shared.settings.features.demand("artifacts", tenant),
    )


def _answer(given: Foundation, shared: Shared, working: Working) -> Answering:
    peers, redaction = given.peers, given.redaction
    refusals = Refusals(peers.journal, shared.metrics)
    artifacts = Artifacts(shared.store, peers.journal, shared.settings, shared.changes)
    http_tools, process_tools = HttpTools(peers.keeper), ProcessTools(given.layout.config / "tools")
    offers = Offers(shared.settings, http_tools, process_tools, (inside_tools(), artifacts))
    dispatch = Dispatch(
        registry=shared.registry,
        sessions=working.sessions,
        journal=peers.journal,
        keys=KeyKeeper(peers.keeper, peers.journal, redaction.forget),
        make_order=shared.orders.make,
        offers=offers,
        resources=shared.resources,
        recovery=working.recovery,
        metrics=shared.metrics,
        refused=refusals,
        rates=shared.rates,
        on_degraded=given.lifetime.degraded,
        redact=redaction.text,
    )
    return Answering(
        refusals=refusals,
        artifacts=artifacts,
        http_tools=http_tools,
        process_tools=process_tools,
        offers=offers,
        dispatch=dispatch,
        methods=Methods(
            dispatch=dispatch,
            sessions=working.sessions,
            registry=shared.registry,
            environments=shared.environments,
            launcher=peers.launcher,
            make_order=shared.orders.make,
            zygotes=working.zygotes.infos,
            metrics=shared.metrics,
            pool_counts=working.pool.counts,
            stop=given.lifetime.ask_stop,
            scripts=_scripts(given, shared, working, refusals),
            redact=redaction.text,
        ),
    )


def _scripts(given: Foundation, shared: Shared, working: Working, refusals: Refusals) -> UserScripts:
    sections = given.config.bridges.items()
    return UserScripts(
        registry=shared.registry,
        sessions=working.sessions,
        journal=given.peers.journal,
        make_order=shared.orders.make,
        scripts={name: os.path.realpath(section.scripts) for name, section in sections if section.scripts},
        settings=shared.settings,
        metrics=shared.metrics,
        refusals=refusals,
        rates=shared.rates,
        on_degraded=given.lifetime.degraded,
    )


def _submissions(
    given: Foundation, shared: Shared, working: Working, artifacts: Artifacts, log: AdminLog
) -> Submissions:
    kept = Quarantine(given.layout.quarantine)
    intake = Intake(
        given.layout,
        artifacts,
        shared.registry,
        shared.tenants,
        shared.orders,
        Trial(working.services, ForkStart(working.services, working.zygotes), given.peers.journal),
        Locking(shared.settings, given.layout.quarantine),
        kept,
        shared.environments,
        lambda digest: (
            working.zygotes.uses(digest)
            or working.pool.uses(digest)
            or any(one.order.environment_digest == digest for one in working.sessions)
        ),
    )
    shared.environments.disk.waiting = kept.environments
    return Submissions(
        given.layout, shared.registry, shared.tenants, kept, intake, log, given.supervisor.release
    )


def _tenancy(
    given: Foundation,
    shared: Shared,
    working: Working,
    tokens: TokenFiles,
    submissions: Submissions,
    artifacts: Artifacts,
    log: AdminLog,
    servers: list[SocketServer],
) -> Tenancy:
    """`servers`: those that are there once somebody asks for anything."""
    ending = Ending(
        sessions=working.sessions.end_all,
        zygotes=working.zygotes.end_all,
        warm_pool=working.pool.end_all,
        submissions=submissions.end,
        artifacts=artifacts.left,
    )
    return Tenancy(
        shared.tenants,
        tokens,
        working.sessions,
        shared.settings,
        working.budgets.spending,
        ending,
        given.peers.keeper,
        given.peers.journal,
        log,
        shared.registry.entries,
        functools.partial(look_up_again, servers),
    )


def _serve(
    given: Foundation,
    shared: Shared,
    working: Working,
    answering: Answering,
    tokens: TokenFiles,
    tenancy: Tenancy,
    submissions: Submissions,
    servers: list[SocketServer],
) -> None:
    """Add to `servers` one for each socket."""
    host, ends = given.config.host, given.ends
    principals = Principals(given.config.principals, given.host.owner_uid, given.host.face_uid, tokens)
    reloading = _reloading(given, shared, working, answering, tenancy, principals)
    unified = Unified(answering.dispatch, shared.registry, shared.resources, working.sessions.why_missing)
    token_admin = TokenAdmin(tokens, tenancy.log, tenancy.demand, functools.partial(look_up_again, servers))
    tables = (answering.methods, unified, answering.artifacts, reloading, tenancy, token_admin, submissions)
    table = {name: method for part in tables for name, method in part.table().items()}
    make = functools.partial(
        SocketServer,
        principals=principals,
        methods=table,
        refusals=answering.refusals,
        callers=Callers(limits(host.connections, parse_size(host.caller_bytes), open_descriptors())),
        active=shared.tenants.demand,
    )
    servers.append(make(socket.socket(fileno=ends.listener), left=answering.methods.left))
    if ends.tokens >= 0:
        servers.append(make(socket.socket(fileno=ends.tokens), tokens_only=True))
    reloading.serve_with(*servers)


def _reloading(
    given: Foundation,
    shared: Shared,
    working: Working,
    answering: Answering,
    tenancy: Tenancy,
    principals: Principals,
) -> Reloading:
    def follow() -> None:
        """The configuration has changed: there may be more to have warm, and other ceilings."""
        given.lifetime.begin(prestart(shared, working))
        given.lifetime.begin(tenancy.tell_journal())

    parts = Reloaded(
        registry=shared.registry,
        sessions=working.sessions,
        zygotes=working.zygotes,
        store=shared.store,
        offers=answering.offers,
        http_tools=answering.http_tools,
        process_tools=answering.process_tools,
        principals=principals,
    )
    file, overrides = given.layout.config_file, given.host.overrides
    return Reloading(shared.settings, file, overrides, parts, given.peers.journal, follow)


def spent_before(layout: Layout, spending: Spending) -> Budgets:
    """What tenants have spent at providers, as a fold of the audit: budgets survive a restart."""
    budgets = Budgets(spending)
    if layout.audit.is_dir():
        budgets.fold(read_kind(layout.audit, "egress"))
    return budgets
