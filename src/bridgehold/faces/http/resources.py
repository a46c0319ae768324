"""The unified interface: the same verbs for every bridge."""

from __future__ import annotations

from typing import Any

import msgspec

from bridgehold.faces.http.bodies import CreateResource, ExecuteResource
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.protocol.values import Answer, ResourceRef


@route("POST", "/v1/resources", gives=Answer, status=201)
async def create(call: Call, asked: CreateResource) -> object:
    """Make a resource by the bridge's own operation."""
    return await call.link.pass_on("resource.create", _params(call, asked))


@route("POST", "/v1/configure", gives=Answer)
async def configure(call: Call, asked: CreateResource) -> object:
    """Run the bridge's configuring operation: its language model, most often."""
    return await call.link.pass_on("resource.configure", _params(call, asked))


@route("POST", "/v1/resources/{resource}/execute", gives=Answer)
async def execute(call: Call, asked: ExecuteResource) -> object:
    """Run a resource, wherever it lives."""
    params = {**_params(call, asked), "id": call.path("resource")}
    return await call.link.pass_on("resource.execute", params)


@route(
    "DELETE",
    "/v1/resources/{resource}",
    gives=Answer,
    query=("tenant", "bridge", "kind", "session", "operation"),
)
async def delete(call: Call) -> object:
    """Delete a resource."""
    where = {name: call.query(name) for name in ("bridge", "kind", "session", "operation")}
    params = {**where, "tenant": call.tenant, "id": call.path("resource")}
    return await call.link.pass_on("resource.delete", params)


@route("GET", "/v1/resources", gives=list[ResourceRef], query=("tenant", "bridge", "kind", "session"))
async def listed(call: Call) -> object:
    """What the tenant's sessions hold."""
    where = {name: call.query(name) for name in ("bridge", "kind", "session")}
    return await call.ask("resource.list", {**where, "tenant": call.tenant})


def _params(call: Call, asked: CreateResource | ExecuteResource) -> dict[str, Any]:
    return {**msgspec.structs.asdict(asked), "tenant": call.caller.tenant(asked.tenant)}
