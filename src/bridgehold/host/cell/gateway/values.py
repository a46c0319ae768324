"""What a gateway is told of its session and of the providers, and its own bounds."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bridgehold.config.providers import Shape


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Whose requests these are, and the worthless keys that the guest was given, by provider."""

    tenant: str
    session: str
    placeholders: dict[str, str] = {}

    @property
    def owner(self) -> tuple[str, str]:
        """Whose the bytes are that are held for it: (tenant, session)."""
        return (self.tenant, self.session)

    def __repr__(self) -> str:
        return f"SessionFacts({self.tenant}/{self.session})"


class Attribution(NamedTuple):
    """For whom a session asks now: the command in flight, and who sent it or (without one) opened it."""

    command: str = ""
    principal: str = ""


class ProviderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the host knows of an upstream: never its key."""

    name: str
    host: str
    """Normalised, for the audit and for refusing tunnels to it."""
    port: int
    base_url: str = ""
    """Where it is; what it redirects to is judged by this."""
    shape: Shape = "openai"
    keyed: bool = True
    """Whether requests to it carry the tenant's key; only a hub may do without."""
    version: str = ""
    """Last segment of its base path, such as ``v1``: guests may send it, or leave it out."""


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one session's listener. `docs/reference/gateway.md` says what the guest sees at each."""

    connections: int = 64
    head_bytes: int = 16 * 1024
    headers: int = 100
    head_ms: int = 10_000
    """From a head's first byte to its last."""
    idle_ms: int = 75_000
    """Between requests of one connection."""
    body_ms: int = 60_000
    write_ms: int = 60_000
    """Longest wait for a guest that does not read."""
    request_ms: int = 600_000
    requests_per_second: int = 100
    reads_per_second: int = 1_000
    parts_per_second: int = 100_000
    """Brackets and separators of bodies, and every 64 bytes: what judging them costs."""
    refusals_per_second: int = 20
    """Past these, the session's connections are read more slowly, all together."""
    tunnel_idle_ms: int = 300_000
