"""A loop whose time is its own: what waits for a time gets it at once, and what waits for ever is named.

Pipes are real and read before any time passes, so that the same calls happen in the same order each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(AssertionError):
    """Nothing is due and nothing can come: who waits, waits for ever."""


class Clock:
    """Seconds, as `time.monotonic` gives them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            waiting = [task for task in asyncio.all_tasks(asyncio.get_running_loop()) if not task.done()]
            places = "\n".join(f"  {_place(task)}" for task in waiting)
            raise StuckError(f"these wait for ever:\n{places}")
        self._clock.now += timeout
        return []


def _place(task: asyncio.Task[Any]) -> str:
    frames = [f"{frame.f_code.co_name}:{frame.f_lineno}" for frame in task.get_stack()]
    return f"{task.get_coro().__qualname__} ({' > '.join(frames)})"


@contextlib.contextmanager
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop with a clock of its own, which `time.monotonic` shows as well meanwhile."""
    clock, real = Clock(), time.monotonic
    made = asyncio.SelectorEventLoop(_Selector(clock))
    time.monotonic = clock
    try:
        yield made
    finally:
        with contextlib.suppress(StuckError):
            _cancel_all(made)
        made.close()
        time.monotonic = real


def _cancel_all(made: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(made)
    for task in tasks:
        task.cancel()
    if tasks:
        made.run_until_complete(asyncio.wait(tasks))


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in a time of its own. `StuckError` where it would never end."""
    with loop() as made:
        return made.run_until_complete(work)
