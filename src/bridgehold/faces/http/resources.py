"""The unified interface: the same verbs for every bridge."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from bridgehold.faces.http.bodies import CreateResource, ExecuteResource
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer


async def create(call: Call) -> web.StreamResponse:
    """``POST``: create a resource of a kind, whichever bridge has it. Status 201."""
    return answer(await call.link.pass_on("resource.create", await _body(call, CreateResource)), 201)


async def configure(call: Call) -> web.StreamResponse:
    """``POST``: change a resource."""
    return answer(await call.link.pass_on("resource.configure", await _body(call, CreateResource)))


async def execute(call: Call) -> web.StreamResponse:
    """``POST``: run the resource that the path names."""
    params = await _body(call, ExecuteResource)
    return answer(await call.link.pass_on("resource.execute", {**params, "id": call.path("resource")}))


async def delete(call: Call) -> web.StreamResponse:
    """``DELETE``: delete the resource that the path names."""
    where = {name: call.query(name) for name in ("bridge", "kind", "session", "operation")}
    params = {**where, "tenant": call.tenant, "id": call.path("resource")}
    return answer(await call.ask("resource.delete", params))


async def listed(call: Call) -> web.StreamResponse:
    """``GET``: the tenant's resources, of a bridge, kind or session if the query names one."""
    where = {name: call.query(name) for name in ("bridge", "kind", "session")}
    return answer(await call.ask("resource.list", {**where, "tenant": call.tenant}))


async def _body(call: Call, kind: type[CreateResource] | type[ExecuteResource]) -> dict[str, Any]:
    asked: CreateResource | ExecuteResource = await call.body(kind)
    params = msgspec.structs.asdict(asked)
    return {**params, "tenant": call.caller.tenant(asked.tenant)}
