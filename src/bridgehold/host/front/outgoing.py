"""What waits for a caller to read it: bounded in bytes and time. Who reads nothing loses its connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from bridgehold.host.shares.fair import Share
from bridgehold.protocol.parts import Sending

UNREAD_AT_EASE = 64 * 1024
"""Bytes that may wait on every connection without being counted; past them no request of it is read."""
_SLOWEST = 64 * 1024
"""Bytes a second that a caller has to read, of what waits for it."""


class Emit(Protocol):
    """Sends one event of a request to its caller."""

    def __call__(self, event: object, /) -> None:
        """Send `event`."""

    def full(self, most: int = ...) -> bool:
        """Whether more than `most` bytes wait for the caller: what can be left out, or can wait, should."""


class Events(msgspec.Struct, frozen=True):
    """`Emit` of one request."""

    send: Callable[[object], None]
    out: Outgoing

    def __call__(self, event: object, /) -> None:
        """Send `event`."""
        self.send(event)

    def full(self, most: int = UNREAD_AT_EASE) -> bool:
        """Whether more than `most` bytes of answers wait for the caller."""
        return self.out.unread > most


class Outgoing:
    """The writing half of one connection."""

    def __init__(self, writer: asyncio.StreamWriter, share: Share, *, most: int, patience_s: float) -> None:
        """`share`: of all callers' bytes, the connection's own. `most`: bytes that may wait before more."""
        self._writer = writer
        self._sending = Sending(writer)
        self._share = share
        self._most = most
        self._patience_s = patience_s
        self._written = 0
        self.at_ease = asyncio.Event()
        """Set while the caller has read what waits for it, but for a little."""
        self.at_ease.set()
        self._watching: asyncio.Task[None] | None = None
        self.cut = asyncio.Event()
        """Set once the connection was ended for what its caller left unread, or by `end`."""
        writer.transport.set_write_buffer_limits(high=UNREAD_AT_EASE, low=0)

    @property
    def unread(self) -> int:
        """Bytes that wait for the caller to read."""
        return self._sending.unsent + self._writer.transport.get_write_buffer_size()

    def put(self, data: bytes, *, most: int | None = None) -> None:
        """Write `data`, without waiting. Past a bound (`most`, where it is given) the connection is cut."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        before = self._sending.unsent + transport.get_write_buffer_size()
        waiting = before + len(data)
        uncounted = waiting <= UNREAD_AT_EASE and not self._share.amount
        if before > (self._most if most is None else most) or not (uncounted or self._counted(waiting)):
            self.end()
            return
        if self._sending.unsent or len(data) > UNREAD_AT_EASE:
            self._sending.write(data)
        else:
            self._writer.write(data)
        self._written += len(data)
        if uncounted:
            return
        self._counted(self.unread)
        if self.unread > UNREAD_AT_EASE and self._watching is None:
            self.at_ease.clear()
            self._watching = asyncio.create_task(self._watch())

    def charge(self, share: Share) -> None:
        """From now on it is another's: what waits is counted there."""
        share.take(self._share.amount, owed=True)
        self._share.give_back()
        self._share = share

    def end(self) -> None:
        """At once: what waits is thrown away."""
        self._writer.transport.abort()
        self.cut.set()

    def finish(self, seconds: float) -> None:
        """End it after what is written, which gets `seconds` to be read."""
        self._sending.close()
        asyncio.get_running_loop().call_later(seconds, self.end)

    async def close(self, seconds: float) -> None:
        """As `finish`, and wait for it."""
        self._sending.close()
        try:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(self._sending.closed(), seconds)
        finally:
            self._sending.stop()
            self._writer.transport.abort()
            if self._watching is not None:
                self._watching.cancel()
            self._share.give_back()

    def _counted(self, waiting: int) -> bool:
        return self._share.hold(waiting if waiting > UNREAD_AT_EASE else 0)

    async def _watch(self) -> None:
        """Until all is read. In each span of patience a good part of what waits has to be."""
        try:
            while left := self.unread:
                sent = self._written - left
                try:
                    await asyncio.wait_for(self._sending.drain(), self._patience_s)
                except TimeoutError:
                    read = self._written - self.unread - sent
                    if read < min(left, _SLOWEST * self._patience_s):
                        self.end()
                        return
                    self._counted(self.unread)
                except OSError:
                    return
        finally:
            self._watching = None
            self._share.give_back()
            self.at_ease.set()
