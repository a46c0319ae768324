"""Decisions that are the same each time, and made once: whose they are, and under which grant."""

from __future__ import annotations

from functools import lru_cache

from bridgehold.host.front.registry import Granted
from bridgehold.ids import is_name
from bridgehold.policies.decide import decide_operation
from bridgehold.policies.model import Decision
from bridgehold.protocol.values import Principal

LONGEST_NAME = 63
_FEW = 2
"""Kinds in one command whose decision is not kept: a caller could name them in any order."""

may_run = lru_cache(4_096)(Principal.may_run)
"""Of parsed commands alone, which are short."""


@lru_cache(4_096)
def may_act_for(principal: Principal, tenant: str) -> bool:
    """Whether `tenant`, of at most `LONGEST_NAME` characters as every name, is among its tenants."""
    return is_name(tenant) and principal.may_act_for(tenant)


def decided(granted: Granted, bridge: str, operation: str, kinds: tuple[str, ...]) -> Decision:
    """Kept with the grant, but for what a caller could name in any number."""
    decision = decide_operation(granted.grant, bridge, operation, kinds)
    if operation in granted.manifest.operations and len(kinds) < _FEW:
        granted.decisions[f"{bridge}:{operation}", kinds] = decision
    return decision
