"""The audit and the reviews of policies, for who looks: nothing here changes anything."""

from __future__ import annotations

from typing import Any

from bridgehold.audit.reading.asked import FoundEvents
from bridgehold.errors import UsageError
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.ids import whole_number
from bridgehold.protocol.reviews import PolicyReview


@route("GET", "/v1/policies/{policy}/review", gives=PolicyReview)
async def review(call: Call) -> Any:
    """Whether a policy is as it was signed, by whom, and what changed since; operators only."""
    return await call.ask("policy.review", {"policy": call.path("policy")})


@route("GET", "/v1/audit", gives=FoundEvents, query=("question", "limit", "before", "after"))
async def query(call: Call) -> Any:
    """Events that a question fits, of your own tenants; operators: of all."""
    params: dict[str, object] = {name: call.query(name) for name in ("question", "before", "after")}
    if limit := call.query("limit"):
        try:
            params["limit"] = whole_number(limit)
        except ValueError as error:
            raise UsageError(str(error), where="?limit=") from None
    return await call.ask("audit.query", params)
