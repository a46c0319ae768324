"""What tenants use today and this month (UTC), of all providers together, beside their ceilings.

As the budgets (`budgets`) it is a fold of the audit: a restart forgets nothing, and a request whose end
nobody saw keeps its charge. A day's or a month's counts are gone with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from bridgehold import clock
from bridgehold.errors import BudgetError
from bridgehold.policies.tables import format_time
from bridgehold.policies.tenants import Tenant, amount
from bridgehold.policies.uses import Use
from bridgehold.policies.values import MILLION

if TYPE_CHECKING:
    from bridgehold.config.load import Config

TenantOf = Callable[[str], Tenant]
_DAY, _MONTH = 10, 7
"""Characters of ``2026-12-31`` and of ``2026-12``."""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """Of one tenant; requests under way count with what they may use."""

    requests_per_day: int = 0
    requests_per_month: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    money_per_day: int = 0
    """In millionths."""
    money_per_month: int = 0


class Period(msgspec.Struct, frozen=True):
    """What was counted in a day or a month."""

    requests: int = 0
    tokens: tuple[tuple[float, int], ...] = ()
    """By price: money is what they come to together, and no part of a millionth is lost with each request."""
    fees: int = 0
    """Millionths that were charged by use, and not by token."""

    def plus(self, requests: int, tokens: int, price: float, fees: int = 0) -> Period:
        """With so many more, or less, of each."""
        held = dict(self.tokens)
        held[price] = max(0, held.get(price, 0) + tokens)
        return Period(max(0, self.requests + requests), tuple(held.items()), max(0, self.fees + fees))

    @property
    def all_tokens(self) -> int:
        """At all prices."""
        return sum(tokens for _, tokens in self.tokens)

    @property
    def money(self) -> int:
        """Millionths, and one for a part of one."""
        return self.fees + math.ceil(round(sum(price * tokens for price, tokens in self.tokens), 6))


class Prices(msgspec.Struct, frozen=True):
    """Of a million tokens. A request says which model it is for; a name that isn't listed may be another one
    of the dearest model that is.
    """

    providers: Mapping[str, float] = {}
    models: Mapping[tuple[str, str], float] = {}
    """By provider and model, as the request names it."""
    fees: Mapping[str, Mapping[str, float]] = {}
    """By provider and what is used, of one use."""

    def fee(self, provider: str, use: Use) -> int | None:
        """Millionths at most of `use`; None: not known."""
        said = self.fees.get(provider, {})
        found = next((said[name] for name in (*use.names, "*") if name in said), None)
        return None if found is None else math.ceil(round(found * use.times * MILLION, 6))

    def beyond(self, provider: str, charged: tuple[Use, ...], kind: str, times: int) -> int:
        """What an answer that counts `times` of a `kind` costs beyond what was charged for it."""
        known = [use for use in charged if use.is_of(kind)]
        left = times - sum(use.times for use in known)
        names = {use.names for use in known} or {(f"tools[].type={kind}", "tools[].type", "tools[]", "tools")}
        return max(self.fee(provider, Use(one, left)) or 0 for one in names) if left > 0 else 0

    def of(self, provider: str, model: str | None) -> float:
        """0 where none is known. `model`: as a guest names it; None: the provider's own price."""
        own = self.providers.get(provider, 0)
        if model is None or not own:
            return self.models.get((provider, model), 0) if model is not None else own
        listed = (price for (name, _), price in self.models.items() if name == provider)
        known = self.models.get((provider, model))
        return max(own, *listed, 0) if known is None else known

    def said(self, shape: str, provider: str, uses: tuple[Use, ...]) -> tuple[Use, ...]:
        """Of what a tool of the operator's uses: at an endpoint of its own kind (``custom``) only what has a
        fee, since that costs beside tokens what the operator says."""
        return tuple(use for use in uses if shape != "custom" or self.fee(provider, use) is not None)


def prices_of(config: Config) -> Prices:
    """As the operator says them."""
    return Prices(
        {name: section.price for name, section in config.providers.items()},
        {
            (name, model): one.price
            for name, section in config.providers.items()
            for model, one in section.models.items()
        },
        {name: section.fees for name, section in config.providers.items()},
    )


class Spending:
    """One per host, beside its budgets."""

    def __init__(
        self,
        tenant_of: TenantOf = lambda name: Tenant(name=name),
        prices: Prices | None = None,
        clock: Callable[[], float] = clock.now,
    ) -> None:
        """`tenant_of`: as its file says it now; raises where that can't be told. `clock`: since the epoch."""
        self._tenant_of = tenant_of
        self.prices = prices or Prices()
        """What is counted from now on costs this."""
        self._clock = clock
        self._counts: dict[tuple[str, str], Period] = {}
        """By tenant, and day or month."""
        self._today = ""

    def today(self) -> str:
        """``2026-12-31``, and from here on no other day counts but as part of its month.

        A clock that is set back over midnight begins no day anew: the later one goes on.
        """
        day = max(self._today, format_time(self._clock())[:_DAY])
        if day != self._today:
            self._today = day
            kept = (day, day[:_MONTH])
            self._counts = {key: count for key, count in self._counts.items() if key[1] in kept}
        return day

    def add(
        self, tenant: str, requests: int, tokens: int, price: float, day: str = "", fees: int = 0
    ) -> None:
        """Count more, or less where a charge is settled below it: at the `price` and of the `day` that it was
        charged at.
        """
        if day and day[:_MONTH] < self._today[:_MONTH]:
            return  # of an audit's many lines few are this month's
        today = self.today()
        day = day or today
        for period in (day, day[:_MONTH]):
            if period in (today, today[:_MONTH]):
                before = self._counts.get((tenant, period), Period())
                self._counts[tenant, period] = before.plus(requests, tokens, price, fees)

    def priced(self, provider: str) -> bool:
        """Whether what the provider makes has a price."""
        return bool(self.prices.of(provider, None)) or any(name == provider for name, _ in self.prices.models)

    def dearer(self, provider: str, model: str) -> bool:
        """Whether the model, where one is named, costs more than the provider's own price, which is known."""
        return bool(model) and 0 < self.prices.of(provider, None) < self.prices.of(provider, model)

    def of(self, tenant: str) -> dict[str, Period]:
        """What was counted of the tenant's, by day and month."""
        return {period: count for (owner, period), count in self._counts.items() if owner == tenant}

    def restore(self, tenant: str, periods: Mapping[str, Period]) -> None:
        """Begin with what another one has counted for the tenant."""
        self.today()
        self._counts |= {(tenant, period): count for period, count in periods.items()}

    def used(self, tenant: str) -> Used:
        """What `tenant` has used today and this month."""
        day = self.today()
        of_day = self._counts.get((tenant, day), Period())
        of_month = self._counts.get((tenant, day[:_MONTH]), Period())
        return Used(
            requests_per_day=of_day.requests,
            requests_per_month=of_month.requests,
            tokens_per_day=of_day.all_tokens,
            tokens_per_month=of_month.all_tokens,
            money_per_day=of_day.money,
            money_per_month=of_month.money,
        )

    def demand_active(self, tenant: str) -> None:
        """Raise `SuspendedError` where nothing begins for the tenant."""
        self._tenant_of(tenant).demand()

    def demand_price(self, tenant: str, provider: str, tokens: int, model: str | None) -> None:
        """Raise `BudgetError` where the tenant's money is bounded, and what costs it has no price."""
        if tokens and not self.prices.of(provider, model) and self._bounded(tenant):
            raise BudgetError(
                f"what {provider} costs is not known, and the money of tenant {tenant} is bounded",
                where=f"providers.{provider}.price",
                hint=f"Set `[providers.{provider}] price` in config.toml, and `bridgehold reload`.",
                retry="no",
            )

    def demand_fees(self, tenant: str, provider: str, uses: tuple[Use, ...]) -> int:
        """What `uses` cost at most, in millionths. Raises `BudgetError` where the tenant's money is bounded,
        and one of them has no fee."""
        fees = [(use.names[0], self.prices.fee(provider, use)) for use in uses]
        unknown = next((name for name, fee in fees if fee is None), None)
        if unknown is not None and self._bounded(tenant):
            raise BudgetError(
                f"what {provider} bills for each use of {unknown} is not known, and the money of tenant "
                f"{tenant} is bounded",
                where=f"providers.{provider}.fees",
                hint=f"Set `[providers.{provider}.fees] {json.dumps(unknown)}` in config.toml (0: its "
                "tokens alone), and `bridgehold reload`.",
                retry="no",
            )
        return sum(fee or 0 for _, fee in fees)

    def _bounded(self, tenant: str) -> bool:
        limits = self._tenant_of(tenant).limits
        return limits.money_per_day is not None or limits.money_per_month is not None

    def demand(self, tenant: str) -> None:
        """Raise `BudgetError` once a ceiling is used up, `SuspendedError` where nothing begins.

        As with a policy's budgets, a request goes out while anything is left.
        """
        found = self._tenant_of(tenant)
        found.demand()
        used = self.used(tenant)
        for key in Used.__struct_fields__:
            most = getattr(found.limits, key)
            if most is not None and getattr(used, key) >= most:
                said = f"its {key.replace('_', ' ')}: {amount(key, most)}, what is under way included"
                raise BudgetError(
                    f"tenant {tenant} has used up {said}",
                    where=f"tenant.limits.{key}",
                    hint=f"An operator raises it: `bridgehold tenant limit {tenant} {key}=…`.",
                    retry="later",
                )
