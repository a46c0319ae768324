"""What a cell says and asks, and what is done about it: for its own tenant, whatever it says.

It asks for a bridge; what that means is made here, from policy and configuration, and told to the launcher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping

import msgspec

from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.host.front.allowances import Allowances
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.directory import Directory
from bridgehold.host.front.ends import Ends
from bridgehold.host.front.environments import LISTENER
from bridgehold.host.front.orders import Orders, ordered
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.cordons import Cordons
from bridgehold.host.shares.lending import Lending
from bridgehold.host.shares.link import Waiting, decoded
from bridgehold.host.shares.places import Places
from bridgehold.host.shares.session_ends import SessionEnd
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import starts_of


class CellAsks:
    """Of every cell of a host."""

    def __init__(
        self,
        launcher: LauncherClient,
        orders: Orders,
        places: Places,
        cordons: Cordons,
        directory: Directory,
        ends: Ends,
        allowances: Allowances,
        zygote_bytes: Callable[[], int],
        lending: Mapping[bool, Lending],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        """`zygote_bytes`: memory of a zygote's. `lending`: for guests, and for callers (True).
        `spawn`: have something done that nobody waits for."""
        self._launcher = launcher
        self._orders = orders
        self._places = places
        self._cordons = cordons
        self._directory = directory
        self._ends = ends
        self._allowances = allowances
        self._zygote_bytes = zygote_bytes
        self.lending = lending
        self._spawn = spawn

    def end_lending(self, cell: Cell) -> None:
        """What the cell was lent is free."""
        for one in self.lending.values():
            one.end(cell.tenant, cell.name)

    async def withdraw(self, cell: Cell, bridges: Iterable[str]) -> None:
        """What it could start for `bridges` it can't any more, until the next order."""
        for bridge in tuple(bridges):
            cell.bridges.discard(bridge)
            cell.ways.pop(bridge, None)
            await self._allow_as_told(cell, bridge)

    def allow_soon(self, cell: Cell, bridge: str) -> None:
        """As `allow`, for who doesn't wait."""
        self._spawn(self._allow_as_told(cell, bridge))

    async def _allow_as_told(self, cell: Cell, bridge: str) -> None:
        with contextlib.suppress(BridgeholdError):  # it is gone, and its channel with it
            await self.allow(cell, bridge)

    async def allow(self, cell: Cell, bridge: str) -> None:
        """Tell the launcher what the cell may start for `bridge` now."""
        ways = (*cell.ways.get(bridge, ()), *cell.tried.get(bridge, ()))
        await self._launcher.allow(cell.name, bridge, cell.tenant, ways)

    def told(self, cell: Cell, method: str, body: msgspec.Raw) -> bool:
        """What a cell says and asks no answer to."""
        match method:
            case "opened":
                opened = decoded(body, cell_wire.SessionOpened)
                self._directory.add(cell.tenant, opened.session, opened.name)
                self._ends.opened(cell.tenant, opened)
            case "over":
                session = decoded(body, cell_wire.SessionOver).session
                self._places.give_back(cell.tenant, cell.name, session)
                if session:
                    self._spawn(self._allowances.over(cell.tenant, session))
            case "used":
                cell.used = decoded(body, cell_wire.UsedNow).used
            case "returned":
                back = decoded(body, cell_wire.Bytes)
                self.lending[back.callers].take_back(cell.tenant, cell.name, back.amount)
            case "shut":
                if (handed := cell.handed.get(decoded(body, cell_wire.Left).caller)) is not None:
                    handed.over.set()
            case _:
                return False
        return True

    async def answer(self, cell: Cell, method: str, body: msgspec.Raw, told: Waiting) -> object:
        """What a cell asks: for its own tenant, whatever it says."""
        match method:
            case "order":
                async with cell.orders:
                    return await self._order(cell, decoded(body, cell_wire.AskOrder), told)
            case "ended":
                self._ends.add(cell.tenant, decoded(body, SessionEnd))
            case "granted":
                async with cell.orders:
                    await self._orders.grant(cell.tenant, decoded(body, cell_wire.Granted).bridge)
            case "lend":
                wanted = decoded(body, cell_wire.Bytes)
                await self.lending[wanted.callers].lend(cell.tenant, cell.name, wanted.amount)
            case "relay":
                ask = decoded(body, cell_wire.Relayed)
                if (handed := cell.handed.get(ask.connection)) is None:
                    raise UsageError("there is no such connection")
                return await handed.relay(ask.method, ask.params, told)
            case _:
                raise UsageError(f"a front answers no {method[:40]!r}")
        return None

    async def _order(self, cell: Cell, ask: cell_wire.AskOrder, told: Waiting) -> cell_wire.Ordered:
        tenant = cell.tenant
        if ask.session:
            self._cordons.demand(tenant, ask.bridge)
            self._places.take(tenant, cell.name, ask.session)
        LISTENER.set(told)
        try:
            asks = ask.principal if ask.principal in cell.principals else ""
            order = await self._orders.make(tenant, msgspec.structs.replace(ask, principal=asks))
            ways = starts_of(order.spec, self._zygote_bytes())
            cell.bridges.add(ask.bridge)
            cell.asked.add(ask.bridge)
            cell.ways[ask.bridge] = ways
            cell.environments.add(order.environment_digest)
            await self.allow(cell, ask.bridge)
            if ask.session:
                await self._allowances.allow(tenant, ask.session, order.grant)
        except BaseException:
            self._places.give_back(tenant, cell.name, ask.session)
            if ask.session:
                self._spawn(self._allowances.over(tenant, ask.session))
            self._spawn(self.withdraw(cell, cell.bridges & {ask.bridge}))
            raise
        return ordered(order)
