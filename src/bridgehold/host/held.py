"""Sessions that end with the request that opened them, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bridgehold.errors import BridgeholdError
from bridgehold.host.session import Session
from bridgehold.host.translate import exit_error

_ending: set[asyncio.Task[None]] = set()
"""Ends that nobody waits for any more; the loop alone would forget them."""


async def held(
    opening: asyncio.Future[Session],
    emit: Callable[[object], None],
    then: Callable[[Session], Awaitable[None]] | None = None,
) -> dict[str, object]:
    """Do `then`, tell the session's id, wait for the session's end, and say how it came.

    Cancelled, or failed in `then`: the session is ended.
    """
    try:
        session = await asyncio.shield(opening)
        if then is not None:
            await then(session)
        emit({"type": "open", "session": session.id, "name": session.key.name})
        ending = await session.wait_ended()
    except BaseException:
        task = asyncio.create_task(_end(opening))
        _ending.add(task)
        task.add_done_callback(_ending.discard)
        raise
    ending, report = why_ended(session, ending), session.worker.report
    return {
        "code": ending.code,
        "reason": ending.message,
        "status": ending.exit_status,
        "cause": report.cause if report is not None else "",
        "exit": report.status if report is not None else -1,
    }


def why_ended(session: Session, ending: BridgeholdError) -> BridgeholdError:
    """The worker's own end where that came first, as the kernel or the host saw it."""
    report = session.worker.report
    if report is not None and report.cause in {"exited", "signal", "memory"}:
        return exit_error(report, session.order.grant.limits)
    return session.worker.failure or ending


async def _end(opening: asyncio.Future[Session]) -> None:
    try:
        session = await opening
    except (BridgeholdError, asyncio.CancelledError):
        return
    await session.close("its caller went away")
