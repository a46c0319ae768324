"""The host's process: no privilege, no key. Joins the parts, serves the socket, ends everything in order.

``python -m bridgehold.host.main --fd-launcher N --fd-keeper N --fd-journal N --fd-listener N
--fd-parent N --fd-config N [--fd-tokens N]``, started by the supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

if __name__ == "__main__":
    gc.disable()  # no module that is being loaded is garbage

from bridgehold import clock
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import HostDegraded, HostStarted, HostStopped
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.error_texts import to_log_text
from bridgehold.errors import BridgeholdError
from bridgehold.hardening import harden, hear_no_more, leave
from bridgehold.host.assembly import assemble
from bridgehold.host.cell_parts import Ground, Peers
from bridgehold.host.cell_process import run_cell, warm
from bridgehold.host.front.anchoring import Anchoring
from bridgehold.host.front.redaction import Redaction
from bridgehold.host.front.secret_events import SecretEvents
from bridgehold.host.front.server import deserted
from bridgehold.host.lifetime import Lifetime
from bridgehold.host.parts import Foundation, HostParts
from bridgehold.host.startup import Ends, HostConfig
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.host.template import Begun, begin
from bridgehold.keeper.client import KeeperClient
from bridgehold.policies.model import Machine
from bridgehold.sandbox.launcher.control import LauncherClient

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class HostProcess:
    """One life of the host, from its sockets to its last event."""

    def __init__(self, given: HostConfig, config: Config, ends: Ends, template: Begun | None = None) -> None:
        """`template`: what cells are forked from; without it one stands for all tenants in this process."""
        self._template = template
        self._layout = Layout(config=Path(given.config), state=Path(given.state), run=Path(given.run))
        self._given = given
        self._config = config
        self._ends = ends
        self._supervisor = SupervisorLink(socket.socket(fileno=ends.parent))
        self._lifetime = Lifetime(self._supervisor, leaving=given.lasting)

    async def run(self) -> int:
        """Serve until asked to stop, or until one of the other processes is gone. The exit status."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._lifetime.signalled)
        loop.add_signal_handler(signal.SIGHUP, self._lifetime.orphaned)
        try:
            return await self._run()
        finally:
            hear_no_more(*_SIGNALS)

    async def _run(self) -> int:
        lifetime = self._lifetime
        peers = Peers(
            journal=await JournalClient.connect(socket.socket(fileno=self._ends.journal)),
            launcher=await LauncherClient.connect(socket.socket(fileno=self._ends.launcher)),
            keeper=await KeeperClient.connect(socket.socket(fileno=self._ends.keeper)),
        )
        redaction = Redaction(peers.keeper)
        peers.journal.redact = redaction.event
        machine = await peers.launcher.machine()
        if (behind := clock.ONE.behind()) > clock.BEHIND_SECONDS:
            sys.stderr.write(f"bridgehold: {clock.warning(behind)}\n")
        await peers.journal.append(self._started(machine))
        anchoring = Anchoring(peers.journal, peers.keeper, self._layout.anchors, self._layout.audit)
        await anchoring.look()
        approvals = (await peers.keeper.anchor_key()).approvals
        parts = assemble(
            Foundation(
                ground=Ground(
                    config=self._config,
                    layout=self._layout,
                    peers=peers,
                    machine=machine,
                    redaction=redaction,
                    degraded=lifetime.degraded,
                    approvals=approvals,
                ),
                host=self._given,
                ends=self._ends,
                supervisor=self._supervisor,
                lifetime=lifetime,
                template=self._template,
            )
        )
        for server in parts.servers:
            await server.start()
        self._supervisor.say_ready()
        self._stand(parts, peers, anchoring)
        await lifetime.stop.wait()
        await self._end(parts, peers)
        await self._say_stopped(peers, anchoring)
        await lifetime.end()
        peers.launcher.close()
        await peers.journal.close()
        return lifetime.status

    def _stand(self, parts: HostParts, peers: Peers, anchoring: Anchoring) -> None:
        """What goes on for as long as the host runs."""
        lifetime = self._lifetime
        lifetime.need("launcher", peers.launcher.lost.wait())
        lifetime.need("keeper", peers.keeper.gone())
        lifetime.need("journal", peers.journal.gone.wait())
        lifetime.stand("secrets", SecretEvents(peers.keeper, peers.journal).run(self._layout.audit))
        lifetime.stand("anchors", anchoring.run(self._config.host.anchor_every_s))
        lifetime.stand("tokens", parts.tokens.watch(parts.look_up_again))
        lifetime.stand("quotas", parts.tenancy.tell_journal())
        for name, gone in parts.serving.needs():
            lifetime.need(name, gone)
        for name, work in parts.serving.standing():
            lifetime.stand(name, work)
        lifetime.begin(lifetime.outlive(lambda: deserted(parts.servers)))
        lifetime.begin(parts.serving.prestart())
        lifetime.begin(parts.sweep())
        lifetime.begin(parts.submissions.watch())

    async def _end(self, parts: HostParts, peers: Peers) -> None:
        """What runs, from the outside in."""
        lifetime, serving = self._lifetime, parts.serving
        if lifetime.status:
            with contextlib.suppress(BridgeholdError):
                await peers.journal.append(HostDegraded(reason=lifetime.reason))
        else:
            for server in parts.servers if lifetime.leaving else ():
                server.leave()
            drain_s = self._config.host.drain_s
            await serving.finish(lifetime.reason, drain_s, lifetime.hurry, leaving=lifetime.leaving)
        await serving.stop(lifetime.reason)
        for server in parts.servers:
            await server.close()
        await parts.refusals.close()
        parts.environments.close()

    async def _say_stopped(self, peers: Peers, anchoring: Anchoring) -> None:
        with contextlib.suppress(BridgeholdError):
            await anchoring.once()
        with contextlib.suppress(BridgeholdError):
            await peers.journal.append(HostStopped(reason=self._lifetime.reason))

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
                ("clock_behind", clock.ONE.behind() > clock.BEHIND_SECONDS),
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


_OPTIONAL = ("tokens", "keeper-intake", "journal-intake")


def main() -> int:
    """Run the host process on descriptors of the supervisor's. Returns the exit status."""
    parser = argparse.ArgumentParser()
    names = ("launcher", "keeper", "journal", "listener", "parent", "config")
    for name in names:
        parser.add_argument(f"--fd-{name}", type=int, required=True)
    for name in _OPTIONAL:
        parser.add_argument(f"--fd-{name}", type=int, default=-1)
    arguments = vars(parser.parse_args())
    with os.fdopen(arguments["fd_config"], "rb") as file:
        given = msgspec.json.decode(file.read(), type=HostConfig)
    found = {name.removeprefix("fd_"): number for name, number in arguments.items()}
    ends = Ends(**{name: number for name, number in found.items() if name != "config"})
    for descriptor in msgspec.structs.astuple(ends):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    try:
        harden(parent=given.supervisor)
        config = load_config(Path(given.config) / "config.toml", given.overrides)
        template = None
        if given.cells:
            Catalogue.load()  # in all that is forked from here
            template = begin(run_cell, warm, msgspec.structs.astuple(ends))
        return asyncio.run(HostProcess(given, config, ends, template).run())
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status


if __name__ == "__main__":
    gc.enable()
    leave(main())
