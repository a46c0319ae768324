"""Bytes that are held for guests, counted by tenant and session before they are taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from bridgehold.errors import BusyError
from bridgehold.host.shares.fair import Shares
from bridgehold.host.shares.lending import Lent

Owner = tuple[str, str]
"""(tenant, session)."""


class Holding:
    """Bytes held for one request."""

    def __init__(self, buffers: Buffers, owner: Owner, size: int) -> None:
        self._buffers = buffers
        self._owner = owner
        self._size = size

    def shrink(self, size: int) -> None:
        """Only `size` bytes are still held."""
        if size < self._size:
            self._buffers.give(self._owner, self._size - size)
            self._size = size


class Buffers:
    """Bytes that this host holds for guests: one bound for all, a smaller one for each session, and of what
    is free no tenant has more than the others could (`Shares`).

    Whoever wants more waits its turn, without reading from its guest meanwhile.
    """

    def __init__(
        self, total: int, *, share: int = 8, patience_s: float = 10.0, lent: Lent | None = None
    ) -> None:
        """`lent`: what this process has of `total`, where others have their parts of it."""
        self._tenants = lent or Shares(total)
        if lent is not None:
            lent.when_more(self._wake)
        self._each = max(1, total // share)
        self._patience = patience_s
        self._held: dict[Owner, int] = {}
        self._queue: deque[asyncio.Event] = deque()

    @property
    def held(self) -> int:
        """Bytes that are held now, for all."""
        return self._tenants.taken

    @contextlib.asynccontextmanager
    async def hold(self, owner: Owner, size: int) -> AsyncIterator[Holding]:
        """Room for `size` bytes while the block runs. Raises `BusyError` where none comes free in time."""
        await self._take(owner, size)
        holding = Holding(self, owner, size)
        try:
            yield holding
        finally:
            holding.shrink(0)

    async def _take(self, owner: Owner, size: int) -> None:
        if size > self._each:
            raise BusyError(
                f"{size} bytes at once are more than one session may hold",
                hint="Raise `[host] buffered_bytes`.",
                retry="no",
            )
        try:
            async with asyncio.timeout(self._patience):
                while not self._fits(owner, size):
                    freed = asyncio.Event()
                    self._queue.append(freed)
                    try:
                        await freed.wait()
                    finally:
                        with contextlib.suppress(ValueError):
                            self._queue.remove(freed)
        except TimeoutError:
            raise BusyError("the host holds as many bytes for this tenant's sandboxes as it may") from None
        self._tenants.take(owner[0], size, owed=True)
        self._held[owner] = self._held.get(owner, 0) + size

    def _fits(self, owner: Owner, size: int) -> bool:
        return self._tenants.fits(owner[0], size) and self._held.get(owner, 0) + size <= self._each

    def give(self, owner: Owner, size: int) -> None:
        """Give `size` bytes back."""
        self._tenants.take(owner[0], -size)
        left = self._held.get(owner, 0) - size
        if left > 0:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)
        self._wake()

    def _wake(self) -> None:
        for waiting in self._queue:
            waiting.set()
        self._queue.clear()
