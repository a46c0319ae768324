"""One HTTP request after its border: who asks, its own connection to the host, and its body, bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from bridgehold.config.http import HttpConfig
from bridgehold.errors import BusyError, NotFoundError
from bridgehold.faces.http.bodies import SMALL, passed_on, read_beside, read_body
from bridgehold.faces.http.checks import check_json
from bridgehold.faces.http.flow import HELD, Flow
from bridgehold.faces.http.links import STASHED, Link, Links
from bridgehold.faces.http.metrics import HttpMetrics
from bridgehold.faces.http.replies import headers, write
from bridgehold.faces.http.running import Commands
from bridgehold.faces.http.statuses import too_large, too_slow
from bridgehold.faces.http.values import Caller
from bridgehold.host.shares.fair import Share, Shares
from bridgehold.protocol.frames import weight

_REMEMBERED = 10_000

T = TypeVar("T", bound=msgspec.Struct)


class Places:
    """Which bridge and tenant a session belongs to, for who opened it: a shortcut, never a right.

    The host decides with the caller's own connection; a wrong entry would be "not found" there.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def note(self, principal: str, session: str, bridge: str, tenant: str) -> None:
        """Remember where a session is; the oldest is forgotten past a bound."""
        self._known[principal, session] = (bridge, tenant)
        self._known.move_to_end((principal, session))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def find(self, principal: str, session: str) -> tuple[str, str] | None:
        """(bridge, tenant) of a session that `principal` opened here, or None."""
        return self._known.get((principal, session))

    def forget(self, principal: str, session: str) -> None:
        """The session is over."""
        self._known.pop((principal, session), None)


Document = Callable[[Iterable[Mapping[str, Any]]], dict[str, Any]]


class Face:
    """What all requests share."""

    def __init__(self, config: HttpConfig, document: Document) -> None:
        """`document`: makes the OpenAPI document, with what ``describe`` says of each bridge."""
        self.config = config
        self.document = document
        self.links = Links(config.socket)
        self.buffered = Shares(config.buffered_bytes)
        self.requests = Shares(config.connections)
        self.commands = Commands()
        self.places = Places()
        self.metrics = HttpMetrics(self.commands.__len__)


class Call:
    """One request, as its handler sees it."""

    def __init__(self, face: Face, request: web.Request, link: Link) -> None:
        self.face = face
        self.request = request
        self.link = link
        self.body_share = self.share()

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.link.caller

    def share(self) -> Share:
        """Empty, of the bytes that wait in the face: its tenant's, of what is sent or comes back."""
        return self.face.buffered.of(self.caller.account)

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the host over the caller's own connection. Raises the host's typed error."""
        return await self.link.ask(method, params)

    def path(self, name: str) -> str:
        """A part of the URL's path, by the name that the route gives it."""
        return self.request.match_info[name]

    def query(self, name: str) -> str:
        """A parameter of the URL; empty where it is missing."""
        return self.request.query.get(name, "")

    @property
    def tenant(self) -> str:
        """Of a request without a body: `?tenant=`."""
        return self.caller.tenant(self.query("tenant"))

    def session_id(self) -> str:
        """Of the path: an id. A name could be another tenant's too, for who may act for several."""
        found = self.path("session")
        if not found.startswith("s-"):
            raise NotFoundError(f"no session {found[:80]!r} here", hint="Use the session's id.")
        return found

    async def place(self, session: str) -> tuple[str, str]:
        """(bridge, tenant) of a session that the caller may see. Raises `NotFoundError`."""
        principal = self.caller.principal
        known = self.face.places.find(principal, session)
        if known is not None:
            return known
        found = await self.ask("session.find", {"session": session})
        self.face.places.note(principal, found["id"], found["bridge"], found["tenant"])
        return found["bridge"], found["tenant"]

    def hold(self, size: int) -> None:
        """So many bytes wait here until the request is over. Raises `BusyError` where there is no room."""
        if not self.body_share.take(size):
            raise BusyError(f"{self.caller.principal} has too many bytes of requests and answers under way")

    async def pass_back(self, flow: Flow, status: int) -> web.StreamResponse:
        """Answer with a large result as it comes. A caller that reads nothing is cut off, as by `write`."""
        self.hold(HELD)
        response = web.StreamResponse(status=status, headers=headers({"Content-Type": "application/json"}))
        response.content_length = flow.size
        await response.prepare(self.request)
        async for piece in flow.pieces():
            await write(self.request, response, piece, self.face.config.read_s)
        return response

    async def body(self, kind: type[T]) -> T:
        """The JSON body, by `read_body`. Raises `Refused` for its form, `UsageError` for what it says.

        One that is large goes on by windows where a cell takes it: a member of it is `STASHED` then.
        """
        check_json(
            self.request.headers.get("Content-Type", ""), self.request.headers.get("Content-Encoding", "")
        )
        pieces, first, asked = self._pieces(self.face.config.body_bytes), bytearray(), False
        async for piece in pieces:
            self.hold(len(piece))
            first += piece
            if len(first) > SMALL and not asked:
                asked = True
                if await self.link.takes_bodies():
                    return await self._stashed(bytes(first), pieces, kind)
        return read_body(bytes(first), kind, self._weigh)

    async def _stashed(self, window: bytes, pieces: AsyncIterator[bytes], kind: type[T]) -> T:
        """Of a body, one window is here: nothing is read before that one was taken."""
        async for piece in pieces:
            if len(window) > SMALL:
                await self.link.put(window)
                window = b""
            window += piece
        await self.link.put(window)
        looked = await self.link.look(passed_on(kind))
        beside = looked.beside.encode()
        self._weigh(beside)
        return read_beside(beside, STASHED if looked.kept else None, kind)

    def _weigh(self, text: bytes) -> None:
        """As `hold`, of what becomes of JSON that values are made of."""
        self.hold(weight(text))

    async def _pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it comes, `limit` bytes at the most, in the time that its caller has for all of it."""
        seconds = left = self.face.config.body_s
        if (self.request.content_length or 0) > limit:
            raise too_large(limit)
        size, loop = 0, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(left):
                    piece = await self.request.content.readany()
            except TimeoutError:
                raise too_slow(seconds) from None
            left -= loop.time() - began
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            if not piece:
                return
            yield piece
