"""Sessions: one tenant's stateful conversation with one bridge, served by one worker of its own.

Commands of a session run one at a time, in order. A session ends by request, idle time, session
time, deadline or its worker's end; whatever was in flight or queued gets the typed reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SessionClosed, SessionOpened
from bridgehold.bridges.frames import FaultFrame, ResultFrame
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CommandTimeoutError,
    NotFoundError,
    SessionEndedError,
)
from bridgehold.host.boots import StartOrder
from bridgehold.host.calls import Stream, ToolHandler
from bridgehold.host.observe import Metrics
from bridgehold.host.starts import LiveWorker, Starter
from bridgehold.host.values import SessionInfo
from bridgehold.ids import new_session_id
from bridgehold.policies.units import format_ms
from bridgehold.sandbox.values import ExitReport

QUEUE_BOUND = 64
"""Commands that may wait for one session; more are refused as busy."""


_LOOK_SECONDS = 0.02
_WORKER_ENDED, _DEADLINE = "its worker ended", "command deadline"
_CANCELLED = "cancelled, and the bridge did not stop"


class SessionKey(msgspec.Struct, frozen=True, order=True):
    tenant: str
    bridge: str
    name: str


class Losses(Protocol):
    """Who is told of each session that is over, and knows which are to be made again."""

    def ended(self, session: Session) -> None: ...

    def lost_before(self, key: SessionKey) -> str: ...

    def key_of(self, may_see: Callable[[str], bool], session_id: str) -> SessionKey | None: ...

    def drop(self, key: SessionKey) -> None: ...


class Session:
    """One session and its worker. Not shared between tenants, and never given a second worker.

    One that lost its worker stays ended; `recovery` makes its resources again in the next of its name.
    """

    def __init__(
        self, key: SessionKey, order: StartOrder, worker: LiveWorker, journal: JournalClient
    ) -> None:
        self.key = key
        self.id = order.session
        self.order = order
        self.worker = worker
        self.commands = 0
        self.cpu_us = worker.start_cpu_us
        """Processor time up to the end of the last command (or of the start)."""
        self.opened_at = time.monotonic()
        self.used_at = self.opened_at
        self.current_command = ""
        self.ending: BridgeholdError | None = None
        self.end_reason = ""
        self.outlook = ""
        """What becomes of it now that it is lost, for who reads the error."""
        self.draining = False
        self.called_out = False
        """The command that runs asked the gateway or a tool for something."""
        self._journal = journal
        self._turn = asyncio.Lock()
        self._queued = 0
        self._closed = asyncio.Event()

    @property
    def busy(self) -> bool:
        return self._queued > 0 or bool(self.current_command)

    @property
    def lost(self) -> bool:
        """It is over because of its worker, not because anybody or a limit of sessions ended it."""
        return not self.alive and self.end_reason in ("", _WORKER_ENDED, _DEADLINE, _CANCELLED)

    @property
    def alive(self) -> bool:
        return self.ending is None and not self.worker.gone

    @contextlib.asynccontextmanager
    async def turn(self, command: str) -> AsyncIterator[None]:
        """Wait for this session's turn; `current_command` names whose requests the gateway sees."""
        if self.draining:
            raise SessionEndedError("the session is being drained")
        if self._queued >= QUEUE_BOUND:
            raise BusyError(
                f"{QUEUE_BOUND} commands already wait for this session",
                hint="Open another session, or wait for the earlier commands.",
            )
        self._queued += 1
        try:
            async with self._turn:
                if self.ending is not None:
                    raise self.ending
                self.current_command = command
                try:
                    yield
                finally:
                    self.current_command = ""
                    self.used_at = time.monotonic()
        finally:
            self._queued -= 1

    async def call(
        self,
        operation: str,
        arguments: dict[str, object],
        *,
        deadline_ms: int,
        stream: Stream | None,
        tools: ToolHandler | None = None,
    ) -> ResultFrame | FaultFrame:
        """Run one command to its end, inside `turn`. A missed deadline kills the whole namespace."""
        self.commands += 1
        work = asyncio.ensure_future(
            self.worker.call(operation, arguments, deadline_ms=deadline_ms, stream=stream, tools=tools)
        )
        try:
            done, _ = await asyncio.wait({work}, timeout=deadline_ms / 1000)
        except asyncio.CancelledError:
            await self._cancel(work)
            raise
        if not done:
            error = CommandTimeoutError(
                f"{operation} did not end within {format_ms(deadline_ms)}; its session was ended",
                hint="Give it more time in the policy (`[limits] command`) or the manifest, or ask for less.",
            )
            work.cancel()
            await self.end(_DEADLINE, error)
            raise error
        return work.result()

    async def _cancel(self, work: asyncio.Future[ResultFrame | FaultFrame]) -> None:
        """Ask the guest to stop; past the grace its namespace is killed. The lock is held meanwhile."""
        work.cancel()
        grace = self.order.grant.limits.grace_ms / 1000
        deadline = time.monotonic() + grace
        while self.worker.calls.in_flight and self.alive and (left := deadline - time.monotonic()) > 0:
            await self.worker.calls.wait_quiet(left)
        if self.worker.calls.in_flight and self.alive:
            await self.end(_CANCELLED, SessionEndedError("the command was cancelled"))

    def serve(self, command: str) -> None:
        """A foreign script has `command` now; empty: none."""
        self.current_command = command
        self.used_at = time.monotonic()

    async def end(self, reason: str, error: BridgeholdError | None = None) -> ExitReport | None:
        """End the session once; later calls wait for the same end. Never raises."""
        if self.ending is not None:
            await self._closed.wait()
            return self.worker.report
        self.ending = error or SessionEndedError(f"the session was ended: {reason}")
        self.end_reason = reason
        report: ExitReport | None = None
        with contextlib.suppress(BridgeholdError):
            report = await self.worker.end(self.ending)
        await self._record_end(reason, report)
        self._closed.set()
        return report

    async def close(self, reason: str) -> None:
        """End politely: the bridge's `close()` gets the grace, then the namespace is killed."""
        grace = self.order.grant.limits.grace_ms
        if self.alive and self.worker.relaying:
            await self.worker.finish(grace / 1000)
        elif self.alive and not self.busy:
            with contextlib.suppress(BridgeholdError, TimeoutError):
                await asyncio.wait_for(self.worker.call("common:close", {}, deadline_ms=grace), grace / 1000)
        await self.end(reason)

    async def drain(self, reason: str, seconds: float) -> None:
        """Politely, once nothing runs; after `seconds` anyway. New commands are refused meanwhile."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.busy and self.alive:  # noqa: ASYNC110 - a script's commands wake nobody
                    await asyncio.sleep(_LOOK_SECONDS)
        await self.close(reason)

    async def wait_ended(self) -> BridgeholdError:
        """Until it has ended and the audit says so: why, as an error."""
        await self._closed.wait()
        return self.ending or SessionEndedError("the session was ended")

    async def _record_end(self, reason: str, report: ExitReport | None) -> None:
        event = SessionClosed(
            tenant=self.key.tenant,
            session=self.id,
            reason=reason,
            code=self.ending.code if self.ending is not None else "",
            commands=self.commands,
            cpu_us=report.usage.cpu_us if report else 0,
            memory_peak_bytes=report.usage.memory_peak_bytes if report else 0,
            emptied_ms=report.emptied_ms if report else 0,
        )
        with contextlib.suppress(BridgeholdError):
            await self._journal.append(event)

    def info(self, memory_bytes: int = 0) -> SessionInfo:
        now = time.monotonic()
        return SessionInfo(
            id=self.id,
            name=self.key.name,
            tenant=self.key.tenant,
            bridge=self.key.bridge,
            state="busy" if self.busy else "idle" if self.alive else "ending",
            start="fork" if self.worker.launched.zygote else "cold",
            commands=self.commands,
            age_ms=int((now - self.opened_at) * 1000),
            idle_ms=int((now - self.used_at) * 1000),
            pid=self.worker.launched.pid,
            uid=self.worker.launched.uid,
            memory_bytes=memory_bytes,
            grant=self.order.grant.digest,
        )


class Sessions:
    """All sessions of this host. Opening the same key twice at once gives one session."""

    def __init__(
        self,
        starter: Starter,
        journal: JournalClient,
        *,
        bound: int,
        losses: Losses,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._losses = losses
        self._starter = starter
        self._journal = journal
        self.bound = bound
        self._open: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Future[Session]] = {}
        self._ending: dict[SessionKey, Session] = {}
        """Forgotten already, and not quite gone."""
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping = False

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open) + len(self._opening)

    async def get_or_open(
        self, key: SessionKey, make_order: Callable[[str], Awaitable[StartOrder]]
    ) -> Session:
        """The live session of `key`, or a new one started from `make_order(session id)`."""
        session = self._open.get(key)
        if session is not None and session.alive:
            return session
        if session is not None:
            self._bury(session)
        opening = self._opening.get(key)
        if opening is None:
            opening = asyncio.ensure_future(self._start(key, make_order))
            self._opening[key] = opening
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(opening)

    async def _start(self, key: SessionKey, make_order: Callable[[str], Awaitable[StartOrder]]) -> Session:
        if self._stopping:
            raise SessionEndedError("the host is stopping")
        if key in self._ending:  # its memory and its place are still taken
            await self._ending[key].wait_ended()
        begun = time.monotonic()
        wanted = await make_order(new_session_id())
        order = self._starter.claim(wanted)
        concurrent = self._count(key)
        if concurrent > order.grant.rate.concurrency or len(self) > self.bound:
            raise BusyError(
                f"{key.tenant} already has {concurrent - 1} sessions with {key.bridge} open",
                hint="End one (`bridgehold sessions`), or raise `[rate] concurrency` in the policy.",
            )
        opened = SessionOpened(
            tenant=key.tenant,
            session=order.session,
            bridge=key.bridge,
            grant=order.grant.digest,
            start=order.grant.sandbox.start,
            name=key.name,
            recovers=self._losses.lost_before(key),
        )
        recorded = asyncio.create_task(self._record(opened))
        try:
            worker = await self._starter.start(order, recorded)
        finally:
            await asyncio.gather(recorded, return_exceptions=True)
        kind = "parked" if order is not wanted else "fork" if worker.launched.zygote else "cold"
        self._metrics.starts.labels(key.bridge, kind).observe(time.monotonic() - begun)
        session = Session(key, order, worker, self._journal)
        self._open[key] = session
        watcher = asyncio.create_task(self._watch(session))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return session

    async def _record(self, opened: SessionOpened) -> None:
        await self._journal.append(opened)

    def _count(self, key: SessionKey) -> int:
        keys = {*self._open, *self._opening}
        return sum(1 for other in keys if (other.tenant, other.bridge) == (key.tenant, key.bridge))

    async def _watch(self, session: Session) -> None:
        """End `session` at its idle or session time, and forget it when its worker ends."""
        limits = session.order.grant.limits
        while not session.worker.ended.is_set():
            now = time.monotonic()
            idle_left = limits.idle_ms / 1000 - (now - session.used_at)
            life_left = limits.session_ms / 1000 - (now - session.opened_at)
            if life_left <= 0:
                error = CommandTimeoutError(f"the session reached its time of {format_ms(limits.session_ms)}")
                await session.end("session time", error)
            elif idle_left <= 0 and not session.busy:
                await session.close("idle time")
            else:
                left = life_left if session.busy else min(idle_left, life_left)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.worker.ended.wait(), max(0.01, min(left, 60.0)))
        await session.end(_WORKER_ENDED)
        self._bury(session)
        if self._ending.get(session.key) is session:
            del self._ending[session.key]

    def settle(self, session: Session) -> None:
        """Where `session` has lost its worker, let that be known now, before anybody asks again."""
        if not session.alive:
            self._bury(session)

    def _bury(self, session: Session) -> None:
        """Forget a session that is over: once, and before another of its name is opened."""
        if self._open.get(session.key) is session:
            del self._open[session.key]
            self._ending[session.key] = session
            self._losses.ended(session)

    def calling_out(self, session_id: str) -> str:
        """The command that a request of `session_id` at the gateway belongs to, which is noted there.

        Empty between commands and at start-up.
        """
        found = next((s for s in self._open.values() if s.id == session_id), None)
        if found is None:
            return ""
        found.called_out = True
        return found.current_command

    def by_id(self, tenant: str, session_id: str) -> Session | SessionKey:
        """The tenant's live session of that id, or the name under which a lost one opens again."""
        session = next((s for s in self if (s.id, s.key.tenant) == (session_id, tenant)), None)
        if session is not None and session.alive:
            return session
        if session is not None:
            self._bury(session)
        key = self._losses.key_of(lambda one: one == tenant, session_id)
        if key is None:
            raise _unknown(session_id)
        return key

    def find(self, tenant_allowed: Callable[[str], bool], reference: str) -> Session:
        """By id or name, within what the caller may see; otherwise `NotFoundError`, always the same.

        The id of a lost session finds the one that came of it.
        """
        for session in self._open.values():
            if reference in (session.id, session.key.name) and tenant_allowed(session.key.tenant):
                return session
        key = self._losses.key_of(tenant_allowed, reference)
        if key in self._open:
            return self._open[key]
        raise _unknown(reference)

    def give_up(self, tenant_allowed: Callable[[str], bool], reference: str) -> bool:
        """Make a lost session no more: who had it wants it no longer. Whether there was one."""
        key = self._losses.key_of(tenant_allowed, reference)
        if key is not None:
            self._losses.drop(key)
        return key is not None

    async def stop(self, reason: str) -> None:
        """End every session; no new one opens."""
        self._stopping = True
        for opening in list(self._opening.values()):
            opening.cancel()
        await asyncio.gather(*(session.end(reason) for session in self), return_exceptions=True)
        await asyncio.gather(*self._watchers, return_exceptions=True)


def _unknown(reference: str) -> NotFoundError:
    return NotFoundError(
        f"no session {reference[:80]!r} here",
        hint="`bridgehold sessions` lists the sessions you may see.",
    )
