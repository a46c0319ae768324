"""Allow and deny over names: the one place where a pattern decides (pure)."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.policies import globs
from bridgehold.policies.model import Rules

InlineKeys = Literal["capture", "refuse", "pass"]


class Match(msgspec.Struct, frozen=True):
    """Which rule decided on a name: ``deny[1]``, ``allow[0]``, or none."""

    allowed: bool
    rule: str
    pattern: str = ""


def match(rules: Rules, name: str) -> Match:
    """Deny wins; the first pattern that fits is named; without one the name is denied."""
    for index, pattern in enumerate(rules.deny):
        if globs.matches(pattern, name):
            return Match(False, f"deny[{index}]", pattern)
    for index, pattern in enumerate(rules.allow):
        if globs.matches(pattern, name):
            return Match(True, f"allow[{index}]", pattern)
    return Match(False, "")
