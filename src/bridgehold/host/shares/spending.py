"""What tenants use today and this month (UTC), of all providers together, beside their ceilings.

As the budgets (`budgets`) it is a fold of the audit: a restart forgets nothing, and a request whose end
nobody saw keeps its charge. A day's or a month's counts are gone with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bridgehold.errors import BudgetError
from bridgehold.policies.tables import format_time
from bridgehold.policies.tenants import Tenant

TenantOf = Callable[[str], Tenant]
_DAY, _MONTH = 10, 7
"""Characters of ``2026-12-31`` and of ``2026-12``."""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """Of one tenant; requests under way count with what they may use."""

    requests_per_day: int = 0
    requests_per_month: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0


class Spending:
    """One per host, beside its budgets."""

    def __init__(
        self, tenant_of: TenantOf = lambda name: Tenant(name=name), clock: Callable[[], float] = time.time
    ) -> None:
        """`tenant_of`: as its file says it now; raises where that can't be told. `clock`: since the epoch."""
        self._tenant_of = tenant_of
        self._clock = clock
        self._counts: dict[tuple[str, str], list[int]] = {}
        """By tenant and period: requests, tokens."""
        self._today = ""

    def today(self) -> str:
        """``2026-12-31``, and from here on no other day counts but as part of its month."""
        day = format_time(self._clock())[:_DAY]
        if day != self._today:
            self._today = day
            kept = (day, day[:_MONTH])
            self._counts = {key: count for key, count in self._counts.items() if key[1] in kept}
        return day

    def add(self, tenant: str, requests: int, tokens: int, day: str = "") -> None:
        """Count more, or less where a charge is settled below it. `day`: when it was charged, if not now."""
        if day and day[:_MONTH] < self._today[:_MONTH]:
            return  # of an audit's many lines few are this month's
        today = self.today()
        day = day or today
        for period in (day, day[:_MONTH]):
            if period in (today, today[:_MONTH]):
                count = self._counts.setdefault((tenant, period), [0, 0])
                count[0] = max(0, count[0] + requests)
                count[1] = max(0, count[1] + tokens)

    def used(self, tenant: str) -> Used:
        day = self.today()
        of_day = self._counts.get((tenant, day), [0, 0])
        of_month = self._counts.get((tenant, day[:_MONTH]), [0, 0])
        return Used(
            requests_per_day=of_day[0],
            requests_per_month=of_month[0],
            tokens_per_day=of_day[1],
            tokens_per_month=of_month[1],
        )

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
                said = f"its {key.replace('_', ' ')}: {most}, those under way included"
                raise BudgetError(
                    f"tenant {tenant} has used up {said}",
                    where=f"tenant.limits.{key}",
                    hint=f"An operator raises it: `bridgehold tenant limit {tenant} {key}=…`.",
                    retry="later",
                )
