"""How a session ended, and what its guest wrote last: what outlives the process that had it."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

from bridgehold.errors import NotFoundError, SessionEndedError

ENDED_SECONDS = 3_600.0
"""So long both are kept."""
MOST_ENDED, MOST_TENANTS = 256, 1_024
"""Ended sessions that are remembered of one tenant; tenants."""
LOG_BYTES, TENANT_LOG_BYTES, ALL_LOG_BYTES = 64 * 1024, 4 << 20, 64 << 20
"""Of logs: the last of one session, of a tenant's together, of all. The oldest make room."""
CARRIED_LOG_BYTES = 40 * 1024
"""Of a log, what is kept beyond the end of its cell: what fits into one question to the front."""
MOST_TEXT = 600


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
    return SessionEndedError(message, where=session, hint="Open a new one.")


def no_session(reference: str) -> NotFoundError:
    """There is none, or none that the caller may see."""
    return NotFoundError(
        f"no session {reference[:80]!r} here",
        hint="`bridgehold sessions` lists the sessions you may see.",
    )
