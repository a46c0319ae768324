"""Who serves tenants: one cell in the host's own process for all of them, or a process for each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from bridgehold.config.load import Config
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.artifact_methods import inside_tools
from bridgehold.host.cell.tools.offers import checked_specs
from bridgehold.host.cell_parts import CellParts, Ground
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.entrances import Entrances
from bridgehold.host.front.forwarding import Forwarding
from bridgehold.host.front.method import Method
from bridgehold.host.front.registry import Registry
from bridgehold.host.revocation import EndAll, Ending
from bridgehold.host.shares.cell_wire import Ended
from bridgehold.host.shares.fair import Shares
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.spending import Used, prices_of


class Serving(Protocol):
    """What the host needs of who serves tenants."""

    @property
    def entrances(self) -> Entrances | None:
        """To cells that have connections of their own, where there are any."""

    @property
    def held(self) -> Shares | None:
        """Bytes of callers, where cells have a part of them."""

    def table(self) -> dict[str, Method]:
        """The methods that are answered there, by name."""

    def check(self, config: Config) -> None:
        """Raise `UsageError` for a configuration that can't be taken over."""

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        """A configuration holds from now on. `gone`: rules and bridges that nobody is to miss any more."""

    def left(self, caller: object) -> None:
        """A connection is gone."""

    def owners(self) -> list[str]:
        """Of each session that is open, whose it is."""

    def used(self, tenant: str) -> Used:
        """What the tenant has used of its ceilings."""

    def ending(self) -> Ending:
        """How all of a tenant's ends."""

    def forget(self, tenant: str) -> None:
        """How the tenant's sessions ended is nobody's to ask any more."""

    def needs(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """What returns once something is gone without which the host is not to run, by name."""

    def standing(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """What goes on for as long as the host runs, by name."""

    async def prestart(self) -> None:
        """Have zygotes warm before anybody asks."""

    async def finish(self, reason: str, drain_s: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """Let what runs end as it ends, for so long, or until `hurry` is set. `reason`: of the end."""

    async def stop(self, reason: str) -> None:
        """End what runs."""


class InHost(msgspec.Struct, frozen=True):
    """One cell for all tenants, in this process."""

    cell: CellParts
    ground: Ground
    entrances: None = None
    held: None = None

    def table(self) -> dict[str, Method]:
        """See `Serving.table`."""
        return self.cell.table()

    def check(self, config: Config) -> None:
        """See `Serving.check`."""
        self.cell.check(config)

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        """See `Serving.tell`."""
        self.cell.tell(config, gone)

    def left(self, caller: object) -> None:
        """See `Serving.left`."""
        self.cell.methods.left(caller)

    def owners(self) -> list[str]:
        """See `Serving.owners`."""
        return [session.key.tenant for session in self.cell.sessions]

    def used(self, tenant: str) -> Used:
        """See `Serving.used`."""
        return self.cell.budgets.spending.used(tenant)

    def ending(self) -> Ending:
        """See `Serving.ending`."""
        cell = self.cell
        return Ending(
            sessions=cell.sessions.end_all, zygotes=cell.zygotes.end_all, warm_pool=cell.pool.end_all
        )

    def forget(self, tenant: str) -> None:
        """See `Serving.forget`."""
        self.cell.sessions.forget(tenant)

    def needs(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """See `Serving.needs`."""
        return ()

    def standing(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """See `Serving.standing`."""
        return [
            ("the warm pool", self.cell.pool.watch(self.cell.make_order, self.ground.peers.keeper.versions))
        ]

    async def prestart(self) -> None:
        """See `Serving.prestart`."""
        await self.cell.prestart()

    async def finish(self, reason: str, drain_s: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """See `Serving.finish`."""
        await self.cell.finish(drain_s, hurry, leaving=leaving)

    async def stop(self, reason: str) -> None:
        """See `Serving.stop`."""
        await self.cell.stop(reason)


class Celled(msgspec.Struct, frozen=True):
    """A process for each tenant that has asked for something."""

    cells: Cells
    forwarding: Forwarding
    entrances: Entrances
    registry: Registry
    settings: Settings
    budgets: Budgets
    """As counted when the host began: what a tenant's first cell begins with."""

    @property
    def held(self) -> Shares:
        """See `Serving.held`."""
        return self.cells.held

    def table(self) -> dict[str, Method]:
        """See `Serving.table`."""
        return self.forwarding.table()

    def check(self, config: Config) -> None:
        """See `Serving.check`."""
        checked_specs(config.tools, [tool.name for tool in inside_tools()])

    def tell(self, config: Config, gone: tuple[Path, ...]) -> None:
        """See `Serving.tell`."""
        self.registry.replace(config, gone)
        self.budgets.spending.prices = prices_of(config)
        self.cells.places.bound = config.host.max_sessions
        self.cells.tell(msgspec.json.encode(config).decode(), map(str, gone))

    def left(self, caller: object) -> None:
        """See `Serving.left`."""
        self.forwarding.left(caller)

    def owners(self) -> list[str]:
        """See `Serving.owners`."""
        return self.cells.places.owners()

    def used(self, tenant: str) -> Used:
        """See `Serving.used`."""
        return self.cells.used(tenant)

    def ending(self) -> Ending:
        """See `Serving.ending`."""

        under_way: dict[str, asyncio.Future[Ended]] = {}

        def part(name: str) -> EndAll:
            async def end(tenant: str, reason: str) -> int:
                ending = under_way.get(tenant)
                if ending is None:  # all of it ends at once; each part says how much of it there was
                    ending = under_way[tenant] = asyncio.ensure_future(self.cells.end(tenant, reason))
                    ending.add_done_callback(lambda _: under_way.pop(tenant, None))
                return int(getattr(await asyncio.shield(ending), name))

            return end

        return Ending(sessions=part("sessions"), zygotes=part("zygotes"), warm_pool=part("warm_pool"))

    def forget(self, tenant: str) -> None:
        """See `Serving.forget`."""
        self.cells.ends.forget(tenant)

    def needs(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """See `Serving.needs`."""
        return [("template", self.cells.template.gone())]

    def standing(self) -> Iterable[tuple[str, Coroutine[None, None, None]]]:
        """See `Serving.standing`."""
        return [("idle cells", self.cells.end_idle(lambda: self.settings.now.host.cell_idle_s, self._stays))]

    def _stays(self, tenant: str) -> bool:
        return any(tenant in section.prestart for section in self.settings.now.bridges.values())

    async def prestart(self) -> None:
        """See `Serving.prestart`."""
        wanted = {one for section in self.settings.now.bridges.values() for one in section.prestart}
        for tenant in sorted(wanted):
            try:
                await self.cells.of(tenant)
            except BridgeholdError:  # the tenant's first request tries again
                continue

    async def finish(self, reason: str, drain_s: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """See `Serving.finish`."""
        await self.cells.stop(reason, drain_s, hurry, leaving=leaving)

    async def stop(self, reason: str) -> None:
        """See `Serving.stop`."""
        hurry = asyncio.Event()
        hurry.set()
        await self.cells.stop(reason, 0, hurry, leaving=False)
