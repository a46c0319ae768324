"""What a command has of the session that it names: its bridge, and the release that it began with."""

from __future__ import annotations

from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.front.registry import Granted, Registry
from bridgehold.protocol.frames import CommandRequest


async def as_begun(
    registry: Registry, sessions: Sessions, granted: Granted, request: CommandRequest
) -> Granted:
    """For a session that began with another release of the bridge: by the manifest of that one."""
    session = sessions.named(request.tenant, request.session, granted.manifest.name)
    begun = session.order.manifest if session is not None else granted.manifest
    if begun.release and begun.release != granted.manifest.release:
        return await registry.granted(request.tenant, begun.name, begun)
    return granted


def default_bridge(registry: Registry, sessions: Sessions, request: CommandRequest) -> str:
    """``common:*`` goes to the session's bridge, or to the default one."""
    session = sessions.named(request.tenant, request.session)
    return session.key.bridge if session is not None else registry.default_bridge
