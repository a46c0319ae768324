"""Tenants and tokens, for operators: the host refuses who is none."""

from __future__ import annotations

from aiohttp import web

from bridgehold.errors import UsageError
from bridgehold.faces.http.bodies import NewTenant, NewTokenAsked, Reason, Rotation, TenantLimits
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.replies import answer


async def listed(call: Call) -> web.StreamResponse:
    """``GET``: all tenants."""
    return answer(await call.ask("tenant.list", {}))


async def create(call: Call) -> web.StreamResponse:
    """``POST``: declare a tenant. Status 201."""
    asked = await call.body(NewTenant)
    return answer(await call.ask("tenant.create", {"name": asked.name, "limits": asked.limits}), 201)


async def show(call: Call) -> web.StreamResponse:
    """``GET``: one tenant."""
    return answer(await call.ask("tenant.show", {"name": call.path("tenant")}))


async def limit(call: Call) -> web.StreamResponse:
    """``PATCH``: change a tenant's ceilings."""
    asked = await call.body(TenantLimits)
    return answer(await call.ask("tenant.limit", {"name": call.path("tenant"), "limits": asked.limits}))


async def suspend(call: Call) -> web.StreamResponse:
    """``POST``: refuse everything of a tenant, until `resume`."""
    return await _in_state(call, "tenant.suspend")


async def resume(call: Call) -> web.StreamResponse:
    """``POST``: let a suspended tenant ask again."""
    return await _in_state(call, "tenant.resume")


async def revoke(call: Call) -> web.StreamResponse:
    """``POST``: end everything of a tenant."""
    return await _in_state(call, "tenant.revoke")


async def remove(call: Call) -> web.StreamResponse:
    """``DELETE``: remove a tenant; `?artifacts=true`: with what it keeps."""
    gone = call.query("artifacts")
    if gone not in ("", "true", "false"):
        raise UsageError("`artifacts` is true or false", where="?artifacts=")
    asked = {"name": call.path("tenant"), "artifacts": gone == "true"}
    return answer(await call.ask("tenant.remove", asked))


async def list_tokens(call: Call) -> web.StreamResponse:
    """``GET``: all tokens, without the tokens themselves."""
    return answer(await call.ask("token.list", {}))


async def create_token(call: Call) -> web.StreamResponse:
    """The one answer that holds a token."""
    asked = await call.body(NewTokenAsked)
    params = {field: getattr(asked, field) for field in asked.__struct_fields__}
    return answer(await call.ask("token.create", params), 201)


async def rotate(call: Call) -> web.StreamResponse:
    """``POST``: give a token a new secret; the one before may stay for a while."""
    asked = await call.body(Rotation)
    params = {"name": call.path("token"), "grace_s": asked.grace_s}
    return answer(await call.ask("token.rotate", params))


async def revoke_token(call: Call) -> web.StreamResponse:
    """``DELETE``: make a token worthless."""
    return answer(await call.ask("token.revoke", {"name": call.path("token")}))


async def _in_state(call: Call, method: str) -> web.StreamResponse:
    asked = await call.body(Reason)
    return answer(await call.ask(method, {"name": call.path("tenant"), "reason": asked.reason}))
