"""Patterns on names: ``*`` stands for any characters, nothing else is special, case is kept.

Patterns are compared as sets of names, so that narrowing is exact: `covers` for "is this a
widening?", `meet` for what two patterns allow together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

MAX_STARS = 4
MAX_LENGTH = 100
_MAX_MEET = 64


def too_wild(pattern: str) -> bool:
    """Whether it has a star and is longer, or has more of them, than `meet` should be asked to combine."""
    return "*" in pattern and (pattern.count("*") > MAX_STARS or len(pattern) > MAX_LENGTH)


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` allows the whole of `name`. Linear: each literal is taken where it first fits."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    place, end = len(first), len(name) - len(last)
    for literal in middle:
        place = name.find(literal, place, end)
        if place < 0:
            return False
        place += len(literal)
    return True


def covers(wide: str, narrow: str) -> bool:
    """Whether every name that `narrow` allows is allowed by `wide`: only a star matches a star."""
    return matches(wide, narrow)


def meet(left: str, right: str) -> tuple[str, ...]:
    """Patterns that together allow exactly the names that both allow, without superfluous ones.

    Two patterns that would need more than 64 of them get fewer: less is allowed, never more.
    """
    return prune(_meet(re.sub(r"\*+", "*", left), re.sub(r"\*+", "*", right)))


@lru_cache(maxsize=4096)
def _meet(left: str, right: str) -> frozenset[str]:
    if covers(left, right) or covers(right, left):
        return frozenset({right if covers(left, right) else left})
    if not left or not right:
        return frozenset()
    if left[0] == "*" and right[0] == "*":
        return _after("*", _meet(left[1:], right)) | _after("*", _meet(left, right[1:]))
    if left[0] == "*":
        return _meet(left[1:], right) | _after(right[0], _meet(left, right[1:]))
    if right[0] == "*":
        return _meet(left, right[1:]) | _after(left[0], _meet(left[1:], right))
    return _after(left[0], _meet(left[1:], right[1:])) if left[0] == right[0] else frozenset()


def _after(first: str, rest: frozenset[str]) -> frozenset[str]:
    made = sorted(re.sub(r"\*+", "*", first + pattern) for pattern in rest)
    return frozenset(made[:_MAX_MEET])


def prune(patterns: Iterable[str], covering: Callable[[str, str], bool] = covers) -> tuple[str, ...]:
    """`patterns` without those that another one covers, sorted."""
    kept: list[str] = []
    for pattern in sorted(set(patterns), key=lambda text: ("*" not in text, len(text), text)):
        if not any(covering(other, pattern) for other in kept):
            kept = [other for other in kept if not covering(pattern, other)]
            kept.append(pattern)
    return tuple(sorted(kept))
