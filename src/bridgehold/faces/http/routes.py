"""Every endpoint, as data: the router, the OpenAPI document and docs/reference/http.md are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from bridgehold.faces.http import (
    artifacts,
    bodies,
    commands,
    documents,
    resources,
    sessions,
    submissions,
    tenants,
)
from bridgehold.faces.http.calls import Call
from bridgehold.protocol.submissions import Release, Shown, Submission
from bridgehold.protocol.tenants import NewToken, Removed, Revoked, TenantInfo, TokenInfo
from bridgehold.protocol.values import Answer, Artifact, OpenedSession, ResourceRef, SessionFacts

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint."""

    method: str
    path: str
    """As OpenAPI and the router write it: ``/v1/sessions/{session}``."""
    handler: Handler
    summary: str
    body: Any = None
    """The type of its JSON body, if it takes one."""
    gives: Any = None
    """The type of its JSON answer; anything if None."""
    query: tuple[str, ...] = ()
    status: int = 200
    streams: bool = False
    """With ``Accept: text/event-stream`` it answers in events."""
    takes_bytes: bool = False
    gives_kind: str = "application/json"
    uncounted: bool = False
    """It ends what is under way, or lets it go on: never refused for the number of requests."""

    @property
    def name(self) -> str:
        """The handler's, as the OpenAPI document's ``operationId``."""
        return f"{self.handler.__module__.rpartition('.')[2]}_{self.handler.__name__}"


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/metrics",
        handler=documents.metrics,
        summary="The host's figures and the face's own, for Prometheus; operators only",
        gives_kind="text/plain",
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=documents.openapi,
        summary="This interface, and the operations that the tenant is granted, as OpenAPI 3.1",
        query=("tenant",),
    ),
    Route(
        method="GET",
        path="/v1/bridges",
        handler=sessions.bridges,
        summary="The bridges, their operations and what is wrong with them",
        gives=list[bodies.BridgeFacts],
    ),
    Route(
        method="GET",
        path="/v1/bridges/{bridge}",
        handler=sessions.bridge,
        summary="A bridge's resources and operations with their schemas, what is granted, its limits",
        query=("tenant",),
    ),
    Route(
        method="POST",
        path="/v1/sessions",
        handler=sessions.open_session,
        summary="Open a session",
        body=bodies.OpenSession,
        gives=OpenedSession,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/sessions",
        handler=sessions.list_sessions,
        summary="The sessions that you may see",
        gives=list[SessionFacts],
        query=("tenant",),
    ),
    Route(
        method="GET",
        path="/v1/sessions/{session}",
        handler=sessions.session,
        summary="A session as it stands",
        gives=SessionFacts,
    ),
    Route(
        method="DELETE",
        path="/v1/sessions/{session}",
        handler=sessions.close_session,
        summary="End a session",
        gives=bodies.ClosedSession,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{session}/logs",
        handler=sessions.logs,
        summary="What a session's worker wrote",
        gives=bodies.Log,
    ),
    Route(
        method="POST",
        path="/v1/sessions/{session}/commands",
        handler=commands.run_in_session,
        summary="Run a command in a session",
        body=bodies.Command,
        gives=Answer,
        streams=True,
    ),
    Route(
        method="POST",
        path="/v1/run",
        handler=commands.run,
        summary="Run a command in the session `anonymous`, or one that is named",
        body=bodies.Run,
        gives=Answer,
        streams=True,
    ),
    Route(
        method="POST",
        path="/v1/run/{bridge}/{operation}",
        handler=commands.run_operation,
        summary="The same, the operation being named in the path",
        body=bodies.RunOperation,
        gives=Answer,
        streams=True,
    ),
    Route(
        method="GET",
        path="/v1/commands/{command}",
        handler=commands.look,
        summary="A command of yours: its state, and what came of it while that is kept",
        gives=bodies.CommandFacts,
        uncounted=True,
    ),
    Route(
        method="GET",
        path="/v1/commands/{command}/events",
        handler=commands.events,
        summary="A resumable command's events after `Last-Event-ID`, as they come",
        query=("after",),
        gives_kind="text/event-stream",
    ),
    Route(
        method="DELETE",
        path="/v1/commands/{command}",
        handler=commands.cancel,
        summary="Cancel a command of yours that is under way",
        gives=bodies.Taken,
        status=202,
        uncounted=True,
    ),
    Route(
        method="POST",
        path="/v1/commands/{command}/tools/{call}",
        handler=commands.answer_tool,
        summary="Answer a tool call that a command's stream told",
        body=bodies.ToolAnswer,
        gives=bodies.Taken,
        uncounted=True,
    ),
    Route(
        method="POST",
        path="/v1/resources",
        handler=resources.create,
        summary="Make a resource by the bridge's own operation",
        body=bodies.CreateResource,
        gives=Answer,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/resources",
        handler=resources.listed,
        summary="What the tenant's sessions hold",
        gives=list[ResourceRef],
        query=("tenant", "bridge", "kind", "session"),
    ),
    Route(
        method="POST",
        path="/v1/resources/{resource}/execute",
        handler=resources.execute,
        summary="Run a resource, wherever it lives",
        body=bodies.ExecuteResource,
        gives=Answer,
    ),
    Route(
        method="DELETE",
        path="/v1/resources/{resource}",
        handler=resources.delete,
        summary="Delete a resource",
        gives=Answer,
        query=("tenant", "bridge", "kind", "session", "operation"),
    ),
    Route(
        method="POST",
        path="/v1/configure",
        handler=resources.configure,
        summary="Run the bridge's configuring operation: its language model, most often",
        body=bodies.CreateResource,
        gives=Answer,
    ),
    Route(
        method="PUT",
        path="/v1/artifacts",
        handler=artifacts.put,
        summary="Keep the body's bytes for the tenant",
        gives=Artifact,
        query=("name", "tenant"),
        status=201,
        takes_bytes=True,
    ),
    Route(
        method="GET",
        path="/v1/artifacts",
        handler=artifacts.listed,
        summary="The tenant's artifacts, the newest last",
        gives=list[Artifact],
        query=("tenant",),
    ),
    Route(
        method="GET",
        path="/v1/artifacts/{digest}",
        handler=artifacts.get,
        summary="An artifact's bytes",
        query=("tenant",),
        gives_kind="application/octet-stream",
    ),
    Route(
        method="DELETE",
        path="/v1/artifacts/{digest}",
        handler=artifacts.remove,
        summary="Forget an artifact",
        gives=Artifact,
        query=("tenant",),
    ),
    Route(
        method="GET",
        path="/v1/tenants",
        handler=tenants.listed,
        summary="Every tenant; operators only, as all of tenants and tokens",
        gives=list[TenantInfo],
    ),
    Route(
        method="POST",
        path="/v1/tenants",
        handler=tenants.create,
        summary="Make a tenant",
        body=bodies.NewTenant,
        gives=TenantInfo,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant}",
        handler=tenants.show,
        summary="A tenant: state, ceilings, who changed it last",
        gives=TenantInfo,
    ),
    Route(
        method="PATCH",
        path="/v1/tenants/{tenant}",
        handler=tenants.limit,
        summary="Set ceilings, or take some away",
        body=bodies.TenantLimits,
        gives=TenantInfo,
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant}/suspend",
        handler=tenants.suspend,
        summary="Let nothing more begin for a tenant",
        body=bodies.Reason,
        gives=TenantInfo,
        uncounted=True,
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant}/resume",
        handler=tenants.resume,
        summary="Let a suspended tenant go on",
        body=bodies.Reason,
        gives=TenantInfo,
        uncounted=True,
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant}/revoke",
        handler=tenants.revoke,
        summary="End a tenant's sessions, warm processes, tokens and keys for good",
        body=bodies.Reason,
        gives=Revoked,
        uncounted=True,
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{tenant}",
        handler=tenants.remove,
        summary="Remove a revoked tenant; a ceiling and, without `artifacts=true`, artifacts stay",
        gives=Removed,
        query=("artifacts",),
    ),
    Route(
        method="GET",
        path="/v1/tokens",
        handler=tenants.list_tokens,
        summary="Tokens by name and scope, never a token",
        gives=list[TokenInfo],
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        handler=tenants.create_token,
        summary="Make a token: this answer holds it, and nothing else does",
        body=bodies.NewTokenAsked,
        gives=NewToken,
        status=201,
    ),
    Route(
        method="POST",
        path="/v1/tokens/{token}/rotate",
        handler=tenants.rotate,
        summary="Give a token another secret",
        body=bodies.Rotation,
        gives=NewToken,
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{token}",
        handler=tenants.revoke_token,
        summary="Make a token worth nothing",
        uncounted=True,
    ),
    Route(
        method="POST",
        path="/v1/submissions",
        handler=submissions.submit,
        summary="Hand in a bridge of the tenant's own; an operator decides on it",
        body=bodies.SubmissionAsked,
        gives=Submission,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/submissions",
        handler=submissions.listed,
        summary="Bridges that were handed in, the newest last",
        gives=list[Submission],
        query=("tenant",),
    ),
    Route(
        method="GET",
        path="/v1/submissions/{submission}",
        handler=submissions.show,
        summary="One of them, beside what its tenant has: what it gains, loses and isn't given",
        gives=Shown,
    ),
    Route(
        method="POST",
        path="/v1/submissions/{submission}/approve",
        handler=submissions.approve,
        summary="Have new sessions begin with it; operators only",
        body=bodies.Approval,
        gives=Release,
    ),
    Route(
        method="POST",
        path="/v1/submissions/{submission}/reject",
        handler=submissions.reject,
        summary="Refuse it; operators only",
        body=bodies.Rejection,
        gives=Submission,
    ),
    Route(
        method="POST",
        path="/v1/bridges/{bridge}/rollback",
        handler=submissions.rollback,
        summary="Have new sessions begin with the release before; operators only",
        gives=Release,
        query=("tenant",),
    ),
)
"""``GET /healthz`` beside these is the border's own: it alone needs no token."""
