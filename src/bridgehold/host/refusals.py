"""Refusals of callers, by every face and method: written to the audit, and then the error that says so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import (
    CommandRefused,
    Event,
    EventsFolded,
    PrincipalRefused,
    RequestRefused,
    kind_of,
)
from bridgehold.audit.redact import preview
from bridgehold.errors import BridgeholdError, BudgetError, PolicyError
from bridgehold.host.buckets import TokenBucket
from bridgehold.host.inline_keys import without_keys
from bridgehold.host.observe import Metrics
from bridgehold.host.values import CommandRequest, Principal
from bridgehold.ids import is_name
from bridgehold.policies.model import Decision, Grant

_PREVIEW_BYTES = 2_000
_TEXT, _REASON = 80, 500
_FOLD_SECONDS = 5.0
_PER_SECOND, _BURST = 2.0, 50.0
_MOST_ASKERS = 1_024
_MOST_FOLDS = 64
"""Events that tell of many, at one time."""
_OTHERS = "*"
_FOLDED = "There were many: the audit counts this one in an `events.folded`."


class Refusals:
    """Writes every refusal of callers: one by one within the asker's bucket, counted and folded past it.

    Who asks needs no right to do so, and must not fill the journal: an event is charged to the tenant of
    the caller that was proven, never to one that was only named.
    """

    def __init__(self, journal: JournalClient, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._buckets: dict[str, TokenBucket] = {}
        self._folded: dict[tuple[str, str], Counter[str]] = {}
        self._telling: asyncio.Task[None] | None = None

    async def stranger(self, uid: int, reason: str) -> str:
        """Who connected is nobody here."""
        return await self.record(PrincipalRefused(uid=uid, reason=reason[:_REASON]))

    async def caller(self, principal: Principal, method: str, params: object, error: BridgeholdError) -> str:
        """`principal` asked by `method` for what it may not have, or for what it is not shown."""
        named = next((str(getattr(params, field, "")) for field in ("session", "id", "digest", "command")
                      if getattr(params, field, "")), "")  # fmt: skip
        event = RequestRefused(
            tenant=principal.account,
            principal=principal.name,
            method=method[:_TEXT],
            named_tenant=str(getattr(params, "tenant", ""))[:_TEXT],
            named=named[:_TEXT],
            code=error.code,
            reason=error.message[:_REASON],
        )
        return await self.record(event)

    async def command(
        self, event: CommandRefused, kind: type[BridgeholdError], hint: str = ""
    ) -> BridgeholdError:
        """The refusal of a command, written; and the error to raise, which says how to look it up."""
        self._metrics.refused.inc()
        reference = await self.record(event)
        text = event.reason if event.rule == "arguments" else f"{event.reason} [rule {event.rule}]"
        said = hint or (f"bridgehold why {reference}" if reference else _FOLDED)
        return kind(text, hint=said, where=event.source, event=reference)

    async def record(self, event: Event) -> str:
        """Write `event`; its reference, or nothing where it was counted for one that tells of many."""
        if self._bucket(event.principal).try_take(1, time.monotonic()):
            with contextlib.suppress(BudgetError):  # its tenant has no room left: it is counted all the same
                return (await self._journal.append(event)).ref
        key = (event.tenant, event.principal)
        if key not in self._folded and len(self._folded) >= _MOST_FOLDS:
            key = ("", event.principal)  # who may act for any tenant may name any number of them
        self._folded.setdefault(key, Counter())[kind_of(event)] += 1
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())
        return ""

    def _bucket(self, asker: str) -> TokenBucket:
        """One for each principal, and one for all strangers together."""
        known = asker in self._buckets or len(self._buckets) < _MOST_ASKERS
        return self._buckets.setdefault(asker if known else _OTHERS, TokenBucket(_PER_SECOND, _BURST))

    async def _tell(self) -> None:
        await asyncio.sleep(_FOLD_SECONDS)
        self._telling = None
        await self._flush()

    async def _flush(self) -> None:
        folded, self._folded = self._folded, {}
        for (tenant, principal), counts in folded.items():
            event = EventsFolded(tenant=tenant, principal=principal, folded=dict(counts))
            try:
                await self._journal.append(event)
            except BudgetError:
                with contextlib.suppress(BridgeholdError):
                    await self._journal.append(msgspec.structs.replace(event, tenant=""))
            except BridgeholdError:
                return

    async def close(self) -> None:
        """Tell what is counted and not told yet."""
        if self._telling is not None:
            self._telling.cancel()
        await self._flush()


class Refusal:
    """Refuses one command; event and error carry rule, reason and source."""

    def __init__(
        self,
        refusals: Refusals,
        command: str,
        principal: Principal,
        request: CommandRequest,
        bridge: str,
        operation: str,
    ) -> None:
        self._refusals = refusals
        self._command = command
        self._principal = principal
        self._request = request
        self._bridge = bridge
        self._operation = operation

    def _event(self, decision: Decision) -> CommandRefused:
        digest, _, text = preview(without_keys(self._request.arguments), cap_bytes=_PREVIEW_BYTES)
        tenant = self._request.tenant
        return CommandRefused(
            tenant=tenant
            if self._principal.may_act_for(tenant) and is_name(tenant)
            else self._principal.account,
            principal=self._principal.name,
            command=self._command,
            bridge=self._bridge,
            operation=f"{self._bridge}:{self._operation}",
            rule=decision.rule,
            reason=decision.reason[:_REASON],
            source=decision.source,
            arguments_digest=digest,
            arguments_preview=text,
        )

    async def __call__(
        self, decision: Decision, kind: type[BridgeholdError], hint: str = ""
    ) -> BridgeholdError:
        return await self._refusals.command(self._event(decision), kind, hint)


def no_tenant(principal: Principal, tenant: str) -> Decision:
    return Decision(
        allowed=False,
        rule=f"principals.{principal.name}.tenants",
        reason=f"{principal.name} may not act for tenant {tenant[:64]!r}",
        source="config.toml",
    )


def unknown(bridge: str, operation: str) -> Decision:
    return Decision(
        allowed=False,
        rule="default-deny",
        reason=f"{bridge}:{operation} is not granted",
        source="",
    )


def no_policy(error: PolicyError) -> Decision:
    """The rules can't be read, or can't be: nothing is allowed until they can."""
    known = error.message.startswith(error.where)
    reason = error.message if known else f"{error.where}: {error.message}"
    return Decision(allowed=False, rule="policy", reason=reason, source=error.where)


def foreign(bridge: str) -> Decision:
    return Decision(
        allowed=False,
        rule="foreign",
        reason=f"{bridge} runs scripts of the operator's own, and only their own callers speak with them",
        source="bridge.toml",
    )


def over_rate(grant: Grant) -> Decision:
    return Decision(
        allowed=False,
        rule="rate.commands_per_minute",
        reason=f"more than {grant.rate.commands_per_minute} commands a minute",
        source=str(grant.sources.get("rate.commands_per_minute", "")),
    )
