"""The awaits of the doubles, one by one: each is a step at which something can happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Act = Callable[[str], float | None]
"""What happens at a step, given its name: it may raise, or say how many seconds the step takes."""


class Steps:
    """Counts the awaits of all doubles that share it, and does what was planned at one of them."""

    def __init__(self, delay: Callable[[str], float] = lambda _name: 0.0) -> None:
        """`delay`: how long a step takes, in the loop's seconds."""
        self.names: list[str] = []
        self._delay = delay
        self._at = 0
        self._act: Act | None = None
        self._always: Act | None = None

    def plan(self, at: int, act: Act) -> None:
        """Do `act` at the step that is the `at`-th from now, counted from 1; what was planned before is not done."""
        self.names.clear()
        self._at, self._act = at, act

    def every(self, act: Act | None) -> None:
        """From now on do `act` at each step; None: nothing."""
        self._always = act

    @property
    def reached(self) -> bool:
        """Whether the planned step was taken."""
        return 0 < self._at <= len(self.names)

    async def take(self, name: str) -> None:
        """One step. Raises what was planned for it."""
        self.names.append(name)
        if self._always is not None:
            self._always(name)
        seconds = self._act(name) if self._act is not None and len(self.names) == self._at else None
        await asyncio.sleep(self._delay(name) if seconds is None else seconds)
