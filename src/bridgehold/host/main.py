"""The host's process: no privilege, no key. Joins the parts, serves the socket, ends everything in order.

``python -m bridgehold.host.main --fd-launcher N --fd-keeper N --fd-journal N --fd-listener N
--fd-ready N --fd-config N``, started by the supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from bridgehold.audit.anchors import anchor_at, anchor_text, attach, key_line
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import HostStarted, HostStopped, PrincipalRefused
from bridgehold.audit.read import read_all
from bridgehold.errors import BridgeholdError
from bridgehold.host.artifacts import ArtifactStore, Turns
from bridgehold.host.boots import StartOrder
from bridgehold.host.budgets import Budgets
from bridgehold.host.config import Config, load_config
from bridgehold.host.dispatch import Dispatch
from bridgehold.host.downloads import Downloads
from bridgehold.host.environments import Environments
from bridgehold.host.faces.artifacts import Artifacts, inside_tools
from bridgehold.host.faces.server import SocketServer
from bridgehold.host.foreigners import Foreigners
from bridgehold.host.forks import ForkStart
from bridgehold.host.gateway.opener import GatewayOpener
from bridgehold.host.inline_keys import KeyKeeper
from bridgehold.host.keeper.client import KeeperClient
from bridgehold.host.layout import Layout
from bridgehold.host.methods import Methods
from bridgehold.host.observe import Metrics
from bridgehold.host.orders import Orders
from bridgehold.host.parked import ParkedStart, PoolLimits
from bridgehold.host.pipes import FrameBudget
from bridgehold.host.plans import HostConfig
from bridgehold.host.principals import Principals
from bridgehold.host.process import harden
from bridgehold.host.registry import Registry
from bridgehold.host.resources import Resources
from bridgehold.host.sessions import Sessions
from bridgehold.host.starts import GatewayHandle, Services
from bridgehold.host.tools.http import HttpTools
from bridgehold.host.tools.offers import Offers
from bridgehold.host.tools.process import ProcessTools
from bridgehold.host.unified import Unified
from bridgehold.host.zygote_rules import ZygoteLimits
from bridgehold.host.zygotes import Zygotes
from bridgehold.policies.model import Machine
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.control import LauncherClient


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """The descriptors that the supervisor gave."""

    launcher: int
    keeper: int
    journal: int
    listener: int
    ready: int


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The three other processes, as the host talks to them."""

    journal: JournalClient
    launcher: LauncherClient
    keeper: KeeperClient


class HostProcess:
    """One life of the host, from its sockets to its last event."""

    def __init__(self, given: HostConfig, config: Config, ends: Ends) -> None:
        self._layout = Layout(config=Path(given.config), state=Path(given.state), run=Path(given.run))
        self._given = given
        self._config = config
        self._ends = ends
        self._stop = asyncio.Event()
        self._reason = "asked by a signal"
        self._status = 0
        self._anchored = 0

    async def run(self) -> int:
        """Serve until asked to stop, or until one of the other processes is gone. The exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        peers = Peers(
            journal=await JournalClient.connect(_socket(self._ends.journal)),
            launcher=await LauncherClient.connect(_socket(self._ends.launcher)),
            keeper=await KeeperClient.connect(_socket(self._ends.keeper)),
        )
        machine = await peers.launcher.machine()
        await peers.journal.append(self._started(machine))
        _publish_key(self._layout.anchors / "anchor.pub", await peers.keeper.public_key())
        sessions, server = self._assemble(peers, machine)
        await server.start()
        os.write(self._ends.ready, b"1")
        os.close(self._ends.ready)
        watchers = [
            asyncio.create_task(self._watch("launcher", peers.launcher.lost.wait())),
            asyncio.create_task(self._watch("keeper", peers.keeper.gone())),
            asyncio.create_task(self._watch("journal", peers.journal.gone.wait())),
            asyncio.create_task(self._anchor(peers)),
            asyncio.create_task(self._parked.watch(self._make_order, peers.keeper.versions)),
            asyncio.create_task(self._prestart()),
        ]
        await self._stop.wait()
        await sessions.stop(self._reason)
        await self._parked.stop()
        await self._tools.stop()
        await self._zygotes.stop()
        await server.close()
        await self._last_words(peers)
        for watcher in watchers:
            watcher.cancel()
        peers.launcher.close()
        await peers.journal.close()
        return self._status

    def _assemble(self, peers: Peers, machine: Machine) -> tuple[Sessions, SocketServer]:
        """Join the parts: nothing is started yet."""
        registry = Registry(self._layout, self._config, machine, peers.journal)
        environments = Environments(self._layout, self._config, peers.launcher, peers.journal)
        scripts = {n: os.path.realpath(s.scripts) for n, s in self._config.bridges.items() if s.scripts}
        orders = self._orders(registry, environments, peers, scripts)
        store = ArtifactStore(self._layout.artifacts, parse_size(self._config.host.artifacts))
        turns = Turns()
        artifacts = Artifacts(store, peers.journal, turns)
        services = Services(
            launcher=peers.launcher,
            journal=peers.journal,
            frames=FrameBudget(parse_size(self._config.host.buffered_bytes)),
            open_gateway=self._open_gateway,
        )
        self._zygotes = Zygotes(services, zygote_limits(self._config))
        self._parked = ParkedStart(services, ForkStart(services, self._zygotes), pool_limits(self._config))
        self._make_order = orders.make
        resources = Resources()
        metrics = Metrics()
        sessions = Sessions(
            self._parked,
            peers.journal,
            bound=self._config.host.max_sessions,
            on_end=resources.forget,
            metrics=metrics,
        )
        self._gateways = GatewayOpener(
            self._config,
            keeper=peers.keeper,
            audit=peers.journal,
            budgets=spent_before(self._layout),
            downloads=Downloads(store, turns, self._layout.artifacts, peers.journal),
            current_command=sessions.current_command,
            on_degraded=self._degraded,
        )
        dispatch = Dispatch(
            registry=registry,
            sessions=sessions,
            journal=peers.journal,
            launcher=peers.launcher,
            keys=KeyKeeper(peers.keeper),
            make_order=orders.make,
            offers=self._offers(peers, artifacts),
            resources=resources,
            metrics=metrics,
            on_degraded=self._degraded,
        )
        foreigners = Foreigners(
            registry=registry,
            sessions=sessions,
            journal=peers.journal,
            make_order=orders.make,
            scripts=scripts,
            metrics=metrics,
            on_degraded=self._degraded,
        )
        methods = Methods(
            dispatch=dispatch,
            sessions=sessions,
            registry=registry,
            environments=environments,
            launcher=peers.launcher,
            make_order=orders.make,
            zygotes=self._zygotes.infos,
            metrics=metrics,
            parked=self._parked.parked,
            stop=self._ask_stop,
            foreigners=foreigners,
        )
        metrics.watch(sessions.__len__, lambda: len(self._zygotes.infos()))
        unified = Unified(dispatch, registry, resources)

        async def refuse(event: PrincipalRefused) -> None:
            await peers.journal.append(event)

        principals = Principals(self._config.principals, self._given.owner_uid)
        listener = socket.socket(fileno=self._ends.listener)
        return sessions, SocketServer(
            listener, principals, {**methods.table(), **unified.table(), **artifacts.table()}, refuse
        )

    def _orders(
        self, registry: Registry, environments: Environments, peers: Peers, scripts: dict[str, str]
    ) -> Orders:
        weights = {name: section.weights for name, section in self._config.bridges.items()}
        shapes = {name: section.shape for name, section in self._config.providers.items()}
        return Orders(registry, environments, peers.keeper, weights, shapes, scripts)

    def _offers(self, peers: Peers, artifacts: Artifacts) -> Offers:
        """The operator's tools, and the host's own."""
        sections = self._config.tools
        places = {name: (tool.provider, tool.path) for name, tool in sections.items() if tool.provider}
        entries = {name: tool.entry for name, tool in sections.items() if tool.entry}
        self._tools = ProcessTools(self._layout.config / "tools", entries)
        return Offers(sections, HttpTools(peers.keeper, places), self._tools, (inside_tools(), artifacts))

    async def _open_gateway(
        self, listener: socket.socket, order: StartOrder, placeholders: dict[str, str]
    ) -> GatewayHandle:
        return await self._gateways.open(listener, order.grant, order.session, placeholders)

    async def _last_words(self, peers: Peers) -> None:
        with contextlib.suppress(BridgeholdError):
            await self._anchor_once(peers)
        with contextlib.suppress(BridgeholdError):
            await peers.journal.append(HostStopped(reason=self._reason))

    def _started(self, machine: Machine) -> HostStarted:
        facts = {**msgspec.to_builtins(machine), "devices": " ".join(machine.devices)}
        weakenings = [
            name
            for name, used in (
                ("no_cgroup", machine.cgroup == "none"),
                ("shared_uid", machine.uids == "shared"),
                ("overcommit", self._config.host.overcommit),
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

    async def _ask_stop(self, reason: str) -> None:
        self._reason = reason
        asyncio.get_running_loop().call_later(0.05, self._stop.set)

    async def _prestart(self) -> None:
        """Zygotes that are to be warm before anybody asks. What fails is tried again by the first session."""
        for bridge, section in self._config.bridges.items():
            for tenant in section.prestart:
                try:
                    await self._zygotes.warm(await self._make_order(tenant, bridge, "", ""))
                except BridgeholdError as error:
                    sys.stderr.write(f"bridgehold: {bridge} is not warm for {tenant}: {error.message}\n")

    async def _watch(self, name: str, gone: Awaitable[object]) -> None:
        """Nothing may run unlimited, unlogged or with keys out of reach: one gone ends all."""
        await gone
        self._reason, self._status = f"the {name} process is gone", 70
        sys.stderr.write(f"bridgehold: {self._reason}; stopping\n")
        self._stop.set()

    def _degraded(self, reason: str) -> None:
        if self._stop.is_set():
            return
        self._reason, self._status = f"degraded: {reason}", 70
        sys.stderr.write(f"bridgehold: {self._reason}; stopping\n")
        self._stop.set()

    async def _anchor(self, peers: Peers) -> None:
        while True:
            await asyncio.sleep(self._config.host.anchor_every_s)
            with contextlib.suppress(BridgeholdError):
                await self._anchor_once(peers)

    async def _anchor_once(self, peers: Peers) -> None:
        """Have the keeper sign where the audit stands, unless only the last anchor came since."""
        head = await peers.journal.head()
        if head.count <= self._anchored + 1:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        anchor = anchor_at(head, time=now, public_key=await peers.keeper.public_key())
        await peers.journal.anchor(attach(anchor, await peers.keeper.sign(anchor_text(anchor))))
        self._anchored = head.count


def zygote_limits(config: Config) -> ZygoteLimits:
    """``[zygotes]`` in numbers (pure)."""
    section = config.zygotes
    return ZygoteLimits(
        budget_bytes=parse_size(section.budget),
        memory_bytes=parse_size(section.memory),
        max_age_s=section.max_age_s,
        growth=section.growth,
        warm_s=section.warm_s,
        check_s=section.check_s,
    )


def pool_limits(config: Config) -> dict[str, PoolLimits]:
    """``[bridges.NAME]``'s pools (pure)."""
    return {
        name: PoolLimits(
            size=section.pool_size, overflow=section.overflow, checkout_s=section.checkout_timeout_s
        )
        for name, section in config.bridges.items()
    }


def _publish_key(path: Path, public_key: bytes) -> None:
    """Lay the anchors' public key beside them, for `audit verify` here and on other machines."""
    line = key_line(public_key)
    if not path.exists() or path.read_text(encoding="ascii") != line:
        path.unlink(missing_ok=True)
        path.write_text(line, encoding="ascii")


def spent_before(layout: Layout) -> Budgets:
    """What tenants have spent at providers, as a fold of the audit: budgets survive a restart."""
    budgets = Budgets()
    if layout.audit.is_dir():
        entries = (entry for entry in read_all(layout.audit) if entry.kind.startswith("egress."))
        budgets.fold({"kind": e.kind, "tenant": e.tenant, **e.fields} for e in entries)
    return budgets


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def main() -> int:
    parser = argparse.ArgumentParser()
    names = ("launcher", "keeper", "journal", "listener", "ready", "config")
    for name in names:
        parser.add_argument(f"--fd-{name}", type=int, required=True)
    arguments = vars(parser.parse_args())
    with os.fdopen(arguments["fd_config"], "rb") as file:
        given = msgspec.json.decode(file.read(), type=HostConfig)
    ends = Ends(**{name: arguments[f"fd_{name}"] for name in names if name != "config"})
    for name in names[:-1]:
        os.set_inheritable(arguments[f"fd_{name}"], False)
    try:
        harden(parent=given.supervisor)
        config = load_config(Path(given.config) / "config.toml")
        return asyncio.run(HostProcess(given, config, ends).run())
    except BridgeholdError as error:
        sys.stderr.write(f"bridgehold: {error.message}" + (f" ({error.hint})" if error.hint else "") + "\n")
        return error.exit_status


if __name__ == "__main__":
    raise SystemExit(main())
