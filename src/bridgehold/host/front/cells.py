"""The front's cells: one process for each tenant that has asked for something, and what it may have.

A cell is trusted with its tenant and no further. It asks for a bridge; what that means is made here, from
policy and configuration, and told to the launcher, which takes orders from the front alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CellEnded, CellStarted
from bridgehold.errors import BridgeholdError, BusyError, CellEndedError, UsageError
from bridgehold.host.front.directory import Directory
from bridgehold.host.front.environments import LISTENER
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.link import Link, Waiting, decoded
from bridgehold.host.shares.observe import counted, merged, sound
from bridgehold.host.shares.places import Places
from bridgehold.host.shares.spending import Used
from bridgehold.host.template import Template
from bridgehold.ids import parse_name, random_id
from bridgehold.intake import hand_in
from bridgehold.protocol.values import Principal
from bridgehold.sandbox import procfs
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import starts_of

_LOOK_SECONDS = 5.0
_ORDERS = 8
_MOST = 512
"""Cells at once: each is some ten MiB, and a caller that may act for any tenant may name any number."""
_KILL_SECONDS = 10.0
"""After it was asked to stop, beyond what its commands may still take."""


class Intakes(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cell's channels are handed in."""

    launcher: LauncherClient
    keeper: socket.socket
    journal: socket.socket


class Cell:
    """One that runs, or has ended."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.name = random_id("c", 12)
        self.link: Link | None = None
        self.pidfd = -1
        self.calls: Counter[int] = Counter()
        """Requests under way, by the connection that made them."""
        self.used = Used()
        self.metrics = ""
        """As it said last."""
        self.idle_since = time.monotonic()
        self.ended = asyncio.Event()
        self.reason = ""
        """What it is ended for, if it is."""
        self.orders = asyncio.Semaphore(_ORDERS)
        """So many of one cell's are made at once."""

    async def ask(self, method: str, params: object, emit: Emit | None = None) -> msgspec.Raw:
        """Raises its typed error, `CellEndedError` where it has none to give any more."""
        if self.link is None or self.ended.is_set():
            raise CellEndedError("the tenant's cell has ended")
        return await self.link.ask(method, params, emit)

    def kill(self, reason: str = "") -> None:
        """End it now, for `reason` or what was said before; its sessions end with it."""
        self.reason = self.reason or reason
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Cells:
    """All of a host's. Each tenant has one at the most."""

    def __init__(
        self,
        template: Template,
        intakes: Intakes,
        orders: Orders,
        places: Places,
        journal: JournalClient,
        make_config: Callable[[str], cell_wire.CellConfig],
        zygote_bytes: Callable[[], int],
    ) -> None:
        """`make_config`: what the tenant's cell is started with. `zygote_bytes`: memory of a zygote's."""
        self._template = template
        self._intakes = intakes
        self._orders = orders
        self.places = places
        self._journal = journal
        self._make_config = make_config
        self._zygote_bytes = zygote_bytes
        self.directory = Directory()
        self._cells: dict[str, Cell] = {}
        self._beginning: dict[str, asyncio.Task[Cell]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cordoned: set[tuple[str, str]] = set()
        self._stopping = ""
        self.past = ""
        """What cells that have ended had counted."""

    def living(self, may_act_for: Callable[[str], bool] = lambda _: True) -> list[Cell]:
        """Those that run, of tenants that the caller may act for."""
        return [cell for tenant, cell in self._cells.items() if may_act_for(tenant)]

    def used(self, tenant: str) -> Used:
        """What the tenant has used of its ceilings, as its cell said last."""
        cell = self._cells.get(tenant)
        return cell.used if cell is not None else Used()

    async def of(self, tenant: str) -> Cell:
        """The tenant's cell; one begins where there is none. Raises `HostUnavailableError`, `UsageError`."""
        parse_name(tenant, "tenant")
        cell = self._cells.get(tenant)
        if cell is not None:
            return cell
        beginning = self._beginning.get(tenant)
        if beginning is None:
            if self._stopping:
                raise CellEndedError(self._stopping)
            self._make_room(tenant)
            beginning = self._beginning[tenant] = asyncio.create_task(self._begin(tenant))
            beginning.add_done_callback(lambda _: self._beginning.pop(tenant, None))
        return await asyncio.shield(beginning)

    def _make_room(self, tenant: str) -> None:
        """For one more, by ending what has nothing to do. Raises `BusyError`."""
        if len(self._cells) + len(self._beginning) < _MOST:
            return
        idle = [one for one in self.living() if not (one.calls or self.places.of(one.tenant))]
        if not idle:
            raise BusyError(f"no cell for {tenant}: {_MOST} others are at work", hint="Try again later.")
        leaving = min(idle, key=lambda one: one.idle_since)
        del self._cells[leaving.tenant]
        leaving.kill("another tenant's begins, and there are many")

    async def call(
        self, cell: Cell, principal: Principal, method: str, params: msgspec.Raw, caller: int, emit: Emit
    ) -> msgspec.Raw:
        """What the cell answers to a caller's request."""
        call = cell_wire.Call(principal=principal, method=method, params=params, caller=caller)
        cell.calls[caller] += 1
        try:
            return await cell.ask("call", call, emit)
        finally:
            cell.calls[caller] -= 1
            if not cell.calls[caller]:
                del cell.calls[caller]

    def left(self, caller: int) -> None:
        """A connection is gone."""
        for cell in self._cells.values():
            if cell.link is not None:
                cell.link.tell("left", cell_wire.Left(caller=caller))

    def tell(self, config: str, gone: Iterable[str]) -> None:
        """A configuration holds from now on, and nothing that was ordered under another one."""
        new = cell_wire.NewConfig(config=config, gone=tuple(gone))
        for cell in self._cells.values():
            if cell.link is not None:
                cell.link.tell("config", new)

    def cordon(self, tenant: str, bridge: str) -> None:
        """No session is opened within tenant and bridge (empty: any)."""
        self._cordoned.add((tenant, bridge))

    def uncordon(self, tenant: str, bridge: str) -> int:
        """Take back what lies within tenant and bridge; how many cordons there were."""
        within = {one for one in self._cordoned if tenant in ("", one[0]) and bridge in ("", one[1])}
        self._cordoned -= within
        return len(within)

    async def end_idle(self, idle_s: Callable[[], float], stays: Callable[[str], bool]) -> None:
        """For as long as the host runs: end cells that have had nothing to do for so long.

        `stays`: whose cell is to be warm, used or not.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for cell in self.living():
                if cell.calls or self.places.of(cell.tenant) or stays(cell.tenant):
                    cell.idle_since = now
                elif now - cell.idle_since > idle_s():
                    await self._ask_to_stop(cell, cell_wire.Stop(reason="idle time", seconds=0))
                    cell.kill("idle time")

    async def end(self, tenant: str, reason: str) -> cell_wire.Ended:
        """All that the tenant runs ends now, and its cell with it; how much there was."""
        cell = self._cells.get(tenant)
        if cell is None:
            return cell_wire.Ended()
        try:
            async with asyncio.timeout(_KILL_SECONDS / 2):
                found: cell_wire.Ended = decoded(
                    await cell.ask("end", cell_wire.End(reason=reason)), cell_wire.Ended
                )
        except (TimeoutError, BridgeholdError):
            found = cell_wire.Ended(sessions=self.places.of(tenant))
        cell.kill(reason)
        await cell.ended.wait()
        return found

    async def stop(self, reason: str, seconds: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """End all of them: what runs gets so many `seconds`, or until `hurry`."""
        self._stopping = reason
        stop = cell_wire.Stop(reason=reason, seconds=seconds, leaving=leaving)
        await asyncio.gather(*self._beginning.values(), return_exceptions=True)
        cells = self.living()
        asked = [asyncio.create_task(self._ask_to_stop(cell, stop)) for cell in cells]
        hurried = asyncio.ensure_future(hurry.wait())
        everyone = asyncio.ensure_future(asyncio.wait(asked)) if asked else hurried
        if asked:
            await asyncio.wait([hurried, everyone], return_when=asyncio.FIRST_COMPLETED)
        if hurried.done() and not everyone.done():
            now = msgspec.structs.replace(stop, seconds=0)
            await asyncio.gather(*(self._ask_to_stop(cell, now) for cell in cells))
        hurried.cancel()
        for cell in cells:
            cell.kill()
        await asyncio.gather(*(cell.ended.wait() for cell in cells))
        self._template.close()

    async def _ask_to_stop(self, cell: Cell, stop: cell_wire.Stop) -> None:
        cell.reason = stop.reason
        with contextlib.suppress(TimeoutError, BridgeholdError):
            async with asyncio.timeout(_LOOK_SECONDS):
                cell.metrics = sound(decoded(await cell.ask("metrics", None), str))
        with contextlib.suppress(TimeoutError, BridgeholdError):
            async with asyncio.timeout(stop.seconds + _KILL_SECONDS):
                await cell.ask("stop", stop)

    async def _begin(self, tenant: str) -> Cell:
        cell, begun = Cell(tenant), time.monotonic()
        config = self._make_config(tenant)
        link, theirs = socket.socketpair()
        launcher, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper, keeper_end = socket.socketpair()
        journal, journal_end = socket.socketpair()
        await self._intakes.launcher.open_cell(cell.name, tenant, launcher_end)
        await hand_in(self._intakes.keeper, tenant, keeper_end)
        await hand_in(self._intakes.journal, tenant, journal_end)
        file = os.memfd_create("cell", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(file), "wb") as writing:
            writing.write(msgspec.json.encode(config))
        os.lseek(file, 0, os.SEEK_SET)
        ends = [file, *(end.detach() for end in (theirs, launcher, keeper, journal))]
        cell.pidfd = await self._template.fork(ends)
        cell.link = Link(partial(self._answer, cell))
        await cell.link.connect(link)
        try:
            started = CellStarted(
                tenant=tenant,
                cell=cell.name,
                pid=_pid_of(cell.pidfd),
                ms=round((time.monotonic() - begun) * 1000),
            )
            await self._journal.append(started, durable=False)
        except BaseException:
            cell.kill()
            os.close(cell.pidfd)
            cell.link.close()
            raise
        self._cells[tenant] = cell
        task = asyncio.create_task(self._watch(cell, cell.link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return cell

    async def _watch(self, cell: Cell, link: Link) -> None:
        """Until it has ended, whichever way; then nothing is its any more."""
        await link.run()
        cell.kill()
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(cell.pidfd, gone.set)
        await gone.wait()
        loop.remove_reader(cell.pidfd)
        os.close(cell.pidfd)
        cell.pidfd = -1
        if self._cells.get(cell.tenant) is cell:
            del self._cells[cell.tenant]
        ended = CellEnded(
            tenant=cell.tenant,
            cell=cell.name,
            reason=cell.reason[:200],
            sessions=self.places.of(cell.tenant),
        )
        self.places.clear(cell.tenant)
        with contextlib.suppress(BridgeholdError):  # the launcher's word of each sandbox's end stands
            await self._journal.append(ended, durable=False)
        self.past = merged([self.past, counted(cell.metrics)])
        if not self._stopping:
            sys.stderr.write(f"bridgehold: the cell of {cell.tenant} has ended\n")
        cell.ended.set()

    async def _answer(self, cell: Cell, method: str, body: msgspec.Raw, told: Waiting) -> object:
        """What a cell asks: for its own tenant, whatever it says."""
        match method:
            case "order":
                async with cell.orders:
                    return await self._order(cell, decoded(body, cell_wire.AskOrder), told)
            case "granted":
                await self._orders.grant(cell.tenant, decoded(body, cell_wire.Granted).bridge)
            case "opened":
                opened = decoded(body, cell_wire.SessionOpened)
                self.directory.add(cell.tenant, opened.session, opened.name)
            case "over":
                self.places.give_back(cell.tenant, decoded(body, cell_wire.SessionOver).session)
            case "used":
                cell.used = decoded(body, cell_wire.UsedNow).used
            case _:
                raise UsageError(f"a front answers no {method[:40]!r}")
        return None

    async def _order(self, cell: Cell, ask: cell_wire.AskOrder, told: Waiting) -> cell_wire.Ordered:
        tenant = cell.tenant
        if ask.session:
            self._require_open_way(tenant, ask.bridge)
            self.places.take(tenant, ask.session)
        LISTENER.set(told)
        try:
            order = await self._orders.make(
                tenant, ask.bridge, ask.session, ask.session_name, ask.principal[:80]
            )
            ways = starts_of(order.spec, self._zygote_bytes())
            await self._intakes.launcher.allow(cell.name, ask.bridge, tenant, ways)
        except BaseException:
            self.places.give_back(tenant, ask.session)
            raise
        return cell_wire.Ordered(
            manifest=order.manifest.digest,
            grant=order.grant,
            spec=order.spec,
            environment=order.environment_digest,
            folder=str(order.bridge_folder),
            weights=order.weights,
            shapes=order.shapes,
            env_secrets=order.env_secrets,
        )

    def _require_open_way(self, tenant: str, bridge: str) -> None:
        if any(one in ("", tenant) and other in ("", bridge) for one, other in self._cordoned):
            raise BusyError(
                f"no session with {bridge} is opened: an operator has drained it",
                hint="An operator opens the way again with `bridgehold sessions resume`.",
            )


def _pid_of(pidfd: int) -> int:
    """The process behind a pidfd; -1 where it has ended."""
    facts = procfs.lines(procfs.read(f"/proc/self/fdinfo/{pidfd}"))
    return next((int(line.split()[1]) for line in facts if line.startswith("Pid:")), -1)
