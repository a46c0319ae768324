"""Waiting for what comes: a test asks again until it is there, and says what it saw last when it never comes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

Seen = TypeVar("Seen")
PATIENCE = 30.0
"""Seconds: far above what a busy machine takes, so that only what never comes is a failure."""
EVERY = 0.01
"""Seconds between two looks, where a look is cheap."""


def until(look: Callable[[], Seen], *, seconds: float = PATIENCE, every: float = EVERY) -> Seen:
    """What `look()` gives, once it is true; fails after `seconds` with what it gave last."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(missed(look, seen, seconds))
        time.sleep(every)
    return seen


async def eventually(
    look: Callable[[], Seen | Awaitable[Seen]], *, seconds: float = PATIENCE, every: float = EVERY
) -> Seen:
    """The same while the event loop runs on; `look` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        given = look()
        seen: Seen = await given if inspect.isawaitable(given) else given
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(missed(look, seen, seconds))
        await asyncio.sleep(every)


def missed(look: Callable[..., object], seen: object, seconds: float) -> str:
    try:
        source = inspect.getsource(look).strip()
    except (OSError, TypeError):
        source = repr(look)
    return f"not within {seconds:g} s: {source[:500]}\nseen last: {seen!r:.2000}"
