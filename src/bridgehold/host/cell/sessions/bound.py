"""Bound sessions: each ends with the request that opened it, or with its caller's connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine

from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.shares.callers import CALLER
from bridgehold.tasks import begin_task

LEFT_SECONDS = 12.0
"""Longer than a client looks for a host whose connection it has lost."""
_ending: set[asyncio.Task[None]] = set()
"""Ends that nobody waits for any more; the loop alone would forget them."""


async def bound_session(
    opening: asyncio.Future[Session],
    emit: Callable[[object], None],
    then: Callable[[Session], Awaitable[None]] | None = None,
) -> dict[str, object]:
    """Do `then`, emit the session's id, wait for the session's end, and return its cause.

    Cancelled, or failed in `then`: the session is ended.
    """
    try:
        session = await asyncio.shield(opening)
        if then is not None:
            await then(session)
        emit({"type": "open", "session": session.id, "name": session.key.name})
        ending = await session.wait_ended()
    except BaseException:
        _later(_end(opening))
        raise
    report = session.worker.report
    return {
        "code": ending.code,
        "reason": ending.message,
        "status": ending.exit_status,
        "cause": report.cause if report is not None else "",
        "exit": report.status if report is not None else -1,
    }


async def _end(opening: asyncio.Future[Session]) -> None:
    try:
        session = await opening
    except (BridgeholdError, asyncio.CancelledError):
        return
    await session.close("its caller went away")


class UnnamedSessions:
    """Sessions that nobody can name: one ends when no connection that has used it has been there for a while.

    A client that is killed closes nothing, and its session would count until its idle time.
    """

    def __init__(self, seconds: float = LEFT_SECONDS) -> None:
        self._seconds = seconds
        self.holders: dict[str, tuple[Session, set[object]]] = {}
        """By the session's id: it, and the connections that have used it."""

    async def opened(self, opening: asyncio.Future[Session]) -> Session:
        """The connection that asks has it; one that doesn't wait for it leaves none."""
        try:
            session = await asyncio.shield(opening)
        except asyncio.CancelledError:
            _later(_end(opening))
            raise
        self._hold(session)
        return session

    def _hold(self, session: Session) -> None:
        for one in [one for one, (held, _) in self.holders.items() if not held.alive]:
            del self.holders[one]
        self.holders[session.id] = session, {CALLER.get()}

    def use(self, session_id: str, may_see: Callable[[str], bool]) -> None:
        """As `opened`, where it is such a session: a client that came back is another connection."""
        session, holders = self.holders.get(session_id, (None, set()))
        if session is not None and may_see(session.key.tenant):
            holders.add(CALLER.get())

    def left(self, caller: object) -> None:
        """A connection is gone."""
        for session, holders in self.holders.values():
            if caller in holders:
                holders.discard(caller)
                if not holders and session.alive:
                    _later(self._end_later(session, holders))

    async def _end_later(self, session: Session, holders: set[object]) -> None:
        while session.alive and not holders:
            left = session.used_at + self._seconds - time.monotonic()
            if left <= 0 and not session.busy:
                await session.close("its caller went away")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.wait_ended(), max(left, self._seconds / 4))


def _later(end: Coroutine[None, None, None]) -> None:
    begin_task(end, _ending)
