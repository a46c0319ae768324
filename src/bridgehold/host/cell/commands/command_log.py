"""The two events of a command: its intent, durable before anything runs, and its outcome; how it ended.

The one recorder of both, for bridges' commands and user scripts'. A command whose intent can't be written
doesn't run; an outcome that can't be written stops the host, unless only its tenant's share of the audit is
used up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from bridgehold.audit.arguments import CONTENTS, Arguments, facts_of, preview_of
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandIntent, CommandOutcome
from bridgehold.bridges.frames import ChunkFrame, FaultFrame, ProgressFrame, ResultFrame
from bridgehold.bridges.manifest import Operation
from bridgehold.error_info import Output
from bridgehold.errors import AuditError, BridgeholdError, BudgetError, CancelledError
from bridgehold.host.cell.workers.calls import Watcher
from bridgehold.host.cell.workers.translate import fault_error, middle
from bridgehold.host.shares.logs import OUTPUT_BYTES, CommandOutput
from bridgehold.host.shares.observe import Metrics
from bridgehold.ids import digest_bytes
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import Decision, Grant
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import CommandUsage, Principal

PREVIEW_BYTES = 2_000
"""Of a command's arguments in the audit."""
_TRACEBACK = 4_000
"""Characters of it in the audit."""
_HASHED_AT_ONCE = 256 * 1024
"""Bytes of a file that are hashed on the loop."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A command that may run: everything that was decided about it, before anything runs."""

    command: str
    principal: Principal
    request: CommandRequest
    bridge: str
    operation: Operation | None
    grant: Grant
    decision: Decision
    deadline_ms: int
    arguments: Arguments
    replays: str = ""


class _Worker(Protocol):
    async def cpu_and_peak(self) -> tuple[int, int]: ...


class _Session(Protocol):
    id: str
    cpu_us: int

    @property
    def worker(self) -> _Worker: ...

    async def end(self, reason: str, error: BridgeholdError | None = None) -> object: ...


class Counted(msgspec.Struct, frozen=True):
    """A command as metrics tell of it."""

    bridge: str
    operation: str
    code: str
    """Empty: it went well."""
    seconds: float


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What the audit says of a command's end, beside what it used."""

    transport_ok: bool
    application_ok: bool
    failure: BridgeholdError | None = None
    reason: str = ""
    """The guest's own; of a `failure` its message stands instead."""
    result: bytes = b""
    """Of which size and digest are written."""
    beside: int = 0
    """Bytes that came beside it: counted here, and in `result` by size and digest."""


class CommandLog:
    """Writes both, and counts."""

    def __init__(
        self,
        journal: JournalClient,
        metrics: Metrics,
        on_degraded: Callable[[str], None],
        rates: CommandRates | None = None,
    ) -> None:
        """`on_degraded`: an outcome couldn't be written, or the journal is gone.

        `rates`: where the bytes of arguments and results are charged, unless that is done as they pass.
        """
        self._journal = journal
        self._metrics = metrics
        self._on_degraded = on_degraded
        self._rates = rates

    async def intend(self, plan: Plan, session: _Session, parent: str = "", facts: str = "") -> str:
        """The intent's reference, once it is durable. A tenant without room for it loses the session.

        `facts`: of the arguments' contents, where they are known already.
        """
        if (contents := plan.arguments.contents) is not None and not facts:
            facts = await facts_aside(contents)
        digest, size, text = preview_of(plan.arguments, PREVIEW_BYTES, facts)
        if self._rates is not None and plan.grant.ceilings.bytes_per_second:
            self._rates.charge(plan.grant, size, time.monotonic())
        event = CommandIntent(
            tenant=plan.grant.tenant,
            principal=plan.principal.name,
            session=session.id,
            command=plan.command,
            bridge=plan.bridge,
            operation=plan.request.operation,
            grant=plan.grant.digest,
            rule=plan.decision.rule,
            arguments_digest=digest,
            arguments_bytes=size,
            arguments_preview=text,
            deadline_ms=plan.deadline_ms,
            resource=plan.operation.resource if plan.operation is not None else "",
            parent=parent,
            replays=plan.replays,
        )
        try:
            return (await self._journal.append(event)).ref
        except BudgetError as error:
            await session.end("the tenant's share of the audit is used up", error)
            raise
        except AuditError as error:
            self._judge(error)
            raise AuditError(
                f"the command did not run, because its intent could not be written: {error.message}",
                hint=error.hint,
            ) from error

    async def record(
        self,
        plan: Plan,
        session: str,
        intent: str,
        ending: Ending,
        usage: CommandUsage,
        counted: Counted | None,
    ) -> str:
        """The outcome's reference; empty where it could not be written. Written, and synced with its group.

        `counted`: as what the metrics know it; None: not at all.
        """
        failure, result = ending.failure, ending.result
        size = len(result) + ending.beside
        if self._rates is not None and plan.grant.ceilings.bytes_per_second:
            self._rates.charge(plan.grant, size, time.monotonic())
        event = CommandOutcome(
            tenant=plan.grant.tenant,
            principal=plan.principal.name,
            session=session,
            command=plan.command,
            intent=intent,
            transport_ok=ending.transport_ok,
            application_ok=ending.application_ok,
            code=failure.code if failure else "",
            reason=(failure.message if failure else ending.reason)[:500],
            cpu_us=usage.cpu_us,
            memory_peak_bytes=usage.memory_peak_bytes,
            ms=usage.ms,
            result_digest=digest_bytes(result) if result else "",
            result_bytes=size,
            traceback=middle(failure.traceback, _TRACEBACK) if failure else "",
        )
        if counted is not None:
            labels = counted.bridge, counted.operation
            self._metrics.commands.labels(*labels, counted.code or "ok").inc()
            self._metrics.seconds.labels(*labels).observe(counted.seconds)
            self._metrics.cpu.labels(*labels).inc(event.cpu_us / 1_000_000)
        try:
            return (await self._journal.append(event, durable=False)).ref
        except BudgetError:  # its tenant's matter alone, whose session ends with its next intent
            return ""
        except BridgeholdError as error:
            self._on_degraded(f"an outcome could not be written: {error.message}")
            return ""

    def _judge(self, error: AuditError) -> None:
        """A full disk refuses commands until there is room; a journal that is gone or failed ends all."""
        if error.where not in ("journal:full", "journal:invalid"):
            self._on_degraded(error.message)


async def used(session: _Session, started: float) -> CommandUsage:
    """What the kernel charged since the session's last command ended; time alone once that is forgotten."""
    ms = int((time.monotonic() - started) * 1000)
    try:
        cpu_us, peak = await session.worker.cpu_and_peak()
    except Exception:  # noqa: BLE001 - an account that can't be read keeps no outcome from being written
        return CommandUsage(ms=ms)
    before, session.cpu_us = session.cpu_us, cpu_us
    return CommandUsage(cpu_us=max(0, cpu_us - before), memory_peak_bytes=peak, ms=ms)


class GoneError(CancelledError):
    """The caller went away: its outcome is written, and nobody is told."""


class Came(msgspec.Struct, frozen=True):
    """How a command ended: what the guest answered, and how it failed, if it did."""

    frame: ResultFrame | FaultFrame | None
    failure: BridgeholdError | None = None
    written: Output = Output()
    """What it wrote to its standard output and error meanwhile."""


async def came_of(
    call: Awaitable[ResultFrame | FaultFrame], operation: str, output: CommandOutput | None = None
) -> Came:
    """What comes of `call`; `output` takes what is written until then."""
    try:
        frame = await call
    except BridgeholdError as error:
        came = Came(None, error)
    except asyncio.CancelledError:
        came = Came(None, GoneError("the caller went away"))
    else:
        fault = fault_error(frame, where=operation) if isinstance(frame, FaultFrame) else None
        came = Came(frame, fault)
    return msgspec.structs.replace(came, written=output.finish()) if output is not None else came


async def facts_aside(contents: bytes | str) -> str:
    """As `facts_of`; what is long is hashed beside the loop, which goes on meanwhile."""
    if len(contents) < _HASHED_AT_ONCE:
        return facts_of(contents)
    return await asyncio.to_thread(facts_of, contents)


async def ending_of(came: Came) -> Ending:
    """What is said of it. Of its result the digest, and whether it tells of an error."""
    if not isinstance(came.frame, ResultFrame):
        return Ending(transport_ok=came.frame is not None, application_ok=False, failure=came.failure)
    value = came.frame.result
    # DSPex's bridges also answer ``success: true`` with an error inside: the audit tells them apart.
    wrong = isinstance(value, dict) and ("error" in value or value.get("status") == "error")
    beside = value.get(CONTENTS) if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(beside, bytes):
        value = {**value, CONTENTS: await facts_aside(beside)}
    return Ending(
        transport_ok=True,
        application_ok=not wrong,
        failure=came.failure,
        result=msgspec.json.encode(value),
        beside=len(beside) if isinstance(beside, bytes) else 0,
    )


def with_output(frame: ResultFrame, written: Output) -> ResultFrame:
    """With what its command wrote in the result; as it is, where that is no object."""
    if not isinstance(frame.result, dict):
        return frame
    cut = bool(written.stdout_cut or written.stderr_cut)
    shown = {"stdout": written.stdout, "stderr": written.stderr}
    truncated = {"truncated": True} if cut else {}
    return msgspec.structs.replace(frame, result={**shown, **frame.result, **shown, **truncated})


def output_of(plan: Plan, watcher: Watcher | None) -> CommandOutput:
    """What sessions write is shown to who may read it, or where it is the operation's own result."""
    most = min(OUTPUT_BYTES, plan.grant.limits.response_bytes // 4)  # two streams, and a value beside them
    shown = (plan.operation is not None and plan.operation.output) or plan.principal.may_read
    return CommandOutput(most, watcher, watcher.full) if watcher and shown else CommandOutput(most)


class InOrder:
    """Frames to `watcher`, each after what was written before it."""

    def __init__(self, output: CommandOutput, watcher: Watcher) -> None:
        self._output = output
        self._watcher = watcher
        self.behind = watcher.behind

    def __call__(self, frame: ChunkFrame | ProgressFrame, /) -> None:
        """Pass it on."""
        self._output.flush()
        self._watcher(frame)
