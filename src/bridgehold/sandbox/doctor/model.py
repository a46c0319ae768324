"""The doctor's values: what a check says, what it is told, and how it is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Status = Literal["PASS", "CAUTION", "FAIL"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row. ``FAIL``: a barrier that a default grant demands is missing here."""

    name: str
    status: Status
    detail: str
    """What was done and seen."""
    remedy: str = ""
    """What to do about it; empty for PASS."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks need of the configuration; the defaults are the host's own."""

    cgroup: str = "auto"
    reserve_bytes: int = 1 << 30
    uid_first: int = 0x78000000 + 1000
    """Root only: first kernel uid of the sessions' reserved range."""
    uid_count: int = 60_000


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A check that can be run. `run` acts in a forked child of its own and may raise anything."""

    name: str
    proves: str
    """One line for the documentation."""
    run: Callable[[Context], Check]
    seconds: float = 15.0
    """After this long the child is killed and the row is a FAIL."""


def passed(name: str, detail: str) -> Check:
    """A row of the doctor's: the barrier holds."""
    return Check(name=name, status="PASS", detail=detail)


def caution(name: str, detail: str, remedy: str) -> Check:
    """A row of the doctor's: it holds in part; `remedy` says what would complete it."""
    return Check(name=name, status="CAUTION", detail=detail, remedy=remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """A row of the doctor's: it does not hold; `remedy` says what to do."""
    return Check(name=name, status="FAIL", detail=detail, remedy=remedy)


def as_json(checks: list[Check]) -> list[dict[str, str]]:
    """The documented shape: a list of ``{name, status, detail, remedy}``."""
    return [
        {"name": one.name, "status": one.status, "detail": one.detail, "remedy": one.remedy} for one in checks
    ]
