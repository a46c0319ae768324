"""How a session ended, and what its guest wrote last: what outlives the process that had it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.errors import NotFoundError, SessionEndedError
from bridgehold.ids import ANONYMOUS_SESSION

ENDED_SECONDS = 3_600.0
"""So long both are kept."""
MOST_ENDED, MOST_TENANTS = 256, 1_024
"""Ended sessions that are remembered of one tenant; tenants."""
LOG_BYTES, TENANT_LOG_BYTES, ALL_LOG_BYTES = 64 * 1024, 4 << 20, 64 << 20
"""Of logs: the last of one session, of a tenant's together, of all. The oldest make room."""
CARRIED_LOG_BYTES = 40 * 1024
"""Of a log, what is kept beyond the end of its cell: what fits into one question to the front."""
MOST_TEXT = 600
_MOST_ID, _MOST_NAME = 64, 128
_LOST = "the host that had it is gone"


class SessionEnd(msgspec.Struct, kw_only=True):
    """One session's, as a cell says it when it happens, and the front to the tenant's next cell."""

    session: Annotated[str, msgspec.Meta(max_length=64)]
    name: Annotated[str, msgspec.Meta(max_length=128)]
    bridge: Annotated[str, msgspec.Meta(max_length=128)]
    why: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
    log: Annotated[bytes, msgspec.Meta(max_length=CARRIED_LOG_BYTES)] | None = None
    """None: it isn't kept."""
    at: float = 0.0
    """By the machine's monotonic clock, as who keeps it says."""

    @property
    def known(self) -> bool:
        """Whether it ended within the last hour."""
        return time.monotonic() - self.at <= ENDED_SECONDS

    @property
    def error(self) -> SessionEndedError:
        """What a command for it gets."""
        return session_ended(self.session, self.why)


def session_ended(session: str, reason: str) -> SessionEndedError:
    """What a command for an ended session gets, each time."""
    message = f"session {session} has ended: {reason}"[:MOST_TEXT]
    return SessionEndedError(message, where=session)


def no_session(reference: str) -> NotFoundError:
    """There is none, or none that the caller may see."""
    return NotFoundError(
        f"no session {reference[:80]!r} here",
        hint="`bridgehold sessions` lists the sessions you may see.",
    )


def ends_before(entries: Iterable[Entry], now: float) -> dict[str, list[SessionEnd]]:
    """How sessions of hosts before this one ended, by tenant, the oldest first (pure but for the clock).

    `entries`: the audit's ``session.*``, the oldest first. `now`: the time, in seconds of the epoch. One that
    nobody has closed went with its host. The anonymous session is nobody's by its name: it has none here.
    """
    opened: dict[str, OrderedDict[str, Entry]] = {}
    ended: dict[str, OrderedDict[str, SessionEnd]] = {}
    here = time.monotonic()

    def end(begun: Entry, why: str, at: float) -> None:
        theirs, name = ended.setdefault(begun.tenant, OrderedDict()), begun.text("name")
        theirs[begun.session] = SessionEnd(
            session=begun.session[:_MOST_ID],
            name="" if name == ANONYMOUS_SESSION else name[:_MOST_NAME],
            bridge=begun.text("bridge")[:_MOST_NAME],
            why=why[:MOST_TEXT],
            at=here - max(0.0, now - at),
        )
        if len(theirs) > MOST_ENDED:
            theirs.popitem(last=False)

    for entry in entries:
        theirs = opened.setdefault(entry.tenant, OrderedDict())
        if entry.kind == "session.opened":
            theirs[entry.session] = entry
            if len(theirs) > MOST_ENDED:
                theirs.popitem(last=False)
        elif entry.kind == "session.closed" and (begun := theirs.pop(entry.session, None)) is not None:
            code, reason = entry.text("code"), entry.text("reason")
            why = reason if code in ("", SessionEndedError.code) else f"{code}: {reason}"
            end(begun, why, _seconds(entry))
    for theirs in opened.values():
        for begun in theirs.values():
            end(begun, _LOST, now)
    return {tenant: [one for one in theirs.values() if one.known] for tenant, theirs in ended.items()}


def _seconds(entry: Entry) -> float:
    """Of the epoch; 0 where the audit has no time there."""
    try:
        return datetime.fromisoformat(entry.time).timestamp()
    except ValueError:
        return 0.0
