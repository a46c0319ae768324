"""What programs read: figures, and the interface's own description."""

from __future__ import annotations

from aiohttp import web

from bridgehold.errors import BridgeholdError
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer, headers


async def metrics(call: Call) -> web.StreamResponse:
    """The host refuses who is no operator."""
    said = await call.ask("metrics", {})
    return web.Response(
        body=(str(said["text"]) + call.face.metrics.text()).encode(),
        headers=headers({"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}),
    )


async def openapi(call: Call) -> web.StreamResponse:
    """With a path for each operation that the tenant is granted; a bridge with a fault is left out."""
    described = []
    for one in await call.ask("bridges", {}):
        if one["tenant"] not in ("", call.tenant):
            continue
        try:
            described.append(await call.ask("describe", {"bridge": one["name"], "tenant": call.tenant}))
        except BridgeholdError:
            continue
    return answer(call.face.document(described))
