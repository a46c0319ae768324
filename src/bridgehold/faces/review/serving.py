"""The page's process: a listener on loopback, the link printed once, and an end with Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from bridgehold.faces.http.guard import BoundedServer, Runner
from bridgehold.faces.http.listening import listen, url_of
from bridgehold.faces.review import pages
from bridgehold.faces.review.app import App
from bridgehold.faces.review.books import Books, Sources
from bridgehold.faces.review.gate import ENTER, Gate
from bridgehold.faces.review.proposals import PLACE, Ask, Tell

_PLACES, _IDLE_S = 64, 60.0
_PATIENCE_S = 2.0
"""The link is told by then, and pages say that they are still counting."""


def own_address() -> str:
    """A loopback address that hardly anything else has, and any free port: ``127.83.12.7:0``.

    A browser sends a cookie to every port of a host: so the page has a host of its own.
    """
    first, second, third = (1 + secrets.randbelow(254) for _ in range(3))
    return f"127.{first}.{second}.{third}:0"


def listening(text: str) -> socket.socket:
    """A listener at ``ADDRESS:PORT`` of loopback; empty: one of our own. Raises `ConfigError`."""
    found = listen(text or own_address(), public=False, said="--listen")
    found.setblocking(False)
    return found


@contextlib.asynccontextmanager
async def opened(
    sources: Sources, listener: socket.socket, ask: Ask | None = None, tell: Tell | None = None
) -> AsyncIterator[App]:
    """The pages on `listener`, as long as the block lasts. `ask` and `tell` as of `App`.

    Raises `AuditError`, and `DependencyError` where Jinja2 is missing.
    """
    pages.prepare()
    async with Books(sources) as books:
        gate = Gate(url_of(listener).removeprefix("http://"), changes=PLACE if ask and tell else "")
        app = App(books, gate, ask, tell)
        runner = Runner(app.application(), _PLACES, _IDLE_S)
        try:
            await runner.setup()
            assert isinstance(runner.server, BoundedServer)  # noqa: S101 - the runner makes nothing else
            app.server = runner.server
            await web.SockSite(runner, listener).start()
            yield app
        finally:
            await runner.cleanup()


async def serve(
    sources: Sources,
    listener: socket.socket,
    told: Callable[[str], None],
    ask: Ask | None = None,
    tell: Tell | None = None,
) -> None:
    """Show the review until SIGINT or SIGTERM. `told` gets the link, once the first page can be shown.

    Raises as `opened` does.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with opened(sources, listener, ask, tell) as app:
        counting = asyncio.create_task(app.books.counted())
        leaving = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait(
            {counting, leaving}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not stop.is_set():
            if counting in done:
                await counting  # which raises, where the audit can't be read
            told(f"{url_of(listener)}{ENTER}?token={app.gate.token}")
        await leaving
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
