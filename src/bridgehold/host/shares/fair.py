"""Fair shares of one bounded resource: whoever holds more may take less of what is left.

Nobody may hold more than what stays free (or a part of that). So the first gets half at the most, the next a
quarter, and who comes late still finds something, however much the others took.
"""

from __future__ import annotations

import asyncio
import contextlib


class Shares:
    """So much of one thing: bytes, connections, requests."""

    def __init__(self, total: int, *, part: int = 1) -> None:
        """`part`: a holding is one of so many parts of what stays free, at the most."""
        self.total = total
        self.most = total // (part + 1)
        """What one can have at the most, where nobody else has any."""
        self.taken = 0
        self._part = part
        self._held: dict[str, int] = {}
        self._freed = asyncio.Event()

    def of(self, who: str) -> Share:
        """An empty share of `who`'s."""
        return Share(self, who)

    def widen(self, more: int) -> None:
        """There is so much more of it from now on, or less."""
        self.total += more
        self._freed.set()

    def held_by(self, who: str) -> int:
        """How much `who` holds now."""
        return self._held.get(who, 0)

    def fits(self, who: str, amount: int) -> bool:
        """Whether `who` may take `amount` more: a part of what stays free."""
        return (
            amount <= 0 or (self._held.get(who, 0) + amount) * self._part <= self.total - self.taken - amount
        )

    def take(self, who: str, amount: int, *, owed: bool = False) -> bool:
        """Count `amount` more for `who`; false, and nothing is counted, where there is no room.

        `owed`: there always is. Less than nothing is given back.
        """
        left = self._held.get(who, 0) + amount
        if amount > 0 and not owed and left * self._part > self.total - self.taken - amount:
            return False
        self.taken += amount
        if left:
            self._held[who] = left
        else:
            self._held.pop(who, None)
        if amount < 0:
            self._freed.set()
        return True

    let_in = take
    """As `take`, of a request that can wait instead."""

    async def wait(self, who: str, amount: int, seconds: float) -> bool:
        """As `take`, once others have given back enough; at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.fits(who, amount):
                    self._freed.clear()
                    await self._freed.wait()
        return self.fits(who, amount) and self.take(who, amount)


class Share:
    """What one connection or request holds, as long as it does."""

    def __init__(self, of: Shares, who: str) -> None:
        self._of = of
        self.who = who
        self.amount = 0

    def take(self, more: int, *, owed: bool = False) -> bool:
        """Hold `more`; false, and nothing is held of it, where there is no room. `owed`: there always is."""
        taken = self._of.take(self.who, more, owed=owed)
        self.amount += more if taken else 0
        return taken

    def hold(self, amount: int) -> bool:
        """Hold `amount` from now on, instead of what it was; false, and nothing has changed, without room."""
        return self.take(amount - self.amount)

    async def wait(self, more: int, seconds: float) -> bool:
        """As `take`, once others have given back enough."""
        taken = await self._of.wait(self.who, more, seconds)
        self.amount += more if taken else 0
        return taken

    def give_back(self) -> None:
        """All of it."""
        self._of.take(self.who, -self.amount, owed=True)
        self.amount = 0


class FrameBudget:
    """Bytes of frames that are not complete yet, of all of a tenant's sessions together."""

    def __init__(self, room: Shares, tenant: str = "") -> None:
        """`room`: for the sessions of all tenants."""
        self._room, self._tenant = room, tenant
        self._held: dict[int, int] = {}

    def of(self, tenant: str) -> FrameBudget:
        """A tenant's part of the same room: what others hold leaves it some."""
        return FrameBudget(self._room, tenant)

    def hold(self, owner: object, size: int) -> None:
        """`owner` now holds `size` bytes."""
        self._room.take(self._tenant, size - self._held.pop(id(owner), 0), owed=True)
        if size:
            self._held[id(owner)] = size

    @property
    def spent(self) -> bool:
        """Whether no more frames are taken in this second."""
        return not self._room.fits(self._tenant, 1)
