"""Who may still spend what: requests and tokens by tenant and provider.

A request is charged before it goes out, with the most that it may use; what is known afterwards replaces
that. The charge stands in its intent and the settlement in its outcome, so what was spent is a fold of
the audit: a request whose end nobody saw (the host was killed) keeps its charge. Time is passed in;
nothing here reads a clock or a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import EgressEnded, EgressIntent, EgressOutcome, EgressSent, kind_of
from bridgehold.errors import BudgetError
from bridgehold.keeper.spending import Period, Spending
from bridgehold.keeper.usage import Counted, charge
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.model import Rate
from bridgehold.policies.uses import Use

_INTENTS = frozenset((kind_of(EgressIntent), kind_of(EgressSent)))
_ENDS = {kind_of(EgressOutcome): kind_of(EgressIntent), kind_of(EgressEnded): kind_of(EgressSent)}
"""What settles which charge: a cell writes the first pair, and the keeper alone the second."""
_BURST_SECONDS = 10

Key = tuple[str, str]
"""(tenant, provider)."""


class Spent(msgspec.Struct, frozen=True):
    """What one tenant has used of one provider over the audit's life, requests under way included."""

    requests: int = 0
    tokens: int = 0


class Reservation:
    """The charge of a running request; `settle` it once with what it did use."""

    def __init__(
        self,
        budgets: Budgets,
        key: Key,
        tokens: int,
        price: float,
        day: str,
        fees: int,
        uses: tuple[Use, ...],
    ) -> None:
        self._budgets = budgets
        self._price = price
        self._day = day
        """When it was charged."""
        self._key = key
        self.tokens = tokens
        """What it is charged with until it is settled."""
        self.fees = fees
        """Millionths, beside them: of what the provider bills by use."""
        self._uses = uses
        self._prices = budgets.spending.prices
        self._open = True

    def fees_due(self, status: int, used: tuple[tuple[str, int], ...] = ()) -> int:
        """What the uses have cost: what was charged, or more where the answer counts more of them. Nothing,
        where the provider refused."""
        if status >= 300:
            return 0
        more = (self._prices.beyond(self._key[1], self._uses, kind, times) for kind, times in used)
        return self.fees + sum(more)

    def end(
        self, counted: Counted, status: int, *, sent: bool, open_ended: int = 0, by_tokens: bool = True
    ) -> tuple[int, int]:
        """Settle what the request has cost, by what its answer told: tokens, and millionths beside them.

        One that was never `sent` has cost nothing. `open_ended`: as `charge`. `by_tokens`: if it has any.
        """
        if not sent:
            self.give_back()
            return 0, 0
        charged = charge(self.tokens, counted, status, open_ended=open_ended) if by_tokens else 0
        fees = self.fees_due(status, counted.used)
        self.settle(charged, fees)
        return charged, fees

    def settle(self, tokens: int, fees: int | None = None) -> None:
        """The request has ended and cost `tokens`, and `fees` (None: all that was charged); a second call
        changes nothing."""
        if self._open:
            self._open = False
            left = 0 if fees is None else fees - self.fees
            self._budgets.add(self._key, 0, tokens - self.tokens, self._price, self._day, left)

    def give_back(self) -> None:
        """The request was never sent: there is no intent, or its outcome says so."""
        if self._open:
            self._open = False
            self._budgets.add(self._key, -1, -self.tokens, self._price, self._day, -self.fees)


class Budgets:
    """One per host. What is spent is counted by tenant and provider, the pace by bridge as well."""

    def __init__(self, spending: Spending | None = None) -> None:
        """`spending`: the same by day and month, beside the ceilings of tenants."""
        self.spending = spending or Spending()
        self._requests: dict[Key, int] = {}
        self._tokens: dict[Key, int] = {}
        self._buckets: dict[tuple[str, str, str], TokenBucket] = {}

    def fold(self, entries: Iterable[Entry]) -> None:
        """Add what the audit's `entries` say was charged and settled, oldest first. Others are skipped.

        A charge is settled by its own recorder, for its own tenant; what settles none gives back none.
        """
        charged: dict[tuple[str, str, str], tuple[Key, int, float, str, int]] = {}
        for entry in entries:
            key = (entry.tenant, entry.text("provider"))
            if not key[1] or entry.fields.get("kept") is True:  # the keeper's own word counts
                continue
            if entry.kind in _INTENTS:
                tokens, price, day = _whole(entry, "reserved"), self._price_of(entry), entry.time[:10]
                fees = _whole(entry, "fees")
                charged[entry.kind, entry.tenant, entry.ref] = (key, tokens, price, day, fees)
                self.add(key, 1, tokens, price, day, fees)
            elif entry.kind in _ENDS:
                known = charged.pop((_ENDS[entry.kind], entry.tenant, entry.text("intent")), None)
                first, tokens, price, day, fees = known or (key, 0, self._price_of(entry), entry.time[:10], 0)
                unsent = known is not None and entry.fields.get("unsent") is True
                left = (0 if unsent else _whole(entry, "fees")) - fees
                self.add(first, -unsent, (0 if unsent else _settled(entry)) - tokens, price, day, left)

    def _price_of(self, entry: Entry) -> float:
        """As it was charged: an operator's tool that names no model has its provider's own price."""
        model = entry.text("model")
        own = entry.text("how") == "tool" and not model
        return self.spending.prices.of(entry.text("provider"), None if own else model)

    def of(self, tenant: str) -> dict[str, tuple[int, int]]:
        """Requests and tokens of the tenant's, by provider."""
        return {
            provider: (count, self._tokens.get((tenant, provider), 0))
            for (owner, provider), count in self._requests.items()
            if owner == tenant
        }

    def restore(
        self,
        tenant: str,
        providers: Mapping[str, tuple[int, int]],
        periods: Mapping[str, Period],
    ) -> None:
        """Begin with what another one has counted for the tenant (`of`, and its spending's)."""
        for provider, (requests, tokens) in providers.items():
            self._requests[tenant, provider] = requests
            self._tokens[tenant, provider] = tokens
        self.spending.restore(tenant, periods)

    def spent(self, tenant: str, provider: str) -> Spent:
        """What a tenant has used of a provider, requests under way included."""
        key = (tenant, provider)
        return Spent(self._requests.get(key, 0), self._tokens.get(key, 0))

    def demand(self, tenant: str, provider: str, rate: Rate) -> None:
        """Raise `BudgetError` where nothing is left for a request, `SuspendedError` where none begins."""
        self.spending.demand(tenant)
        most = rate.provider_requests_total
        if most is not None and self._requests.get((tenant, provider), 0) >= most:
            raise _used_up("rate.provider_requests_total", f"{most} requests")
        most = rate.provider_tokens_total
        if most is not None and self._tokens.get((tenant, provider), 0) >= most:
            raise _used_up("rate.provider_tokens_total", f"{most} tokens")

    def reserve(
        self,
        owner: tuple[str, str],
        provider: str,
        rate: Rate,
        tokens: int,
        now: float,
        model: str | None = "",
        uses: tuple[Use, ...] = (),
        fees: int = 0,
    ) -> Reservation:
        """Charge one request of at most `tokens` tokens. `owner` is (tenant, bridge), `model` what it names;
        None: no guest could have named one. `uses`: what of it is billed by use; `fees`: millionths that they
        come to at least.

        Raises `BudgetError` (where: the rule), `SuspendedError` where nothing begins. A request goes out as
        long as anything of the budget is left, so a tenant overdraws by one request at most, and by what
        requests use beyond their charge.
        """
        key = (owner[0], provider)
        self.demand(owner[0], provider, rate)
        self.spending.demand_price(owner[0], provider, tokens, model)
        fees = max(fees, self.spending.demand_fees(owner[0], provider, uses))
        if not self._bucket((*owner, provider), rate.provider_requests_per_minute, now).try_take(1, now):
            raise BudgetError(
                f"more than {rate.provider_requests_per_minute} requests a minute to {provider}",
                where="rate.provider_requests_per_minute",
                hint="Slow down, or raise `[rate] provider_requests_per_minute` in the policy.",
            )
        price = self.spending.prices.of(provider, model)
        self.add(key, 1, tokens, price, fees=fees)
        return Reservation(self, key, tokens, price, self.spending.today(), fees, uses)

    def add(self, key: Key, requests: int, tokens: int, price: float, day: str = "", fees: int = 0) -> None:
        """Count more, or less where a charge is settled below it (`Spending.add`)."""
        self.spending.add(key[0], requests, tokens, price, day, fees)
        self._requests[key] = max(0, self._requests.get(key, 0) + requests)
        self._tokens[key] = max(0, self._tokens.get(key, 0) + tokens)

    def _bucket(self, key: tuple[str, str, str], per_minute: int, now: float) -> TokenBucket:
        """Sessions under an older policy may have another rate: the bucket changes, never fills up."""
        rate = per_minute / 60
        burst = max(1.0, min(per_minute, rate * _BURST_SECONDS))
        known = self._buckets.get(key)
        if known is None:
            known = self._buckets[key] = TokenBucket(rate, burst)
        else:
            known.retune(rate, burst, now)
        return known


def _used_up(rule: str, what: str) -> BudgetError:
    return BudgetError(
        f"the tenant's budget of {what} is used up, requests under way included",
        where=rule,
        hint=f"Raise `{rule}` in the policy.",
        retry="no",
    )


def _settled(entry: Entry) -> int:
    """What an outcome was charged with; lines that don't say so name tokens alone."""
    if "charged" in entry.fields:
        return _whole(entry, "charged")
    return _whole(entry, "input_tokens") + _whole(entry, "output_tokens")


def _whole(entry: Entry, name: str) -> int:
    value = entry.number(name)
    return 0 if isinstance(value, bool) else max(0, value)
