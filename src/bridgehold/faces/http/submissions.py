"""Bridges that tenants bring: submitted by them, decided by operators. The host refuses who is none."""

from __future__ import annotations

from aiohttp import web

from bridgehold.faces.http.bodies import Approval, Rejection, SubmissionAsked
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer


async def submit(call: Call) -> web.StreamResponse:
    """``POST``: an archive that was put as an artifact before. Status 201."""
    asked = await call.body(SubmissionAsked)
    params = {"archive": asked.archive, **({"tenant": asked.tenant} if asked.tenant else {})}
    return answer(await call.ask("bridge.submit", params), 201)


async def listed(call: Call) -> web.StreamResponse:
    """``GET``: those of one tenant, or of all that the caller may act for."""
    return answer(await call.ask("bridge.submissions", {"tenant": call.query("tenant") or None}))


async def show(call: Call) -> web.StreamResponse:
    """``GET``: one, beside what its tenant has."""
    return answer(await call.ask("bridge.submission", {"submission": call.path("submission")}))


async def approve(call: Call) -> web.StreamResponse:
    """``POST``: what was seen is what new sessions begin with."""
    asked = await call.body(Approval)
    params = {"submission": call.path("submission"), "seen": asked.seen}
    return answer(await call.ask("bridge.approve", params))


async def reject(call: Call) -> web.StreamResponse:
    """``POST``: it is over."""
    asked = await call.body(Rejection)
    params = {"submission": call.path("submission"), "reason": asked.reason}
    return answer(await call.ask("bridge.reject", params))


async def rollback(call: Call) -> web.StreamResponse:
    """``POST``: new sessions begin with the release before."""
    return answer(await call.ask("bridge.rollback", {"bridge": call.path("bridge"), "tenant": call.tenant}))
