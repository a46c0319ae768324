"""Audit events that one session causes, within one rate: its gateway, its tools and its wire.

Past it, what only tells of the session (a refusal, a broken rule) is counted in one folded event. What must
be in the audit before something runs is never folded: it waits, and the guest with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from bridgehold.audit.events import Event, EventsFolded, Receipt, kind_of
from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.policies.buckets import TokenBucket

FOLD_SECONDS = 5.0
_KINDS = 64


class _Journal(Protocol):
    async def append(self, event: Event, *, durable: bool = True) -> Receipt: ...


class SessionEvents:
    """Writes what one session causes, within its bucket: two seconds' worth may come at once."""

    def __init__(
        self,
        journal: _Journal,
        tenant: str,
        session: str,
        *,
        per_second: int,
        on_degraded: Callable[[str], None] | None = None,
    ) -> None:
        self._journal = journal
        self._tenant = tenant
        self._principal = ""
        """For whom the last one was that is counted and not told yet."""
        self._session = session
        self._bucket = TokenBucket(per_second, per_second * 2)
        self._folded: Counter[str] = Counter()
        self._on_degraded = on_degraded
        self._flushing: asyncio.Task[None] | None = None

    def room(self, what: str, principal: str = "") -> bool:
        """Whether one more event may be written now; otherwise it is counted as a `what`."""
        if self._bucket.try_take(1, time.monotonic()):
            return True
        self.count(what, principal)
        return False

    def count(self, what: str, principal: str = "") -> None:
        """Tell of one more `what` in a folded event."""
        self._principal = principal or self._principal
        self._folded[what if what in self._folded or len(self._folded) < _KINDS else "others"] += 1
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_later())

    async def wait(self, events: int) -> None:
        """Wait until `events` more may be written; who came before is served before."""
        await asyncio.sleep(self._bucket.take(events, time.monotonic()))

    async def intend(self, event: Event, *, durable: bool = True) -> str:
        """Its reference, once it is durable; `wait` comes before it. Raises `AuditError`, `BudgetError`.

        `durable`: not where what follows is written durably by another recorder, and this with it.
        """
        return (await self._journal.append(event, durable=durable)).ref

    async def record(self, event: Event, counted_as: str = "") -> str:
        """Write an outcome, or a refusal for which there is `room`; its reference. Never raises.

        Empty where it is not written: its tenant's share is used up, which is nobody else's matter, and it is
        counted (`counted_as`; its kind otherwise); or the journal refuses it, which degrades the host.
        """
        kind = kind_of(event)
        try:
            return (await self._journal.append(event, durable=False)).ref
        except BudgetError:
            self.count(counted_as or kind, event.principal)
        except BridgeholdError as error:
            self._degraded(f"{kind} could not be written: {error.message}")
        return ""

    async def _flush_later(self) -> None:
        await asyncio.sleep(FOLD_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        folded, self._folded = dict(self._folded), Counter()
        if not folded:
            return
        event = EventsFolded(
            tenant=self._tenant, principal=self._principal, session=self._session, folded=folded
        )
        try:
            await self._journal.append(event, durable=False)
        except BudgetError:  # a tenant without room is no fault of the host's, which tells of it
            with contextlib.suppress(BridgeholdError):
                await self._journal.append(msgspec.structs.replace(event, tenant=""), durable=False)
        except BridgeholdError as error:
            self._degraded(f"folded events could not be written: {error.message}")

    def _degraded(self, reason: str) -> None:
        if self._on_degraded is not None:
            self._on_degraded(reason)

    async def close(self) -> None:
        """Write what is counted and not written yet."""
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        await self._flush()
