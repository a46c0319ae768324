"""A cell's process: all of one tenant's callers, guests and providers, and nothing of anybody else's.

It is forked from the template, talks to launcher, keeper and journal over channels that are its tenant's,
and to the front over a link. It ends with any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path

import msgspec

from bridgehold import clock
from bridgehold.audit.client import JournalClient
from bridgehold.bridges import bundle
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.config.machine import package_folder
from bridgehold.error_texts import to_log_text
from bridgehold.errors import BridgeholdError, DeniedError, UnsupportedError, UsageError
from bridgehold.hardening import harden, open_descriptors
from bridgehold.host.cell.entrance import Entrance
from bridgehold.host.cell_parts import CellParts, Ground, Peers, join_cell, share
from bridgehold.host.confinement import confine, prepared
from bridgehold.host.front.callers import Callers, limits
from bridgehold.host.front.method import Method
from bridgehold.host.front.redaction import Redaction
from bridgehold.host.ordering import FrontOrders, FrontRecords, start_order
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.callers import CALLER
from bridgehold.host.shares.handed_files import HandedFiles
from bridgehold.host.shares.lending import CallersLent, Lent
from bridgehold.host.shares.link import OF_CELL, Link, Waiting, decoded
from bridgehold.host.shares.openings import Openings
from bridgehold.host.startup import FileChange, HostConfig
from bridgehold.ids import LOCAL_TENANT
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.spending import Spending, prices_of
from bridgehold.policies.model import Machine
from bridgehold.policies.units import parse_size
from bridgehold.protocol.frames import read_params
from bridgehold.protocol.submissions import Tried
from bridgehold.sandbox.landlock import CHANGE, READ, USE
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.tasks import begin_task

_TELL_SECONDS = 0.5
"""Between two words of what the tenant has used."""
_LOOKS_TO_TIDY = 10
"""Of those, until what was lent and not needed is given back."""


class CellProcess:
    """One life of a cell."""

    def __init__(self, given: cell_wire.CellConfig) -> None:
        self._given = given
        clock.ONE.saw(clock.begun(given.time).now())
        host = given.host
        self._layout = Layout(config=Path(host.config), state=Path(host.state), run=Path(host.run))
        self._config = msgspec.json.decode(given.config, type=Config)
        self._link = Link(self._answer, tells=self._told, theirs=OF_CELL)
        self._parts: CellParts | None = None
        self._table: dict[str, Method] = {}
        self._callers: dict[int, object] = {}
        self._over = asyncio.Event()
        self._status = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._trials: set[asyncio.Task[tuple[Tried, ...]]] = set()
        self._entrance: Entrance | None = None
        self._lent: tuple[Lent, ...] = ()
        """Of what cells hold: for guests, and for callers."""

    async def run(
        self,
        template: int,
        link: int,
        launcher: int,
        keeper: int,
        journal: int,
        entrance: int,
        opens: int,
        namespace: int = -1,
    ) -> int:
        """Serve until the front says so, or one of the others is gone. The exit status.

        `template`: the pid of the process that forked this one; the others: descriptors.
        """
        peers = Peers(
            journal=await JournalClient.connect(socket.socket(fileno=journal)),
            launcher=await LauncherClient.connect(socket.socket(fileno=launcher)),
            keeper=await KeeperClient.connect(socket.socket(fileno=keeper)),
        )
        peers.launcher.on_unrecorded = self._degraded
        peers.keeper.keeps_account = True
        await peers.launcher.enter()
        confine(self._given.uid, namespace, self._files())  # before anything of the tenant's is read
        harden(parent=template, last=signal.SIGKILL)
        total, begun = parse_size(self._config.host.buffered_bytes), self._given.lent
        lent = Lent(total, partial(self._borrow, False), partial(self._give_back, False), begun)
        self._lent = (lent, self._lent_to_callers())
        parts = self._join(peers, Openings(socket.socket(fileno=opens)), lent)
        self._parts, self._table = parts, parts.table()
        await self._link.connect(socket.socket(fileno=link))
        self._entrance = self._open_entrance(parts, socket.socket(fileno=entrance))
        for gone in (
            self._link.run(),
            peers.launcher.lost.wait(),
            peers.journal.gone.wait(),
            peers.keeper.gone(),
        ):
            self._begin(self._until(gone))
        self._begin(parts.pool.watch(parts.make_order, peers.keeper.versions))
        self._begin(self._tell_used(parts.budgets.spending))
        self._begin(parts.prestart(self._given.tenant))
        await self._over.wait()
        await self._end(parts)
        peers.launcher.close()
        await peers.journal.close()
        return self._status

    def _files(self) -> list[tuple[Path, int]]:
        """What a cell may open: our code, policies and bridges of all, and what is kept for its tenant."""
        layout, tenant = self._layout, self._given.tenant
        code = {
            Path(one) for one in (*sys.path, sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/lib64") if one
        }
        system = map(Path, ("/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom"))
        return [
            *((path, READ) for path in (*code, *system, layout.policies, layout.bridges)),
            (package_folder("bridgehold"), READ),
            (Path(os.devnull), USE),
            (layout.artifacts / tenant, CHANGE),
        ]

    async def warm(self, launcher: socket.socket, keeper: socket.socket) -> None:
        """Join all of it on channels that nobody answers."""
        peers = Peers(
            journal=JournalClient(0.0),
            launcher=await LauncherClient.connect(launcher),
            keeper=await KeeperClient.connect(keeper),
        )
        self._join(peers).table()
        prepared()
        peers.launcher.close()

    def _lent_to_callers(self) -> CallersLent:
        total, begun = parse_size(self._config.host.caller_bytes), self._given.lent_callers
        return CallersLent(total, partial(self._borrow, True), partial(self._give_back, True), begun)

    async def _borrow(self, callers: bool, amount: int) -> None:
        await self._link.ask("lend", cell_wire.Bytes(amount=amount, callers=callers))

    def _give_back(self, callers: bool, amount: int) -> None:
        self._link.tell("returned", cell_wire.Bytes(amount=amount, callers=callers))

    def _join(self, peers: Peers, openings: Openings | None = None, lent: Lent | None = None) -> CellParts:
        redaction = Redaction(peers.keeper)
        peers.journal.redact = redaction.event
        ground = Ground(
            config=self._config,
            layout=self._layout,
            peers=peers,
            machine=self._given.machine,
            redaction=redaction,
            degraded=self._degraded,
            approvals=self._given.approvals,
            openings=openings,
            lent=lent,
            tenant=self._given.tenant,
        )
        shared = share(ground, _no_writing, FrontRecords(self._link))
        orders = FrontOrders(self._link, shared)
        budgets = Budgets(Spending(shared.tenants.of, prices_of(self._config)))
        budgets.restore(self._given.tenant, self._given.spent.providers, self._given.spent.periods)
        parts = join_cell(
            ground,
            shared,
            orders.make,
            budgets,
            orders.over,
            orders.opened,
            orders.ended,
            self._given.tenant,
        )
        parts.sessions.restore(self._given.tenant, self._given.ended)
        shared.metrics.watch(parts.sessions.__len__, lambda: len(parts.zygotes.infos()))
        parts.tell(self._config, ())
        return parts

    def _open_entrance(self, parts: CellParts, sock: socket.socket) -> Entrance:
        host = self._config.host
        bounds = limits(host.connections, parse_size(host.caller_bytes), open_descriptors())
        demand = parts.shared.tenants.demand
        return Entrance(
            sock,
            self._link,
            self._table,
            Callers(bounds, self._lent[1]),
            parts.refusals,
            demand,
            parts.methods.left,
        )

    async def _end(self, parts: CellParts) -> None:
        if self._entrance is not None and self._link.gone.is_set():  # callers learn that the host is gone
            await self._entrance.close()
        with contextlib.suppress(BridgeholdError):
            await parts.stop("the cell is ending")
            await parts.refusals.close()
        if self._entrance is not None:
            await self._entrance.close()
        self._link.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[object, object, object]) -> None:
        begin_task(self._stand(work), self._tasks)

    async def _stand(self, work: Coroutine[object, object, object]) -> None:
        """What the cell is not to run without: its defect ends it."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the last border of this task
            self._degraded(f"a defect: {type(error).__name__}")

    async def _until(self, gone: Coroutine[object, object, object]) -> None:
        await gone
        self._over.set()

    def _degraded(self, reason: str) -> None:
        """Nothing may run unlogged: the cell ends."""
        sys.stderr.write(f"bridgehold: degraded: {reason}; the cell of {self._given.tenant} ends\n")
        self._status = 70
        self._over.set()

    async def _tell_used(self, spending: Spending) -> None:
        told = None
        for looks in itertools.count(1):
            if not looks % _LOOKS_TO_TIDY:
                for one in self._lent:
                    one.tidy()
            used = spending.used(self._given.tenant)
            if used != told:
                told = used
                self._link.tell("used", cell_wire.UsedNow(used=used))
            await asyncio.sleep(_TELL_SECONDS)

    def _told(self, method: str, _body: msgspec.Raw) -> bool:
        """What the front says and asks no answer to."""
        if method != "recall":
            return False
        for one in self._lent:
            one.recall()
        return True

    async def _answer(self, method: str, body: msgspec.Raw, told: Waiting) -> object:
        """What the front asks."""
        parts = self._parts
        if parts is None:
            raise UnsupportedError("the cell is not whole yet")
        match method:
            case "call":
                return await self._call(decoded(body, cell_wire.Call), told)
            case "left":
                caller = self._callers.pop(decoded(body, cell_wire.Left).caller, None)
                if caller is not None:
                    parts.methods.left(caller)
            case "config":
                new = decoded(body, cell_wire.NewConfig)
                config = msgspec.json.decode(new.config, type=Config)
                parts.shared.settings.now = config
                parts.tell(config, tuple(map(Path, new.gone)))
                self._look_again(parts)
                self._begin(parts.prestart(self._given.tenant))
            case "rules":
                self._look_again(parts)
            case "retire":
                gone = decoded(body, cell_wire.Retire)
                parts.zygotes.retire(gone.environment, gone.reason)
                parts.pool.retire(gone.environment, gone.reason)
            case "metrics":
                return parts.shared.metrics.text()
            case "unpack" | "try":
                return await self._submitted(parts, method, body)
            case "end":
                return await self._end_all(parts, decoded(body, cell_wire.End).reason)
            case "stop":
                await self._stop(parts, decoded(body, cell_wire.Stop))
            case _:
                raise UsageError(f"a cell answers no {method[:40]!r}")
        return None

    def _look_again(self, parts: CellParts) -> None:
        files = parts.shared.registry.files
        if isinstance(files, HandedFiles):
            files.look_again()

    async def _call(self, call: cell_wire.Call, told: Waiting) -> object:
        method = self._table.get(call.method)
        if method is None:
            raise UsageError(f"no method {call.method[:80]!r}")
        params = await read_params(call.method, call.params, method.params)
        tenant = getattr(params, "tenant", None)
        if tenant not in (None, "", self._given.tenant):
            raise DeniedError(f"this is the cell of {self._given.tenant}")
        CALLER.set(self._callers.setdefault(call.caller, object()))
        return await method.handler(call.principal, params, told)

    async def _submitted(self, parts: CellParts, method: str, body: msgspec.Raw) -> object:
        if method == "unpack":
            opened = decoded(body, cell_wire.Unpack)
            found = await parts.bench.take_out(opened.principal, self._given.tenant, opened.archive)
            return await asyncio.to_thread(bundle.encode, found)
        ask: cell_wire.TryOut = decoded(body, cell_wire.TryOut)
        manifest = await asyncio.to_thread(parse_manifest, ask.toml, Path(ask.ordered.folder))
        order = start_order(ask.session, "", manifest, ask.ordered)
        task = asyncio.ensure_future(parts.bench.try_out(order, bundle.Bundle(files=()), ask.principal))
        self._trials.add(task)
        task.add_done_callback(self._trials.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _end_all(self, parts: CellParts, reason: str) -> cell_wire.Ended:
        own = self._given.tenant
        for trial in (trials := set(self._trials)):
            trial.cancel()
        await asyncio.gather(*trials, return_exceptions=True)
        sessions, zygotes, pool = await asyncio.gather(
            parts.sessions.end_all(own, reason),
            parts.zygotes.end_all(own, reason),
            parts.pool.end_all(own, reason),
        )
        return cell_wire.Ended(sessions=sessions, zygotes=zygotes, warm_pool=pool)

    async def _stop(self, parts: CellParts, stop: cell_wire.Stop) -> None:
        hurry = asyncio.Event()
        if not stop.seconds:
            hurry.set()
        if self._entrance is not None:
            self._entrance.leaving = stop.leaving
        await parts.finish(stop.seconds, hurry, leaving=stop.leaving)
        await parts.stop(stop.reason)
        if self._entrance is not None:
            await self._entrance.close()
        await parts.refusals.close()
        asyncio.get_running_loop().call_soon(self._over.set)


async def _no_writing(_: FileChange) -> None:
    raise UnsupportedError("a cell writes no configuration")


def warm() -> None:
    """Join a cell that is nobody's, and let it go: in the template, once for all."""
    prepared()
    nowhere = "/proc/self/fdinfo"
    given = cell_wire.CellConfig(
        tenant=LOCAL_TENANT,
        host=HostConfig(config=nowhere, state=nowhere, run=nowhere, owner_uid=-1, supervisor=0),
        machine=Machine(cgroup="none", uids="shared", cpus=1),
        config=msgspec.json.encode(Config()).decode(),
        spent=cell_wire.Spent(),
    )
    given = msgspec.json.decode(msgspec.json.encode(given), type=cell_wire.CellConfig)
    ends = [end for _ in range(2) for end in socket.socketpair()]
    try:
        asyncio.run(CellProcess(given).warm(*ends[::2]))
    finally:
        for end in ends:
            end.close()


def run_cell(ends: list[int], template: int) -> int:
    """The process, in a fork of the template's. `ends`: as `template.begin` says."""
    try:
        harden(parent=template, last=signal.SIGKILL)
        config, *channels = ends
        with os.fdopen(config, "rb") as file:
            given = msgspec.json.decode(file.read(), type=cell_wire.CellConfig)
        return asyncio.run(CellProcess(given).run(template, *channels))
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status
