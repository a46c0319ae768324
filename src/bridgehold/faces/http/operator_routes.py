"""The endpoints of tenants and tokens, as data: for operators only."""

from __future__ import annotations

from bridgehold.faces.http import bodies, tenants
from bridgehold.faces.http.route import Route
from bridgehold.protocol.tenants import NewToken, Removed, Revoked, TenantInfo, TokenInfo

OPERATOR_ROUTES: tuple[Route, ...] = (
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
)
