"""Callers' retries: what an error's `retry` allows, with growing pauses and a share of chance.

``later``: after a pause, for what passes by itself (busy, rate limits, a provider that fails). ``same``: at
once, for what a fresh worker may do better (a crash), and only where the caller says that it may run twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bridgehold.errors import BridgeholdError, UsageError

T = TypeVar("T")
FIRST_SECONDS, LONGEST_SECONDS = 0.1, 30.0


def pause(attempt: int, chance: float) -> float:
    """Seconds before retry `attempt`, from 1 on: doubled each time, half of it by chance (pure)."""
    longest: float = min(FIRST_SECONDS * 2 ** (attempt - 1), LONGEST_SECONDS)
    return longest * (0.5 + 0.5 * chance)


def may_retry(error: BridgeholdError, *, repeatable: bool) -> bool:
    """Whether another attempt makes sense."""
    return error.retry == "later" or (error.retry == "same" and repeatable)


async def with_retries(call: Callable[[], Awaitable[T]], retries: int, *, repeatable: bool = False) -> T:
    """`call`, and up to `retries` times more. The last error is raised as it came.

    Raises `UsageError` for fewer than none.
    """
    if retries < 0:
        raise UsageError(f"{retries} is no number of retries", where="retries", hint="0 is none.")
    for attempt in range(1, retries + 2):
        try:
            return await call()
        except BridgeholdError as error:
            if attempt > retries or not may_retry(error, repeatable=repeatable):
                raise
            if error.retry == "later":
                await asyncio.sleep(pause(attempt, random.random()))  # noqa: S311 - spreads callers, nothing more
    raise AssertionError("unreachable")
