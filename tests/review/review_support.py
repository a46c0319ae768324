"""The page over an audit, and a client that has been let in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bridgehold.faces.http.listening import url_of
from bridgehold.faces.review.app import App
from bridgehold.faces.review.books import Sources
from bridgehold.faces.review.gate import ENTER
from bridgehold.faces.review.proposals import Ask, Tell
from bridgehold.faces.review.serving import listening, opened


class Reader:
    """A browser's part, without one."""

    def __init__(self, app: App, base: str, session: aiohttp.ClientSession) -> None:
        self.app, self.base, self.session = app, base, session

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.base + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def enter(self) -> None:
        link = f"{self.base}{ENTER}?token={self.app.gate.token}"
        async with self.session.get(link, allow_redirects=False) as answer:
            assert answer.status == 303


@contextlib.asynccontextmanager
async def reading(
    audit: Path,
    cache: Path,
    *,
    config: Path | None = None,
    let_in: bool = True,
    ask: Ask | None = None,
    tell: Tell | None = None,
) -> AsyncIterator[Reader]:
    listener = listening("")
    base = url_of(listener)
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        opened(Sources(audit=audit, cache=cache, config=config), listener, ask, tell) as app,
        aiohttp.ClientSession(cookie_jar=jar) as session,
    ):
        await app.books.counted()
        reader = Reader(app, base, session)
        if let_in:
            await reader.enter()
        yield reader
