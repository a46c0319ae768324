"""Names that somebody typed, looked up before anything is done with them.

A misspelt one would open, close and bound nothing, and nobody would notice.
"""

from __future__ import annotations

from bridgehold.client.client import Client
from bridgehold.errors import NotFoundError
from bridgehold.ids import nearest, parse_name
from bridgehold.policies import globs


async def check_bridge(client: Client, bridge: str) -> None:
    """Raises `NotFoundError` for one that the host doesn't have, nor a session of; empty is any."""
    if bridge:
        known = {str(one["name"]) for one in await client.request("bridges", {})}
        known |= {session.bridge for session in await client.sessions()}
        if bridge not in known:
            raise NotFoundError(
                f"there is no bridge {bridge[:80]!r}{nearest(bridge, known)}",
                hint="`bridgehold bridge list` shows them.",
            )


async def check_tenant(client: Client, tenant: str) -> None:
    """Raises `NotFoundError` for one that comes near to another's name and that nothing bears; empty is any.

    What comes near to none may be a tenant without a file, of which nobody has said anything yet.
    """
    if tenant:
        known = {str(one["name"]) for one in await client.request("tenant.list", {})}
        if parse_name(tenant, "tenant") not in known and (near := nearest(tenant, known)):
            raise NotFoundError(
                f"there is no tenant {tenant!r}{near}",
                hint="`bridgehold tenant list` shows all; `bridgehold tenant create` makes one.",
            )


async def check_operation(client: Client, pattern: str) -> None:
    """Raises `NotFoundError` for a pattern that fits no ``bridge:operation`` which a bridge declares."""
    bridges = await client.request("bridges", {})
    known = [str(name) for one in bridges for name in one["operations"]]
    undeclared = [f"{one['name']}:*" for one in bridges if not one["operations"]]
    if not any(globs.meet(pattern, one) for one in (*known, *undeclared, "common:*")):
        raise NotFoundError(
            f"no bridge has an operation {pattern[:80]!r}{nearest(pattern, known)}",
            hint="`bridgehold bridge show NAME` lists a bridge's.",
        )
