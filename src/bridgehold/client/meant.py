"""What somebody meant whose operation nothing bears: the nearest of those that the tenant sees (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridgehold.errors import BridgeholdError, DeniedError
from bridgehold.ids import LOCAL_TENANT, nearest


def may_be_a_slip(method: str, error: BridgeholdError) -> bool:
    """Whether a request was refused because no rule grants it: then bridges are worth being asked for."""
    return method == "run" and type(error) is DeniedError and "default-deny" in error.message


def meant(params: dict[str, Any], bridges: Iterable[dict[str, Any]]) -> str:
    """A hint for who ran `params`; empty where `bridges` have the operation, or none that is near."""
    tenant, operation = params.get("tenant") or LOCAL_TENANT, str(params.get("operation"))
    known = [str(name) for one in bridges if one["tenant"] in ("", tenant) for name in one["operations"]]
    if operation in known or operation.startswith("common:"):
        return ""
    near = nearest(operation, known)
    return f"No bridge has such an operation{near}." if near else ""
