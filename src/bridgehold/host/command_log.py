"""The two events of a command: its intent, durable before anything runs, and its outcome.

A command whose intent can't be written doesn't run; an outcome that can't be written stops the host,
unless only its tenant's share of the audit is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandIntent, CommandOutcome
from bridgehold.errors import AuditError, BridgeholdError, BudgetError
from bridgehold.host.values import CommandUsage


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
    except BridgeholdError:
        return CommandUsage(ms=ms)
    before, session.cpu_us = session.cpu_us, cpu_us
    return CommandUsage(cpu_us=max(0, cpu_us - before), memory_peak_bytes=peak, ms=ms)
