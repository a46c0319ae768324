"""A user script's commands as the recorders take them: plans, endings and refusals of one session."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bridgehold.audit.arguments import Arguments
from bridgehold.audit.client import JournalClient
from bridgehold.bridges.legacy.messages import Answer
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.commands.command_log import (
    CommandLog,
    Counted,
    Ending,
    Plan,
    used,
)
from bridgehold.host.cell.commands.refusals import Refusal
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import new_command_id
from bridgehold.policies.model import Decision, Grant
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import Principal

SCRIPT = "script"
"""As which operation metrics count a foreign script's commands: their names are the caller's own."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A command whose intent is written."""

    plan: Plan
    intent: str
    started: float


class Ledger:
    """Writes for one session, in the name of `principal`: whoever of its tenant's callers asks now."""

    def __init__(
        self,
        session: Session,
        principal: Principal,
        journal: JournalClient,
        metrics: Metrics,
        refusals: Refusals,
        on_degraded: Callable[[str], None],
    ) -> None:
        self._refusals = refusals
        self._session = session
        self.principal = principal
        self._log = CommandLog(journal, metrics, on_degraded)

    async def intend(
        self, grant: Grant, operation: str, arguments: Arguments, rule: str, command: str = ""
    ) -> Pending:
        """The intent, durable; `grant`: what it was decided by. Raises `AuditError` or `BudgetError`.

        `command`: its id, where it has one already.
        """
        request = self._request(operation, arguments.kept)
        plan = Plan(
            command=command or new_command_id(),
            principal=self.principal,
            request=request,
            bridge=grant.bridge,
            operation=None,
            grant=grant,
            decision=Decision(allowed=True, rule=rule, reason=""),
            deadline_ms=grant.limits.command_ms,
            arguments=arguments,
        )
        intent = await self._log.intend(plan, self._session)
        request = msgspec.structs.replace(request, arguments={})  # shown, and not kept as long as it runs
        plan = msgspec.structs.replace(plan, request=request, arguments=Arguments(kept={}))
        return Pending(plan=plan, intent=intent, started=time.monotonic())

    async def refuse(
        self,
        operation: str,
        arguments: dict[str, object],
        decision: Decision,
        kind: type[BridgeholdError],
        hint: str = "",
    ) -> BridgeholdError:
        """The refusal, written; and the error that says so."""
        request = self._request(operation, arguments)
        refuse = Refusal(self._refusals, new_command_id(), self.principal, request, self._session.id)
        return await refuse(decision, kind, hint)

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
        ending = Ending(
            transport_ok=answer is not None and answer.transport_ok,
            application_ok=answer is not None and answer.application_ok,
            failure=failure,
            reason=answer.error if answer else "",
            result=body,
        )
        counted = Counted(self._session.key.bridge, SCRIPT, code, usage.ms / 1000)
        await self._log.record(pending.plan, self._session.id, pending.intent, ending, usage, counted)

    def _request(self, operation: str, arguments: dict[str, object]) -> CommandRequest:
        key = self._session.key
        return CommandRequest(
            operation=f"{key.bridge}:{operation}",
            arguments=arguments,
            tenant=key.tenant,
            session=self._session.id,
        )
