"""Sessions that end with the request that opened them, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bridgehold.errors import BridgeholdError
from bridgehold.host.sessions import Session
from bridgehold.host.translate import exit_error

_ending: set[asyncio.Task[None]] = set()
"""Ends that nobody waits for any more; the loop alone would forget them."""


async def held(opening: asyncio.Future[Session], emit: Callable[[object], None]) -> dict[str, object]:
    """Tell the session's id, wait for its end, and say how it came. Cancelled: the session is ended."""
    try:
        session = await asyncio.shield(opening)
        emit({"type": "open", "session": session.id, "name": session.key.name})
        ending = await session.wait_ended()
    except asyncio.CancelledError:
        task = asyncio.create_task(_end(opening))
        _ending.add(task)
        task.add_done_callback(_ending.discard)
        raise
    report = session.worker.report
    if report is not None and report.cause in {"exited", "signal", "memory"}:
        ending = exit_error(report, session.order.grant.limits)  # why, rather than only that it ended
    return {"code": ending.code, "reason": ending.message, "status": ending.exit_status}


async def _end(opening: asyncio.Future[Session]) -> None:
    try:
        session = await opening
    except (BridgeholdError, asyncio.CancelledError):
        return
    await session.close("its caller went away")
