"""Tenants and tokens, for operators: the host refuses who is none."""

from __future__ import annotations

import msgspec

from bridgehold.errors import UsageError
from bridgehold.faces.http.bodies import NewTenant, NewTokenAsked, Reason, Rotation, TenantLimits
from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.route import route
from bridgehold.protocol.tenants import NewToken, Removed, Revoked, TenantInfo, TokenInfo


@route("GET", "/v1/tenants", gives=list[TenantInfo])
async def listed(call: Call) -> object:
    """Every tenant; operators only, as all of tenants and tokens."""
    return await call.ask("tenant.list", {})


@route("POST", "/v1/tenants", gives=TenantInfo, status=201)
async def create(call: Call, asked: NewTenant) -> object:
    """Make a tenant."""
    return await call.ask("tenant.create", {"name": asked.name, "limits": asked.limits})


@route("GET", "/v1/tenants/{tenant}", gives=TenantInfo)
async def show(call: Call) -> object:
    """A tenant: state, ceilings, who changed it last."""
    return await call.ask("tenant.show", {"name": call.path("tenant")})


@route("PATCH", "/v1/tenants/{tenant}", gives=TenantInfo)
async def limit(call: Call, asked: TenantLimits) -> object:
    """Set ceilings, or take some away."""
    return await call.ask("tenant.limit", {"name": call.path("tenant"), "limits": asked.limits})


@route("POST", "/v1/tenants/{tenant}/suspend", gives=TenantInfo, uncounted=True)
async def suspend(call: Call, asked: Reason) -> object:
    """Let nothing more begin for a tenant."""
    return await call.ask("tenant.suspend", _said(call, asked))


@route("POST", "/v1/tenants/{tenant}/resume", gives=TenantInfo, uncounted=True)
async def resume(call: Call, asked: Reason) -> object:
    """Let a suspended tenant go on."""
    return await call.ask("tenant.resume", _said(call, asked))


@route("POST", "/v1/tenants/{tenant}/revoke", gives=Revoked, uncounted=True)
async def revoke(call: Call, asked: Reason) -> object:
    """End a tenant's sessions, warm processes, tokens and keys for good."""
    return await call.ask("tenant.revoke", _said(call, asked))


@route("DELETE", "/v1/tenants/{tenant}", gives=Removed, query=("artifacts",))
async def remove(call: Call) -> object:
    """Remove a revoked tenant; a ceiling and, without `artifacts=true`, artifacts stay."""
    gone = call.query("artifacts")
    if gone not in ("", "true", "false"):
        raise UsageError("`artifacts` is true or false", where="?artifacts=")
    asked = {"name": call.path("tenant"), "artifacts": gone == "true"}
    return await call.ask("tenant.remove", asked)


@route("GET", "/v1/tokens", gives=list[TokenInfo])
async def list_tokens(call: Call) -> object:
    """Tokens by name and scope, never a token."""
    return await call.ask("token.list", {})


@route("POST", "/v1/tokens", gives=NewToken, status=201)
async def create_token(call: Call, asked: NewTokenAsked) -> object:
    """Make a token: this answer holds it, and nothing else does."""
    return await call.ask("token.create", msgspec.structs.asdict(asked))


@route("POST", "/v1/tokens/{token}/rotate", gives=NewToken)
async def rotate(call: Call, asked: Rotation) -> object:
    """Give a token another secret."""
    params = {"name": call.path("token"), "grace_s": asked.grace_s}
    return await call.ask("token.rotate", params)


@route("DELETE", "/v1/tokens/{token}", uncounted=True)
async def revoke_token(call: Call) -> object:
    """Make a token worth nothing."""
    return await call.ask("token.revoke", {"name": call.path("token")})


def _said(call: Call, asked: Reason) -> dict[str, str]:
    return {"name": call.path("tenant"), "reason": asked.reason}
