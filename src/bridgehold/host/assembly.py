"""The host's parts, joined: each is whole before another one is given it, and nothing is started yet."""

from __future__ import annotations

import asyncio
import functools
import socket
from pathlib import Path

import msgspec

from bridgehold import clock, writes
from bridgehold.audit.read import Listing, listed, read_kind, removals
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.hardening import open_descriptors
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.attacks import Attacks
from bridgehold.host.audit_questions import AuditQuestions
from bridgehold.host.cell.artifact_methods import Artifacts
from bridgehold.host.cell.store.artifacts import ArtifactStore
from bridgehold.host.cell.store.quarantine import Quarantine
from bridgehold.host.cell_parts import Ground, Shared, join_cell, share
from bridgehold.host.examination import Bench, Examination
from bridgehold.host.front.allowances import Allowances
from bridgehold.host.front.bridge_methods import BridgeMethods
from bridgehold.host.front.callers import Callers, limits
from bridgehold.host.front.ceiling_events import CeilingEvents
from bridgehold.host.front.cell_starts import Intakes
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.entrances import Entrances
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.forwarding import Forwarding, begins_cell
from bridgehold.host.front.locking import Locking
from bridgehold.host.front.opens import House
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.principals import Principals
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.supply import Supply
from bridgehold.host.front.tenants import TokenFiles
from bridgehold.host.front.trials import Trials
from bridgehold.host.parts import Foundation, HostParts, look_up_again
from bridgehold.host.proposal_store import ProposalStore
from bridgehold.host.proposals import Proposals
from bridgehold.host.reloading import Reloading
from bridgehold.host.reviews import PolicyLook, Reviews
from bridgehold.host.revocation import AtRest
from bridgehold.host.serving import Celled, InHost, Serving
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.dialling import dial
from bridgehold.host.shares.places import Places
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.shares.session_ends import ENDED_SECONDS, SessionEnd, ends_before
from bridgehold.host.submissions import Submissions
from bridgehold.host.template import Begun, Template
from bridgehold.host.tenancy import Tenancy
from bridgehold.host.token_admin import TokenAdmin
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.resolve import shared as shared_lookup
from bridgehold.keeper.resolve import system_lookup
from bridgehold.keeper.spending import Spending, prices_of
from bridgehold.policies.approved import by_key
from bridgehold.policies.units import parse_size


def assemble(given: Foundation) -> HostParts:
    """Join the parts. Raises what the configuration's faults are."""
    ground = given.ground
    config, layout, peers = ground.config, ground.layout, ground.peers
    shared = share(ground, given.supervisor.write, peers.journal)
    peers.launcher.share_of = shared.registry.share_of
    peers.launcher.on_unrecorded = given.lifetime.degraded
    environments = Environments(
        layout,
        config,
        peers.launcher,
        peers.journal,
        shared.tenants.environments,
        Supply(lambda: shared.settings.now.supply),
    )
    orders = Orders(shared.registry, environments, peers.keeper, shared.settings, peers.journal)
    listing = listed(layout.audit) if layout.audit.is_dir() else []
    budgets = spent_before(layout, Spending(shared.tenants.of, prices_of(config)), listing=listing)
    kept, log = Quarantine(layout.quarantine), AdminLog(peers.journal)
    environments.disk.waiting = kept.environments
    bench: Bench
    serving: Serving
    if given.template is None:
        cell = join_cell(ground, shared, orders.make, budgets)
        environments.when_changed(cell.zygotes.retire, cell.pool.retire)
        shared.metrics.watch(cell.sessions.__len__, lambda: len(cell.zygotes.infos()))
        for tenant, ends in ended_before(layout, listing).items():
            cell.sessions.restore(tenant, ends)
        serving = InHost(cell, ground)
        refusals = cell.refusals
        bench = cell.bench
    else:
        refusals = Refusals(peers.journal, shared.metrics)
        serving = celled = _celled(given, shared, orders, budgets, refusals, given.template)
        for tenant, ends in ended_before(layout, listing).items():
            celled.cells.ends.restore(tenant, ends)
        environments.when_changed(celled.cells.retire)
        bench = Trials(celled.cells)
    examination = _examination_of(ground, bench, shared, orders, environments, kept)
    submissions = Submissions(
        layout, shared.registry, shared.tenants, kept, examination, log, given.supervisor.release
    )
    proposals = Proposals(
        shared.registry,
        shared.tenants,
        ProposalStore(layout.proposals),
        layout.audit,
        log,
        given.supervisor.write,
        by_key(ground.approvals),
    )
    verified = by_key(ground.approvals)
    look = PolicyLook(layout, shared.settings, ground.machine, shared.registry, verified)
    reviews = Reviews(look, log, given.supervisor.write, verified)
    tokens = TokenFiles(layout.tokens, given.supervisor.write)
    servers: list[SocketServer] = []
    tenancy = Tenancy(
        shared.tenants,
        tokens,
        serving.owners,
        shared.settings,
        serving.used,
        serving.ending(),
        AtRest(
            submissions=submissions.end,
            artifacts=_kept_artifacts(ground, shared).left,
            proposals=proposals.end,
            ends=serving.forget,
        ),
        peers.keeper,
        peers.journal,
        log,
        shared.registry.entries,
        functools.partial(look_up_again, servers),
        CeilingEvents(peers.journal, layout.audit),
    )
    parts = HostParts(
        shared=shared,
        environments=environments,
        orders=orders,
        serving=serving,
        refusals=refusals,
        tokens=tokens,
        tenancy=tenancy,
        submissions=submissions,
        proposals=proposals,
        reviews=reviews,
        servers=servers,
    )
    _serve(given, parts)
    return parts


def _examination_of(
    ground: Ground, bench: Bench, shared: Shared, orders: Orders, environments: Environments, kept: Quarantine
) -> Examination:
    locking = Locking(shared.settings, ground.layout.quarantine, environments)
    return Examination(
        ground.layout, bench, shared.registry, shared.tenants, orders, locking, kept, environments
    )


def _kept_artifacts(ground: Ground, shared: Shared) -> Artifacts:
    """Of a tenant that is gone: nobody else serves them any more."""
    store = ArtifactStore(ground.layout.artifacts, 0)
    return Artifacts(store, ground.peers.journal, shared.settings)


def _celled(
    given: Foundation, shared: Shared, orders: Orders, budgets: Budgets, refusals: Refusals, template: Begun
) -> Celled:
    ground, ends, begun = given.ground, given.ends, set[str]()

    async def spent(tenant: str) -> cell_wire.Spent:
        """As counted when the host began; for a second cell of a tenant's, as the audit has it now."""
        found = budgets
        if tenant in begun:
            spending = Spending(shared.tenants.of, prices_of(shared.settings.now))
            found = await asyncio.to_thread(spent_before, ground.layout, spending, tenant)
        begun.add(tenant)
        return cell_wire.Spent(providers=found.of(tenant), periods=found.spending.of(tenant))

    async def make_config(tenant: str) -> cell_wire.CellConfig:
        shared.registry.demand_no_slip(tenant)
        writes.make_folder(ground.layout.artifacts / tenant, mode=0o700)  # the cell may make it no more
        return cell_wire.CellConfig(
            tenant=tenant,
            host=given.host,
            machine=ground.machine,
            spent=await spent(tenant),
            approvals=ground.approvals,
            config=msgspec.json.encode(shared.settings.now).decode(),
        )

    cells = Cells(
        Template(template),
        Intakes(
            launcher=ground.peers.launcher,
            keeper=_intake(ends.keeper_intake),
            journal=_intake(ends.journal_intake),
        ),
        orders,
        Places(ground.config.host.max_sessions, shared.registry.tenants_with),
        ground.peers.journal,
        make_config,
        lambda: shared.settings.zygotes().memory_bytes,
        House(
            registry=shared.registry,
            settings=shared.settings,
            layout=ground.layout,
            lookup=shared_lookup(system_lookup),
            dial=dial,
            adopt=ground.peers.launcher.adopt,
        ),
        Allowances(ground.peers.keeper, shared.settings, shared.tenants.of),
        parse_size(ground.config.host.buffered_bytes),
        parse_size(ground.config.host.caller_bytes),
    )
    shared.registry.files.on_instead = lambda kind, name: (
        cells.rules_changed(name) if kind == "tenant" else None
    )
    entrances = Entrances(cells, begins_cell, shared.tenants.demand)
    shared.tenants.on_hold = cells.hear_rules
    return Celled(
        cells,
        Forwarding(cells, shared.registry.manifest, refusals),
        entrances,
        shared.registry,
        shared.settings,
        budgets,
    )


def _intake(descriptor: int) -> socket.socket:
    intake = socket.socket(fileno=descriptor)
    intake.setblocking(False)
    return intake


def _serve(given: Foundation, parts: HostParts) -> None:
    """Add to the parts' servers one for each socket."""
    config, ends = given.ground.config, given.ends
    host, tokens, tenancy = config.host, parts.tokens, parts.tenancy
    principals = Principals(config.principals, given.host.owner_uid, given.host.face_uid, tokens)
    reloading = _reloading(given, parts, principals)
    again = functools.partial(look_up_again, parts.servers)
    token_admin = TokenAdmin(tokens, tenancy.log, tenancy.demand, again)
    stop = given.lifetime.ask_stop
    bridges = BridgeMethods(parts.shared.registry, parts.environments, stop, tenancy.log.audited)
    tables = (
        parts.serving,
        bridges,
        reloading,
        tenancy,
        token_admin,
        parts.submissions,
        parts.proposals,
        parts.reviews,
        Attacks(tenancy.log),
        AuditQuestions(given.ground.layout, given.ground.peers.journal),
    )
    table = {name: method for part in tables for name, method in part.table().items()}
    make = functools.partial(
        SocketServer,
        principals=principals,
        methods=table,
        refusals=parts.refusals,
        callers=Callers(
            limits(host.connections, parse_size(host.caller_bytes), open_descriptors()), parts.serving.held
        ),
        active=parts.shared.tenants.demand,
        entrances=parts.serving.entrances,
    )
    parts.servers.append(make(socket.socket(fileno=ends.listener), left=parts.serving.left))
    if ends.tokens >= 0:
        parts.servers.append(
            make(socket.socket(fileno=ends.tokens), tokens_only=True, left=parts.serving.left)
        )
    reloading.serve_with(*parts.servers)


class _Told(msgspec.Struct, frozen=True):
    """`reloading.Parts`: all that keeps something of a configuration."""

    serving: Serving
    principals: Principals

    def check(self, config: Config) -> None:
        self.serving.check(config)

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        self.serving.tell(config, gone)
        self.principals.replace(config.principals)


def _reloading(given: Foundation, parts: HostParts, principals: Principals) -> Reloading:
    def follow() -> None:
        """The configuration has changed: there may be more to have warm, and other ceilings."""
        given.lifetime.begin(parts.serving.prestart())
        given.lifetime.begin(parts.tenancy.tell_journal())

    return Reloading(
        parts.shared.settings,
        given.ground.layout.config_file,
        given.host.overrides,
        parts.shared.registry,
        _Told(parts.serving, principals),
        given.ground.peers.journal,
        parts.tenancy.log,
        given.supervisor.reread,
        follow,
    )


def spent_before(
    layout: Layout, spending: Spending, tenant: str = "", listing: Listing | None = None
) -> Budgets:
    """What tenants (or this one) have spent at providers, folded of the audit: budgets survive a restart."""
    budgets = Budgets(spending)
    if layout.audit.is_dir():
        budgets.fold(read_kind(layout.audit, "egress", tenant, listing=listing))
    return budgets


def ended_before(layout: Layout, listing: Listing | None = None) -> dict[str, list[SessionEnd]]:
    """How sessions of hosts before this one ended, folded of the audit: no name begins anew unsaid."""
    if not layout.audit.is_dir():
        return {}
    listing = listed(layout.audit) if listing is None else listing
    now = clock.now()
    since = now - ENDED_SECONDS
    gone = removals(layout.audit, since, listing)
    theirs = (
        entry
        for entry in read_kind(layout.audit, "session", since=since, listing=listing)
        if entry.time > gone.get(entry.tenant, "")  # whoever has a removed tenant's name is somebody else
    )
    return ends_before(theirs, now)
