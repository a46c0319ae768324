"""What programs read: figures, and the interface's own description."""

from __future__ import annotations

from aiohttp import web

from bridgehold.errors import BridgeholdError
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import headers
from bridgehold.faces.http.route import route


@route("GET", "/metrics", gives_kind="text/plain")
async def metrics(call: Call) -> object:
    """The host's figures and the face's own, for Prometheus; operators only."""
    said = await call.ask("metrics", {})
    return web.Response(
        body=(str(said["text"]) + call.face.metrics.text()).encode(),
        headers=headers({"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}),
    )


@route("GET", "/openapi.json", query=("tenant",))
async def openapi(call: Call) -> object:
    """This interface, and the operations that the tenant is granted, as OpenAPI 3.1.

    A bridge with a fault is left out.
    """
    described = []
    for one in await call.ask("bridges", {}):
        if one["tenant"] not in ("", call.tenant):
            continue
        try:
            described.append(await call.ask("describe", {"bridge": one["name"], "tenant": call.tenant}))
        except BridgeholdError:
            continue
    return call.face.document(described)
