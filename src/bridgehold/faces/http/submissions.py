"""Bridges that tenants bring: submitted by them, decided by operators. The host refuses who is none."""

from __future__ import annotations

from bridgehold.faces.http.bodies import Approval, Rejection, SubmissionAsked
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.protocol.submissions import Release, Shown, Submission


@route("POST", "/v1/submissions", gives=Submission, status=201)
async def submit(call: Call, asked: SubmissionAsked) -> object:
    """Hand in a bridge of the tenant's own; an operator decides on it.

    An archive that was put as an artifact before.
    """
    params = {"archive": asked.archive, **({"tenant": asked.tenant} if asked.tenant else {})}
    return await call.ask("bridge.submit", params)


@route("GET", "/v1/submissions", gives=list[Submission], query=("tenant",))
async def listed(call: Call) -> object:
    """Bridges that were handed in, the newest last."""
    return await call.ask("bridge.submissions", {"tenant": call.query("tenant") or None})


@route("GET", "/v1/submissions/{submission}", gives=Shown)
async def show(call: Call) -> object:
    """One of them, beside what its tenant has: what it gains, loses and isn't given."""
    return await call.ask("bridge.submission", {"submission": call.path("submission")})


@route("POST", "/v1/submissions/{submission}/approve", gives=Release)
async def approve(call: Call, asked: Approval) -> object:
    """Have new sessions begin with it; operators only."""
    params = {"submission": call.path("submission"), "seen": asked.seen}
    return await call.ask("bridge.approve", params)


@route("POST", "/v1/submissions/{submission}/reject", gives=Submission)
async def reject(call: Call, asked: Rejection) -> object:
    """Refuse it; operators only."""
    params = {"submission": call.path("submission"), "reason": asked.reason}
    return await call.ask("bridge.reject", params)


@route("POST", "/v1/bridges/{bridge}/rollback", gives=Release, query=("tenant",))
async def rollback(call: Call) -> object:
    """Have new sessions begin with the release before; operators only."""
    return await call.ask("bridge.rollback", {"bridge": call.path("bridge"), "tenant": call.tenant})
