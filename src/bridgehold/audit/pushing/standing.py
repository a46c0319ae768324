"""How sinks stand, for people and for metrics: what waits, since when nothing arrives, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bridgehold.audit.pushing.pusher import State

SILENT_S = 60.0
"""Not seen to live for so long: nobody serves it."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One sink, as an operator is shown it."""

    name: str
    kind: str
    to: str
    state: State
    fault: str = ""
    """Why it does not stand well; empty where it does."""


def standing(name: str, kind: str, to: str, state: State, now: float) -> Standing:
    """`now`: seconds of the epoch."""
    fault = state.problem
    if not state.looked and not state.arrived:
        fault = fault or "nothing has left yet; it begins with the host"
    elif now - max(state.looked, state.arrived) > SILENT_S:
        fault = "nobody serves it: no host runs, or what sends the audit away doesn't"
    return Standing(name=name, kind=kind, to=to, state=state, fault=fault)


def metrics(sinks: Iterable[Standing], now: float) -> str:
    """In Prometheus' text format."""
    found = list(sinks)
    if not found:
        return ""
    lines: list[str] = []
    for name, kind, what, value in (
        ("waiting", "gauge", "Events that have not left.", lambda s: s.waiting),
        ("sent_total", "counter", "Events that have arrived.", lambda s: s.sent),
        ("failing_seconds", "gauge", "Since when nothing arrives.", lambda s: _failing(s, now)),
    ):
        lines += [f"# HELP bridgehold_push_{name} {what}", f"# TYPE bridgehold_push_{name} {kind}"]
        lines += [f'bridgehold_push_{name}{{sink="{one.name}"}} {value(one.state)}' for one in found]
    return "\n".join(lines) + "\n"


def _failing(state: State, now: float) -> int:
    return max(0, int(now - state.failing_since)) if state.failing_since else 0
