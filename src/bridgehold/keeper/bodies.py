"""Bodies of requests; those of cells' that are long are held whole, within a bound by tenant, and looked into
on a thread.

The loop is all tenants': what a body of a million values takes to be read is nobody's time but its tenant's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from bridgehold.errors import BusyError, LimitError, ProtocolError
from bridgehold.keeper.channel import Stream
from bridgehold.keeper.places import Places
from bridgehold.keeper.protocol import DATA, END

SMALL = 256 * 1024
"""Up to here a body is sent to the provider in one piece with the head."""
HELD_BYTES = 256 << 20
"""Of all tenants'."""
PATIENCE_SECONDS = 10.0
"""Until there is room, and then until the body has come, with a second more for each MiB."""
_MOST_WAITING = 4_096

T = TypeVar("T")


class Bodies:
    """Of all cells."""

    def __init__(self, most: int, tenants: Callable[[str], int]) -> None:
        """`most`: bytes of one tenant's. `tenants`: how many there are, the named one included."""
        self._places = Places(max(HELD_BYTES, most), tenants, each=most)
        self._mine = Places(_MOST_WAITING, lambda _: 1, each=1)
        self._one = asyncio.Lock()

    async def take(self, stream: Stream, tenant: str, size: int) -> bytes:
        """All of it, until `give_back`. Raises `BusyError` without room, `LimitError` where it is slow."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._places.wait(tenant, size)
        except TimeoutError:
            raise BusyError(
                "the keeper holds as many bytes of long requests for this tenant as it may"
            ) from None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS + size / 2**20):
                return b"".join([piece async for piece in receive_body(stream, size)])
        except TimeoutError:
            self.give_back(tenant, size)
            raise LimitError("a long request did not come in time", where="limits.request") from None
        except BaseException:
            self.give_back(tenant, size)
            raise

    def give_back(self, tenant: str, size: int) -> None:
        """The body is on its way, or goes nowhere."""
        self._places.give_back(tenant, size)

    async def look(self, tenant: str, judge: Callable[[], T]) -> T:
        """What `judge` says, on a thread: one at a time, and of each tenant one in the line.

        Who is cancelled leaves the line at once, and the thread only when it is over: nobody can end that,
        and what it looks into is held until then.
        """
        await self._mine.wait(tenant)
        try:
            async with self._one:
                running = asyncio.get_running_loop().run_in_executor(None, judge)
                try:
                    return await asyncio.shield(running)
                finally:
                    while not running.done():
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.wait({running})
        finally:
            self._mine.give_back(tenant)


async def receive_body(stream: Stream, expected: int) -> AsyncIterator[bytes]:
    """The request's body from the host: exactly `expected` bytes. Raises `ProtocolError` otherwise."""
    left = expected
    while left:
        frame = await stream.receive()
        if frame.kind == END:
            break
        if frame.kind != DATA or len(frame.payload) > left:
            break
        left -= len(frame.payload)
        yield frame.payload
    if left:
        raise ProtocolError("the body of a request is not as long as its head says")
