"""The server below the application: bounds on connections, their end, and JSON for what is no HTTP.

A connection without a request is ended after `idle_s`, however it trickles its headers; when all
places are taken, the oldest of these makes room, of the address that has the most. So who sends
nothing, or slowly, keeps nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bridgehold.errors import UsageError
from bridgehold.faces.http.replies import refusal

LARGEST_FIELD = 4_096
MOST_FIELDS = 64

_quiet = logging.getLogger("bridgehold.http.aiohttp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False  # the library logs a traceback for whatever garbage a caller sends


class Connection(RequestHandler):
    """One connection; what can't be parsed is answered in JSON too."""

    __slots__ = ("between",)

    between: bool
    """Whether it has had an answer, and nothing of a next request has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Its first request is still to come."""
        self.between = False
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        self.between = False
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no HTTP with a JSON error, and end the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response has been sent")
        first = (message or "not a request").splitlines()[0]
        answer = refusal(status, UsageError(f"this is no HTTP request: {first[:200]}"))
        answer.force_close()
        return answer


class BoundedServer(web.Server):
    """As many connections as there are places; idle ones make room, the oldest of one address first."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], places: int, **given: Any
    ) -> None:
        super().__init__(handler, **given)
        self._places = places
        self._live: dict[RequestHandler, None] = {}
        self._gone = asyncio.Event()
        self.busy: set[RequestHandler] = set()
        """Those that have a request under way; kept by who handles requests."""
        self.leaving = False
        """Each answer is the last one of its connection, and says so; kept by who handles requests."""

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection; past the bound, one that is idle or slow makes room."""
        super().connection_made(handler, transport)
        self._live[handler] = None
        if len(self._live) > self._places:
            victim = self._victim(handler)
            self._live.pop(victim)
            victim.force_close()

    def _victim(self, newest: RequestHandler) -> RequestHandler:
        """The oldest idle one of the address that has the most of them; the newest, where none is idle."""
        idle = [one for one in self._live if one not in self.busy and one is not newest]
        counts = Counter(_address(one) for one in idle)
        most = max(counts.values(), default=0)
        return next((one for one in idle if counts[_address(one)] == most), newest)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """A connection has ended; its place is free."""
        super().connection_lost(handler, exc)
        self._live.pop(handler, None)
        self.busy.discard(handler)
        if not self._live:
            self._gone.set()

    def answered(self, handler: RequestHandler) -> None:
        """The request that was under way on a connection is over."""
        self.busy.discard(handler)
        if self.leaving:
            handler.close()
        elif isinstance(handler, Connection):
            handler.between = True

    def leave(self) -> None:
        """End each connection after its next answer; at once where no request has begun since the last one.

        A first request that was not heard yet may be on its way: nothing said that it would come too late.
        """
        self.leaving = True
        for handler in list(self._live):
            if isinstance(handler, Connection) and handler.between:
                handler.force_close()

    async def emptied(self, within_s: float) -> None:
        """Wait until no connection is left, or `within_s` are over."""
        if self._live:
            self._gone.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._gone.wait()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._live)

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


def _address(handler: RequestHandler) -> str:
    peer = handler.transport.get_extra_info("peername") if handler.transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Runner(web.AppRunner):
    """An application on a `BoundedServer`."""

    def __init__(self, app: web.Application, places: int, idle_s: float) -> None:
        super().__init__(app, shutdown_timeout=2.0)
        self._places = places
        self._idle_s = idle_s

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return BoundedServer(
            plain.request_handler,
            self._places,
            request_factory=plain.request_factory,
            handler_cancellation=True,
            keepalive_timeout=self._idle_s,
            max_field_size=LARGEST_FIELD,
            max_headers=MOST_FIELDS,
            auto_decompress=False,
            lingering_time=1.0,
            access_log=None,
            logger=_quiet,
        )
