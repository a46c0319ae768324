"""Token buckets: pure arithmetic, time passed in."""

from __future__ import annotations


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
