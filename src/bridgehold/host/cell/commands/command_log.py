"""The two events of a command: its intent, durable before anything runs, and its outcome; how it ended.

A command whose intent can't be written doesn't run; an outcome that can't be written stops the host,
unless only its tenant's share of the audit is used up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from bridgehold.audit.arguments import Arguments
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandIntent, CommandOutcome
from bridgehold.bridges.frames import FaultFrame, ResultFrame
from bridgehold.bridges.manifest import Operation
from bridgehold.errors import AuditError, BridgeholdError, BudgetError, CancelledError
from bridgehold.host.cell.workers.translate import fault_error, middle
from bridgehold.host.shares.closings import Closings
from bridgehold.ids import digest_bytes
from bridgehold.policies.model import Decision, Grant
from bridgehold.protocol.values import CommandRequest, CommandUsage, Principal

_TRACEBACK = 4_000
"""Characters of it in the audit."""


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


def deadline_of(request: CommandRequest, operation: Operation | None, grant: Grant) -> int:
    """The shortest of what the policy, the manifest and the caller give."""
    bounds = [grant.limits.command_ms]
    if operation is not None and operation.timeout_ms > 0:
        bounds.append(operation.timeout_ms)
    if request.deadline_ms > 0:
        bounds.append(request.deadline_ms)
    return min(bounds)


class _Worker(Protocol):
    async def cpu_and_peak(self) -> tuple[int, int]: ...


class _Session(Protocol):
    cpu_us: int

    @property
    def worker(self) -> _Worker: ...

    async def end(self, reason: str, error: BridgeholdError | None = None) -> object: ...


class CommandLog:
    """Writes both. `on_degraded`: an outcome couldn't be written, or the journal is gone."""

    def __init__(self, journal: JournalClient, on_degraded: Callable[[str], None]) -> None:
        self._journal = journal
        self._on_degraded = on_degraded
        self._closings = Closings(journal, on_degraded)

    async def intend(self, event: CommandIntent, session: _Session) -> str:
        """Its reference, once it is durable. A tenant without room for it loses the session."""
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

    async def record(self, event: CommandOutcome) -> str:
        """Its reference; empty where it could not be written. Written, and synced with its group."""
        return await self._closings.write(event, durable=False)

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


async def came_of(
    call: Awaitable[ResultFrame | FaultFrame], operation: str
) -> tuple[ResultFrame | FaultFrame | None, BridgeholdError | None]:
    """What the guest answered, and how it failed, if it did."""
    try:
        frame = await call
    except BridgeholdError as error:
        return None, error
    except asyncio.CancelledError:
        return None, GoneError("the caller went away")
    return frame, fault_error(frame, where=operation) if isinstance(frame, FaultFrame) else None


def outcome_of(
    plan: Plan,
    session: str,
    intent: str,
    frame: ResultFrame | FaultFrame | None,
    failure: BridgeholdError | None,
    usage: CommandUsage,
) -> CommandOutcome:
    """The event that ends a command: by the guest's `frame`, or by the host's `failure`."""
    result = msgspec.json.encode(frame.result) if isinstance(frame, ResultFrame) else b""
    return CommandOutcome(
        tenant=plan.grant.tenant,
        principal=plan.principal.name,
        session=session,
        command=plan.command,
        intent=intent,
        transport_ok=frame is not None,
        application_ok=isinstance(frame, ResultFrame) and not _says_error(frame.result),
        code=failure.code if failure else "",
        reason=failure.message[:500] if failure else "",
        cpu_us=usage.cpu_us,
        memory_peak_bytes=usage.memory_peak_bytes,
        ms=usage.ms,
        result_digest=digest_bytes(result) if result else "",
        result_bytes=len(result),
        traceback=middle(failure.traceback, _TRACEBACK) if failure else "",
    )


def _says_error(result: object) -> bool:
    """DSPex's bridges also answer ``success: true`` with an error inside: the audit tells them apart."""
    return isinstance(result, dict) and ("error" in result or result.get("status") == "error")
