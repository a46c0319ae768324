"""A tenant's ceilings over its sessions, as one more is asked for (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from bridgehold.errors import BusyError
from bridgehold.policies.model import Grant
from bridgehold.policies.units import format_size


def past_ceiling(grant: Grant, caps: Sequence[int], with_bridge: int) -> BusyError | None:
    """Why the tenant gets no session of `grant` beside what it has; None: no ceiling of its own says so.

    `caps`: the memory that each of its sessions may use, those that start included. `with_bridge`: how many
    of them are with the grant's bridge.
    """
    own, wanted = grant.ceilings, grant.limits.memory_bytes
    if own.sessions is not None and len(caps) >= own.sessions:
        return _full(grant, "sessions", f"{len(caps)} of {own.sessions} sessions")
    if own.bridge_sessions is not None and with_bridge >= own.bridge_sessions:
        said = f"{with_bridge} of {own.bridge_sessions} sessions with {grant.bridge}"
        return _full(grant, "bridge_sessions", said)
    if own.memory is not None and sum(caps) + wanted > own.memory:
        said = f"{format_size(sum(caps))} of {format_size(own.memory)} for sessions"
        return _full(grant, "memory", f"{said}, and this one may use {format_size(wanted)}")
    return None


def _full(grant: Grant, key: str, said: str) -> BusyError:
    return BusyError(
        f"tenant {grant.tenant} has {said}",
        where=f"tenant.limits.{key}",
        hint=f"End one, or have an operator raise it: `bridgehold tenant limit {grant.tenant} {key}=…`.",
    )
