"""The front's cells: one process for each tenant that has asked for something, and what it may have.

A cell is trusted with its tenant and no further. It asks for a bridge; what that means is made here, from
policy and configuration, and told to the launcher, which takes orders from the front alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CellEnded
from bridgehold.errors import BridgeholdError, BusyError, CellEndedError, HostLeavingError, SessionEndedError
from bridgehold.host.front.allowances import Allowances
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.cell_asks import CellAsks
from bridgehold.host.front.cell_starts import CellStarts, Intakes
from bridgehold.host.front.directory import Directory
from bridgehold.host.front.ends import Ends
from bridgehold.host.front.opens import House
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.callers import LEAVING
from bridgehold.host.shares.cordons import Cordons
from bridgehold.host.shares.lending import OF_CALLERS, Lending, Recalled, lendable
from bridgehold.host.shares.link import OF_CELL, Link, decoded
from bridgehold.host.shares.observe import counted, merged, sound
from bridgehold.host.shares.places import Places
from bridgehold.host.startup import MOST_CELLS
from bridgehold.host.template import Template
from bridgehold.ids import parse_name
from bridgehold.keeper.spending import Used
from bridgehold.protocol.values import Principal
from bridgehold.tasks import begin_task

_LOOK_SECONDS = 5.0
_DRAIN_SECONDS = 10.0
"""For what runs in a cell that has to make room for another one of its tenant's."""
_HEAR_SECONDS = 2.0
_END_SECONDS = 4.0
"""For a cell's own word on what has ended with it."""
_YOUNG_SECONDS, _PAUSE, _LONGEST_PAUSE = 10.0, 0.25, 30.0
"""A cell that ends by itself sooner is begun again later each time."""
_LONGEST_PAST = 512 * 1024
_KILL_SECONDS = 10.0
"""After it was asked to stop, beyond what its commands may still take."""


class Cells:
    """All of a host's. Each tenant has one at the most."""

    def __init__(
        self,
        template: Template,
        intakes: Intakes,
        orders: Orders,
        places: Places,
        journal: JournalClient,
        make_config: Callable[[str], Awaitable[cell_wire.CellConfig]],
        zygote_bytes: Callable[[], int],
        house: House,
        allowances: Allowances,
        buffered_bytes: int,
        caller_bytes: int,
    ) -> None:
        """`make_config`: what the tenant's cell is started with. `zygote_bytes`: memory of a zygote's.
        `buffered_bytes`: what all cells may hold for their guests; `caller_bytes`: and
        with the front, for callers.

        `allowances`: tell the keeper. `house`: what is opened for cells, and from what that is judged.
        """
        self.template = template
        self.places = places
        self._journal = journal
        self._make_config = make_config
        self._allowances = allowances
        self.directory = Directory()
        self.ends = Ends()
        self._cells: dict[str, Cell] = {}
        self._leaving: dict[str, Cell] = {}
        """Those that nobody is led to any more, and that have not ended."""
        self._failed: dict[str, tuple[int, float]] = {}
        """How often in turn the tenant's ended young, and until when no other is begun."""
        self._generation = 0
        """Of configurations."""
        self._beginning: dict[str, asyncio.Task[Cell]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.cordons = Cordons()
        self.held = Recalled(lendable(caller_bytes, OF_CALLERS))
        """Bytes of all callers, but for what each cell has without asking."""
        self._starts = CellStarts(template, intakes, house, allowances, journal, self.ends, self._spawn)
        self.asks = CellAsks(
            intakes.launcher,
            orders,
            places,
            self.cordons,
            self.directory,
            self.ends,
            allowances,
            zygote_bytes,
            {
                False: Lending(buffered_bytes, self._recall),
                True: Lending(caller_bytes, self._recall, self.held),
            },
            self._spawn,
        )
        self._stopping = ""
        self._replaced = False
        self.past = ""
        """What cells that have ended had counted."""

    def living(self, may_act_for: Callable[[str], bool] = lambda _: True) -> list[Cell]:
        """Those that run, of tenants that the caller may act for."""
        return [cell for tenant, cell in self._cells.items() if may_act_for(tenant)]

    def uses(self, environment: str) -> bool:
        """Whether a cell that runs was ordered something in it."""
        return any(environment in one.environments for one in (*self.living(), *self._leaving.values()))

    def now(self, tenant: str) -> Cell | None:
        """The tenant's cell, where it runs."""
        return self._cells.get(tenant)

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
                raise self._no_opening()
            self._demand_rest(tenant)
            self._make_room(tenant)
            beginning = self._beginning[tenant] = asyncio.create_task(self._begin(tenant))
            beginning.add_done_callback(lambda _: self._beginning.pop(tenant, None))
        return await asyncio.shield(beginning)

    def _no_opening(self) -> BridgeholdError:
        return (
            HostLeavingError(LEAVING)
            if self._replaced
            else SessionEndedError("the host is stopping", hint="Ask again once a host answers.")
        )

    def _demand_rest(self, tenant: str) -> None:
        """Raise `CellEndedError` while none is begun: the last ones ended young."""
        count, until = self._failed.get(tenant, (0, 0.0))
        if time.monotonic() < until:
            raise CellEndedError(f"the tenant's cell has ended {count} times, soon after it began")

    def _make_room(self, tenant: str) -> None:
        """For one more, by ending what has nothing to do. Raises `BusyError`."""
        if len(self._cells) + len(self._beginning) < MOST_CELLS:
            return
        idle = [one for one in self.living() if not self._at_work(one)]
        if not idle:
            raise BusyError(f"no cell for {tenant}: {MOST_CELLS} others are at work", hint="Try again later.")
        leaving = min(idle, key=lambda one: one.idle_since)
        self._leave(leaving)
        leaving.kill("another tenant's begins, and there are many")

    def _at_work(self, cell: Cell) -> bool:
        return bool(cell.calls or cell.handed or self.places.of(cell.tenant))

    def _leave(self, cell: Cell) -> None:
        """Nobody is led to it any more."""
        if self._cells.get(cell.tenant) is cell:
            self._leaving[cell.tenant] = self._cells.pop(cell.tenant)

    async def call(
        self, cell: Cell, principal: Principal, method: str, params: msgspec.Raw, caller: int, emit: Emit
    ) -> msgspec.Raw:
        """What the cell answers to a caller's request."""
        call = cell_wire.Call(principal=principal, method=method, params=params, caller=caller)
        cell.calls[caller] += 1
        cell.principals[principal.name] += 1
        try:
            return await cell.ask("call", call, emit)
        finally:
            cell.calls -= Counter([caller])
            cell.principals -= Counter([principal.name])

    def left(self, caller: int) -> None:
        """A connection is gone."""
        for cell in self._cells.values():
            cell.tell("left", cell_wire.Left(caller=caller))

    def tell(self, config: str, gone: Iterable[str]) -> None:
        """A configuration holds from now on, and nothing that was ordered under another one."""
        self._generation += 1
        self._spawn(self._allowances.again())
        new = cell_wire.NewConfig(config=config, gone=tuple(gone))
        for cell in self._cells.values():
            cell.tell("config", new)
            self._spawn(self.asks.withdraw(cell, cell.bridges))

    def _recall(self) -> None:
        for cell in self._cells.values():
            cell.tell("recall", None)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        begin_task(work, self._tasks)

    def rules_changed(self, tenant: str) -> None:
        """Something else holds in place of the tenant's file, or no longer does."""
        self._spawn(self._allowances.look(tenant))
        if (cell := self._cells.get(tenant)) is not None:
            cell.tell("rules", None)

    async def hear_rules(self, tenant: str) -> None:
        """Over once the tenant's cell knows that something else holds; one that says nothing to it ends."""
        if (cell := self._cells.get(tenant)) is None:
            return
        try:
            async with asyncio.timeout(_HEAR_SECONDS):
                await cell.ask("rules", None)
        except (TimeoutError, BridgeholdError):
            cell.kill("it did not hear what holds for its tenant")

    def retire(self, environment: str, reason: str) -> None:
        """Nothing begins in this environment any more: it isn't as it was built."""
        for cell in self._cells.values():
            cell.tell("retire", cell_wire.Retire(environment=environment, reason=reason))

    async def end_idle(self, idle_s: Callable[[], float], stays: Callable[[str], bool]) -> None:
        """For as long as the host runs: end cells that have had nothing to do for so long.

        `stays`: whose cell is to be warm, used or not.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            self._spawn(self._allowances.end_owed())
            for cell in self.living():
                self._spawn(self._allowances.look(cell.tenant))
                if cell.blind:
                    self._leave(cell)
                    self._spawn(
                        self._end_idle(cell, "the folders that it reads were replaced", _DRAIN_SECONDS)
                    )
                elif self._at_work(cell) or stays(cell.tenant):
                    cell.idle_since = now
                elif now - cell.idle_since > idle_s():
                    self._leave(cell)
                    self._spawn(self._end_idle(cell))

    async def _end_idle(self, cell: Cell, reason: str = "idle time", seconds: float = 0) -> None:
        await self._ask_to_stop(cell, cell_wire.Stop(reason=reason, seconds=seconds))
        cell.kill(reason)

    async def end(self, tenant: str, reason: str) -> cell_wire.Ended:
        """All that the tenant runs ends now, and its cell with it; how much there was."""
        if (beginning := self._beginning.get(tenant)) is not None:
            await asyncio.wait({beginning})
        cell = self._cells.get(tenant) or self._leaving.get(tenant)
        if cell is None:
            return cell_wire.Ended()
        try:
            async with asyncio.timeout(_END_SECONDS):
                found: cell_wire.Ended = decoded(
                    await cell.ask("end", cell_wire.End(reason=reason)), cell_wire.Ended
                )
        except (TimeoutError, BridgeholdError):
            found = cell_wire.Ended(sessions=self.places.of(tenant))
        cell.kill(reason)
        await _in_time(cell.ended)
        return found

    async def stop(self, reason: str, seconds: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """End all of them: what runs gets so many `seconds`, or until `hurry`."""
        self._stopping, self._replaced = reason, leaving or self._replaced
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
        for cell in (*cells, *self._leaving.values()):
            cell.kill(reason)
        await asyncio.gather(*(_in_time(cell.ended) for cell in (*cells, *self._leaving.values())))

    async def _ask_to_stop(self, cell: Cell, stop: cell_wire.Stop) -> None:
        cell.reason = stop.reason
        with contextlib.suppress(TimeoutError, BridgeholdError):
            async with asyncio.timeout(_LOOK_SECONDS):
                cell.metrics = sound(decoded(await cell.ask("metrics", None), str))
        with contextlib.suppress(TimeoutError, BridgeholdError):
            async with asyncio.timeout(stop.seconds + _KILL_SECONDS):
                await cell.ask("stop", stop)

    async def _begin(self, tenant: str) -> Cell:
        if (before := self._leaving.get(tenant)) is not None:
            await _in_time(before.ended)
            self._demand_rest(tenant)
        cell, generation = Cell(tenant), self._generation
        link = Link(partial(self.asks.answer, cell), OF_CELL, partial(self.asks.told, cell))
        config = await self._make_config(tenant)
        lending = self.asks.lending
        try:
            lent, lent_callers = (lending[one].begin(tenant, cell.name) for one in (False, True))
            config = msgspec.structs.replace(config, lent=lent, lent_callers=lent_callers)
            await self._starts.begin(cell, link, config)
        except BaseException:
            self.asks.end_lending(cell)
            raise
        self._cells[tenant] = cell
        if generation != self._generation:  # one that came meanwhile
            later = await self._make_config(tenant)
            cell.tell("config", cell_wire.NewConfig(config=later.config, gone=()))
        self._spawn(self._watch(cell, link))
        return cell

    async def _watch(self, cell: Cell, link: Link) -> None:
        """Until it has ended, whichever way; then nothing is its any more."""
        running = asyncio.ensure_future(link.run())
        gone = asyncio.ensure_future(cell.gone.wait())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
            cell.kill()
            self._leave(cell)
            cell.lose()
            await self._starts.close_channel(cell)
            await asyncio.wait({running, gone}, timeout=_KILL_SECONDS)
            await self._write_end(cell)
        finally:
            gone.cancel()
            if cell.opens is not None:
                cell.opens.close()
            cell.let_go()
            self._forget(cell)
            cell.ended.set()

    async def _write_end(self, cell: Cell) -> None:
        held = self.places.of(cell.tenant)
        ended = CellEnded(tenant=cell.tenant, cell=cell.name, reason=cell.reason[:200], sessions=held)
        with contextlib.suppress(BridgeholdError):  # the launcher's word of each sandbox's end stands
            await self._journal.append(ended, durable=False)
        if not (self._stopping or cell.reason):
            sys.stderr.write(f"bridgehold: the cell of {cell.tenant} has ended\n")

    def _forget(self, cell: Cell) -> None:
        for table in (self._cells, self._leaving):
            if table.get(cell.tenant) is cell:
                del table[cell.tenant]
        self.places.clear(cell.tenant, cell.name)
        self.asks.end_lending(cell)
        self._spawn(self._allowances.over(cell.tenant))
        self.ends.lost(cell.tenant, cell.reason)
        past = merged([self.past, counted(cell.metrics)])
        self.past = past if len(past) <= _LONGEST_PAST else self.past
        young = not cell.reason and time.monotonic() - cell.begun < _YOUNG_SECONDS
        count = self._failed.pop(cell.tenant, (0, 0.0))[0] + 1
        if young:
            if len(self._failed) >= MOST_CELLS:
                self._failed.clear()
            pause = min(_LONGEST_PAUSE, _PAUSE * 2.0**count) if count > 1 else 0.0
            self._failed[cell.tenant] = count, time.monotonic() + pause


async def _in_time(ended: asyncio.Event) -> None:
    """Until it is set; what can't be ended is not waited for without end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * _KILL_SECONDS):
            await ended.wait()
