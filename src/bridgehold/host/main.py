"""The host's process: no privilege, no key. Joins the parts, serves the socket, ends everything in order.

``python -m bridgehold.host.main --fd-launcher N --fd-keeper N --fd-journal N --fd-listener N
--fd-parent N --fd-config N [--fd-tokens N]``, started by the supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Coroutine
from importlib.metadata import version
from pathlib import Path

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.entries import printable
from bridgehold.audit.events import HostDegraded, HostStarted, HostStopped
from bridgehold.audit.read import read_kind
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError, to_log_text
from bridgehold.hardening import harden
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
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.offers import Offers
from bridgehold.host.cell.tools.process import ProcessTools
from bridgehold.host.cell.unified import Unified
from bridgehold.host.cell.workers.forks import ForkStart
from bridgehold.host.cell.workers.pipes import FrameBudget
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.starts import GatewayHandle, Services
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.anchoring import Anchoring
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.callers import Callers, limits, open_descriptors
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.principals import Principals
from bridgehold.host.front.redaction import Redaction
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.secret_events import SecretEvents
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.tenants import TenantFiles, TokenFiles
from bridgehold.host.reloading import Reloaded, Reloading
from bridgehold.host.shares.buckets import CommandRates
from bridgehold.host.shares.budgets import Budgets
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.host.shares.spending import Spending
from bridgehold.host.startup import HostConfig, SupervisorLink
from bridgehold.host.tenancy import Ending, Tenancy
from bridgehold.keeper.client import KeeperClient
from bridgehold.policies.model import Machine
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.launcher.control import LauncherClient


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """The descriptors that the supervisor gave."""

    launcher: int
    keeper: int
    journal: int
    listener: int
    parent: int
    """The supervisor: it is told what `host.handover` lists."""
    tokens: int = -1
    """Where the HTTP face connects, if there is one."""


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The three other processes, as the host talks to them."""

    journal: JournalClient
    launcher: LauncherClient
    keeper: KeeperClient


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


class HostProcess:
    """One life of the host, from its sockets to its last event."""

    def __init__(self, given: HostConfig, config: Config, ends: Ends) -> None:
        self._layout = Layout(config=Path(given.config), state=Path(given.state), run=Path(given.run))
        self._given = given
        self._config = config
        self._ends = ends
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        """Commands that still run are waited for no longer."""
        self._supervisor = SupervisorLink(_socket(ends.parent))
        self._leaving = given.lasting
        """What is refused here is taken by the host that comes."""
        self._reason = "asked by a signal"
        self._status = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until asked to stop, or until one of the other processes is gone. The exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        peers = Peers(
            journal=await JournalClient.connect(_socket(self._ends.journal)),
            launcher=await LauncherClient.connect(_socket(self._ends.launcher)),
            keeper=await KeeperClient.connect(_socket(self._ends.keeper)),
        )
        self._redaction = Redaction(peers.keeper)
        peers.journal.redact = self._redaction.event
        machine = await peers.launcher.machine()
        await peers.journal.append(self._started(machine))
        anchoring = Anchoring(peers.journal, peers.keeper)
        await anchoring.publish_key(self._layout.anchors / "anchor.pub")
        sessions, servers = self._assemble(peers, machine)
        for server in servers:
            await server.start()
        self._supervisor.say_ready()
        watchers = [
            asyncio.create_task(self._watch("launcher", peers.launcher.lost.wait())),
            asyncio.create_task(self._watch("keeper", peers.keeper.gone())),
            asyncio.create_task(self._watch("journal", peers.journal.gone.wait())),
            self._stand("secrets", SecretEvents(peers.keeper, peers.journal).run(self._layout.audit)),
            self._stand("anchors", anchoring.run(self._config.host.anchor_every_s)),
            self._stand("tokens", self._tokens.watch(self._look_up_again)),
            self._stand("the warm pool", self._pool.watch(self._make_order, peers.keeper.versions)),
            self._stand("quotas", self._tell_journal()),
            asyncio.create_task(self._prestart()),
            asyncio.create_task(self._sweep()),
        ]
        await self._stop.wait()
        if self._status:
            with contextlib.suppress(BridgeholdError):
                await peers.journal.append(HostDegraded(reason=self._reason))
        else:
            for server in servers if self._leaving else ():
                server.leave()
            await sessions.finish(self._config.host.drain_s, self._hurry, leaving=self._leaving)
        await sessions.stop(self._reason)
        await self._pool.stop()
        await self._tools.stop()
        await self._zygotes.stop()
        for server in servers:
            await server.close()
        await self._refusals.close()
        self._environments.close()
        await self._last_words(peers, anchoring)
        for watcher in watchers:
            watcher.cancel()
        peers.launcher.close()
        await peers.journal.close()
        return self._status

    def _assemble(self, peers: Peers, machine: Machine) -> tuple[Sessions, list[SocketServer]]:
        """Join the parts: nothing is started yet."""
        shared = self._share(peers, machine)
        self._settings, self._make_order = shared.settings, shared.orders.make
        self._environments, self._registry = shared.environments, shared.registry
        recovery = Recovery(shared.resources, shared.metrics, shared.settings.recovers)
        sessions = self._open_with(shared, peers, recovery)
        shared.environments.when_changed(self._zygotes.retire, self._pool.retire)
        shared.metrics.watch(sessions.__len__, lambda: len(self._zygotes.infos()))
        return sessions, self._serve_with(shared, peers, sessions, recovery)

    def _share(self, peers: Peers, machine: Machine) -> Shared:
        """What is asked by all the rest."""
        settings = Settings(self._config)
        registry = Registry(self._layout, self._config, machine, peers.journal)
        peers.launcher.share_of = registry.share_of
        environments = Environments(self._layout, self._config, peers.launcher, peers.journal)
        tenants = TenantFiles(registry.files, self._layout.tenants, self._supervisor.write)
        quota = parse_size(self._config.host.artifacts)
        return Shared(
            settings=settings,
            tenants=tenants,
            rates=CommandRates(),
            registry=registry,
            environments=environments,
            orders=Orders(registry, environments, peers.keeper, settings, peers.journal),
            store=ArtifactStore(self._layout.artifacts, quota, tenants.artifacts),
            changes=SerialChanges(),
            resources=Resources(),
            metrics=Metrics(),
        )

    def _open_with(self, shared: Shared, peers: Peers, recovery: Recovery) -> Sessions:
        """Sessions, how they start, and their gateways."""

        def attribute(session: str) -> Attribution:
            return sessions.attribute(session)

        services = Services(
            launcher=peers.launcher,
            journal=peers.journal,
            frames=FrameBudget(parse_size(self._config.host.buffered_bytes)),
            open_gateway=self._open_gateway,
            on_degraded=self._degraded,
            attribute=attribute,
        )
        self._zygotes = Zygotes(services, shared.settings.zygotes())
        self._pool = WarmPool(services, ForkStart(services, self._zygotes), shared.settings.pool)
        sessions = Sessions(
            self._pool,
            peers.journal,
            bound=self._config.host.max_sessions,
            tenants=functools.partial(shared.registry.files.count_with, "tenant"),
            recovery=recovery,
            metrics=shared.metrics,
        )
        downloads = Downloads(
            shared.store,
            shared.changes,
            self._layout.artifacts,
            peers.journal,
            demand=lambda tenant: shared.settings.features.demand("artifacts", tenant),
        )
        prices = {name: section.price for name, section in self._config.providers.items()}
        self._budgets = spent_before(self._layout, Spending(shared.tenants.of, prices))
        self._gateways = GatewayOpener(
            self._config,
            keeper=peers.keeper,
            audit=peers.journal,
            budgets=self._budgets,
            downloads=downloads,
            attribution=sessions.calling_out,
            on_degraded=self._degraded,
        )
        return sessions

    def _serve_with(
        self, shared: Shared, peers: Peers, sessions: Sessions, recovery: Recovery
    ) -> list[SocketServer]:
        """The methods, and the sockets that they are served on."""
        self._refusals = Refusals(peers.journal, shared.metrics)
        artifacts = Artifacts(shared.store, peers.journal, shared.settings, shared.changes)
        http_tools, self._tools = HttpTools(peers.keeper), ProcessTools(self._layout.config / "tools")
        offers = Offers(shared.settings, http_tools, self._tools, (inside_tools(), artifacts))
        dispatch = Dispatch(
            registry=shared.registry,
            sessions=sessions,
            journal=peers.journal,
            keys=KeyKeeper(peers.keeper, peers.journal, self._redaction.forget),
            make_order=shared.orders.make,
            offers=offers,
            resources=shared.resources,
            recovery=recovery,
            metrics=shared.metrics,
            refused=self._refusals,
            rates=shared.rates,
            on_degraded=self._degraded,
            redact=self._redaction.text,
        )
        scripts = UserScripts(
            registry=shared.registry,
            sessions=sessions,
            journal=peers.journal,
            make_order=shared.orders.make,
            scripts={n: os.path.realpath(s.scripts) for n, s in self._config.bridges.items() if s.scripts},
            settings=shared.settings,
            metrics=shared.metrics,
            refusals=self._refusals,
            rates=shared.rates,
            on_degraded=self._degraded,
        )
        methods = Methods(
            dispatch=dispatch,
            sessions=sessions,
            registry=shared.registry,
            environments=shared.environments,
            launcher=peers.launcher,
            make_order=shared.orders.make,
            zygotes=self._zygotes.infos,
            metrics=shared.metrics,
            pool_counts=self._pool.counts,
            stop=self._ask_stop,
            scripts=scripts,
            redact=self._redaction.text,
        )
        self._tokens = TokenFiles(self._layout.tokens, self._supervisor.write)
        given = self._given
        principals = Principals(self._config.principals, given.owner_uid, given.face_uid, self._tokens)
        parts = Reloaded(
            registry=shared.registry,
            sessions=sessions,
            zygotes=self._zygotes,
            store=shared.store,
            offers=offers,
            http_tools=http_tools,
            process_tools=self._tools,
            principals=principals,
        )
        file, overrides = self._layout.config_file, self._given.overrides
        reloading = Reloading(shared.settings, file, overrides, parts, peers.journal, self._warm_again)
        unified = Unified(dispatch, shared.registry, shared.resources, sessions.why_missing)
        ending = Ending(
            sessions=sessions.end_all, zygotes=self._zygotes.end_all, warm_pool=self._pool.end_all
        )
        tenancy = Tenancy(
            shared.tenants,
            self._tokens,
            sessions,
            shared.settings,
            self._budgets.spending,
            ending,
            peers.keeper,
            peers.journal,
            self._look_up_again,
        )
        table = {**methods.table(), **unified.table(), **artifacts.table(), **reloading.table()}
        table |= tenancy.table()
        self._tell_journal = tenancy.tell_journal
        host = self._config.host
        callers = Callers(limits(host.connections, parse_size(host.caller_bytes), open_descriptors()))
        servers = [
            SocketServer(
                _socket(self._ends.listener),
                principals,
                table,
                self._refusals,
                callers=callers,
                left=methods.left,
                active=shared.tenants.demand,
            )
        ]
        if self._ends.tokens >= 0:
            face = _socket(self._ends.tokens)
            servers.append(
                SocketServer(
                    face,
                    principals,
                    table,
                    self._refusals,
                    callers=callers,
                    tokens_only=True,
                    active=shared.tenants.demand,
                )
            )
        reloading.serve_with(*servers)
        self._servers = servers
        return servers

    async def _look_up_again(self) -> None:
        """Tokens have changed: who is connected may be somebody else now, or nobody."""
        for server in self._servers:
            await server.look_up_again()

    async def _open_gateway(
        self, listener: socket.socket, order: StartOrder, placeholders: dict[str, str], events: SessionEvents
    ) -> GatewayHandle:
        return await self._gateways.open(listener, order.grant, order.session, placeholders, events=events)

    async def _last_words(self, peers: Peers, anchoring: Anchoring) -> None:
        with contextlib.suppress(BridgeholdError):
            await anchoring.once()
        with contextlib.suppress(BridgeholdError):
            await peers.journal.append(HostStopped(reason=self._reason))

    async def _sweep(self) -> None:
        """What crashes left of builds, and environments that nobody has used for long."""
        await self._environments.sweep(self._registry.manifests())

    def _started(self, machine: Machine) -> HostStarted:
        facts = {**msgspec.to_builtins(machine), "devices": " ".join(machine.devices)}
        weakenings = [
            name
            for name, used in (
                ("no_cgroup", machine.cgroup == "none"),
                ("shared_uid", machine.uids == "shared"),
                ("overcommit", self._config.host.overcommit),
                ("core_handler", bool(machine.core_handler)),
                ("public_http", self._config.http.public and self._ends.tokens >= 0),
            )
            if used
        ]
        return HostStarted(
            version=version("bridgehold"),
            uid=os.getuid(),
            machine=facts,
            weakenings=tuple(weakenings),
            host=socket.gethostname(),
        )

    def _signalled(self) -> None:
        """The first signal lets commands finish, a second one ends them."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _ask_stop(self, reason: str, *, now: bool, again: bool) -> None:
        if again:  # whoever asked may go away meanwhile: the supervisor's word is heard all the same
            asked = asyncio.create_task(self._ask_for_another())
            self._tasks.add(asked)
            asked.add_done_callback(self._tasks.discard)
            await asyncio.shield(asked)
        self._reason = reason
        if now:
            self._hurry.set()
        asyncio.get_running_loop().call_later(0.05, self._stop.set)

    async def _ask_for_another(self) -> None:
        await self._supervisor.ask_for_another()
        self._leaving = True
        asyncio.get_running_loop().call_later(0.05, self._stop.set)

    def _warm_again(self) -> None:
        """The configuration has changed: there may be more to have warm, and other ceilings."""
        for work in (self._prestart(), self._tell_journal()):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _prestart(self) -> None:
        """Zygotes that are to be warm before anybody asks. What fails is tried again by the first session."""
        for bridge, section in self._settings.now.bridges.items():
            for tenant in section.prestart:
                try:
                    await self._zygotes.warm(await self._make_order(tenant, bridge, "", "", ""))
                except BridgeholdError as error:
                    line = printable(f"{bridge} is not warm for {tenant}: {error.message}")
                    sys.stderr.write(f"bridgehold: {line}\n")

    async def _watch(self, name: str, gone: Awaitable[object]) -> None:
        """Nothing may run unlimited, unlogged or with keys out of reach: one gone ends all."""
        await gone
        self._reason, self._status = f"the {name} process is gone", 70
        self._hurry.set()
        sys.stderr.write(f"bridgehold: {self._reason}; stopping\n")
        self._stop.set()

    def _stand(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Work for as long as the host runs, which is not to run without it: its defect ends all."""

        async def watched() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - the last border of this task
                sys.stderr.write(f"bridgehold: {''.join(traceback.format_tb(error.__traceback__))}")
                self._degraded(f"a defect in {name}: {type(error).__name__}")

        return asyncio.create_task(watched())

    def _degraded(self, reason: str) -> None:
        if self._status:
            return
        self._reason, self._status = f"degraded: {reason}", 70
        self._hurry.set()  # also while the host drains: nothing is left to run unlogged
        sys.stderr.write(f"bridgehold: {self._reason}; stopping\n")
        self._stop.set()


def spent_before(layout: Layout, spending: Spending) -> Budgets:
    """What tenants have spent at providers, as a fold of the audit: budgets survive a restart."""
    budgets = Budgets(spending)
    if layout.audit.is_dir():
        budgets.fold(read_kind(layout.audit, "egress"))
    return budgets


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def main() -> int:
    """Run the host process on descriptors of the supervisor's. Returns the exit status."""
    parser = argparse.ArgumentParser()
    names = ("launcher", "keeper", "journal", "listener", "parent", "config")
    for name in names:
        parser.add_argument(f"--fd-{name}", type=int, required=True)
    parser.add_argument("--fd-tokens", type=int, default=-1)
    arguments = vars(parser.parse_args())
    with os.fdopen(arguments["fd_config"], "rb") as file:
        given = msgspec.json.decode(file.read(), type=HostConfig)
    ends = Ends(**{name: arguments[f"fd_{name}"] for name in (*names, "tokens") if name != "config"})
    for descriptor in msgspec.structs.astuple(ends):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    try:
        harden(parent=given.supervisor)
        config = load_config(Path(given.config) / "config.toml", given.overrides)
        return asyncio.run(HostProcess(given, config, ends).run())
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status


if __name__ == "__main__":
    raise SystemExit(main())
