"""Searches of a long text in bounded parts, pure: a generator that stops between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

MASK = "[redacted]"
PART, REACH = 8 * 1024, 16 * 1024
"""Characters in which one search may begin; more than any match of these expressions has and looks at."""
LOOK = 256 * 1024
LOOKS = 64
"""Of what was found, between two stops: some hundred microseconds."""
Masked = tuple[int, int, str]
"""From where to where, and what stands there instead."""


def searched(
    pattern: re.Pattern[str], text: str, at: int = 0, reach: int = REACH
) -> Iterator[re.Match[str] | None]:
    """What `pattern.finditer(text, at)` gives; None after each part that it was looked for in.

    What makes a match is within `reach` of its beginning; it may go on for longer.
    """
    end, stop = len(text), at + PART
    while True:
        seen = min(end, stop + reach)
        found = pattern.search(text, at, seen)
        while found is not None and found.start() < stop and found.end() == seen < end:
            yield None
            seen = min(end, 2 * seen - at)
            found = pattern.search(text, found.start(), seen)
        if found is not None and (found.start() < stop or seen == end):
            yield found
            at = found.end()
        elif seen == end:
            return
        else:
            at = stop
        if at >= stop:
            yield None
            stop = at + PART


def run_end(piece: re.Pattern[str], text: str, at: int) -> Generator[None, None, int]:
    """Where the run of `piece`'s characters that begins at `at` ends, however far that is: by one match of up
    to `PART` of them after the other."""
    while (found := piece.match(text, at)) is not None:
        begin, at = at, found.end()
        if at - begin < PART:
            break
        yield
    return at


def replaced(text: str, spans: Iterable[Masked | None]) -> Generator[None, None, str]:
    """`text` without `spans`, in their order; one that begins within another is left out."""
    done, pieces = 0, []
    for span in spans:
        if span is None:
            yield
        elif span[0] >= done:
            pieces += [text[done : span[0]], span[2]]
            done = span[1]
    return "".join([*pieces, text[done:]])
