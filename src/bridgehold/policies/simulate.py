"""What a grant would have said to what was asked before: of an audit, or of a file of expectations (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from bridgehold.ids import whole_number
from bridgehold.policies.content import BodyFacts
from bridgehold.policies.decide import (
    decide_connect,
    decide_egress,
    decide_operation,
    decide_resource,
    decide_tool,
)
from bridgehold.policies.model import Decision, Grant

What = Literal["operation", "egress", "connect", "tool", "resource"]


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a bridge, or a caller of it, asked for."""

    what: What
    name: str
    """``bridge:operation``, a tool's name, a kind of resource, ``provider METHOD /path``, ``host:port``."""
    allowed: bool = True
    """What was decided, or should be."""
    event: str = ""
    """Where it stands in the audit."""
    tenant: str = ""
    bridge: str = ""
    kinds: tuple[str, ...] = ()
    """Of an operation: the kinds of resource that it works on, where that is known."""


class Different(msgspec.Struct, frozen=True, kw_only=True):
    """One that the grant decides otherwise."""

    act: Act
    decision: Decision


def decide(grant: Grant, act: Act) -> Decision:
    """What `grant` says to `act`: by names, methods and paths; what a body held is not known any more."""
    if act.what == "operation":
        bridge, _, operation = act.name.partition(":")
        return decide_operation(grant, bridge, operation, act.kinds)
    return _WAYS[act.what](grant, act.name)


def simulate(grant: Grant, acts: Iterable[Act]) -> Iterator[Different]:
    """Those of `acts` that `grant` decides otherwise, in their order."""
    for one in acts:
        decision = decide(grant, one)
        if decision.allowed != one.allowed:
            yield Different(act=one, decision=decision)


def _egress(grant: Grant, name: str) -> Decision:
    provider, _, rest = name.partition(" ")
    method, _, path = rest.partition(" ")
    return decide_egress(grant, provider, method, path, BodyFacts())


def _connect(grant: Grant, name: str) -> Decision:
    host, _, port = name.rpartition(":")
    try:
        number = whole_number(port)
    except ValueError:
        number = 0
    return decide_connect(grant, host, number)


_WAYS: dict[str, Callable[[Grant, str], Decision]] = {
    "egress": _egress,
    "connect": _connect,
    "tool": decide_tool,
    "resource": decide_resource,
}
