"""The gateway's audit events, within the one bucket of its session (`host.session_events`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from bridgehold.audit.events import EgressIntent, EgressOutcome, EgressRefused
from bridgehold.host.cell.gateway.values import Attribution, SessionFacts
from bridgehold.host.shares.session_events import SessionEvents

_TEXT = 300
_PATH = 500
_BY_CELL = ("connect", "proxy")
"""What goes past the keeper, over connections that the front opens."""


class Announced(msgspec.Struct, frozen=True):
    """A request whose intent is durable, and which has no outcome yet."""

    reference: str
    intent: EgressIntent


class Records:
    """One session's events, each in the name of who it is asked for. `attribution` says who that is now."""

    def __init__(
        self,
        facts: SessionFacts,
        attribution: Callable[[], Attribution],
        events: SessionEvents,
        *,
        kept: bool = False,
    ) -> None:
        """`kept`: the keeper writes down what goes out, durably, after what is said here."""
        self._kept = kept
        self._facts = facts
        self._attribution = attribution
        self._events = events

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
        counted_as = f"egress.refused {severity} {rule}"
        if not self._events.room(counted_as, principal):
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
        return await self._events.record(event, counted_as)

    async def intent(
        self,
        *,
        provider: str,
        host: str,
        method: str,
        path: str,
        rule: str,
        how: str,
        reserved: int = 0,
        fees: int = 0,
        model: str = "",
    ) -> Announced:
        """Durable before the request goes out. Raises `AuditError`, `BudgetError`.

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
            fees=fees,
            model=model,
            kept=self._kept and how not in _BY_CELL,
        )
        return Announced(await self._events.intend(event, durable=not event.kept), event)

    async def outcome(
        self,
        announced: Announced,
        *,
        started: float,
        status: int,
        request_bytes: int,
        response_bytes: int,
        code: str,
        **more: Any,
    ) -> None:
        """Never folded: it belongs to an intent, of which it has all that was said there.

        `started`: on the monotonic clock. `more`: fields of `EgressOutcome`. A failure to write it degrades.
        """
        intent = announced.intent
        event = EgressOutcome(
            tenant=intent.tenant,
            principal=intent.principal,
            session=intent.session,
            command=intent.command,
            intent=announced.reference,
            provider=intent.provider,
            host=intent.host,
            method=intent.method,
            path=intent.path,
            status=status,
            request_bytes=request_bytes,
            response_bytes=response_bytes,
            ms=int((time.monotonic() - started) * 1000),
            background=intent.background,
            kept=intent.kept,
            code=code,
            **more,
        )
        await self._events.record(event)

    @property
    def principal(self) -> str:
        """Who is asked for now."""
        return self._attribution().principal

    @property
    def facts(self) -> SessionFacts:
        """Whose session it is."""
        return self._facts

    async def read(self) -> None:
        """Wait for room for the event of kept bytes that are read."""
        await self._events.wait(1)

    async def close(self) -> None:
        """Write what is counted and not written yet."""
        await self._events.close()
