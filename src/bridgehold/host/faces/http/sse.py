"""Server-sent events: a queue that is bounded in bytes, and its writer, which can't be held up for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from aiohttp import web

from bridgehold.errors import LimitError
from bridgehold.host.faces.http.replies import headers
from bridgehold.host.shares import Share

MOST_WAITING = 8 << 20
"""Bytes of events that wait for their caller."""
_BEAT = b": beat\n\n"


def event(name: str, data: object) -> bytes:
    """One event; JSON has no line breaks, so it is one line of data."""
    return b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), msgspec.json.encode(data))


class Outbox:
    """Events between the host's connection and the caller's."""

    def __init__(self, share: Share, beat_s: float, on_full: Callable[[], object]) -> None:
        """`beat_s`: how long it may be silent. `on_full`: the caller reads too slowly, no more is taken."""
        self._share = share
        self._beat_s = beat_s
        self._on_full = on_full
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.full = False
        self._closed = False

    def put(self, piece: bytes) -> None:
        if self.full:
            return
        self._bytes += len(piece)
        if self._bytes > MOST_WAITING or not self._share.take(len(piece)):
            self.full = True
            self._on_full()
            return
        self._waiting.append(piece)
        self._news.set()

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

    @property
    def failure(self) -> LimitError:
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
