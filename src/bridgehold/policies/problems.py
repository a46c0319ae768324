"""Faults of policy files: collected, never one at a time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.policies.model import Source

_MOST = 50


class Problem(msgspec.Struct, frozen=True):
    """One fault: where it stands, at which dotted key, and what is wrong."""

    source: Source
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.source}: {key}{self.message}"


class Faulty(Exception):  # noqa: N818 - carries problems inside of this room; `policy_error` is what leaves it
    """Problems on their way to whoever collects them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def policy_error(problems: Iterable[Problem], *, hint: str | None = None) -> PolicyError:
    """One error that names every problem, one a line (at most 50)."""
    found = tuple(problems)
    lines = [str(problem) for problem in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"… and {len(found) - _MOST} more")
    return PolicyError(
        "\n".join(lines),
        where=str(found[0].source) if found else "",
        hint=hint or "docs/reference/policy.md lists every key, its unit and its default.",
    )
