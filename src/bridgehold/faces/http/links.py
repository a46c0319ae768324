"""Connections to the host's socket, each for one token: an HTTP request has one for itself while it lasts.

A connection is nobody until a caller's token has been shown on it, and it never changes hands: who shows
another token gets another connection. So no request can reach what another principal's asked for, and a
connection that is given up takes with it whatever was still running on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from bridgehold.client.meant import may_be_a_slip, meant
from bridgehold.errors import BridgeholdError, DeniedError, HostLeavingError, HostUnavailableError
from bridgehold.faces.http.checks import unauthorised
from bridgehold.faces.http.flow import Flow, FlowConnection
from bridgehold.faces.http.values import Caller
from bridgehold.host.shares.callers import LEAVING
from bridgehold.protocol import bodies
from bridgehold.protocol.parts import FROM_BODY, Moved

_KEPT = 8
"""Idle connections of one token."""
_KEPT_IN_ALL = 128
_KEPT_SECONDS, _FRESH_SECONDS = 30.0, 1.0
STASHED = object()
"""A parameter that is a member of the body that was put in parts before."""
_SHALLOW = 4 * 1024
"""Bytes of a list or an object in an event, past which it is passed on as it came."""
_AT_ONCE = 64
"""Connections that are being made; past the host's backlog the kernel would drop some."""


class Link:
    """One connection, and who its token's owner is."""

    def __init__(self, connection: FlowConnection) -> None:
        self.connection = connection
        self.holder: object = None
        """Who gives it back."""
        self.caller = Caller(principal="")
        self.used_at = 0.0
        self.spoiled = False
        """Something may still run on it: it is closed, never kept."""

    async def show(self, token: str) -> None:
        """Raises `Refused` where the host knows no such token, `BridgeholdError` where it doesn't answer."""
        try:
            said = await self.ask("hello", {"token": token})
        except DeniedError as error:
            raise unauthorised(error.message) from None
        named = said["principal"].startswith("token:")
        secret = hashlib.sha256(token.encode()).hexdigest() if named else ""
        self.caller = Caller(principal=said["principal"], tenants=tuple(said["tenants"]), secret=secret)

    async def ask(self, method: str, params: dict[str, Any], moved: Moved | None = None) -> Any:
        """One request of the host's protocol, whose answer has no bytes beside it. Raises the typed error."""
        return await self._request(method, params, None, moved, raw=False)

    async def takes_bodies(self) -> bool:
        """Whether a body may go on in parts: where the connection is a cell's. It is for one request then."""
        taken: bool = (await self.ask(bodies.BEGIN, {}))["taken"]
        if taken:
            self.spoiled = True
            self.connection.say_takes_parts()
        return taken

    async def put(self, piece: bytes) -> None:
        """A part of the body, once there is room for it. Raises the typed error."""
        await self.connection.request(bodies.PUT, b"{}", None, Moved("data", piece))

    async def look(self, member: str) -> bodies.Looked:
        """What the body is beside `member`. Raises the typed error."""
        return msgspec.convert(await self.ask(bodies.LOOK, {"member": member}), type=bodies.Looked)

    async def pass_on(
        self, method: str, params: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> msgspec.Raw | Flow:
        """As `ask`, but the answer stays JSON, and so does what is large of events: no value is made of it.

        So may a parameter be. A large answer is still to be read: nothing else comes over this connection
        before.
        """

        def tell(event: msgspec.Raw) -> None:
            if on_event is not None:
                on_event(_shallow(event))

        answer: msgspec.Raw | Flow = await self._request(method, params, tell, None, raw=True)
        return answer

    async def _request(
        self,
        method: str,
        params: dict[str, Any],
        tell: Callable[[Any], None] | None,
        moved: Moved | None,
        *,
        raw: bool,
    ) -> Any:
        if any(value is STASHED for value in params.values()):
            moved = Moved(FROM_BODY)
        sent = {name: value for name, value in params.items() if value is not STASHED}
        try:
            return await self.connection.request(method, msgspec.json.encode(sent), tell, moved, raw=raw)
        except DeniedError as error:
            if may_be_a_slip(method, error):
                with contextlib.suppress(BridgeholdError):
                    bridges = await self.ask("bridges", {})
                    error.hint = " ".join(filter(None, (meant(params, bridges), error.hint)))
            raise


def _shallow(event: msgspec.Raw) -> dict[str, Any]:
    """An event, with each large list or object as it came (pure)."""
    members = msgspec.json.decode(event, type=dict[str, msgspec.Raw])
    return {
        name: one if _is_large(memoryview(one)) else msgspec.json.decode(one) for name, one in members.items()
    }


def _is_large(member: memoryview) -> bool:
    return len(member) > _SHALLOW and bytes(member[:1]) in (b"[", b"{")


class Links:
    """All connections of the face; idle ones are kept for a while, by the digest of their token."""

    def __init__(self, socket: str) -> None:
        self._socket = Path(socket)
        self._idle: dict[bytes, list[Link]] = {}
        self._making = asyncio.Semaphore(_AT_ONCE)
        self._waiting: set[asyncio.Timeout] = set()
        """Who waits for the host to say that it knows a token."""
        self._over = False

    @contextlib.asynccontextmanager
    async def of(self, token: str, link: Link | None = None) -> AsyncIterator[Link]:
        """A connection of the token's owner, for as long as the block: `link`, which is another block's until
        then, if it is given."""
        key = hashlib.sha256(token.encode()).digest()
        link = link or await self._found(key, token)
        holder = link.holder = object()
        try:
            yield link
        except asyncio.CancelledError:
            link.spoiled = link.spoiled or link.holder is holder
            raise
        finally:
            if link.holder is not holder:
                pass
            elif link.spoiled or link.connection.over:
                await link.connection.aclose()
            else:
                await self._keep(key, link)

    async def alive(self) -> bool:
        """Whether the host takes connections."""
        try:
            _, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        writer.close()
        return True

    async def sweep(self) -> None:
        """Close what has been idle for long, for ever."""
        while True:
            await asyncio.sleep(_KEPT_SECONDS / 3)
            await self._close_older_than(time.monotonic() - _KEPT_SECONDS)

    def give_up(self) -> None:
        """The host is gone and another one comes: who waits for it, or comes from now on, is told so."""
        self._over = True
        for waiting in self._waiting:
            waiting.reschedule(0)

    async def close(self) -> None:
        """End every connection to the host."""
        await self._close_older_than(float("inf"))

    async def _found(self, key: bytes, token: str) -> Link:
        """As `_taken`. Raises `HostLeavingError` once the host is given up."""
        if self._over:
            raise HostLeavingError(LEAVING)
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                return await self._taken(key, token)
        except TimeoutError:
            raise HostLeavingError(LEAVING) from None
        finally:
            self._waiting.discard(waiting)

    async def _taken(self, key: bytes, token: str) -> Link:
        """One that is kept, if the host still holds it, or a new one.

        The token is shown to make sure of either. The host itself ends the connections of a token that is
        another's now, or nobody's: on one that was used a moment ago it is not shown again.
        """
        kept = self._idle.get(key, [])
        while kept:
            link = kept.pop()
            if not link.connection.over and time.monotonic() - link.used_at < _FRESH_SECONDS:
                return link
            with contextlib.suppress(HostUnavailableError):
                return await _shown(link, token)
        async with self._making:
            return await _shown(Link(await FlowConnection.open(self._socket)), token)

    async def _keep(self, key: bytes, link: Link) -> None:
        kept = self._idle.setdefault(key, [])
        if len(kept) >= _KEPT or sum(map(len, self._idle.values())) >= _KEPT_IN_ALL:
            await link.connection.aclose()
            return
        link.used_at = time.monotonic()
        kept.append(link)

    async def _close_older_than(self, when: float) -> None:
        old = [link for kept in self._idle.values() for link in kept if link.used_at < when]
        self._idle = {
            key: left
            for key, kept in self._idle.items()
            if (left := [link for link in kept if link.used_at >= when])
        }
        for link in old:
            await link.connection.aclose()


async def _shown(link: Link, token: str) -> Link:
    try:
        await link.show(token)
    except BaseException:
        await link.connection.aclose()
        raise
    return link
