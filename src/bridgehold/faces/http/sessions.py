"""Bridges and sessions."""

from __future__ import annotations

import msgspec
from aiohttp import web

from bridgehold.errors import SessionEndedError
from bridgehold.faces.http.bodies import BridgeFacts, ExtendedSession, ExtendSession, OpenSession
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer
from bridgehold.protocol.values import SessionFacts


async def bridges(call: Call) -> web.StreamResponse:
    """``GET``: the bridges that the caller may use."""
    return answer(msgspec.convert(await call.ask("bridges", {}), type=list[BridgeFacts]))


async def bridge(call: Call) -> web.StreamResponse:
    """``GET``: one bridge's operations, and what its policy grants."""
    return answer(await call.ask("describe", {"bridge": call.path("bridge"), "tenant": call.tenant}))


async def open_session(call: Call) -> web.StreamResponse:
    """It stays when the request ends, until it is closed or its policy's idle time is over."""
    asked = await call.body(OpenSession)
    tenant = call.caller.tenant(asked.tenant)
    wanted = {"bridge": asked.bridge, "name": asked.name, "tenant": tenant, "stays": True}
    wanted |= {"limits": asked.limits} if asked.limits else {}
    made = await call.ask("session.open", wanted)
    call.face.places.note(call.caller.principal, made["id"], made["bridge"], made["tenant"])
    return answer(made, 201)


async def list_sessions(call: Call) -> web.StreamResponse:
    """What a caller needs to know of each; where its worker runs is the operator's to see."""
    asked = await call.ask("sessions", {"tenant": call.query("tenant") or None})
    return answer(msgspec.convert(asked, type=list[SessionFacts]))


async def session(call: Call) -> web.StreamResponse:
    """Raises `SessionEndedError` with the reason for one of the caller's that is over."""
    found = await call.ask("session.find", {"session": call.session_id()})
    listed = await call.ask("sessions", {"tenant": found["tenant"]})
    facts = next((one for one in listed if one["id"] == found["id"]), None)
    if facts is None:
        raise SessionEndedError(f"session {found['id']} has just ended", where=found["id"])
    return answer(msgspec.convert(facts, type=SessionFacts))


async def extend_session(call: Call) -> web.StreamResponse:
    """``POST``: more time for a session, up to what its policy gives."""
    asked = await call.body(ExtendSession)
    wanted = {"session": call.session_id(), "limits": asked.limits}
    return answer(msgspec.convert(await call.ask("session.extend", wanted), type=ExtendedSession))


async def close_session(call: Call) -> web.StreamResponse:
    """``DELETE``: close a session, and wait until its processes are gone."""
    session = call.session_id()
    closed = await call.ask("session.close", {"session": session, "reason": "closed by its HTTP caller"})
    call.face.places.forget(call.caller.principal, session)
    return answer(closed)


async def logs(call: Call) -> web.StreamResponse:
    """``GET``: the end of a session's log."""
    return answer(await call.ask("logs", {"session": call.session_id()}))
