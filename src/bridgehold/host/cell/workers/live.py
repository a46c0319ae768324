"""One worker of the host's, from its launch to its end: its pipes, its calls, its gateway, its account.

It ends once, whoever asks, in a task of its own; the launcher writes its end to the audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Protocol

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import ProtocolViolation
from bridgehold.bridges.frames import FaultFrame, ResultFrame
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import (
    AttestationError,
    BridgeholdError,
    CrashError,
    ProtocolError,
    SessionEndedError,
    from_info,
)
from bridgehold.host.cell.gateway.values import Attribution
from bridgehold.host.cell.workers.calls import GuestCalls, Stream, ToolHandler
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.cell.workers.raw import RawReader
from bridgehold.host.cell.workers.translate import exit_error
from bridgehold.host.front.boots import (
    StartOrder,
)
from bridgehold.host.shares.fair import FrameBudget
from bridgehold.host.shares.logs import CommandOutput, SessionLog
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.limits.account import AccountReader
from bridgehold.sandbox.values import Attestation, ExitReport, Launched, Usage

_END_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between tries of a kill that failed; the last goes on."""
_MOST_VIOLATIONS = 20
"""Of one session, each in an event of its own; all after them are counted."""


class GatewayHandle(Protocol):
    """What a worker needs of its gateway: nothing but its end."""

    async def close(self) -> None:
        """Close the session's gateway and every connection through it."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The three processes the host works with, and how it opens a gateway on a listener."""

    launcher: LauncherClient
    journal: JournalClient
    frames: FrameBudget
    open_gateway: Callable[
        [socket.socket, StartOrder, dict[str, str], SessionEvents], Awaitable[GatewayHandle]
    ]
    on_degraded: Callable[[str], None]
    """An event that must be in the audit can't be written."""
    attribute: Callable[[str], Attribution] = lambda _session: Attribution()
    """For which command, and for whom, a session's worker does what it does now."""


class LiveWorker:
    """An attested worker with its pipes, calls and gateway. Ends once, whoever asks."""

    def __init__(self, services: Services, order: StartOrder, launched: Launched, log: SessionLog) -> None:
        self._services = services
        self.order = order
        self.launched = launched
        self.log = log
        self.violations = 0
        self.booted = False
        """Something of the tenant's may have run in it: what fails now is not tried again unasked."""
        self.cold_reason = ""
        """Why it is no fork, though its policy says that it should be."""
        self.relaying = False
        """Whether a foreign script has the pipes."""
        self.events = SessionEvents(
            services.journal,
            order.grant.tenant,
            order.session,
            per_second=order.grant.rate.audit_events_per_second,
            on_degraded=services.on_degraded,
        )
        self.calls = GuestCalls(self.violation)
        self.pipes: GuestPipes | None = None
        self.gateway: GatewayHandle | None = None
        self.sockets: tuple[socket.socket, ...] = ()
        """Of a foreign worker that listens: where it calls back, and sockets to connect to it by."""
        self.attestation: Attestation | None = None
        self.report: ExitReport | None = None
        self.deadline = 0.0
        """The loop's time by which the step that is under way has to be done."""
        self.renew_deadline()
        self.account = AccountReader()
        self.start_cpu_us = 0
        """Processor time of the start itself: no command's own."""
        self.ended = asyncio.Event()
        self.gone = False
        """Nothing more comes from it: it has ended, or is being ended."""
        self.failure: ErrorInfo | None = None
        """Why the host ended it, if it did."""
        self._killing: asyncio.Task[None] | None = None
        self._watch = asyncio.create_task(self._watch_exit())
        self._tasks: set[asyncio.Task[None]] = set()
        self._proof: asyncio.Task[object] | None = None

    @property
    def name(self) -> str:
        """The launcher's name for it."""
        return self.launched.worker

    @property
    def why_ended(self) -> BridgeholdError | None:
        """Its own end where that came first, as the kernel or the launcher saw it; else why it was ended.

        None before either, and where the host ended it with no word.
        """
        if self.report is not None and self.report.cause != "killed":
            return exit_error(self.report, self.order.grant.limits)
        return from_info(self.failure) if self.failure is not None else None

    def renew_deadline(self) -> None:
        """The start-up time begins now."""
        self.deadline = asyncio.get_running_loop().time() + self.order.grant.limits.startup_ms / 1000

    def record(self, proof: Coroutine[None, None, object]) -> None:
        """Its proof is on its way to the disk; no command runs before it is there (`proven`)."""
        self._proof = asyncio.create_task(proof)

    async def proven(self) -> None:
        """Raises what kept the audit from recording the proof."""
        if self._proof is None:
            raise AttestationError("the worker was not attested")
        await self._proof

    def fail_calls(self, error: BridgeholdError) -> None:
        """End every call in flight with `error`, after what the guest had written until now."""
        if self.pipes is not None:
            self.pipes.drain_output()
        self.calls.fail(error)

    @contextlib.contextmanager
    def capturing(self, output: CommandOutput) -> Iterator[None]:
        """What the guest writes is the command's, too; what it had written before is the log's alone.

        Beside another command nothing is captured: it all belongs to that one.
        """
        if self.log.tap is not None:
            yield
            return
        pipes = self.pipes or self._live_pipes()
        pipes.drain_output()
        self.log.tap = output.write
        try:
            yield
        finally:
            self.log.tap = None

    async def call(
        self,
        command: str,
        args: dict[str, object],
        *,
        deadline_ms: int,
        stream: Stream | None = None,
        tools: ToolHandler | None = None,
        aside: bool = False,
        stop: asyncio.Future[None] | None = None,
    ) -> ResultFrame | FaultFrame:
        """Send a command to the guest and wait for its frame; see `GuestCalls.call`.

        Where the kernel has killed a process of it for want of memory it ends as a whole, whatever the others
        may have answered first. Raises `MemoryLimitError` then.
        """
        frame = await self.calls.call(
            self.pipes or self._live_pipes(),
            command,
            args,
            deadline_ms=deadline_ms,
            stream=stream,
            tools=tools,
            aside=aside,
            stop=stop,
        )
        if self.account.killed():
            raise exit_error(await self.end(), self.order.grant.limits)
        return frame

    def relay(self, reader: RawReader, on_body: Callable[[bytes], None], full: Callable[[], bool]) -> None:
        """The pipes are a foreign script's from here on; nothing is read of it while `full` says so."""
        self.relaying = True
        self._live_pipes().become_raw(reader, on_body, full)

    async def send_raw(self, data: bytes) -> None:
        """Bytes for a user script's standard input."""
        await self._live_pipes().send(data)

    def take_sockets(self) -> tuple[socket.socket, ...]:
        """`sockets`, the caller's to close from here on: what a transport has, nobody else closes."""
        taken, self.sockets = self.sockets, ()
        return taken

    def hold(self, owner: object, size: int) -> None:
        """`owner`, a part of this session, now holds `size` bytes of messages, by the host's budget."""
        self._services.frames.hold(owner, size)

    def charge(self, size: int) -> None:
        """Its frames were as much work as `size` more bytes: it is read from so much the later."""
        self._live_pipes().charge(size)

    def finish_input(self) -> None:
        """The end of a user script's standard input; nothing happens to one that has ended."""
        if not self.ended.is_set():
            self._live_pipes().finish_input()

    async def finish(self, seconds: float) -> None:
        """End a foreign script's input, and give it `seconds` to be gone."""
        self.finish_input()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), seconds)

    async def usage(self) -> Usage:
        """The kernel's account of it so far, or up to its end."""
        return self.report.usage if self.report else await self._services.launcher.usage(self.name)

    async def cpu_and_peak(self) -> tuple[int, int]:
        """(microseconds, bytes) of `usage`, the short way while it lives."""
        found = None if self.report else self.account.cpu_and_peak()
        if found is not None:
            return found
        usage = await self.usage()
        return usage.cpu_us, usage.memory_peak_bytes

    async def learn_account(self) -> None:
        """What its start has cost, and how its account is read from now on."""
        usage, descriptors = await self._services.launcher.account(self.name)
        self.start_cpu_us = usage.cpu_us
        self.account.open(descriptors)
        if self.ended.is_set():
            self.account.close()

    def _live_pipes(self) -> GuestPipes:
        if self.pipes is None:
            raise CrashError("the worker has no pipes yet")
        return self.pipes

    async def end(self, failure: BridgeholdError | None = None, *, suspected: bool = False) -> ExitReport:
        """Kill the whole namespace, wait until it is empty, and give the kernel's report.

        Once begun it goes on, whether or not somebody still waits for it. `suspected`: it may have ended by
        itself, and no call is told `failure` before that report has said so.
        """
        if failure is not None:
            self.failure = self.failure or failure.fact()
        self.gone = True
        if self._killing is None:
            self._killing = asyncio.create_task(
                until_gone(lambda: self._services.launcher.kill(self.name), self.ended)
            )
        if failure is not None and not suspected:
            self.fail_calls(failure)
        await asyncio.shield(self._killing)
        if self.report is None:
            raise CrashError("the launcher went away before it reported the worker's end")
        return self.report

    def on_pipe_end(self, error: BridgeholdError | None) -> None:
        """The guest closed its frames, or broke the wire: either way it is over."""
        if error is not None:
            self.violation(error.message)
        self._spawn(self._after_pipe_end(error))

    async def _after_pipe_end(self, error: BridgeholdError | None) -> None:
        if error is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), 1.0)
        if not self.ended.is_set():
            failure = error or ProtocolError("the worker closed its frame pipe and went on running")
            await self.end(failure, suspected=error is None)

    async def _watch_exit(self) -> None:
        try:
            self.report = await self._services.launcher.exited(self.name)
            self.gone = True
        except BridgeholdError as error:
            self.fail_calls(error)
        else:
            self.fail_calls(self.why_ended or SessionEndedError("the session was ended"))
        finally:
            async with contextlib.AsyncExitStack() as last:  # bottom up, each whatever fails before it
                last.callback(self._note_end)
                last.callback(self.account.close)
                last.push_async_callback(self.events.close)
                last.callback(self.calls.fail, CrashError("the worker has ended"))
                for one in self.sockets:
                    last.callback(one.close)
                if self.gateway is not None:
                    last.push_async_callback(self.gateway.close)
                if self.pipes is not None:
                    last.callback(self.pipes.close)

    def _note_end(self) -> None:
        self.gone = True
        self.ended.set()

    def violation(self, reason: str) -> None:
        """Write down that the guest broke a rule of its wire."""
        self.violations += 1
        attribution = self._services.attribute(self.order.session)
        if self.violations > _MOST_VIOLATIONS:
            self.events.count("protocol.violation", attribution.principal)
            return
        if not self.events.room("protocol.violation", attribution.principal):
            return
        event = ProtocolViolation(
            tenant=self.order.grant.tenant,
            principal=attribution.principal,
            session=self.order.session,
            command=attribution.command,
            worker=self.name,
            reason=reason[:300],
        )
        self._spawn(self._append(event))

    async def _append(self, event: ProtocolViolation) -> None:
        with contextlib.suppress(BridgeholdError):
            await self._services.journal.append(event, durable=False)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def until_gone(kill: Callable[[], Awaitable[object]], gone: asyncio.Event) -> None:
    """`kill` until `gone` is set, however often that fails: nothing else ends what it is for."""
    delays = iter(_END_DELAYS_S)
    while not gone.is_set():
        with contextlib.suppress(Exception):
            await kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), next(delays, _END_DELAYS_S[-1]))
