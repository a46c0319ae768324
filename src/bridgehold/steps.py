"""Long work as a generator that stops now and then: made at once, or while a loop does other work."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


def finished(steps: Generator[None, None, T]) -> T:
    """What comes of `steps`, all of which are made at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)


@types.coroutine
def in_turns(steps: Generator[None, None, T]) -> Generator[None, None, T]:
    """The same; each of its stops is one of whoever awaits it."""
    return (yield from steps)
