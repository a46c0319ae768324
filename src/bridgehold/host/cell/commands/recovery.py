"""Recovery: the resources of a session whose worker was lost are rebuilt in its next worker.

The next command for such a session, by its name or by its old id, opens a new one of that name; what its
bridge lets be replayed is run there first, decided and audited as any command is. It happens once for each
loss: a session whose recovery fails is ended, and the one after it is empty.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from bridgehold.bridges.manifest import Manifest, Operation
from bridgehold.errors import BridgeholdError, InternalError, SessionEndedError
from bridgehold.host.cell.commands.replays import CompletedCommand, Record, Step, noted
from bridgehold.host.cell.commands.resources import Resources, resource_id
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.shares.observe import Metrics

KEPT_SECONDS = 3600.0
MOST_LOST = 1_000
MOST_NAMES = 8 * MOST_LOST
"""Old ids that still lead to a session: one that is lost again and again leaves one each time."""
MOST_BYTES = 64 * 1024 * 1024
"""Of the arguments of every session's steps together; beyond it a session is not recovered."""
TENANT_LOST, TENANT_BYTES = 64, 16 * 1024 * 1024
"""Of one tenant's, live and lost together: nobody loses what others keep on purpose."""

Run = Callable[[Session, Step], Awaitable[object]]
"""Runs one step in the session as a command of its own; its value."""


class _Lost:
    def __init__(self, session: str, record: Record) -> None:
        self.session = session
        self.record = record
        self.until = time.monotonic() + KEPT_SECONDS


class Recovery:
    """One per host. Holds arguments, never keys: a command that was given one is not repeated."""

    def __init__(self, resources: Resources, metrics: Metrics, wanted: Callable[[str, str], bool]) -> None:
        """`wanted`: whether a tenant's sessions with a bridge are made again."""
        self._wanted = wanted
        self._resources = resources
        self._metrics = metrics
        self._records: dict[str, Record] = {}
        self._bytes: Counter[str] = Counter()
        """By tenant, of live and of lost sessions."""
        self.lost: dict[SessionKey, _Lost] = {}
        self._names: dict[str, SessionKey] = {}
        self.under_way: dict[str, asyncio.Task[None]] = {}

    def note(
        self, session: Session, manifest: Manifest, operation: Operation, completed: CompletedCommand
    ) -> None:
        """A command of `session` went well."""
        before = self._records.get(session.id, Record())
        after = noted(before, manifest, operation, completed)
        grown = after.size_bytes - before.size_bytes
        tenant = session.key.tenant
        if grown > 0 and (
            self._bytes.total() + grown > MOST_BYTES or self._bytes[tenant] + grown > TENANT_BYTES
        ):
            after = Record(spoiled="the host keeps no more commands to run again")
        self._count(tenant, after.size_bytes - before.size_bytes)
        if after != Record():
            self._records[session.id] = after

    def ended(self, session: Session) -> None:
        """`session` is over. Told once, before another of its name is opened."""
        record = self._records.pop(session.id, Record())
        wanted = self._wanted(session.key.tenant, session.key.bridge)
        session.outlook = _outlook(record) if session.lost and wanted else ""
        if not wanted or not session.lost or record.spoiled or not record.steps:
            self._count(session.key.tenant, -record.size_bytes)
            self._resources.forget(session.id)
            self.drop(session.key)
            return
        self._sweep()
        own = [key for key in self.lost if key.tenant == session.key.tenant]
        for key in own[: max(0, len(own) + 1 - TENANT_LOST)]:
            self.drop(key)
        self.lost[session.key] = _Lost(session.id, record)
        self._names[session.id] = session.key
        while len(self._names) > MOST_NAMES:
            del self._names[next(iter(self._names))]

    def key_of(self, may_see: Callable[[str], bool], session_id: str) -> SessionKey | None:
        """The name under which a lost session, or one that came of it, is open or opens again."""
        self._sweep()
        key = self._names.get(session_id)
        return key if key is not None and may_see(key.tenant) else None

    def lost_before(self, key: SessionKey) -> str:
        """The session that the next one of `key` replaces; empty: none."""
        lost = self.lost.get(key)
        return lost.session if lost is not None else ""

    async def restored(self, session: Session, run: Run) -> None:
        """Return once `session` has what was lost. Raises `SessionEndedError` where that fails."""
        lost = self.lost.pop(session.key, None)
        if lost is not None:
            self._count(session.key.tenant, -lost.record.size_bytes)
            task = asyncio.create_task(self._replay(session, lost, run))
            self.under_way[session.id] = task
            task.add_done_callback(lambda _: self.under_way.pop(session.id, None))
        under_way = self.under_way.get(session.id)
        if under_way is not None:
            await asyncio.shield(under_way)

    async def _replay(self, session: Session, lost: _Lost, run: Run) -> None:
        place = ""
        try:
            for step in lost.record.steps:
                place = step.operation
                _check_same(session, step, await run(session, step))
        except Exception as error:
            known = error if isinstance(error, BridgeholdError) else InternalError(type(error).__name__)
            self._metrics.recoveries.labels(session.key.bridge, known.code).inc()
            self._give_up(session)
            failure = SessionEndedError(
                f"the session lost its worker and could not be made again: {place}: {known.message}",
                hint="Send it again: a new session is opened, without the earlier one's resources.",
            )
            await session.end("its recovery failed", failure)
            raise failure from error
        finally:
            self._resources.forget(lost.session)
        self._metrics.recoveries.labels(session.key.bridge, "ok").inc()

    def _give_up(self, session: Session) -> None:
        """Half of what was lost is in `session`: that is never made again."""
        self._count(session.key.tenant, -self._records.pop(session.id, Record()).size_bytes)
        if self.lost_before(session.key) == session.id:  # it has ended already
            self.drop(session.key)

    def _count(self, tenant: str, grown: int) -> None:
        self._bytes[tenant] += grown
        if not self._bytes[tenant]:
            del self._bytes[tenant]

    def _sweep(self) -> None:
        """Forget what has waited too long, or is too much."""
        now = time.monotonic()
        late = [key for key, lost in self.lost.items() if lost.until < now]
        late += list(self.lost)[: max(0, len(self.lost) - MOST_LOST)]
        for key in late:
            self.drop(key)

    def drop(self, key: SessionKey) -> None:
        """Neither the lost session of `key` is made again, nor do old ids lead there."""
        lost = self.lost.pop(key, None)
        if lost is not None:
            self._count(key.tenant, -lost.record.size_bytes)
            self._resources.forget(lost.session)
        if key in self._names.values():
            self._names = {one: found for one, found in self._names.items() if found != key}


def _check_same(session: Session, step: Step, value: object) -> None:
    """Raises `SessionEndedError` where `step` made something under another id than the first time."""
    operation = session.order.manifest.operation(step.operation.partition(":")[2])
    made = resource_id(operation, step.arguments, value)
    if step.id and made != step.id:
        raise SessionEndedError(f"it made {made[:80]!r} where it had made {step.id[:80]!r}")


def _outlook(record: Record) -> str:
    if record.spoiled:
        return f"The session can't be made again: {record.spoiled}."
    if not record.steps:
        return ""
    return f"The next command finds its resources made again ({len(record.steps)} commands)."
