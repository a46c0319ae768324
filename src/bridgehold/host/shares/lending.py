"""One bound over all cells: the front lends each what it asks for, and counts it before the cell takes it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable

from bridgehold.errors import BridgeholdError, BusyError, UsageError
from bridgehold.host.shares.fair import Shares
from bridgehold.host.startup import MOST_CELLS

_OWN = 128 * 1024
"""Bytes that a cell has without asking, or a part of half of all there are."""
_STEPS, _SMALLEST_STEP = 64, 16 * 1024
"""What is lent at once: one of so many parts of all, and so much at the least."""
PATIENCE_SECONDS = 10.0
_RECALL_SECONDS = 1.0
"""Between two words to all cells that what they don't need is wanted."""


def own_part(total: int) -> int:
    """What each cell has of `total` bytes, however many there are (pure)."""
    return min(_OWN, total // (2 * MOST_CELLS))


def step(total: int) -> int:
    """What is lent at once, and kept by a cell for as long as nobody else wants it (pure)."""
    return max(_SMALLEST_STEP, total // _STEPS)


class Lending:
    """The front's end: of what is free no tenant's cell has more than the others could."""

    def __init__(self, total: int, recall: Callable[[], None]) -> None:
        """`recall`: have all cells give back what they don't need."""
        self._shares = Shares(total - MOST_CELLS * own_part(total))
        self._first = step(total)
        self._recall, self._recalled_at = recall, -math.inf
        self._lent: dict[str, int] = {}
        self._asking: set[str] = set()

    def lent_to(self, cell: str) -> int:
        """Bytes that the cell has of others' now."""
        return self._lent.get(cell, 0)

    def begin(self, tenant: str, cell: str) -> int:
        """What a new cell has to begin with, so that it needs no word of ours for what is usual."""
        if not self._shares.take(tenant, self._first):
            return 0
        self._lent[cell] = self._first
        return self._first

    async def lend(self, tenant: str, cell: str, amount: int) -> None:
        """Once there is room. Raises `BusyError` where none comes in time, `UsageError` for a second ask."""
        if cell in self._asking:
            raise UsageError("a cell asks for bytes once at a time")
        self._asking.add(cell)
        try:
            if (
                not self._shares.fits(tenant, amount)
                and time.monotonic() - self._recalled_at > _RECALL_SECONDS
            ):
                self._recalled_at = time.monotonic()
                self._recall()
            if not await self._shares.wait(tenant, amount, PATIENCE_SECONDS):
                raise BusyError("the host holds as many bytes for this tenant as it may")
        finally:
            self._asking.discard(cell)
        self._lent[cell] = self._lent.get(cell, 0) + amount

    def take_back(self, tenant: str, cell: str, amount: int) -> None:
        """Of what the cell was lent, no more than that."""
        had = self._lent.pop(cell, 0)
        given = min(amount, had)
        self._shares.take(tenant, -given)
        if had > given:
            self._lent[cell] = had - given

    def end(self, tenant: str, cell: str) -> None:
        """The cell has ended: all that it had is free."""
        self.take_back(tenant, cell, self.lent_to(cell))


class Lent(Shares):
    """The cell's end: what it has, and asks for more of. Whoever finds no room comes again, or is woken."""

    def __init__(
        self,
        total: int,
        ask: Callable[[int], Awaitable[object]],
        give_back: Callable[[int], None],
        begun: int = 0,
    ) -> None:
        """`total`: the bound over all cells. `ask`: over once that is lent, raises where it isn't.

        `begun`: as of `Lending.begin`.
        """
        super().__init__(own_part(total) + begun, part=0)
        self._step = step(total)
        self._ask, self._give_back = ask, give_back
        self._lent, self._peak = begun, 0
        self._asking: asyncio.Task[None] | None = None
        self._wake: list[Callable[[], None]] = []

    def when_more(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever there is more."""
        self._wake.append(wake)

    def fits(self, who: str, amount: int) -> bool:
        """As `Shares.fits`; where it doesn't, more is asked for."""
        if super().fits(who, amount):
            return True
        if self._asking is None:
            self._asking = asyncio.create_task(self._borrow(self.taken + amount - self.total))
        return False

    def take(self, who: str, amount: int, *, owed: bool = False) -> bool:
        """As `Shares.take`."""
        taken = super().take(who, amount, owed=owed)
        self._peak = max(self._peak, self.taken)
        return taken

    async def _borrow(self, missing: int) -> None:
        amount = -(-missing // self._step) * self._step
        try:
            with contextlib.suppress(BridgeholdError):  # whoever needs it has its own patience
                await self._ask(amount)
                self._lent += amount
                self.widen(amount)
        finally:
            self._asking = None
        for wake in self._wake:
            wake()

    def tidy(self) -> None:
        """Give back what nobody has needed since the last time, but for what a cell begins with."""
        spare = min(self._lent - self._step, self.total - self._peak)
        self._peak = self.taken
        self._return(spare // self._step * self._step)

    def recall(self) -> None:
        """Give back all that isn't taken now: others want it."""
        self._return(min(self._lent, self.total - self.taken))

    def _return(self, amount: int) -> None:
        if amount > 0:
            self._lent -= amount
            self.widen(-amount)
            self._give_back(amount)
