"""The audit of refusals, by every face and method: rate-limited; excess events are aggregated."""

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
from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.host.shares.observe import Metrics
from bridgehold.ids import is_name
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.model import Decision
from bridgehold.protocol.values import Principal

_TEXT, LONGEST_REASON = 80, 500
_FOLD_SECONDS = 5.0
_PER_SECOND, _BURST = 2.0, 50.0
_MOST_PRINCIPALS = 1_024
_MOST_FOLDS = 64
"""Events that tell of many, at one time."""
_OTHERS = "*"
_FOLDED = "There were many: the audit counts this one in an `events.folded`."


_NAMED = ("session", "id", "digest", "command", "submission")
"""Fields of parameters that say which thing was asked for."""


class Refusals:
    """Writes every refusal of callers: one by one within the caller's bucket, counted and folded past it.

    Who asks needs no right to do so, and must not fill the journal: an event is charged to the tenant of
    the caller that was proven, never to one that was only named.
    """

    def __init__(self, journal: JournalClient, metrics: Metrics, account: str = "") -> None:
        """`account`: charged for what is nobody's; a cell's is its tenant, of whom alone it may write."""
        self._account = account
        self._journal = journal
        self._metrics = metrics
        self._buckets: dict[str, TokenBucket] = {}
        self._folded: dict[tuple[str, str], Counter[str]] = {}
        self._telling: asyncio.Task[None] | None = None

    async def rejected_peer(self, uid: int, reason: str) -> str:
        """Record a peer that was rejected: no principal has its uid."""
        return await self.record(PrincipalRefused(uid=uid, reason=reason[:LONGEST_REASON]))

    async def caller(self, principal: Principal, method: str, params: object, error: BridgeholdError) -> str:
        """`principal` asked by `method` for what it may not have, or for what it is not shown."""
        told = (str(getattr(params, field, "")) for field in _NAMED)
        named = next(filter(None, told), "")
        event = RequestRefused(
            tenant=principal.account or self._account,
            principal=principal.name,
            method=method[:_TEXT],
            named_tenant=str(getattr(params, "tenant", ""))[:_TEXT],
            named=named[:_TEXT],
            code=error.code,
            reason=error.message[:LONGEST_REASON],
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
        if (
            self._account and event.tenant != self._account
        ):  # whatever a caller names: a cell that writes it ends
            event = msgspec.structs.replace(event, tenant=self._account)
        if self._bucket(event.principal).try_take(1, time.monotonic()):
            with contextlib.suppress(BudgetError):  # its tenant has no room left: it is counted all the same
                return (await self._journal.append(event)).ref
        key = (event.tenant, event.principal)
        if key not in self._folded and len(self._folded) >= _MOST_FOLDS:
            key = (self._account, event.principal)  # who may act for any tenant may name any number of them
        self._folded.setdefault(key, Counter())[kind_of(event)] += 1
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())
        return ""

    def _bucket(self, principal: str) -> TokenBucket:
        """One for each principal, and one for all rejected peers together."""
        known = principal in self._buckets or len(self._buckets) < _MOST_PRINCIPALS
        return self._buckets.setdefault(principal if known else _OTHERS, TokenBucket(_PER_SECOND, _BURST))

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
                    await self._journal.append(msgspec.structs.replace(event, tenant=self._account))
            except BridgeholdError:
                return

    async def close(self) -> None:
        """Tell what is counted and not told yet."""
        if self._telling is not None:
            self._telling.cancel()
        await self._flush()


def no_tenant(principal: Principal, tenant: str) -> Decision:
    """`principal` may not act for `tenant`, or nobody may."""
    may_not = f"{principal.name} may not act for tenant {tenant[:64]!r}"
    return Decision(
        allowed=False,
        rule=f"principals.{principal.name}.tenants",
        reason=may_not if is_name(tenant) else f"{may_not}: it is no name (lower case)",
        source="config.toml",
    )


def command_refused(**facts: str) -> CommandRefused:
    """The event of a refused command, whoever refuses it (pure)."""
    return CommandRefused(**facts)
