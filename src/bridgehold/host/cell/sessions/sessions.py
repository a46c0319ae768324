"""All sessions of a host: opened, found, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from bridgehold.audit.client import JournalClient
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CommandTimeoutError,
    HostLeavingError,
    SessionEndedError,
    UsageError,
)
from bridgehold.host.cell.gateway.values import Attribution
from bridgehold.host.cell.sessions.admission import Admission, gone
from bridgehold.host.cell.sessions.ended import EndedSessions, anew, ended_error
from bridgehold.host.cell.sessions.opening import Opening
from bridgehold.host.cell.sessions.session import WORKER_ENDED, Session, SessionKey
from bridgehold.host.cell.workers.calls import unbroken
from bridgehold.host.cell.workers.starts import Starter
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.callers import LEAVING
from bridgehold.host.shares.closings import Closings
from bridgehold.host.shares.cordons import Cordons
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.session_ends import SessionEnd, no_session
from bridgehold.ids import new_session_id
from bridgehold.policies.units import format_ms
from bridgehold.tasks import begin_task

_LOOK_SECONDS = 0.02
_NAMED = 5
"""Sessions of one name that an error names by their ids."""


class RecoveryTracker(Protocol):
    """Receives session-ended events and tracks which sessions to recover."""

    def ended(self, session: Session) -> None:
        """A session is over; whether it was lost decides if it is recovered."""

    def lost_before(self, key: SessionKey) -> str:
        """The lost session whose resources the next one of `key` makes again; empty: none."""

    def key_of(self, may_see: Callable[[str], bool], session_id: str) -> SessionKey | None:
        """The key of a lost session that has not been made again yet, or None."""

    def drop(self, key: SessionKey) -> None:
        """It was closed on purpose: nothing of it is made again."""


class Sessions:
    """All sessions of this host. Opening the same key twice at once gives one session."""

    def __init__(
        self,
        starter: Starter,
        journal: JournalClient,
        *,
        bound: int,
        tenants: Callable[[str], int],
        recovery: RecoveryTracker,
        metrics: Metrics,
        on_degraded: Callable[[str], None],
        over: Callable[[str], None] = lambda _session: None,
        opened: Callable[[str, SessionKey], None] = lambda _session, _key: None,
        tell_end: Callable[[SessionEnd], Awaitable[None]] | None = None,
    ) -> None:
        """`bound`: sessions of all tenants. `tenants`: how many those are, one of the given name included.
        `on_degraded`: an event that must be in the audit can't be written. `over`: told of each session that
        was ordered, once it has ended, or has not begun. `opened`: of each that is open, by id.
        `tell_end`: asked to keep how each ended, beyond this process.
        """
        self._over = over
        self._tell_opened = opened
        self._tell_end = tell_end
        self._closings = Closings(journal, on_degraded)
        self._metrics = metrics
        self._recovery = recovery
        self._starter = starter
        self._journal = journal
        self.admission = Admission(self, bound, tenants)
        self._open: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Future[Session]] = {}
        self._starting: dict[str, str] = {}
        """For whom, by the id of the session to be."""
        self._by_id: dict[str, Session] = {}
        """All that are open or ending."""
        self._ending: dict[SessionKey, Session] = {}
        """Forgotten already, and not quite gone."""
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._leaving = False
        """Another host takes over what is refused here."""
        self._ended = EndedSessions()
        self.cordons = Cordons()

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._open.values(), *self._ending.values()])

    def __len__(self) -> int:
        return len(self._open) + len(self._opening) + len(self._ending)

    async def get_or_open(
        self,
        key: SessionKey,
        make_order: Callable[[str], Awaitable[StartOrder]],
        principal: str,
        *,
        nested: bool = False,
    ) -> Session:
        """The live session of `key`, or a new one started from `make_order(session id)` for `principal`.

        `nested`: for a command that a running one waits for; it is no new work where the host ends.
        """
        session = self._open.get(key)
        if session is not None and session.alive:
            return session
        if session is not None:
            self._bury(session)
        opening = self._opening.get(key)
        if opening is None:
            if self._stopping and not nested:
                raise self._no_opening()
            opening = asyncio.ensure_future(self._start(key, make_order, principal))
            self._opening[key] = opening
            opening.add_done_callback(lambda done: self._opened(key, done))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise self._no_opening() from None
            raise

    def _opened(self, key: SessionKey, opening: asyncio.Future[Session]) -> None:
        """Where it failed, whoever asked may have left."""
        self._opening.pop(key, None)
        opening.cancelled() or opening.exception()

    def _no_opening(self) -> BridgeholdError:
        if not self._stopping:
            return SessionEndedError("the session was ended while it was opened")
        return (
            HostLeavingError(LEAVING)
            if self._leaving
            else SessionEndedError("the host is stopping", hint="Ask again once a host answers.")
        )

    async def _start(
        self, key: SessionKey, make_order: Callable[[str], Awaitable[StartOrder]], principal: str
    ) -> Session:
        self.cordons.demand(key.tenant, key.bridge)
        if key in self._ending:  # its memory and its place are still taken
            ending = self._ending[key]
            await gone(ending, BusyError("the session that had this name has not ended yet", where=ending.id))
            await self._remember(ending)
        wanted = await make_order(new_session_id())
        try:
            return await self._begin(key, wanted, principal)
        except BaseException:
            self._over(wanted.session)
            raise

    async def _begin(self, key: SessionKey, wanted: StartOrder, principal: str) -> Session:
        begun = time.monotonic()
        await self.admission.admit(key, wanted)
        recovers = self._recovery.lost_before(key)
        entry = Opening(key, recovers, principal, self._journal, self._closings)

        def begin(order: StartOrder) -> Awaitable[object]:
            self._starting[order.session] = principal
            return entry.open(order)

        try:
            worker = await self._starter.start(wanted, begin)
        except BaseException as error:
            await unbroken(entry.take_back(error))
            raise
        finally:
            self.admission.settled(key)
            self._starting.pop(entry.session, None)
        order = worker.order  # no await from the start's end to here: a worker is never without its session
        self._open[key] = session = Session(key, order, worker, principal, self._closings)
        self._by_id[session.id] = session
        self._tell_opened(session.id, key)
        session.draining, session.leaving = self._stopping, self._leaving
        session.anew = anew(self._ended.before(key), recovers=bool(recovers))
        kind = "fork" if worker.launched.zygote else "cold"
        kind = kind if order.session == wanted.session else "parked"
        self._metrics.starts.labels(key.bridge, kind).observe(time.monotonic() - begun)
        begin_task(self._watch(session, wanted.session), self._watchers)
        return session

    async def _watch(self, session: Session, ordered: str) -> None:
        """End `session` at its idle or session time, and forget it when its worker ends."""
        while not session.worker.ended.is_set():
            now = time.monotonic()
            idle_left = session.idle_ms / 1000 - (now - session.used_at)
            life_left = session.life_ms / 1000 - (now - session.opened_at)
            if life_left <= 0:
                error = CommandTimeoutError(f"the session reached its time of {format_ms(session.life_ms)}")
                await session.end("session time", error)
            elif idle_left <= 0 and not session.busy:
                await session.close("idle time")
            else:
                left = life_left if session.busy else min(idle_left, life_left)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.worker.ended.wait(), max(0.01, min(left, 60.0)))
        await session.end(WORKER_ENDED, session.worker.why_ended)
        self._bury(session)  # before it is told elsewhere: who ended it may look at once
        await self._remember(session)
        self._by_id.pop(session.id, None)
        if self._ending.get(session.key) is session:
            del self._ending[session.key]
        self._over(ordered)

    async def _remember(self, session: Session) -> None:
        """Once it has ended: why, and its log."""
        why = await session.wait_ended()
        ended = self._ended.add(session.id, session.key, why, session.worker.log)
        if ended is not None and self._tell_end is not None:
            await self._tell_end(ended.carried)

    def restore(self, tenant: str, ends: Iterable[SessionEnd]) -> None:
        """The tenant's that a process before this one had."""
        self._ended.restore(tenant, ends)

    def forget(self, tenant: str) -> None:
        """How the sessions of a tenant ended that is gone."""
        self._ended.forget(tenant)

    def settle(self, session: Session) -> None:
        """Where `session` has lost its worker, let that be known now, before anybody asks again."""
        if not session.alive:
            self._bury(session)

    def _bury(self, session: Session) -> None:
        """Forget a session that is over: once, and before another of its name is opened."""
        if self._open.get(session.key) is session:
            del self._open[session.key]
            self._ending[session.key] = session
            self._recovery.ended(session)

    def calling_out(self, session_id: str) -> Attribution:
        """As `attribute`, of a request at the gateway: that there was one is noted with the session."""
        if (session := self._by_id.get(session_id)) is not None:
            session.called_out = session.reached_out = True
        return self.attribute(session_id)

    def attribute(self, session_id: str) -> Attribution:
        """For whom a session does what it does now.

        Between commands and at start-up for who opened it, and for no command.
        """
        found = self._by_id.get(session_id)
        if found is None:
            return Attribution("", self._starting.get(session_id, ""))
        return Attribution(found.current_command, found.current_principal)

    def named(self, tenant: str, session: str, bridge: str = "") -> Session | None:
        """The tenant's session of that id or name, with `bridge` if one is said."""
        for one in self:
            key = one.key
            if key.tenant == tenant and session in (one.id, key.name) and bridge in ("", key.bridge):
                return one
        return None

    async def by_id(self, tenant: str, session_id: str) -> Session | SessionKey:
        """The tenant's live session of that id, or the name under which a lost one opens again."""
        session = self._by_id.get(session_id)
        if session is not None and session.key.tenant != tenant:
            session = None
        if session is not None and session.alive:
            return session
        if session is not None:
            self._bury(session)
        key = self._recovery.key_of(lambda one: one == tenant, session_id)
        if key is None:
            if session is not None:
                raise ended_error(session_id, await session.wait_ended())
            raise self.why_missing(lambda one: one == tenant, session_id)
        return key

    def find(self, tenant_allowed: Callable[[str], bool], reference: str) -> Session:
        """By id or name, within what the caller may see; otherwise `NotFoundError`, always the same.

        The id of a lost session finds the one that came of it. Raises `UsageError` for a name of several.
        """
        found = _of_reference(self._open.values(), tenant_allowed, reference)
        if found is not None:
            return found
        key = self._recovery.key_of(tenant_allowed, reference)
        if key in self._open:
            return self._open[key]
        raise self.why_missing(tenant_allowed, reference)

    def why_missing(self, may_see: Callable[[str], bool], reference: str) -> BridgeholdError:
        """That it has ended or is ending, for who may know of it; else `NotFoundError`, always the same."""
        for session in self:
            named = reference in (session.id, session.key.name)
            if named and not session.alive and may_see(session.key.tenant):
                return ended_error(session.id, session.why)
        ended = self._ended.find(may_see, reference)
        return ended.error if ended is not None else no_session(reference)

    def log(self, tenant_allowed: Callable[[str], bool], reference: str) -> tuple[SessionKey, str, str]:
        """(key, id, text) of a session's log; once it has ended, while that is kept. Raises as `find`."""
        ended = self._ended.find(tenant_allowed, reference) if reference.startswith("s-") else None
        session = _of_reference(self, tenant_allowed, reference) if ended is None else None
        if session is not None:
            return session.key, session.id, session.worker.log.text()
        ended = ended or self._ended.find(tenant_allowed, reference)
        if ended is None:
            raise no_session(reference)
        if ended.log is None:
            raise SessionEndedError(
                f"{ended.error.message}; its log is no longer kept", where=ended.id, hint=""
            )
        return ended.key, ended.id, ended.log.text()

    def give_up(
        self, tenant_allowed: Callable[[str], bool], bridge_allowed: Callable[[str], bool], reference: str
    ) -> bool:
        """Make a lost session no more: who had it wants it no longer. Whether there was one."""
        key = self._recovery.key_of(tenant_allowed, reference)
        if key is None or not bridge_allowed(key.bridge):
            return False
        self._recovery.drop(key)
        return True

    async def finish(self, seconds: float, hurry: asyncio.Event, *, leaving: bool) -> None:
        """Let what runs come to its end, for so long or until `hurry`; what is new is refused meanwhile.

        `leaving`: another host takes that, and the refusal says so.
        """
        self._stopping, self._leaving = True, leaving
        for session in self:
            session.draining, session.leaving = True, leaving
        deadline = time.monotonic() + seconds
        while any(session.busy and session.alive for session in self):
            left = deadline - time.monotonic()
            if left <= 0 or hurry.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), min(left, _LOOK_SECONDS))

    async def end_all(self, tenant: str, reason: str) -> int:
        """End each session of the tenant, those that are being opened too; how many there were."""
        openings = [opening for key, opening in self._opening.items() if key.tenant == tenant]
        for opening in openings:
            opening.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        chosen = [session for session in self if session.key.tenant == tenant]
        await asyncio.gather(*(session.end(reason) for session in chosen), return_exceptions=True)
        return len(openings) + len(chosen)

    async def stop(self, reason: str) -> None:
        """End every session; no new one opens."""
        self._stopping = True
        openings = list(self._opening.values())
        for opening in openings:
            opening.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        await asyncio.gather(*(session.end(reason) for session in self), return_exceptions=True)
        await asyncio.gather(*self._watchers, return_exceptions=True)


def _of_reference(
    sessions: Iterable[Session], may_see: Callable[[str], bool], reference: str
) -> Session | None:
    """The session of that id, or else the one of that name. Raises `UsageError` where several have it."""
    seen = [session for session in sessions if may_see(session.key.tenant)]
    named = [session for session in seen if session.key.name == reference]
    found = next((session for session in seen if session.id == reference), named[0] if named else None)
    if found is not None and found.id != reference and len({session.key for session in named}) > 1:
        which = ", ".join(f"{one.id} ({one.key.tenant}, {one.key.bridge})" for one in named[:_NAMED])
        raise UsageError(f"{len(named)} sessions are named {reference[:80]!r}", hint=f"Use an id: {which}.")
    return found
