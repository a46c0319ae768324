"""Whose a connection is: what it has shown, and its place among the connections of that caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bridgehold.errors import BridgeholdError, BusyError, ProtocolError, UsageError
from bridgehold.host.front.callers import SMALL, peer_uid
from bridgehold.host.front.method import ServerContext
from bridgehold.host.front.outgoing import Outgoing
from bridgehold.host.shares.fair import Share
from bridgehold.protocol.values import Principal

SAY_WHO = "Send `hello` with a token first, or have an operator add your uid to a [principals.NAME] section."


class Identity:
    """Of one connection; it may change, while nothing runs there."""

    def __init__(self, server: ServerContext, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._callers = server.callers
        self._uid = peer_uid(writer)
        self.token = self.tenant = ""
        self.principal: Principal | None = server.known(self._uid)
        self.seat = self._place(self.principal)
        self.bytes = self._callers.bytes.of(self.seat.who)
        """Of the frame that is being read."""
        self.out = Outgoing(
            writer,
            self._callers.bytes.of(self.seat.who),
            most=self._callers.limits.unread_bytes,
            patience_s=self._callers.limits.unread_s,
        )

    def _place(self, principal: Principal | None) -> Share:
        """An empty place among the connections of whoever it is."""
        if principal is None:
            unidentified = self._callers.presented if self._server.tokens_only else self._callers.unidentified
            return unidentified.of(f"uid {self._uid}")
        return self._callers.connections.of(principal.name)

    def sit(self, seat: Share) -> None:
        """Take a place, and give back the one before. Raises `BusyError`."""
        if not seat.take(1):
            raise BusyError(
                f"{seat.who} has as many connections as it may",
                hint="Close some: one connection carries many requests at once.",
            )
        if seat is not self.seat:
            self.seat.give_back()
            self.seat = seat
            self.bytes.give_back()
            self.bytes = self._callers.bytes.of(seat.who)
            self.out.charge(self._callers.bytes.of(seat.who))

    async def become(self, token: str, tenant: str, alone: Callable[[], bool]) -> Principal:
        """Whose `token` is; that of the peer's uid without one. Raises `DeniedError`, `BusyError`.

        `tenant`: the only one that it is for from now on. `alone`: whether no other request runs here, asked
        once that is known: `UsageError` where one does, as it is to end with whom it was asked by.
        """
        try:
            found = await self._server.principal_of(self._uid, token, tenant)
            if self.principal in (None, found) or alone():
                self.sit(self._place(found))
                self.token, self.tenant, self.principal = token, tenant, found
                return found
        except BridgeholdError:
            self.principal = None
            raise
        raise UsageError(
            "`hello` says somebody else while requests run on this connection",
            hint="Wait for their answers first, or open another connection.",
        )

    def look_up_again(self) -> tuple[int, str] | None:
        """The principals have changed: where it is another one's now, or nobody's, the connection ends.

        Of who is nobody now, uid and reason: to be written, once all have ended.
        """
        before, refused = self.principal, None
        if before is None:
            return None
        try:
            self.principal = self._server.identify(self._uid, self.token).narrowed(self.tenant)
        except BridgeholdError as error:
            self.principal, refused = None, (self._uid, error.message)
        if self.principal != before:
            self.out.end()
        return refused

    def callers_bytes(self) -> Share:
        """An empty share of what its caller may have under way, until it is another's."""
        return self._callers.bytes.of(self.seat.who)

    async def make_room(self, length: int) -> None:
        """For the body of a frame that is not small. Raises `BusyError` where none comes free in time."""
        if self.principal is None:
            raise ProtocolError(f"a frame of {length} bytes before it was said from whom", hint=SAY_WHO)
        if length > SMALL and not await self.bytes.wait(length, self._callers.limits.frame_s):
            raise self.full()

    def full(self) -> BusyError:
        """What says that there is no room for more."""
        return BusyError(
            f"{self.seat.who} has too many bytes of requests and answers under way",
            hint="Read the answers, or ask for less at once.",
        )
