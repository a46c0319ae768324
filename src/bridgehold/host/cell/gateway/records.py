"""The gateway's audit events, within the one bucket of its session (`host.session_events`)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridgehold.audit.events import EgressIntent, EgressOutcome, EgressRefused
from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.host.cell.gateway.values import Attribution, Audit, SessionFacts
from bridgehold.host.shares.session_events import SessionEvents

_TEXT = 300
_PATH = 500


class Records:
    """One session's events, each in the name of who it is asked for. `attribution` says who that is now."""

    def __init__(
        self,
        audit: Audit,
        facts: SessionFacts,
        attribution: Callable[[], Attribution],
        *,
        events: SessionEvents,
        on_degraded: Callable[[str], None] | None = None,
    ) -> None:
        self._audit = audit
        self._facts = facts
        self._attribution = attribution
        self._askers: dict[str, str] = {}
        """Of each intent without an outcome, whose it is."""
        self._events = events
        self._on_degraded = on_degraded

    async def refused(
        self,
        *,
        host: str,
        method: str,
        path: str,
        rule: str,
        reason: str,
        source: str = "",
        severity: str = "normal",
    ) -> str:
        """Write a refusal; its reference, or the empty string where it was folded or can't be written."""
        command, principal = self._attribution()
        if not self._events.room(f"egress.refused {severity} {rule}", principal):
            return ""
        event = EgressRefused(
            tenant=self._facts.tenant,
            principal=principal,
            session=self._facts.session,
            command=command,
            host=host[:_TEXT],
            method=method[:20],
            path=path[:_PATH],
            rule=rule,
            reason=reason[:_TEXT],
            source=source,
            severity=severity,
            background=not command,
        )
        try:
            return (await self._audit.append(event, durable=False)).ref
        except BudgetError:  # its tenant's share is used up, which is nobody else's matter
            self._events.count(f"egress.refused {severity} {rule}", principal)
            return ""
        except BridgeholdError as error:
            self._degraded(f"a refusal could not be written: {error.message}")
            return ""

    async def intent(
        self, *, provider: str, host: str, method: str, path: str, rule: str, how: str, reserved: int = 0
    ) -> tuple[str, str]:
        """Durable before the request goes out: (reference, command). Raises `AuditError`, `BudgetError`.

        Past the session's rate it waits, with room for the outcome.
        """
        await self._events.wait(2)
        command, principal = self._attribution()
        event = EgressIntent(
            tenant=self._facts.tenant,
            principal=principal,
            session=self._facts.session,
            command=command,
            provider=provider,
            host=host[:_TEXT],
            method=method,
            path=path[:_PATH],
            rule=rule,
            how=how,
            background=not command,
            reserved=reserved,
        )
        reference = (await self._audit.append(event, durable=True)).ref
        self._askers[reference] = principal
        return reference, command

    async def outcome(self, event: EgressOutcome) -> None:
        """Never folded: it belongs to an intent, whose principal it gets. A failure to write it degrades."""
        event = msgspec.structs.replace(event, principal=self._askers.pop(event.intent, ""))
        try:
            await self._audit.append(event, durable=False)
        except BudgetError:  # as for a refusal; it has room as long as its intent is counted
            self._events.count("egress.outcome", event.principal)
        except BridgeholdError as error:
            self._degraded(f"an outcome could not be written: {error.message}")

    @property
    def principal(self) -> str:
        """Who is asked for now."""
        return self._attribution().principal

    @property
    def facts(self) -> SessionFacts:
        return self._facts

    async def read(self) -> None:
        """Wait for room for the event of kept bytes that are read."""
        await self._events.wait(1)

    async def close(self) -> None:
        await self._events.close()

    def _degraded(self, reason: str) -> None:
        if self._on_degraded is not None:
            self._on_degraded(reason)
