"""Rules that are asked for after a refusal. They are approved at a terminal alone, where the key lies."""

from __future__ import annotations

from aiohttp import web

from bridgehold.faces.http.bodies import ProposalAsked, Rejection
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer


async def propose(call: Call) -> web.StreamResponse:
    """``POST``: the smallest rule that would have allowed what was refused. Status 201."""
    asked = await call.body(ProposalAsked)
    params = {field: getattr(asked, field) for field in asked.__struct_fields__}
    return answer(await call.ask("proposal.make", params), 201)


async def listed(call: Call) -> web.StreamResponse:
    """``GET``: those of one tenant, or of all that the caller may act for."""
    return answer(await call.ask("proposal.list", {"tenant": call.query("tenant") or None}))


async def show(call: Call) -> web.StreamResponse:
    """``GET``: one, as it would change what is granted now."""
    return answer(await call.ask("proposal.show", {"proposal": call.path("proposal")}))


async def reject(call: Call) -> web.StreamResponse:
    """``POST``: it is over, and holds no more if it did."""
    asked = await call.body(Rejection)
    params = {"proposal": call.path("proposal"), "reason": asked.reason}
    return answer(await call.ask("proposal.reject", params))
