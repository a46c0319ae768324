"""How commands ended while something went wrong, and whether that is how they may."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Literal

import msgspec

from bridgehold.errors import BridgeholdError, error_classes

_OURS = frozenset({"internal", "host_unavailable", "host_leaving", "attestation", "audit", "config"})
"""Errors that no fault of a bridge or a provider may come out as."""
TYPED = frozenset(kind.code for kind in error_classes()) - _OURS


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one fault."""

    fault: str
    status: Literal["PASS", "CAUTION", "FAIL"]
    ended: dict[str, int] = {}
    """How the commands ended: ``ok`` or an error's code, and how many did."""
    longest_ms: int = 0
    detail: str = ""


class Tally:
    """How the commands under one fault ended, and how long the longest took."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.longest_ms = 0
        self.untyped: list[str] = []

    async def of(self, work: Awaitable[object], patience_s: float) -> str:
        """Wait for `work`: ``ok`` or its error's code; ``stuck`` where it doesn't end."""
        begun = time.monotonic()
        try:
            await asyncio.wait_for(work, patience_s)
        except TimeoutError:
            code, message = "stuck", ""
        except BridgeholdError as error:
            code, message = error.code, error.message
        else:
            code, message = "ok", ""
        self._count(code, begun, message)
        return code

    def outcome(self, fault: str, *, may: frozenset[str] = TYPED, detail: str = "") -> Outcome:
        """FAIL where a command ended with a code that is none of `may`."""
        strange = [f"ended as {code}" for code in self.ended if code not in may | {"ok"}]
        faults = [*strange, *self.untyped]
        return Outcome(
            fault=fault,
            status="FAIL" if faults else "PASS",
            ended=dict(self.ended),
            longest_ms=self.longest_ms,
            detail="; ".join(faults) or detail,
        )

    async def opens(self, work: Awaitable[object]) -> bool:
        """Whether a session opened, which `work` then uses and ends; if not, its error is counted."""
        begun = time.monotonic()
        try:
            await work
        except BridgeholdError as error:
            self.refused(error, begun)
            return False
        return True

    def refused(self, error: BridgeholdError, begun: float | None = None) -> None:
        """Count a session that did not open."""
        self._count(error.code, time.monotonic() if begun is None else begun, error.message)

    def _count(self, code: str, begun: float, message: str = "") -> None:
        if message and code not in TYPED:
            self.untyped.append(f"{code}: {message}"[:200])
        self.ended[code] += 1
        self.longest_ms = max(self.longest_ms, round((time.monotonic() - begun) * 1000))


def judged(name: str, faults: list[str], well: str) -> Outcome:
    """PASS and `well`, or FAIL and the first faults."""
    detail = ", ".join(faults[:5]) if faults else well
    return Outcome(fault=name, status="FAIL" if faults else "PASS", detail=detail)
