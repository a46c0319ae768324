"""What can go wrong on the way to a provider, and when: by a chance that is the same at every run (pure)."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple, get_args

import msgspec

FaultKind = Literal[
    "latency",  # the answer's head comes late
    "reset",  # the connection is reset before the head
    "reset_stream",  # it is reset in the middle of the answer
    "truncate",  # the answer ends early, and says that this was all
    "rate_limit",  # 429, several in a row
    "server",  # 500, several in a row
    "overloaded",  # the shape's own "try again later"
    "garbage",  # status 200, and no JSON
    "drip",  # a few bytes at a time
]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)
_IN_A_ROW = frozenset({"rate_limit", "server", "overloaded"})


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Faults by chance: the same seed makes the same ones, request for request."""

    seed: int = 0
    share: float = 0.3
    """Of requests at which a fault begins, from 0 to 1."""
    kinds: tuple[FaultKind, ...] = FAULTS
    burst: int = 3
    """Requests that 429, 500 or an overload lasts."""
    spike_ms: int = 2_000
    """How late a late head is."""
    drip_bytes: int = 16
    drip_ms: int = 20
    """Between two pieces of so many bytes."""


class Fault(NamedTuple):
    """One way in which an answer goes wrong."""

    kind: FaultKind
    at: float
    """Where in the answer it strikes, from 0 to 1."""


def fault_of(faults: Faults, index: int) -> Fault | None:
    """What happens to request `index`, counted from 0."""
    for back in range(max(1, faults.burst)):
        if index < back:
            break
        begun = _beginning(faults, index - back)
        if begun is not None and (back == 0 or begun.kind in _IN_A_ROW):
            return begun
    return None


def _beginning(faults: Faults, index: int) -> Fault | None:
    chance = random.Random(f"{faults.seed}/{index}")  # noqa: S311 - to be the same at every run is what it is for
    if not faults.kinds or chance.random() >= faults.share:
        return None
    return Fault(chance.choice(faults.kinds), chance.random())
