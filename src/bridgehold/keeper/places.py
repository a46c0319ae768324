"""What many tenants share between host and keeper: places for streams, and turns on one loop.

Both ends count in the same way, by the same bounds, so that neither asks for what the other refuses.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import TypeVar, cast

from bridgehold.policies.parts import kept_for_others

REQUESTS = 2_048
"""Requests to providers under way at once, for all tenants."""
QUESTIONS = 1_024
"""All else that is asked (keys, texts to redact, signatures): no request takes a place of these."""
QUESTIONS_EACH = 32
"""Of one tenant. The next wait for their turn."""
_TURN_SECONDS = 0.001

T = TypeVar("T")


class Places:
    """So much of one thing. Half is kept, in equal parts, for tenants that hold less than theirs."""

    def __init__(self, whole: int, tenants: Callable[[str], int], *, each: int = 0) -> None:
        """`tenants`: how many there are, the named one included. `each`: the most of one; 0: all."""
        self.whole = whole
        self.taken = 0
        self._tenants = tenants
        self._each = each or whole
        self._held: dict[str, int] = {}
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def holders(self) -> Iterable[str]:
        """Who holds some of it now."""
        return self._held.keys()

    def held_by(self, tenant: str) -> int:
        """How much the tenant holds now."""
        return self._held.get(tenant, 0)

    def take(self, tenant: str, need: int = 1) -> bool:
        """Count `need` more for the tenant; false, and nothing is counted, where there is no room."""
        if not self._fits(tenant, need):
            return False
        self.taken += need
        self._held[tenant] = self._held.get(tenant, 0) + need
        return True

    async def wait(self, tenant: str, need: int = 1) -> None:
        """As `take`, once there is room. A tenant's own wait in line."""
        while not self.take(tenant, need):
            freed = asyncio.get_running_loop().create_future()
            line = self._lines.setdefault(tenant, deque())
            line.append(freed)
            try:
                await freed
            except asyncio.CancelledError:
                if freed.done() and not freed.cancelled():
                    self._wake(tenant)
                raise

    def give_back(self, tenant: str, need: int = 1) -> None:
        """It is free again, and one of each tenant that waits looks whether it is for it."""
        self.taken -= need
        left = self._held.pop(tenant) - need
        if left:
            self._held[tenant] = left
        for name in list(self._lines):
            self._wake(name)

    def _fits(self, tenant: str, need: int) -> bool:
        left = self.whole - self.taken - need
        if left < 0 or self._held.get(tenant, 0) + need > self._each:
            return False
        if left >= self.whole // 2:
            return True
        tenants = max(self._tenants(tenant), len(self._held.keys() | {tenant}))
        last = {
            **self._held,
            tenant: self._held.get(tenant, 0) + need - 1,
        }  # no part grows by what is asked for
        return left >= kept_for_others(last, tenant, tenants, whole=self.whole, need=1)

    def _wake(self, tenant: str) -> None:
        line = self._lines.get(tenant, deque())
        while line:
            freed = line.popleft()
            if not freed.done():
                freed.set_result(None)
                break
        if not line:
            self._lines.pop(tenant, None)


class Turns:
    """Work in pieces: one piece in a turn of the loop, and of all who have some left the next one's."""

    def __init__(self, room: Callable[[], Awaitable[None]] | None = None) -> None:
        """`room`: waited for before each piece but the first, such as that a socket has taken the last."""
        self._room = room
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._handing: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._lines)

    async def take(self, tenant: str) -> None:
        """Returns in the tenant's turn: what is done before the next await is one piece."""
        if self._handing is None:
            self._handing = asyncio.create_task(self._hand_out())
            return
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(turn)
        await turn

    async def work(self, tenant: str, steps: Generator[None, None, T]) -> T:
        """What `steps` return, worked through in the tenant's turns."""
        while True:
            await self.take(tenant)
            until = time.perf_counter() + _TURN_SECONDS
            while time.perf_counter() < until:
                try:
                    next(steps)
                except StopIteration as end:
                    return cast("T", end.value)

    async def _hand_out(self) -> None:
        try:
            while True:
                if self._room is not None:
                    await self._room()
                if not self._lines:
                    return
                tenant = next(iter(self._lines))
                line = self._lines.pop(tenant)
                turn = line.popleft()
                if line:
                    self._lines[tenant] = line  # behind all others
                if not turn.done():
                    turn.set_result(None)
                    await asyncio.sleep(0)  # it has its turn now
        finally:
            self._handing = None
            for line in self._lines.values():  # the room is gone: each finds out by itself
                for turn in line:
                    if not turn.done():
                        turn.set_result(None)
            self._lines.clear()
