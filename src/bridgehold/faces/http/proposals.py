"""Rules that are asked for after a refusal. They are approved at a terminal alone, where the key lies."""

from __future__ import annotations

import msgspec

from bridgehold.faces.http.bodies import ProposalAsked, Rejection
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.protocol.proposals import Proposal, ShownProposal


@route("POST", "/v1/proposals", gives=Proposal, status=201)
async def propose(call: Call, asked: ProposalAsked) -> object:
    """Ask for the smallest rule that would have allowed what was refused."""
    return await call.ask("proposal.make", msgspec.structs.asdict(asked))


@route("GET", "/v1/proposals", gives=list[Proposal], query=("tenant",))
async def listed(call: Call) -> object:
    """Rules that were asked for, the newest last."""
    return await call.ask("proposal.list", {"tenant": call.query("tenant") or None})


@route("GET", "/v1/proposals/{proposal}", gives=ShownProposal)
async def show(call: Call) -> object:
    """One of them: the rule, what it gains, its risk; it is approved at a terminal."""
    return await call.ask("proposal.show", {"proposal": call.path("proposal")})


@route("POST", "/v1/proposals/{proposal}/reject", gives=Proposal)
async def reject(call: Call, asked: Rejection) -> object:
    """Refuse it, or end one that was approved; operators only."""
    params = {"proposal": call.path("proposal"), "reason": asked.reason}
    return await call.ask("proposal.reject", params)
