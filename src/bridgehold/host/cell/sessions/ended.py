"""Sessions that have ended: why, and what their guests wrote last. Kept for an hour, bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from bridgehold.errors import BridgeholdError, SessionEndedError
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.shares.logs import SessionLog
from bridgehold.host.shares.session_ends import (
    ALL_LOG_BYTES,
    CARRIED_LOG_BYTES,
    ENDED_SECONDS,
    LOG_BYTES,
    MOST_ENDED,
    MOST_TENANTS,
    MOST_TEXT,
    TENANT_LOG_BYTES,
    SessionEnd,
    session_ended,
)

MaySee = Callable[[str], bool]
"""Of a tenant: whether the caller may see its sessions."""


class EndedSession:
    """One of them."""

    def __init__(self, session_id: str, key: SessionKey, why: str, log: SessionLog | None, at: float) -> None:
        self.id = session_id
        self.key = key
        self.why = why[:MOST_TEXT]
        """In words: an error that was raised holds its frames, and what its callers had in hand."""
        self.log = log
        self.at = at
        if log is not None:
            log.shorten(LOG_BYTES)

    @property
    def log_bytes(self) -> int:
        """What its log takes."""
        return len(self.log) if self.log is not None else 0

    @property
    def known(self) -> bool:
        """Whether it ended within the last hour."""
        return time.monotonic() - self.at <= ENDED_SECONDS

    @property
    def error(self) -> SessionEndedError:
        """What a command for it gets."""
        return session_ended(self.id, self.why)

    @property
    def carried(self) -> SessionEnd:
        """What outlives this process."""
        log = self.log.newest(CARRIED_LOG_BYTES) if self.log is not None else None
        key = self.key
        return SessionEnd(session=self.id, name=key.name, bridge=key.bridge, why=self.why, log=log)


class EndedSessions:
    """All of a host."""

    def __init__(self) -> None:
        self._ended: dict[str, OrderedDict[str, EndedSession]] = {}
        self._bytes: dict[str, int] = {}
        """Of the logs that are kept, by tenant."""

    def add(
        self, session_id: str, key: SessionKey, why: BridgeholdError, log: SessionLog
    ) -> EndedSession | None:
        """Once for each session; later calls change nothing, and return None."""
        if session_id in self._ended.get(key.tenant, ()):
            return None
        one = EndedSession(session_id, key, _reason(why), log, time.monotonic())
        self._keep(one)
        return one

    def restore(self, tenant: str, ends: Iterable[SessionEnd]) -> None:
        """Those of a process before this one, the oldest first."""
        for end in ends:
            log = SessionLog(LOG_BYTES) if end.log is not None else None
            if log is not None:
                log.write(end.log or b"")
            key = SessionKey(tenant, end.bridge, end.name)
            self._keep(EndedSession(end.session, key, end.why, log, end.at))

    def forget(self, tenant: str) -> None:
        """All of a tenant's that is gone."""
        self._ended.pop(tenant, None)
        self._bytes.pop(tenant, None)

    def _keep(self, one: EndedSession) -> None:
        key = one.key
        kept = self._ended.setdefault(key.tenant, OrderedDict())
        kept[one.id] = one
        self._bytes[key.tenant] = self._bytes.get(key.tenant, 0) + one.log_bytes
        while len(kept) > MOST_ENDED or not next(iter(kept.values())).known:
            self._drop_log(kept.popitem(last=False)[1])
        while len(self._ended) > MOST_TENANTS:
            tenant = next(iter(self._ended))
            del self._ended[tenant], self._bytes[tenant]
        self._drop_logs(key.tenant, TENANT_LOG_BYTES)
        while sum(self._bytes.values()) > ALL_LOG_BYTES:
            most = max(self._bytes, key=lambda tenant: self._bytes[tenant])
            self._drop_logs(most, self._bytes[most] - 1)

    def find(self, may_see: MaySee, reference: str) -> EndedSession | None:
        """By id, or the last of a name."""
        theirs = (kept for tenant, kept in self._ended.items() if may_see(tenant))
        if reference.startswith("s-"):  # a session's id: looked up, however many there are
            found = (kept.get(reference) for kept in theirs)
            return next((one for one in found if one is not None and one.known), None)
        named = (one for kept in theirs for one in reversed(kept.values()))
        return next((one for one in named if one.key.name == reference and one.known), None)

    def before(self, key: SessionKey) -> EndedSession | None:
        """The last one of `key`."""
        kept = self._ended.get(key.tenant, OrderedDict())
        return next((one for one in reversed(kept.values()) if one.key == key and one.known), None)

    def _drop_logs(self, tenant: str, most: int) -> None:
        """The oldest of `tenant`, until no more than `most` bytes are left."""
        for one in self._ended[tenant].values():
            if self._bytes[tenant] <= most:
                return
            self._drop_log(one)

    def _drop_log(self, one: EndedSession) -> None:
        self._bytes[one.key.tenant] -= one.log_bytes
        one.log = None


def ended_error(session_id: str, why: BridgeholdError) -> SessionEndedError:
    """What a command for an ended session gets, each time."""
    return session_ended(session_id, _reason(why))


def anew(before: EndedSession | None, *, recovers: bool) -> str:
    """What the caller of a name is told whose session is not the one that it knew; empty: there was none."""
    if before is None:
        return ""
    rest = "what it held is made again" if recovers else "what it held is gone"
    return f"session {before.id} of this name has ended: {before.why}"[:500] + f"; {rest}"


def _reason(why: BridgeholdError) -> str:
    return why.message if why.code == SessionEndedError.code else f"{why.code}: {why.message}"
