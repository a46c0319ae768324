"""Submitted bridges, opened and tried in their tenants' own cells: `examination.Bench` of a front."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from bridgehold.bridges import bundle
from bridgehold.bridges.bundle import Bundle
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.orders import ordered
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.link import decoded
from bridgehold.protocol.submissions import Tried
from bridgehold.protocol.values import Principal
from bridgehold.sandbox.values import SandboxSpec

_FRONT = 0
"""In place of a connection's number."""


class Trials:
    """What a cell gives is its tenant's own word: it is checked here as what any caller sends."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    async def take_out(self, principal: Principal, tenant: str, archive: str) -> Bundle:
        """See `Bench.take_out`."""
        cell = await self._cells.of(tenant)
        with _occupied(cell):
            said = await cell.ask("unpack", cell_wire.Unpack(principal=principal, archive=archive))

        def read() -> Bundle:
            return bundle.decode(decoded(said, bytes))

        return await asyncio.to_thread(read)

    async def try_out(self, order: StartOrder, found: Bundle, principal: str) -> tuple[Tried, ...]:
        """See `Bench.try_out`."""
        cell = await self._cells.of(order.grant.tenant)
        toml = (found.get("bridge.toml") or b"").decode()
        ask = cell_wire.TryOut(ordered=ordered(order), session=order.session, toml=toml, principal=principal)
        with _occupied(cell):
            async with self._trying(cell, order.spec):
                tried: tuple[Tried, ...] = decoded(await cell.ask("try", ask), tuple[Tried, ...])
        return tried

    @contextlib.asynccontextmanager
    async def _trying(self, cell: Cell, spec: SandboxSpec) -> AsyncIterator[None]:
        """Meanwhile the cell may start this beside what it was ordered: a bridge that nobody approved yet."""
        cell.tried[spec.bridge] = (spec,)
        try:
            await self._cells.asks.allow(cell, spec.bridge)
            yield
        finally:
            del cell.tried[spec.bridge]
            self._cells.asks.allow_soon(cell, spec.bridge)

    def uses(self, digest: str) -> bool:
        """See `Bench.uses`."""
        return self._cells.uses(digest)


@contextlib.contextmanager
def _occupied(cell: Cell) -> Iterator[None]:
    """It is at work for the front itself."""
    cell.calls[_FRONT] += 1
    try:
        yield
    finally:
        cell.calls -= Counter([_FRONT])
