"""The gateway's audit events: written one by one within a bucket, counted and folded past it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from bridgehold.audit.events import EgressIntent, EgressOutcome, EgressRefused, EventsFolded
from bridgehold.errors import BridgeholdError
from bridgehold.host.budgets import TokenBucket
from bridgehold.host.gateway.values import Asker, Audit, SessionFacts

_FOLD_SECONDS = 5.0
_TEXT = 300
_PATH = 500
_KINDS = 64


class Records:
    """One session's events, each in the name of who it is asked for. `asker` says who that is now."""

    def __init__(
        self,
        audit: Audit,
        facts: SessionFacts,
        asker: Callable[[], Asker],
        *,
        per_second: int,
        on_degraded: Callable[[str], None] | None = None,
    ) -> None:
        self._audit = audit
        self._facts = facts
        self._asker = asker
        self._askers: dict[str, str] = {}
        """Of each intent without an outcome, whose it is."""
        self._bucket = TokenBucket(per_second, per_second * 2)
        self._folded: Counter[str] = Counter()
        self._on_degraded = on_degraded
        self._flushing: asyncio.Task[None] | None = None

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
        if not self._bucket.try_take(1, time.monotonic()):
            self._fold(f"egress.refused {severity} {rule}")
            return ""
        command, principal = self._asker()
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
        except BridgeholdError as error:
            self._degraded(f"a refusal could not be written: {error.message}")
            return ""

    async def intent(
        self, *, provider: str, host: str, method: str, path: str, rule: str, how: str, reserved: int = 0
    ) -> tuple[str, str]:
        """Durable before the request goes out: (reference, command). Raises `AuditError`, `BudgetError`."""
        command, principal = self._asker()
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
        except BridgeholdError as error:
            self._degraded(f"an outcome could not be written: {error.message}")

    @property
    def principal(self) -> str:
        """Who is asked for now."""
        return self._asker().principal

    @property
    def facts(self) -> SessionFacts:
        return self._facts

    def _fold(self, what: str) -> None:
        self._folded[what if what in self._folded or len(self._folded) < _KINDS else "others"] += 1
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await asyncio.sleep(_FOLD_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        folded, self._folded = dict(self._folded), Counter()
        if not folded:
            return
        event = EventsFolded(
            tenant=self._facts.tenant,
            principal=self.principal,
            session=self._facts.session,
            folded=folded,
        )
        try:
            await self._audit.append(event, durable=False)
        except BridgeholdError as error:
            self._degraded(f"folded events could not be written: {error.message}")

    async def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        await self._flush()

    def _degraded(self, reason: str) -> None:
        if self._on_degraded is not None:
            self._on_degraded(reason)
