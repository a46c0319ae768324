"""Waiting for what comes: a test asks again until it is there, and says what it saw last when it never comes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

Seen = TypeVar("Seen")
PATIENCE = 30.0
"""Seconds: far above what a busy machine takes, so that only what never comes is a failure."""


def until(
    look: Callable[[], Seen], seconds: float = PATIENCE, seen: Callable[[], object] | None = None
) -> Seen:
    """What `look()` gives, once it is true; fails after `seconds` with what it gave last, or with `seen()`."""
    deadline = time.monotonic() + seconds
    for pause in _pauses():
        last = look()
        if last:
            return last
        if time.monotonic() > deadline:
            pytest.fail(_missed(look, seen() if seen else last, seconds))
        time.sleep(pause)
    raise AssertionError


async def eventually(look: Callable[[], Seen | Awaitable[Seen]], seconds: float = PATIENCE) -> Seen:
    """The same while the event loop runs on; `look` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    for pause in _pauses():
        given = look()
        seen: Seen = await given if inspect.isawaitable(given) else given  # type: ignore[assignment]  # either
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(_missed(look, seen, seconds))
        await asyncio.sleep(pause)
    raise AssertionError


def _pauses() -> Iterator[float]:
    """Seconds between two looks: short at first, then such that looking costs a busy machine little."""
    pause = 0.002
    while True:
        yield pause
        pause = min(pause * 1.5, 0.1)


def _missed(look: Callable[..., object], seen: object, seconds: float) -> str:
    try:
        source = inspect.getsource(look).strip()
    except (OSError, TypeError):
        source = repr(look)
    return f"not within {seconds:g} s: {source[:500]}\nseen last: {seen!r:.2000}"
