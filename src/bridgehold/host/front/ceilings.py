"""Tenants' ceilings beside what somebody signed of them, where `[review] required` holds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridgehold import clock
from bridgehold.policies.approved import Verified
from bridgehold.policies.files import Readings, Text
from bridgehold.policies.reviewed import demand_ceiling

_MOST_KEPT = 1_024


class _Known(msgspec.Struct, frozen=True):
    found: Text | None
    review: Text | None
    verified: Verified | None
    signed: Text | None
    until: int


class SignedCeilings:
    """What was signed, as the files say it now; the same texts are judged once. One per registry."""

    def __init__(self, required: Callable[[], bool], verified: Callable[[], Verified | None]) -> None:
        """`verified` gives None where nobody here knows the key."""
        self._required = required
        self._verified = verified
        self._known: dict[str, _Known] = {}

    def demand(self, tenant: str, readings: Readings) -> Text | None:
        """As `demand_ceiling`, of what `readings` has; None where the configuration demands nothing."""
        if not self._required():
            return None
        found, review = readings.read("tenant", tenant), readings.read("ceiling", tenant)
        verified, now = self._verified(), clock.now()
        known = self._known.get(tenant)
        if (
            known is None
            or (known.found, known.review, known.verified) != (found, review, verified)
            or 0 < known.until <= now
        ):
            signed, until = demand_ceiling(tenant, found, review, verified, now)
            known = _Known(found, review, verified, signed, until)
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[tenant] = known
        if known.until:
            readings.until = min(readings.until or known.until, known.until)
        return known.signed
