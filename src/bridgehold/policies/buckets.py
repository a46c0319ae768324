"""Token buckets: pure arithmetic, time passed in."""

from __future__ import annotations

from bridgehold.policies.model import Grant

_COMMANDS, _BYTES = "*commands", "*bytes"
"""In a bridge's place: no bridge has such a name."""
MOST_RATES = 4_096
"""Tenants and bridges whose rates are remembered; who may act for any tenant may name any number of them."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. Starts full."""

    def __init__(self, rate: float = 0.0, burst: float = 0.0) -> None:
        """Without a rate it gives nothing until the first `adjust`."""
        self.rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def adjust(self, rate: float, burst: float, now: float) -> None:
        """From now on these. What is saved up stays, as far as the burst allows; a new bucket is full."""
        self._refill(now)
        self._tokens = burst if self._burst == 0 else min(self._tokens, burst)
        self.rate, self._burst = rate, burst

    def saved(self, now: float) -> float:
        """Tokens that are there; below 0: the debt."""
        self._refill(now)
        return self._tokens

    def wait(self, tokens: float, now: float) -> float:
        """Seconds until `tokens` would be there; 0 if they are. Takes nothing."""
        self._refill(now)
        missing = tokens - self._tokens
        return missing / self.rate if missing > 0 else 0.0

    def take(self, tokens: float, now: float) -> float:
        """Take `tokens`, into debt if need be; seconds until the debt is paid."""
        self._refill(now)
        self._tokens -= tokens
        return -self._tokens / self.rate if self._tokens < 0 else 0.0

    def try_take(self, tokens: float, now: float) -> bool:
        """Take `tokens` if they are there."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def retune(self, rate: float, burst: float, now: float) -> None:
        """Another rate from now on. What is saved up stays, up to `burst`: a change refills nothing."""
        self._refill(now)
        self.rate, self._burst = rate, burst
        self._tokens = min(self._tokens, burst)

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now


class CommandRates:
    """Commands a minute of each tenant and bridge, and what a tenant may have a second with all its bridges;
    beyond `MOST_RATES` buckets the longest unused go."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def take(self, grant: Grant, now: float) -> bool:
        """Whether one more command is within `grant`'s rate, as it is now."""
        return not self.over(grant, now)

    def over(self, grant: Grant, now: float) -> str:
        """The rate that one more command would be past, as it is now; empty: it is taken."""
        per_second, own = grant.rate.commands_per_minute / 60, grant.ceilings
        policy = self._bucket((grant.tenant, grant.bridge), per_second, per_second * 10, now)
        commands = own.commands_per_second
        tenant = self._bucket((grant.tenant, _COMMANDS), commands, commands, now) if commands else None
        if own.bytes_per_second and self._bytes(grant, now).saved(now) <= 0:
            return "tenant.limits.bytes_per_second"
        if tenant is not None and tenant.saved(now) < 1:
            return "tenant.limits.commands_per_second"
        if not policy.try_take(1, now):
            return "rate.commands_per_minute"
        if tenant is not None:
            tenant.take(1, now)
        return ""

    def charge(self, grant: Grant, size: int, now: float) -> None:
        """Count so many bytes that a command brought, or gave: into debt, which the next one waits for."""
        if grant.ceilings.bytes_per_second:
            self._bytes(grant, now).take(size, now)

    def owed(self, grant: Grant, now: float) -> float:
        """Seconds until the tenant's bytes are within their ceiling again; 0: they are, or it has none."""
        return self._bytes(grant, now).wait(1, now) if grant.ceilings.bytes_per_second else 0.0

    def _bytes(self, grant: Grant, now: float) -> TokenBucket:
        most = grant.ceilings.bytes_per_second or 0
        return self._bucket((grant.tenant, _BYTES), most, most, now)

    def _bucket(self, key: tuple[str, str], per_second: float, burst: float, now: float) -> TokenBucket:
        known = self._buckets.pop(key, None)
        self._buckets[key] = bucket = known or TokenBucket()
        while len(self._buckets) > MOST_RATES:
            del self._buckets[next(iter(self._buckets))]
        if known is None or bucket.rate != per_second:
            bucket.adjust(per_second, max(1.0, burst), now)
        return bucket

    def __len__(self) -> int:
        return len(self._buckets)
