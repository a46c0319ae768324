"""A user script's commands in the audit: a durable intent before, an outcome after, or a refusal."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandIntent, CommandOutcome, CommandRefused
from bridgehold.audit.redact import preview
from bridgehold.bridges.legacy.messages import Answer
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.commands.command_log import CommandLog, Counted, used
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import digest_bytes, new_command_id
from bridgehold.policies.model import Decision, Grant

_PREVIEW_BYTES = 2_000
SCRIPT = "script"
"""As which operation metrics count a foreign script's commands: their names are the caller's own."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A command whose intent is written."""

    command: str
    principal: str
    intent: str
    started: float
    deadline_ms: int


class Ledger:
    """Writes for one session. `arguments` never hold a key by the time they come here."""

    def __init__(
        self,
        session: Session,
        principal: str,
        journal: JournalClient,
        metrics: Metrics,
        refusals: Refusals,
        on_degraded: Callable[[str], None],
    ) -> None:
        self._refusals = refusals
        self._session = session
        self.principal = principal
        """Who asks now: of what one has opened, another of its tenant's may ask, too."""
        self._log = CommandLog(journal, metrics, on_degraded)

    async def intend(self, grant: Grant, operation: str, arguments: dict[str, object], rule: str) -> Pending:
        """The intent, durable; `grant`: what it was decided by. Raises `AuditError` or `BudgetError`."""
        command = new_command_id()
        digest, size, text = preview(arguments, cap_bytes=_PREVIEW_BYTES)
        event = CommandIntent(
            tenant=grant.tenant,
            principal=self.principal,
            session=self._session.id,
            command=command,
            bridge=grant.bridge,
            operation=f"{grant.bridge}:{operation}",
            grant=grant.digest,
            rule=rule,
            arguments_digest=digest,
            arguments_bytes=size,
            arguments_preview=text,
            deadline_ms=grant.limits.command_ms,
        )
        reference = await self._log.intend(event, self._session)
        return Pending(
            command=command,
            principal=event.principal,
            intent=reference,
            started=time.monotonic(),
            deadline_ms=grant.limits.command_ms,
        )

    async def refuse(
        self,
        operation: str,
        arguments: dict[str, object],
        decision: Decision,
        kind: type[BridgeholdError],
        hint: str = "",
    ) -> BridgeholdError:
        """The refusal, written; and the error that says so."""
        key = self._session.key
        digest, _, text = preview(arguments, cap_bytes=_PREVIEW_BYTES)
        event = CommandRefused(
            tenant=key.tenant,
            principal=self.principal,
            session=self._session.id,
            command=new_command_id(),
            bridge=key.bridge,
            operation=f"{key.bridge}:{operation}",
            rule=decision.rule,
            reason=decision.reason[:500],
            source=decision.source,
            arguments_digest=digest,
            arguments_preview=text,
        )
        return await self._refusals.command(event, kind, hint)

    async def record(
        self,
        pending: Pending,
        answer: Answer | None,
        *,
        failure: BridgeholdError | None = None,
        body: bytes = b"",
    ) -> None:
        """The outcome. One that can't be written stops the host from taking further commands."""
        usage = await used(self._session, pending.started)
        if answer is not None:
            code = "" if answer.application_ok else "application"
        else:
            code = failure.code if failure is not None else "crash"
        counted = Counted(self._session.key.bridge, SCRIPT, code, usage.ms / 1000)
        reason = failure.message if failure else answer.error if answer else ""
        outcome = CommandOutcome(
            tenant=self._session.key.tenant,
            principal=pending.principal,
            session=self._session.id,
            command=pending.command,
            intent=pending.intent,
            transport_ok=answer is not None and answer.transport_ok,
            application_ok=answer is not None and answer.application_ok,
            code=failure.code if failure else "",
            reason=reason[:500],
            cpu_us=usage.cpu_us,
            memory_peak_bytes=usage.memory_peak_bytes,
            ms=usage.ms,
            result_digest=digest_bytes(body) if body else "",
            result_bytes=len(body),
        )
        await self._log.record(outcome, counted)
