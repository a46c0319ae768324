"""Bridges and sessions."""

from __future__ import annotations

import msgspec

from bridgehold.errors import SessionEndedError
from bridgehold.faces.http.bodies import (
    BridgeFacts,
    ClosedSession,
    ExtendedSession,
    ExtendSession,
    Log,
    OpenSession,
)
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.protocol.values import OpenedSession, SessionFacts


@route("GET", "/v1/bridges", gives=list[BridgeFacts])
async def bridges(call: Call) -> object:
    """The bridges, their operations and what is wrong with them."""
    return msgspec.convert(await call.ask("bridges", {}), type=list[BridgeFacts])


@route("GET", "/v1/bridges/{bridge}", query=("tenant",))
async def bridge(call: Call) -> object:
    """A bridge's resources and operations with their schemas, what is granted, its limits."""
    return await call.ask("describe", {"bridge": call.path("bridge"), "tenant": call.tenant})


@route("POST", "/v1/sessions", gives=OpenedSession, status=201)
async def open_session(call: Call, asked: OpenSession) -> object:
    """Open a session.

    It stays when the request ends, until it is closed or its policy's idle time is over.
    """
    tenant = call.caller.tenant(asked.tenant)
    wanted = {"bridge": asked.bridge, "name": asked.name, "tenant": tenant, "stays": True}
    wanted |= {"limits": asked.limits} if asked.limits else {}
    made = await call.ask("session.open", wanted)
    call.face.places.note(call.caller.principal, made["id"], made["bridge"], made["tenant"])
    return made


@route("GET", "/v1/sessions", gives=list[SessionFacts], query=("tenant",))
async def list_sessions(call: Call) -> object:
    """The sessions that you may see.

    What a caller needs to know of each; where its worker runs is the operator's to see.
    """
    asked = await call.ask("sessions", {"tenant": call.query("tenant") or None})
    return msgspec.convert(asked, type=list[SessionFacts])


@route("GET", "/v1/sessions/{session}", gives=SessionFacts)
async def session(call: Call) -> object:
    """A session as it stands.

    Raises `SessionEndedError` with the reason for one of the caller's that is over.
    """
    found = await call.ask("session.find", {"session": call.session_id()})
    listed = await call.ask("sessions", {"tenant": found["tenant"]})
    facts = next((one for one in listed if one["id"] == found["id"]), None)
    if facts is None:
        raise SessionEndedError(f"session {found['id']} has just ended", where=found["id"])
    return msgspec.convert(facts, type=SessionFacts)


@route("POST", "/v1/sessions/{session}/extend", gives=ExtendedSession)
async def extend_session(call: Call, asked: ExtendSession) -> object:
    """Give a session more time, up to what its policy gives."""
    wanted = {"session": call.session_id(), "limits": asked.limits}
    return msgspec.convert(await call.ask("session.extend", wanted), type=ExtendedSession)


@route("DELETE", "/v1/sessions/{session}", gives=ClosedSession)
async def close_session(call: Call) -> object:
    """End a session.

    The answer waits until its processes are gone.
    """
    session = call.session_id()
    closed = await call.ask("session.close", {"session": session, "reason": "closed by its HTTP caller"})
    call.face.places.forget(call.caller.principal, session)
    return closed


@route("GET", "/v1/sessions/{session}/logs", gives=Log)
async def logs(call: Call) -> object:
    """What a session's worker wrote."""
    return await call.ask("logs", {"session": call.session_id()})
