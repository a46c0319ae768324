"""When a zygote is made, kept, renewed and given up (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from bridgehold.config.settings import ZygoteLimits

State = Literal["warming", "warm", "leaving", "gone"]
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 300.0
_OPEN_AFTER = 3
"""Failures in a row after which the circuit is open for the longest delay at once."""
_FORGIVEN_S = 60.0
"""A zygote that was warm for so long has made good for the failures before it."""


class ZygoteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules know of one zygote."""

    name: str
    memory_bytes: int
    first_bytes: int
    """Right after it was warm."""
    age_s: float
    idle_s: float
    """Since its last fork."""
    sessions: int


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong with a key so far. Empty: nothing."""

    count: int = 0
    until: float = 0.0
    """Monotonic time before which no zygote of this key is tried."""
    reason: str = ""
    lasting: bool = False
    """It will not pass by itself: threads at import, no Landlock. Cold until the key changes."""


def failed(before: Failures, reason: str, now: float, *, lasting: bool) -> Failures:
    """One more failure: the delay doubles, and is the longest from the third in a row on."""
    count = before.count + 1
    delay = _LONGEST_DELAY_S if count >= _OPEN_AFTER else _FIRST_DELAY_S * 2 ** (count - 1)
    return Failures(count=count, until=now + delay, reason=reason, lasting=lasting)


def lived(before: Failures, seconds: float) -> Failures:
    """What is left to hold against a key whose zygote was warm for `seconds`.

    Not all is forgotten at its first breath: one that warms and dies, again and again, is a failure too.
    """
    return Failures() if seconds >= _FORGIVEN_S else before


def closed(failures: Failures, now: float) -> bool:
    """Whether another zygote may be tried."""
    return not failures.lasting and now >= failures.until


def worn(facts: ZygoteFacts, limits: ZygoteLimits) -> str:
    """Why a zygote is to be replaced by a new one; empty where it is not."""
    if facts.age_s > limits.max_age_s:
        return "age"
    if facts.memory_bytes > facts.first_bytes * limits.growth:
        return "growth"
    return ""


def evicted(zygotes: Iterable[ZygoteFacts], needed_bytes: int, budget_bytes: int) -> list[str] | None:
    """Which zygotes leave so that another of `needed_bytes` fits: the longest unused, none with sessions.

    None where even that would not make room.
    """
    known = list(zygotes)
    over = sum(z.memory_bytes for z in known) + needed_bytes - budget_bytes
    leaving = []
    for zygote in sorted((z for z in known if not z.sessions), key=lambda z: -z.idle_s):
        if over <= 0:
            break
        leaving.append(zygote.name)
        over -= zygote.memory_bytes
    return leaving if over <= 0 else None
