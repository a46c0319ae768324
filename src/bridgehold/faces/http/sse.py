"""Server-sent events: a queue that is bounded in bytes, and its writer, which can't be held up for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from aiohttp import web

from bridgehold.errors import LimitError
from bridgehold.faces.http.flow import WINDOW
from bridgehold.faces.http.replies import headers
from bridgehold.faces.http.statuses import status_of
from bridgehold.host.shares.fair import Share

MOST_WAITING = 8 << 20
"""Bytes of events that wait for their caller."""
_HELD_UP_S = 10.0
"""A caller that has kept its events from being read for so long is why the host ends their connection."""
MOST_KEPT = 1 << 20
"""Bytes of a resumable command's last events."""
_BEAT = b": beat\n\n"


def event(name: str, data: object, number: int = 0) -> bytes:
    """One event; JSON has no line breaks, so it is one line of data. `number`: its id, from 1 on; 0: none."""
    said = b"id: %d\n" % number if number else b""
    return said + b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), msgspec.json.encode(data))


class EventLog:
    """The last events of one resumable command, numbered from 1: for who follows it, now or later."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._kept: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.last = 0
        self.closed = False

    def add(self, name: str, data: object) -> None:
        """One more; the oldest make room for it."""
        self.last += 1
        piece = event(name, data, self.last)
        self._kept.append((self.last, piece))
        self._bytes += len(piece)
        while len(self._kept) > 1 and (self._bytes > MOST_KEPT or not self._share.hold(self._bytes)):
            self._bytes -= len(self._kept.popleft()[1])
        if not self._share.hold(self._bytes):
            self._cannot_keep()
        self._news.set()

    def _cannot_keep(self) -> None:
        """Others need the room: what the newest was is said, it isn't held."""
        failure = LimitError(
            "the caller has too many bytes of events unread: this one is dropped",
            hint="Read the streams as they come. What was asked for was done; its receipt is in the audit.",
        )
        said = {**msgspec.to_builtins(failure.info()), "status": status_of(failure.code)}
        piece = event("error", said, self.last)
        self._kept[-1], self._bytes = (self.last, piece), len(piece)
        self._share.take(self._bytes - self._share.amount, owed=True)

    def close(self) -> None:
        """No more will come."""
        self.closed = True
        self._news.set()

    async def after(self, number: int, beat_s: float) -> tuple[bytes, int]:
        """The events after `number`, and the number of the last; a beat where none comes; empty at the end.

        Where some of them are gone, an event ``gap`` says which.
        """
        if number >= self.last and not self.closed:
            self._news.clear()
            try:
                async with asyncio.timeout(beat_s):
                    await self._news.wait()
            except TimeoutError:
                return _BEAT, number
        pieces = [piece for at, piece in self._kept if at > number]
        first = self.last - len(pieces) + 1
        if number + 1 < first <= self.last:
            pieces.insert(0, event("gap", {"first": number + 1, "last": first - 1}))
        return b"".join(pieces), max(number, self.last)

    def forget(self) -> None:
        """Free everything that is kept for readers who come back."""
        self._kept.clear()
        self._bytes = 0
        self._share.give_back()


class Outbox:
    """Events between the host's connection and the caller's."""

    def __init__(
        self, share: Share, beat_s: float, on_full: Callable[[], object], at_ease: asyncio.Event
    ) -> None:
        """`beat_s`: how long it may be silent. `on_full`: one event is too many, no more is taken.
        `at_ease`: cleared while more waits than a window, so that no more comes.
        """
        self._share = share
        self._beat_s = beat_s
        self._on_full = on_full
        self._at_ease = at_ease
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.full = False
        self._closed = False
        self._behind_since = 0.0
        self.held_up = False
        """Its caller was behind for long: what the host ended since was ended for that."""

    @property
    def crowded(self) -> bool:
        """Whether its caller is behind, so that what it can do without is better left out."""
        return not self._at_ease.is_set()

    def put(self, piece: bytes) -> None:
        """Queue `piece` for the reader; past the bound nothing is taken, and the command is cancelled."""
        if self.full:
            return
        self._bytes += len(piece)
        if self._bytes > MOST_WAITING or not self._share.take(len(piece)):
            self.full = True
            self._on_full()
            return
        self._waiting.append(piece)
        self._news.set()
        if self._bytes > WINDOW and not self.crowded:
            self._at_ease.clear()
            self._behind_since = asyncio.get_running_loop().time()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._news.set()

    async def take(self) -> bytes:
        """What waits, or a beat; empty at the end."""
        try:
            async with asyncio.timeout(self._beat_s):
                await self._news.wait()
        except TimeoutError:
            return _BEAT
        pieces = b"".join(self._waiting)
        self.forget()
        if not self._closed:
            self._news.clear()
        return pieces

    def forget(self) -> None:
        """What waits."""
        self._waiting.clear()
        self._bytes = 0
        self._share.give_back()
        if self.crowded:
            self.held_up = asyncio.get_running_loop().time() - self._behind_since > _HELD_UP_S
            self._at_ease.set()

    @property
    def failure(self) -> LimitError:
        """The error of a reader that is too slow."""
        return LimitError(
            "the caller left too many events unread, and the command was cancelled",
            hint="Read the stream as it comes.",
        )


async def opened(request: web.Request, command: str) -> web.StreamResponse:
    """The response's head, and the first event: what the command is called."""
    response = web.StreamResponse(
        headers=headers(
            {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Bridgehold-Command": command}
        )
    )
    await response.prepare(request)
    await response.write(event("open", {"command": command}))
    return response
