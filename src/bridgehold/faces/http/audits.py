"""The audit and the reviews of policies, for who looks: nothing here changes anything."""

from __future__ import annotations

from aiohttp import web

from bridgehold.errors import UsageError
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer

_LONGEST_LIMIT = 6


async def query(call: Call) -> web.StreamResponse:
    """``GET``: in the language of `bridgehold audit query`."""
    params: dict[str, object] = {name: call.query(name) for name in ("question", "before", "after")}
    if limit := call.query("limit"):
        if not (limit.isascii() and limit.isdecimal() and len(limit) <= _LONGEST_LIMIT):
            raise UsageError("`limit` is a number", where="?limit=")
        params["limit"] = int(limit)
    return answer(await call.ask("audit.query", params))


async def review(call: Call) -> web.StreamResponse:
    """``GET``: a policy beside what was signed of it. It is signed at a terminal alone."""
    return answer(await call.ask("policy.review", {"policy": call.path("policy")}))
