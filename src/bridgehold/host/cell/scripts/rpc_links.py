"""The transports below a gRPC worker's HTTP/2: sockets inside its sandbox, and its caller's outside.

The guest holds neither the listener nor the sockets: they were made in its network namespace and handed out
before anything of it ran (docs/adr/0005). TCP carries no descriptors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bridgehold.host.front.outgoing import Emit
from bridgehold.policies.buckets import TokenBucket

MOST_WAITING = 1 << 20
"""Bytes that wait for one connection inside; nothing is read of it, or passed to it, until it has read."""
_MOST_UNREAD = 4 << 20
AT_ONCE = 32 * 1024
"""Bytes that are taken without letting others have their turn: of the smallest frames they take 50 ms."""
_LOOK_SECONDS = 0.02
_PART, _SAVED = 0.5, 2.0
"""Of the loop's time, a second, what one worker's bytes may take; and saved up. All sessions share it."""


class Pace:
    """What the bytes of one worker take of the loop's time."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_PART, _SAVED)

    def spend(self, seconds: float) -> float:
        """So much was taken; seconds to wait before more is read."""
        return self._bucket.take(seconds, time.monotonic())


class InsideLink(asyncio.BufferedProtocol):
    """One connection inside a sandbox. Its buffer is its own: asyncio's takes eight times as much."""

    def __init__(
        self,
        take: Callable[[bytes], None],
        on_room: Callable[[], None],
        on_end: Callable[[], None],
        pace: Pace,
    ) -> None:
        self._take = take
        self._on_room = on_room
        self._on_end = on_end
        self._pace = pace
        self._transport: asyncio.Transport | None = None
        self.full = False
        self._later: asyncio.TimerHandle | None = None
        self._buffer = bytearray(AT_ONCE)

    def get_buffer(self, _hint: int) -> bytearray:
        """Where the next bytes go."""
        return self._buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a socket
        self._transport = transport
        transport.set_write_buffer_limits(high=MOST_WAITING, low=MOST_WAITING // 4)

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes of the worker's have come."""
        began = time.perf_counter()
        self._take(bytes(memoryview(self._buffer)[:nbytes]))
        wait = self._pace.spend(time.perf_counter() - began)
        if wait > 0 and self._later is None:
            self._read(on=False)
            self._later = asyncio.get_running_loop().call_later(min(wait, 1.0), self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._read(on=not self.full)

    def _read(self, *, on: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if on and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not on and self._transport.is_reading():
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """It doesn't read: what it asks meanwhile isn't read either, since each frame has an answer."""
        self.full = True
        self._read(on=False)

    def resume_writing(self) -> None:
        """It has read."""
        self.full = False
        self._read(on=self._later is None)
        self._on_room()

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended."""
        if self._later is not None:
            self._later.cancel()
        self._on_end()

    def write(self, data: bytes) -> None:
        """Send, or queue, `data`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """End it, after what is queued where that is read."""
        if self._transport is None:
            return
        if self.full:
            self._transport.abort()
        else:
            self._transport.close()


class OutsideLink:
    """One connection of the caller's, by its number: events to it, and what it sends comes as requests."""

    def __init__(self, number: int, emit: Emit, on_room: Callable[[], None]) -> None:
        self._number = number
        self._emit = emit
        self._on_room = on_room
        self._later: asyncio.TimerHandle | None = None
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether the caller leaves too much unread."""
        full = self._emit.full(_MOST_UNREAD)
        if full and self._later is None and not self.closed:
            self._later = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        return full

    def _look(self) -> None:
        self._later = None
        if not self.closed and not self.full:
            self._on_room()

    def write(self, data: bytes) -> None:
        """Send `data`."""
        if not self.closed:
            self._emit({"type": "wire", "conn": self._number, "data": data})

    def close(self) -> None:
        """End it."""
        if not self.closed:
            self.closed = True
            if self._later is not None:
                self._later.cancel()
            self._emit({"type": "wire", "conn": self._number, "end": True})
