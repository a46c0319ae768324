"""How a session's opening gets into the audit, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SessionClosed, SessionOpened
from bridgehold.errors import (
    BridgeholdError,
    CrashError,
)
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.closings import Closings


class Opening:
    """Of one session to be: its opening, and its closing where no session comes of it."""

    def __init__(
        self, key: SessionKey, recovers: str, principal: str, journal: JournalClient, closings: Closings
    ) -> None:
        self._closings = closings
        self._key = key
        self._recovers = recovers
        self._principal = principal
        self._journal = journal
        self._order: StartOrder | None = None
        self._written: asyncio.Task[object] | None = None

    @property
    def session(self) -> str:
        """Its id; empty before `open`."""
        return self._order.session if self._order is not None else ""

    def open(self, order: StartOrder) -> Awaitable[object]:
        """Begin to write it; what is given ends when it is durable."""
        opened = SessionOpened(
            tenant=self._key.tenant,
            principal=self._principal,
            session=order.session,
            bridge=self._key.bridge,
            grant=order.grant.digest,
            start=order.grant.sandbox.start,
            name=self._key.name,
            recovers=self._recovers,
            kept_back=order.kept_back,
            asked=msgspec.to_builtins(order.asked),
        )
        self._order, self._written = order, asyncio.create_task(self._journal.append(opened))
        durable = asyncio.shield(self._written)
        durable.add_done_callback(lambda done: done.cancelled() or done.exception())  # a start may never ask
        return durable

    async def take_back(self, error: BaseException) -> None:
        """The session never came to be: its opening, if it may have been written, gets its closing."""
        if self._order is None or self._written is None:
            return
        told = error if isinstance(error, BridgeholdError) else CrashError("the start was given up")
        closed = SessionClosed(
            tenant=self._key.tenant,
            principal=self._principal,
            session=self._order.session,
            reason=f"it did not start: {told.message}"[:500],
            code=told.code,
        )
        try:
            await self._written
        except BridgeholdError as refusal:
            if refusal.retry != "later":  # late is not refused: the journal may write it yet
                return
        await self._closings.write(closed)
