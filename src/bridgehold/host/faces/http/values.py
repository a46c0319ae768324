"""What the HTTP face is told at its start."""

from __future__ import annotations

import msgspec


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """From ``[http]``; the listening socket comes as a descriptor."""

    socket: str
    """Of the host: where a token alone makes a principal."""
    supervisor: int
    names: tuple[str, ...] = ()
    connections: int = 512
    requests: int = 64
    """Of one principal at once."""
    body_bytes: int = 16 << 20
    buffered_bytes: int = 256 << 20
    idle_s: float = 15.0
    body_s: float = 30.0
    beat_s: float = 15.0
    read_s: float = 60.0


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as the host said it for the request's token."""

    principal: str
    tenants: tuple[str, ...] = ()

    def tenant(self, asked: str) -> str:
        """The tenant that is meant: `asked`, or the only one that the caller may act for."""
        if asked:
            return asked
        return self.tenants[0] if len(self.tenants) == 1 and self.tenants[0] != "*" else "local"
