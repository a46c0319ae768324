"""How sessions of cells ended, kept beyond their cells: for an hour, within bounds of each tenant's."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from bridgehold.errors import CellEndedError
from bridgehold.host.shares.cell_wire import SessionOpened
from bridgehold.host.shares.session_ends import (
    ALL_LOG_BYTES,
    MOST_ENDED,
    MOST_TENANTS,
    MOST_TEXT,
    TENANT_LOG_BYTES,
    SessionEnd,
)


class Ends:
    """Of all cells. Each speaks for its own tenant alone."""

    def __init__(self) -> None:
        self._open: dict[str, OrderedDict[str, SessionOpened]] = {}
        self._ended: dict[str, OrderedDict[str, SessionEnd]] = {}
        self._bytes: dict[str, int] = {}
        """Of the logs that are kept, by tenant."""

    def opened(self, tenant: str, session: SessionOpened) -> None:
        """The tenant's cell has it now."""
        theirs = self._open.setdefault(tenant, OrderedDict())
        theirs[session.session] = session
        if len(theirs) > MOST_ENDED:
            theirs.popitem(last=False)

    def add(self, tenant: str, end: SessionEnd) -> None:
        """One has ended, as its cell says. Once for each session; later words change nothing."""
        self._open.get(tenant, OrderedDict()).pop(end.session, None)
        if end.session not in self._ended.get(tenant, ()):
            self._keep(tenant, msgspec.structs.replace(end, at=time.monotonic()))

    def restore(self, tenant: str, ends: Iterable[SessionEnd]) -> None:
        """Those of a host before this one, the oldest first."""
        for end in ends:
            self._keep(tenant, end)

    def forget(self, tenant: str) -> None:
        """All of a tenant's that is gone."""
        for known in (self._open, self._ended, self._bytes):
            known.pop(tenant, None)

    def _keep(self, tenant: str, end: SessionEnd) -> None:
        kept = self._ended.setdefault(tenant, OrderedDict())
        kept[end.session] = end
        self._bytes[tenant] = self._bytes.get(tenant, 0) + len(end.log or b"")
        while len(kept) > MOST_ENDED or not next(iter(kept.values())).known:
            self._drop_log(tenant, kept.popitem(last=False)[1])
        while len(self._ended) > MOST_TENANTS:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._bytes[oldest]
        self._drop_logs(tenant, TENANT_LOG_BYTES)
        while sum(self._bytes.values()) > ALL_LOG_BYTES:
            most = max(self._bytes, key=lambda one: self._bytes[one])
            self._drop_logs(most, self._bytes[most] - 1)

    def lost(self, tenant: str, reason: str) -> None:
        """The tenant's cell has ended, and with it whatever it had open; what they wrote was its alone."""
        why = f"{CellEndedError.code}: the tenant's cell has ended"
        why = f"{why}: {reason}"[:MOST_TEXT] if reason else why
        for one in self._open.pop(tenant, OrderedDict()).values():
            self.add(tenant, SessionEnd(session=one.session, name=one.name, bridge=one.bridge, why=why))

    def find(self, tenant: str, reference: str) -> SessionEnd | None:
        """The tenant's by id, or the last of a name."""
        kept = self._ended.get(tenant, OrderedDict())
        one = kept.get(reference) or next(
            (each for each in reversed(kept.values()) if each.name == reference), None
        )
        return one if one is not None and one.known else None

    def of(self, tenant: str) -> tuple[SessionEnd, ...]:
        """The tenant's that are kept, the oldest first: for its next cell."""
        return tuple(one for one in self._ended.get(tenant, OrderedDict()).values() if one.known)

    def _drop_logs(self, tenant: str, most: int) -> None:
        """The oldest of `tenant`, until no more than `most` bytes are left."""
        for one in self._ended[tenant].values():
            if self._bytes[tenant] <= most:
                return
            self._drop_log(tenant, one)

    def _drop_log(self, tenant: str, one: SessionEnd) -> None:
        self._bytes[tenant] -= len(one.log or b"")
        one.log = None
