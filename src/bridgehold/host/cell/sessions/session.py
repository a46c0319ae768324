"""One session: one tenant's stateful conversation with one bridge, served by one worker of its own.

Its commands run one at a time, in order. It ends by request, idle time, session time, deadline or its
worker's end; whatever was in flight or queued gets the typed reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine

import msgspec

from bridgehold.audit.events import SessionClosed, SessionExtended
from bridgehold.bridges.frames import FaultFrame, ResultFrame
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CommandTimeoutError,
    HostLeavingError,
    SessionEndedError,
    from_info,
)
from bridgehold.host.cell.workers.calls import Stream, ToolHandler, unbroken
from bridgehold.host.cell.workers.live import LiveWorker
from bridgehold.host.cell.workers.translate import fault_error
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.callers import LEAVING
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.host.shares.closings import Closings, Journal
from bridgehold.host.shares.logs import CommandOutput
from bridgehold.ids import ANONYMOUS_SESSION
from bridgehold.policies.limits_request import NOTHING, LimitsRequest, beyond
from bridgehold.policies.model import Grant
from bridgehold.policies.units import format_ms
from bridgehold.protocol.values import QUEUE_BOUND, SessionInfo
from bridgehold.sandbox.values import ExitReport

WORKER_ENDED = "its worker ended"
_DEADLINE, _CANCELLED = "command deadline", "cancelled, and the bridge did not stop"
_MORE_TIME = "Give it more time in the policy (`[limits] command`) or the manifest, or ask for less."
_LOOK_SECONDS = 0.02


class SessionKey(msgspec.Struct, frozen=True, order=True):
    """What makes two requests mean the same session."""

    tenant: str
    bridge: str
    name: str

    def asks(self, session: str, principal: str, asked: LimitsRequest = NOTHING) -> AskOrder:
        """What a start of it takes, as the session of that id."""
        return AskOrder(
            bridge=self.bridge, session=session, session_name=self.name, principal=principal, asked=asked
        )


class Session:
    """One session and its worker. Not shared between tenants, and never given a second worker.

    One that lost its worker stays ended; `recovery` makes its resources again in the next of its name.
    """

    def __init__(
        self, key: SessionKey, order: StartOrder, worker: LiveWorker, principal: str, closings: Closings
    ) -> None:
        """`principal`: who opened it."""
        self.key = key
        self.id = order.session
        self.order = order
        self.worker = worker
        self.commands = 0
        self.cpu_us = worker.start_cpu_us
        """Processor time up to the end of the last command (or of the start)."""
        self.opened_at = time.monotonic()
        self.used_at = self.opened_at
        self.life_ms = order.grant.limits.session_ms
        """From its beginning on; `extend` prolongs it, and `idle_ms`."""
        self.idle_ms = order.grant.limits.idle_ms
        self.opened_by = principal
        self.current_command = ""
        self.current_principal = principal
        """Who sent the command that runs; between commands who opened the session."""
        self.ending: ErrorInfo | None = None
        self.end_reason = ""
        self.anew = ""
        """That it isn't the one which its name had before, and why; until its caller is told."""
        self.outlook = ""
        """What becomes of it now that it is lost, for who reads the error."""
        self.draining = False
        self.leaving = False
        """It drains because its host is being replaced."""
        self.called_out = False
        """The command that runs asked the gateway for something."""
        self.reached_out = False
        """Some command did."""
        self._closings = closings
        self._turn = asyncio.Lock()
        self._queued = 0
        self._end: asyncio.Task[ExitReport | None] | None = None
        self._drained: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        """Whoever ends it waits for no polite end of its guest."""
        self._closed = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether a command runs or waits."""
        return self._queued > 0 or bool(self.current_command)

    @property
    def may_have_called(self) -> bool:
        """Whether its command may have called a provider: a tunnel that was opened earlier tells nobody."""
        return self.called_out or (self.reached_out and bool(self.order.grant.connects))

    @property
    def lost(self) -> bool:
        """It is over because of its worker, not because anybody or a limit of sessions ended it."""
        return not self.alive and self.end_reason in ("", WORKER_ENDED, _DEADLINE, _CANCELLED)

    @property
    def alive(self) -> bool:
        """Whether its worker runs and nobody has begun to end it."""
        return self.ending is None and not self.worker.gone

    @property
    def over(self) -> bool:
        """It has ended, nothing of it is left, and the audit says so."""
        return self._closed.is_set()

    @contextlib.asynccontextmanager
    async def turn(self, command: str, principal: str, *, nested: bool = False) -> AsyncIterator[bool]:
        """Wait for this session's turn; from then on its requests are of `command`, for `principal`.

        `nested`: a command that runs waits for this one. Gives whether it had to wait for another.
        """
        if self.draining and not nested:
            raise self.refusal()
        if self._queued >= QUEUE_BOUND:
            raise BusyError(
                f"{QUEUE_BOUND} commands already wait for this session",
                hint="Open another session, or wait for the earlier commands.",
            )
        waited = self._queued > 0
        self._queued += 1
        try:
            async with self._turn:
                if self.ending is not None:
                    raise self.refusal() if self.leaving else from_info(self.ending)
                self.current_command, self.current_principal = command, principal
                try:
                    yield waited
                finally:
                    self.current_command, self.current_principal = "", self.opened_by
                    self.used_at = time.monotonic()
        finally:
            self._queued -= 1

    def refusal(self) -> BridgeholdError:
        """What a command gets that comes while the session drains: it was not begun."""
        if not self.leaving:
            return SessionEndedError("the session is being drained")
        if self.key.name == ANONYMOUS_SESSION:
            return HostLeavingError(LEAVING)
        return SessionEndedError(
            f"session {self.id} ends: its host is being replaced by a new one; the command was not begun",
            where=self.id,
        )

    async def call(
        self,
        operation: str,
        arguments: dict[str, object],
        *,
        deadline_ms: int,
        stream: Stream | None,
        tools: ToolHandler | None = None,
        output: CommandOutput,
    ) -> ResultFrame | FaultFrame:
        """Run one command to its end, inside `turn`.

        At its deadline it is interrupted and its session lives; what doesn't stop in the grace is killed.
        """
        self.commands += 1
        with self.worker.capturing(output):
            stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            grace_ms = self.order.grant.limits.grace_ms
            work = asyncio.ensure_future(
                self.worker.call(
                    operation,
                    arguments,
                    deadline_ms=deadline_ms,
                    stream=stream,
                    tools=tools,
                    stop=stop,
                )
            )
            try:
                done, _ = await asyncio.wait({work}, timeout=deadline_ms / 1000)
                if not done:
                    stop.set_result(None)
                    done, _ = await asyncio.wait({work}, timeout=grace_ms / 1000)
            except asyncio.CancelledError:
                await unbroken(self._cancel(work))
                raise
            if not done:
                late = f"{operation} did not end within {format_ms(deadline_ms)}"
                error = CommandTimeoutError(
                    f"{late}, nor within {format_ms(grace_ms)} of being interrupted; its session was ended",
                    hint=_MORE_TIME,
                )
                work.cancel()
                report = await self.end(_DEADLINE, error)
                if report is not None and report.cause == "memory":  # the kernel had ended it before we did
                    raise self.why
                raise error
            frame = work.result()
            if stop.done():
                late = f"{operation} did not end within {format_ms(deadline_ms)}"
                error = CommandTimeoutError(f"{late} and was interrupted; its session lives", hint=_MORE_TIME)
                if isinstance(frame, FaultFrame):
                    error.tell_traceback(fault_error(frame).traceback)
                raise error
            return frame

    async def beside(
        self, operation: str, arguments: dict[str, object], *, deadline_ms: int
    ) -> ResultFrame | FaultFrame:
        """Ask what is answered whatever runs, without waiting for a turn."""
        if self.ending is not None:
            raise from_info(self.ending)
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                return await self.worker.call(operation, arguments, deadline_ms=deadline_ms, aside=True)
        except TimeoutError:
            raise CommandTimeoutError(
                f"{operation} was not answered within {format_ms(deadline_ms)}",
                hint="What runs in the session may leave nothing else room; it runs on.",
            ) from None
        finally:
            self.used_at = time.monotonic()

    async def _cancel(self, work: asyncio.Future[ResultFrame | FaultFrame]) -> None:
        """Ask the guest to stop; past the grace its namespace is killed. The lock is held meanwhile."""
        work.cancel()
        grace = self.order.grant.limits.grace_ms / 1000
        deadline = time.monotonic() + grace
        while self.worker.calls.in_flight and self.alive and (left := deadline - time.monotonic()) > 0:
            await self.worker.calls.wait_quiet(left)
        if self.worker.calls.in_flight and self.alive:
            await self.end(_CANCELLED, SessionEndedError("the command was cancelled"))

    def tell_anew(self) -> str:
        """`anew`, to be told once."""
        told, self.anew = self.anew, ""
        return told

    async def extend(
        self, grant: Grant, asked: LimitsRequest, principal: str, journal: Journal
    ) -> dict[str, object]:
        """Give it more time, within what `grant` gives: recorded before it holds. What it has, it keeps.

        `asked.session_ms`: from now on. Raises `DeniedError` with the key of what is too much.
        """
        lived = int((time.monotonic() - self.opened_at) * 1000)
        life = lived + asked.session_ms if asked.session_ms else 0
        for key, value, most in (
            ("session", life, grant.limits.session_ms),
            ("idle", asked.idle_ms, grant.limits.idle_ms),
        ):
            if value > most:
                raise beyond(grant, key, value)
        life, idle = max(life, self.life_ms), max(asked.idle_ms, self.idle_ms)
        event = SessionExtended(
            tenant=self.key.tenant, principal=principal, session=self.id, session_ms=life, idle_ms=idle
        )
        await journal.append(event)
        self.life_ms, self.idle_ms = max(life, self.life_ms), max(idle, self.idle_ms)
        return {"id": self.id, "left_ms": max(0, self.life_ms - lived), "idle_ms": self.idle_ms}

    def serve(self, command: str) -> None:
        """A foreign script has `command` now, from who opened the session; empty: none."""
        self.current_command = command
        self.used_at = time.monotonic()

    async def end(self, reason: str, error: BridgeholdError | None = None) -> ExitReport | None:
        """End the session once; later calls wait for the same end. Never raises."""
        self._hurry.set()
        return await self._ended(reason, error or SessionEndedError(f"the session was ended: {reason}"))

    async def close(self, reason: str) -> None:
        """End politely: the bridge's `close()` gets the grace, then the namespace is killed.

        It is over for everybody from here on: nothing runs in a bridge that is closed.
        """
        await self._ended(reason, SessionEndedError(f"the session was ended: {reason}"))

    async def _ended(self, reason: str, error: BridgeholdError) -> ExitReport | None:
        if self._end is None:
            polite = self.alive and (self.worker.relaying or not self.busy)
            self.ending, self.end_reason = error.fact(), reason
            self._end = asyncio.create_task(self._finish_end(error, reason, polite=polite))
        return await asyncio.shield(self._end)  # who asked may go away: the end goes on without him

    async def _finish_end(self, error: BridgeholdError, reason: str, *, polite: bool) -> ExitReport | None:
        report: ExitReport | None = None
        try:
            if polite and not self._hurry.is_set():
                await self._part()
            with contextlib.suppress(BridgeholdError):
                report = await self.worker.end(error)
            await self._record_end(reason, report)
        finally:
            self._closed.set()
        return report

    async def _part(self) -> None:
        """Let the guest come to its own end within the grace, unless somebody is in a hurry."""
        grace_ms = self.order.grant.limits.grace_ms
        work: Coroutine[None, None, object] = (
            self.worker.finish(grace_ms / 1000)
            if self.worker.relaying
            else self.worker.call("common:close", {}, deadline_ms=grace_ms)
        )
        parting, hurried = asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                {parting, hurried}, timeout=grace_ms / 1000, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (parting, hurried):  # neither is waited for: the guest's end ends its call
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def drain(self, reason: str, seconds: float) -> None:
        """Politely, once nothing runs; after `seconds` anyway. New commands are refused meanwhile.

        Once begun it goes on, whether or not somebody still waits for it.
        """
        self.draining = True
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(reason, seconds))
        await asyncio.shield(self._drained)

    async def _drain(self, reason: str, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.busy and self.alive:  # noqa: ASYNC110 - a script's commands wake nobody
                    await asyncio.sleep(_LOOK_SECONDS)
        await self.close(reason)

    async def wait_ended(self) -> BridgeholdError:
        """Until it has ended and the audit says so: why, as an error."""
        await self._closed.wait()
        return self.why

    @property
    def why(self) -> BridgeholdError:
        """Why it is over: its worker's own end where that came first."""
        ending = from_info(self.ending) if self.ending is not None else SessionEndedError(WORKER_ENDED)
        return self.worker.why_ended or ending

    async def _record_end(self, reason: str, report: ExitReport | None) -> None:
        event = SessionClosed(
            tenant=self.key.tenant,
            principal=self.opened_by,
            session=self.id,
            reason=reason,
            code=self.ending.code if self.ending is not None else "",
            commands=self.commands,
            cpu_us=report.usage.cpu_us if report else 0,
            memory_peak_bytes=report.usage.memory_peak_bytes if report else 0,
            emptied_ms=report.emptied_ms if report else 0,
        )
        await self._closings.write(event)

    def info(self, memory_bytes: int = 0) -> SessionInfo:
        """How it stands, for who lists sessions."""
        now = time.monotonic()
        return SessionInfo(
            id=self.id,
            name=self.key.name,
            tenant=self.key.tenant,
            bridge=self.key.bridge,
            state="busy" if self.busy else "idle" if self.alive else "ending",
            start="fork" if self.worker.launched.zygote else "cold",
            cold_start=self.worker.cold_reason,
            commands=self.commands,
            age_ms=int((now - self.opened_at) * 1000),
            idle_ms=int((now - self.used_at) * 1000),
            pid=self.worker.launched.pid,
            uid=self.worker.launched.uid,
            memory_bytes=memory_bytes,
            grant=self.order.grant.digest,
            environment=self.order.environment_digest,
        )
