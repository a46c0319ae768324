"""Which time it is, for all that ends by a time: it only goes on, whatever is done to the machine's clock.

Within a boot the kernel counts on, also while the machine sleeps; from one start to the next the audit's last
event says how far it was. A clock that is set back brings nothing back that has ended. One that was far ahead
by mistake, and was put right, is told of: what ends by a time goes by the audit's until that has come again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

VARIABLE = "BRIDGEHOLD_TIME"
"""Of a process's environment: ``SECONDS AT``, the time that its starter had, and the kernel's count then."""
BEHIND_SECONDS = 60.0
"""A machine's clock that is further behind is told of."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds of the epoch, from `floor` at the least on. Pure but for what it is given."""

    def __init__(
        self,
        floor: float = 0.0,
        at: float | None = None,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = _since_boot,
    ) -> None:
        """`at`: what `since_boot` said at `floor`; None: it says so now."""
        self._wall, self._since_boot = wall, since_boot
        self._known = (floor, since_boot() if at is None else at)

    def now(self) -> float:
        """The machine's clock, where it isn't behind what was known before."""
        count = self._since_boot()
        floor, at = self._known
        found = max(self._wall(), floor + max(0.0, count - at))
        self._known = (found, count)
        return found

    def saw(self, seconds: float) -> None:
        """It was that late already."""
        found = max(seconds, self.now())
        self._known = (found, self._known[1])

    def behind(self) -> float:
        """Seconds that the machine's clock is behind."""
        return self.now() - self._wall()

    def told(self) -> str:
        """What a process that is begun now has in `VARIABLE`."""
        self.now()
        floor, at = self._known
        return f"{floor:.3f} {at:.3f}"


def warning(behind: float) -> str:
    """What is said of a machine's clock that is so many seconds behind, and the remedy."""
    return (
        f"the machine's clock is {behind:.0f} s behind what the audit has seen: what ends by a time goes by"
        " the audit's. Put the clock right; if the audit's time was the mistake, end the host and move the"
        " audit's folder away, where `bridgehold audit verify` reads it still: a new one begins"
    )


def begun(told: str) -> Clock:
    """As `told` by whoever began this process; the machine's alone where nothing was."""
    floor, _, at = told.partition(" ")
    try:
        return Clock(float(floor), float(at))
    except ValueError:
        return Clock()


ONE = begun(os.environ.get(VARIABLE, ""))
"""This process's; one of a thread pool's may ask it."""
now = ONE.now


def now_ns() -> int:
    """In whole nanoseconds."""
    return int(now() * 1e9)
