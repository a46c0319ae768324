"""What the HTTP face is told at its start."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as the host said it for the request's token."""

    principal: str
    tenants: tuple[str, ...] = ()
    secret: str = ""
    """Of a token that has a name: a digest of it. Its name may be another's next, or be given anew."""

    @property
    def owner(self) -> str:
        """Whose a command is that was begun here."""
        return f"{self.principal} {self.secret}".rstrip()

    @property
    def account(self) -> str:
        """Whose share it takes of what all requests share: its one tenant's, or its own."""
        one = self.tenants[0] if len(self.tenants) == 1 else "*"
        return f"principal {self.principal}" if one == "*" else f"tenant {one}"

    def tenant(self, asked: str) -> str:
        """The tenant that is meant: `asked`, or the only one that the caller may act for."""
        if asked:
            return asked
        return self.tenants[0] if len(self.tenants) == 1 and self.tenants[0] != "*" else "local"
