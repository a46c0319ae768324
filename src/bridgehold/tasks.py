"""Tasks that somebody holds: the loop itself holds its tasks only weakly."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def begin_task(work: Coroutine[Any, Any, T], *holders: set[asyncio.Task[T]]) -> asyncio.Task[T]:
    """`work` as a task that is in each of `holders` until it ends."""
    task = asyncio.create_task(work)
    for held in holders:
        held.add(task)
        task.add_done_callback(held.discard)
    return task
