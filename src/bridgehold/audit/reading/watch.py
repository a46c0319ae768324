"""How long one question may take, and where it was when that was over."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bridgehold.audit.reading.linear import Hit

_FIRST = 1_024
"""Rows that are looked at before anybody looks at the clock; so each question comes on."""


class Watch:
    """Of one question. Without `seconds` it takes what it takes."""

    def __init__(self, seconds: float | None = None) -> None:
        self._ends = None if seconds is None else time.monotonic() + seconds
        self.row = 0
        """The last row that was looked at, where there are more; else 0."""
        self.at: Hit | None = None
        """The event next to that, to go on from; None where all has been looked at."""

    def over(self) -> bool:
        """Whether the time is over."""
        return self._ends is not None and time.monotonic() > self._ends

    def windows(self, order: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Rows from `first` on, before `last`, piece by piece in this order, until the time is over.

        The next piece is at most twice as wide as the one before, and as what is left of the time allows.
        """
        size = _FIRST
        while first < last:
            if order == "DESC":
                low, high = max(first, last - size), last
            else:
                low, high = first, min(last, first + size)
            began = time.monotonic()
            yield low, high
            first, last = (first, low) if order == "DESC" else (high, last)
            if self.over() and first < last:
                self.row = low if order == "DESC" else high - 1
                return
            size = self._next(size, began)

    def _next(self, size: int, began: float) -> int:
        if self._ends is None:
            return size * 2
        now = time.monotonic()
        fits = size * (self._ends - now) / max(now - began, 1e-6)
        return max(_FIRST, min(size * 2, int(fits)))
