"""How a worker starts, behind one small interface: order in, attested live worker out.

`forks.ForkStart` forks a sandbox from a zygote, or launches a fresh one; `pool.WarmPool` has some of
them ahead of demand. Whatever goes wrong, nothing is left running: the worker is killed, its pipes are
closed, and the error says what the kernel or the guest said.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import ProtocolViolation, WorkerExited, WorkerRefused
from bridgehold.bridges.catalogue import check_ready
from bridgehold.bridges.frames import FaultFrame, ReadyFrame, ResultFrame
from bridgehold.errors import (
    AttestationError,
    BridgeholdError,
    CommandTimeoutError,
    CrashError,
    NotFoundError,
    ProtocolError,
    ShortageError,
)
from bridgehold.host.cell.gateway.values import Attribution
from bridgehold.host.cell.workers.calls import GuestCalls, Stream, ToolHandler
from bridgehold.host.cell.workers.pipes import FrameBudget, GuestPipes, RawReader
from bridgehold.host.cell.workers.translate import exit_error, fault_error
from bridgehold.host.front.boots import (
    SCRIPT_PLACEHOLDER,
    StartOrder,
    attested_event,
    boot_frame,
    new_placeholder,
)
from bridgehold.host.shares.logs import LAST_OUTPUT, CommandOutput, SessionLog
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.policies.units import format_ms
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.limits.account import AccountReader
from bridgehold.sandbox.limits.shortage import named, short_of, shortage, typed
from bridgehold.sandbox.values import Attestation, ExitReport, Launched, Usage

T = TypeVar("T")
SHORTAGE_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between tries of a start that met a shortage of the machine."""
_BUBBLEWRAP = "bwrap: "
_LINE = 4096
"""Bytes of a log beyond which it is no single line of bubblewrap's."""
_PIPES = 4
"""Frames to the guest and from it, its standard error and output; then its listener, where it has one."""
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
        self._failure: BridgeholdError | None = None
        self._watch = asyncio.create_task(self._watch_exit())
        self._tasks: set[asyncio.Task[None]] = set()
        self._proof: asyncio.Task[object] | None = None

    @property
    def failure(self) -> BridgeholdError | None:
        """Why the host ended it, if it did."""
        return self._failure

    @property
    def name(self) -> str:
        """The launcher's name for it."""
        return self.launched.worker

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
        """Send a command to the guest and wait for its frame; see `GuestCalls.call`."""
        return await self.calls.call(
            self.pipes or self._live_pipes(),
            command,
            args,
            deadline_ms=deadline_ms,
            stream=stream,
            tools=tools,
            aside=aside,
            stop=stop,
        )

    def relay(self, reader: RawReader, on_body: Callable[[bytes], None], full: Callable[[], bool]) -> None:
        """The pipes are a foreign script's from here on; nothing is read of it while `full` says so."""
        self.relaying = True
        self._live_pipes().become_raw(reader, on_body, full)

    async def send_raw(self, data: bytes) -> None:
        """Bytes for a user script's standard input."""
        await self._live_pipes().send(data)

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

    async def end(self, failure: BridgeholdError | None = None) -> ExitReport:
        """Kill the whole namespace, wait until it is empty, and give the kernel's report."""
        if failure is not None:
            self._failure = self._failure or failure
            self.gone = True
            self.fail_calls(failure)
        with contextlib.suppress(BridgeholdError):
            await self._services.launcher.kill(self.name)
        await self.ended.wait()
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
            await self.end(error or ProtocolError("the worker closed its frame pipe and went on running"))

    async def _watch_exit(self) -> None:
        try:
            self.report = await self._services.launcher.exited(self.name)
            self.gone = True
        except BridgeholdError as error:
            self.fail_calls(error)
        else:
            self.fail_calls(self._failure or exit_error(self.report, self.order.grant.limits))
            await self._record_exit(self.report)
        finally:
            async with contextlib.AsyncExitStack() as last:  # bottom up, each whatever fails before it
                last.callback(self._note_end)
                last.callback(self.account.close)
                last.push_async_callback(self.events.close)
                last.callback(self.calls.fail, CrashError("the worker has ended"))
                if self.gateway is not None:
                    last.push_async_callback(self.gateway.close)
                if self.pipes is not None:
                    last.callback(self.pipes.close)

    def _note_end(self) -> None:
        self.gone = True
        self.ended.set()

    async def _record_exit(self, report: ExitReport) -> None:
        event = WorkerExited(
            tenant=self.order.grant.tenant,
            session=self.order.session,
            worker=self.name,
            cause=report.cause,
            status=report.status,
            cpu_us=report.usage.cpu_us,
            memory_peak_bytes=report.usage.memory_peak_bytes,
            oom_kills=report.usage.oom_kills,
            emptied_ms=report.emptied_ms,
        )
        with contextlib.suppress(BridgeholdError):
            await self._services.journal.append(event, durable=False)

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


Record = Callable[[StartOrder], Awaitable[object]]
"""Begins to write that a session opens on this order; what it gives ends when that is durable."""


class Starter(Protocol):
    """Order in, attested live worker out."""

    async def start(self, order: StartOrder, record: Record) -> LiveWorker:
        """A worker that was told whose it is, after that was recorded. Its order is `order`, or that of one
        which stood ready under a session id of its own. Where it fails, nothing is left running.
        """


def begin(services: Services, order: StartOrder, launched: Launched) -> LiveWorker:
    """The host's side of a sandbox that was just started, not proved yet."""
    limits = order.grant.limits
    return LiveWorker(services, order, launched, SessionLog(limits.log_bytes, limits.log_bytes_per_second))


async def guarded(worker: LiveWorker, step: Awaitable[None]) -> None:
    """`step`, within the start-up time; where it fails, the worker is ended before the error goes on."""
    budget, log = worker.order.grant.limits.startup_ms, worker.log
    try:
        async with asyncio.timeout_at(worker.deadline):
            await step
    except TimeoutError as error:
        refusal = CommandTimeoutError(
            f"the bridge was not ready within its start-up time of {format_ms(budget)}",
            hint="Raise `[limits] startup` in the policy, or make the bridge's imports lighter.",
        )
        await worker.end(refusal)
        raise _with_log(refusal, log) from error
    except BridgeholdError as error:
        await worker.end(error)
        raise _with_log(_unstarted(worker) or error, log) from error
    except OSError as error:
        failure = typed(error) if shortage(error) else CrashError(f"the start failed: {error.strerror}")
        await worker.end(failure)
        raise failure from error
    except BaseException:
        await worker.end(CrashError("the start was given up"))
        raise


def bubblewrap_shortage(log: SessionLog) -> ShortageError | None:
    """The shortage that kept bubblewrap from starting the guest, as it says itself: its only line of log.

    A guest could write that line too, and be started again some times: that is all it would gain.
    """
    said = log.text().strip() if len(log) <= _LINE else ""
    number = named(said) if said.startswith(_BUBBLEWRAP) and "\n" not in said else 0
    return short_of(number, said) if number else None


def _unstarted(worker: LiveWorker) -> BridgeholdError | None:
    """`bubblewrap_shortage`, where that is what a worker's start failed of."""
    failure = bubblewrap_shortage(worker.log)
    if failure is None or worker.launched.zygote:  # bubblewrap has no part in a fork
        return None
    ready = worker.calls.ready
    if (ready.done() and not ready.cancelled() and ready.exception() is None) or worker.report is None:
        return None
    if worker.report.cause != "exited":
        return None
    worker.booted = False
    return failure


async def patiently(act: Callable[[], Awaitable[T]], delays: Sequence[float] = SHORTAGE_DELAYS_S) -> T:
    """`act`; again, later and later, while the machine is short of something."""
    for delay in delays:
        try:
            return await act()
        except ShortageError:
            await asyncio.sleep(delay)
    return await act()


async def prepare(services: Services, worker: LiveWorker, descriptors: list[int]) -> None:
    """Pipes, gateway, boot and proof: everything up to where the session's own data comes in."""
    await _boot(services, worker, descriptors)
    await _attest(services, worker)


async def open_session(services: Services, worker: LiveWorker, recorded: Awaitable[object]) -> None:
    """Tell an attested worker whose it is. Its start's processor time is nobody's command's."""
    order = worker.order
    await recorded
    session = {"id": order.session, "name": order.session_name, "tenant": order.grant.tenant}
    opening: dict[str, object] = {"session": session}
    if order.script is not None:
        opening["script"] = msgspec.to_builtins(order.script)
    reply, _, _ = await asyncio.gather(
        worker.call("common:open", opening, deadline_ms=order.grant.limits.startup_ms),
        worker.learn_account(),
        worker.proven(),
    )
    if isinstance(reply, FaultFrame):
        raise fault_error(reply, where="open")


async def _boot(services: Services, worker: LiveWorker, descriptors: list[int]) -> None:
    order = worker.order
    worker.pipes = GuestPipes(
        descriptors[:_PIPES],
        limits=order.grant.limits,
        rate=order.grant.rate,
        log=worker.log,
        on_frame=worker.calls.deliver,
        on_end=worker.on_pipe_end,
        budget=services.frames,
    )
    fixed = SCRIPT_PLACEHOLDER if order.manifest.foreign else ""
    placeholders = {endpoint.provider: fixed or new_placeholder() for endpoint in order.grant.endpoints}
    if len(descriptors) > _PIPES:
        listener = socket.socket(fileno=descriptors[_PIPES])
        worker.gateway = await services.open_gateway(listener, order, placeholders, worker.events)
    worker.booted = True
    await worker.pipes.send(boot_frame(order, placeholders))
    ready: ReadyFrame = await asyncio.shield(worker.calls.ready)
    check_ready(order.manifest, ready)


async def _attest(services: Services, worker: LiveWorker) -> None:
    order = worker.order
    try:
        proof = await patiently(lambda: services.launcher.attest(worker.name))
    except NotFoundError as error:
        await worker.ended.wait()
        raise exit_error(worker.report, order.grant.limits) if worker.report else error from error
    except AttestationError as error:
        refusal = WorkerRefused(
            tenant=order.grant.tenant,
            session=order.session,
            worker=worker.name,
            differences=tuple(error.message.split("; "))[:50],
        )
        await services.journal.append(refusal)
        raise
    worker.attestation = proof
    worker.record(services.journal.append(attested_event(order, worker.launched, proof)))


def _with_log(error: BridgeholdError, log: SessionLog) -> BridgeholdError:
    """Keep the last lines of the guest's log with a failed start: there is no session to ask later."""
    last = log.text(600).strip()
    if last:
        error.hint = f"{error.hint}\n{LAST_OUTPUT}\n{last}".strip()
    return error
