"""Who may still spend what: requests and tokens by tenant and provider, and bytes held for guests.

What was spent is a fold of the audit's own events, so a restart forgets nothing. Time is passed in;
nothing here reads a clock or a file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec

from bridgehold.audit.events import EgressIntent, EgressOutcome, Event, kind_of
from bridgehold.errors import BudgetError, BusyError
from bridgehold.host.buckets import TokenBucket
from bridgehold.policies.model import Rate

__all__ = ["Budgets", "Buffers", "Reservation", "Spent", "TokenBucket"]

_INTENT = kind_of(EgressIntent)
_OUTCOME = kind_of(EgressOutcome)
_BURST_SECONDS = 10


class Spent(msgspec.Struct, frozen=True):
    """What one tenant has used of one provider, over the audit's life."""

    requests: int = 0
    tokens: int = 0


class Reservation:
    """Tokens that a running request may use; `settle` it exactly once with what it did use."""

    def __init__(self, budgets: Budgets, key: tuple[str, str], tokens: int) -> None:
        self._budgets = budgets
        self._key = key
        self._tokens = tokens
        self._open = True

    def settle(self, tokens: int) -> None:
        if self._open:
            self._open = False
            self._budgets.settled(self._key, self._tokens, tokens)

    def give_back(self) -> None:
        """The request was never sent: nothing was spent."""
        if self._open:
            self._open = False
            self._budgets.given_back(self._key, self._tokens)


class Budgets:
    """One per host. Keys are (tenant, provider)."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], int] = {}
        self._tokens: dict[tuple[str, str], int] = {}
        self._reserved: dict[tuple[str, str], int] = {}
        self._buckets: dict[tuple[str, str], tuple[int, TokenBucket]] = {}

    def fold(self, events: Iterable[Event | Mapping[str, object]]) -> None:
        """Add what `events` (values, or decoded lines of the audit) say was spent. Others are skipped."""
        for event in events:
            facts = _facts(event)
            key = (str(facts.get("tenant", "")), str(facts.get("provider", "")))
            if facts.get("kind") == _INTENT and key[1]:
                self._requests[key] = self._requests.get(key, 0) + 1
            elif facts.get("kind") == _OUTCOME and key[1]:
                used = _whole(facts.get("input_tokens")) + _whole(facts.get("output_tokens"))
                self._tokens[key] = self._tokens.get(key, 0) + used

    def spent(self, tenant: str, provider: str) -> Spent:
        key = (tenant, provider)
        return Spent(self._requests.get(key, 0), self._tokens.get(key, 0))

    def reserve(self, tenant: str, provider: str, rate: Rate, tokens: int, now: float) -> Reservation:
        """Room for one request of about `tokens` tokens. Raises `BudgetError` (where: the rule).

        Requests under way count with what they reserved, so that many at once don't overdraw.
        """
        key = (tenant, provider)
        most = rate.provider_requests_total
        if most is not None and self._requests.get(key, 0) >= most:
            raise _used_up("rate.provider_requests_total", f"{most} requests")
        taken = self._tokens.get(key, 0) + self._reserved.get(key, 0)
        most = rate.provider_tokens_total
        if most is not None and taken >= most:
            raise _used_up("rate.provider_tokens_total", f"{most} tokens")
        if not self._bucket(key, rate.provider_requests_per_minute).try_take(1, now):
            raise BudgetError(
                f"more than {rate.provider_requests_per_minute} requests a minute to {provider}",
                where="rate.provider_requests_per_minute",
                hint="Slow down, or raise `[rate] provider_requests_per_minute` in the policy.",
            )
        self._requests[key] = self._requests.get(key, 0) + 1
        self._reserved[key] = self._reserved.get(key, 0) + tokens
        return Reservation(self, key, tokens)

    def settled(self, key: tuple[str, str], reserved: int, used: int) -> None:
        self._reserved[key] = max(0, self._reserved.get(key, 0) - reserved)
        self._tokens[key] = self._tokens.get(key, 0) + used

    def given_back(self, key: tuple[str, str], reserved: int) -> None:
        self._reserved[key] = max(0, self._reserved.get(key, 0) - reserved)
        self._requests[key] = max(0, self._requests.get(key, 0) - 1)

    def _bucket(self, key: tuple[str, str], per_minute: int) -> TokenBucket:
        known = self._buckets.get(key)
        if known is None or known[0] != per_minute:
            rate = per_minute / 60
            known = (per_minute, TokenBucket(rate, max(1.0, min(per_minute, rate * _BURST_SECONDS))))
            self._buckets[key] = known
        return known[1]


def _used_up(rule: str, what: str) -> BudgetError:
    return BudgetError(
        f"the tenant's budget of {what} is used up",
        where=rule,
        hint=f"Raise `{rule}` in the policy.",
        retry="no",
    )


def _facts(event: Event | Mapping[str, object]) -> Mapping[str, object]:
    if isinstance(event, EgressIntent | EgressOutcome):
        facts: dict[str, object] = msgspec.to_builtins(event)
        return facts
    return {} if isinstance(event, Event) else event


def _whole(value: object) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


class Holding:
    """Bytes held for one request."""

    def __init__(self, buffers: Buffers, session: str, size: int) -> None:
        self._buffers = buffers
        self._session = session
        self._size = size

    def shrink(self, size: int) -> None:
        """Only `size` bytes are still held."""
        if size < self._size:
            self._buffers.give(self._session, self._size - size)
            self._size = size


class Buffers:
    """Bytes that this host holds for guests: one bound for all, a smaller one for each session.

    Whoever wants more waits its turn, without reading from its guest meanwhile.
    """

    def __init__(self, total: int, *, share: int = 8, patience_s: float = 10.0) -> None:
        self._free = total
        self._total = total
        self._each = max(1, total // share)
        self._patience = patience_s
        self._held: dict[str, int] = {}
        self._queue: deque[asyncio.Event] = deque()

    @property
    def held(self) -> int:
        return self._total - self._free

    @contextlib.asynccontextmanager
    async def hold(self, session: str, size: int) -> AsyncIterator[Holding]:
        """Room for `size` bytes while the block runs. Raises `BusyError` where none comes free in time."""
        await self._take(session, size)
        holding = Holding(self, session, size)
        try:
            yield holding
        finally:
            holding.shrink(0)

    async def _take(self, session: str, size: int) -> None:
        if size > self._each:
            raise BusyError(
                f"{size} bytes at once are more than one session may hold",
                hint="Raise `[host] buffered_bytes`.",
                retry="no",
            )
        try:
            async with asyncio.timeout(self._patience):
                while self._free < size or self._held.get(session, 0) + size > self._each:
                    freed = asyncio.Event()
                    self._queue.append(freed)
                    try:
                        await freed.wait()
                    finally:
                        with contextlib.suppress(ValueError):
                            self._queue.remove(freed)
        except TimeoutError:
            raise BusyError("the host holds as many bytes for sandboxes as it may") from None
        self._free -= size
        self._held[session] = self._held.get(session, 0) + size

    def give(self, session: str, size: int) -> None:
        self._free += size
        left = self._held.get(session, 0) - size
        if left > 0:
            self._held[session] = left
        else:
            self._held.pop(session, None)
        for waiting in self._queue:
            waiting.set()
        self._queue.clear()
