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
"""Bytes that a cell has without asking, or its part of half of all there are; of callers', of a sixteenth."""
_STEPS, _SMALLEST_STEP = 64, 16 * 1024
"""What is lent at once: one of so many parts of all, and so much at the least."""
PATIENCE_SECONDS = 10.0
_RECALL_SECONDS = 1.0
"""Between two words to all cells that what they don't need is wanted."""


def own_part(total: int, part: int = 2) -> int:
    """What each cell has of `total` bytes: together they have one of so many parts (pure)."""
    return min(_OWN, total // (part * MOST_CELLS))


def lendable(total: int, part: int = 2) -> int:
    """What is left of `total` bytes, to be lent (pure)."""
    return total - MOST_CELLS * own_part(total, part)


def step(total: int) -> int:
    """What is lent at once, and kept by a cell for as long as nobody else wants it (pure)."""
    return max(_SMALLEST_STEP, total // _STEPS)


def _of_cell(tenant: str) -> str:
    """Who holds what its cell was lent: no principal is called so."""
    return f"cell of {tenant}"


class Recalled(Shares):
    """Of which cells have some that they don't need: who finds no room has it asked back."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.recall: Callable[[], None] | None = None
        self._recalled_at = -math.inf

    def fits(self, who: str, amount: int) -> bool:
        """As `Shares.fits`."""
        fits = super().fits(who, amount)
        if not fits and self.recall is not None and time.monotonic() - self._recalled_at > _RECALL_SECONDS:
            self._recalled_at = time.monotonic()
            self.recall()
        return fits


class Lending:
    """The front's end: of what is free no tenant's cell has more than the others could."""

    def __init__(self, total: int, recall: Callable[[], None], shares: Recalled | None = None) -> None:
        """`recall`: have all cells give back what they don't need. `shares`: what is lent, where the front
        takes of it too."""
        self._shares = shares or Recalled(lendable(total))
        self._shares.recall = recall
        self._first = step(total)
        self._lent: dict[str, int] = {}
        self._asking: set[str] = set()

    def lent_to(self, cell: str) -> int:
        """Bytes that the cell has of others' now."""
        return self._lent.get(cell, 0)

    def begin(self, tenant: str, cell: str) -> int:
        """What a new cell has to begin with, so that it needs no word of ours for what is usual."""
        if not self._shares.take(_of_cell(tenant), self._first):
            return 0
        self._lent[cell] = self._first
        return self._first

    async def lend(self, tenant: str, cell: str, amount: int) -> None:
        """Once there is room. Raises `BusyError` where none comes in time, `UsageError` for a second ask."""
        if cell in self._asking:
            raise UsageError("a cell asks for bytes once at a time")
        self._asking.add(cell)
        try:
            if not await self._shares.wait(_of_cell(tenant), amount, PATIENCE_SECONDS):
                raise BusyError("the host holds as many bytes for this tenant as it may")
        finally:
            self._asking.discard(cell)
        self._lent[cell] = self._lent.get(cell, 0) + amount

    def take_back(self, tenant: str, cell: str, amount: int) -> None:
        """Of what the cell was lent, no more than that."""
        had = self._lent.pop(cell, 0)
        given = min(amount, had)
        self._shares.take(_of_cell(tenant), -given)
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
        part: int = 2,
    ) -> None:
        """`total`: the bound over all cells. `ask`: over once that is lent, raises where it isn't.

        `begun`: as of `Lending.begin`. `part`: as of `own_part`.
        """
        super().__init__(own_part(total, part) + begun, part=0)
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
        self._want(self.taken + amount - self.total)
        return False

    def _want(self, missing: int) -> None:
        if self._asking is None and missing > 0:
            self._asking = asyncio.create_task(self._borrow(missing))

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


OF_CALLERS = 16
"""`own_part` of callers' bytes: a request is counted with its answer, and the largest must find room."""


class CallersLent(Lent):
    """As `Lent`, of what a tenant's callers hold. Who waits for room is let in by what is lent; what answers
    them is never cut for that: it is taken within the bound of all, and lent after it."""

    def __init__(
        self,
        total: int,
        ask: Callable[[int], Awaitable[object]],
        give_back: Callable[[int], None],
        begun: int = 0,
    ) -> None:
        super().__init__(total, ask, give_back, begun, OF_CALLERS)
        self.most = own_part(total, OF_CALLERS) + lendable(total, OF_CALLERS) // 2
        self._whole = Shares(total)

    def fits(self, who: str, amount: int) -> bool:
        """As `Lent.fits`; of all that there is, no caller of the tenant's has more than what stays free."""
        return self._whole.fits(who, amount) and super().fits(who, amount)

    def take(self, who: str, amount: int, *, owed: bool = False) -> bool:
        """As `Shares.take`, of all that there is."""
        if not self._whole.take(who, amount, owed=owed):
            return False
        super().take(who, amount, owed=True)
        self._want(self.taken - self.total)
        return True

    def let_in(self, who: str, amount: int, *, owed: bool = False) -> bool:
        """As `take`, where it is lent."""
        return (owed or self.fits(who, amount)) and self.take(who, amount, owed=owed)
