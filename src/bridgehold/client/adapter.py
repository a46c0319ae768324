"""A bridge's operations as methods, from what the host says of its manifest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bridgehold.errors import UsageError


class Runs(Protocol):
    """What an adapter needs of a client."""

    async def run(
        self, operation: str, arguments: dict[str, Any] | None = None, *, session: str, tenant: str
    ) -> Any:
        """Run `operation` in `session` and return its value. Raises the command's typed error."""


class Adapter:
    """``await adapter.create_program(signature="question -> answer")`` runs ``dspy:create_program``."""

    def __init__(self, client: Runs, described: dict[str, Any], *, session: str, tenant: str) -> None:
        self._client = client
        self._session = session
        self._tenant = tenant
        self._operations = {operation["name"]: operation for operation in described["operations"]}
        self.bridge = str(described["name"])
        self.described = described

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._operations]

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = self.__dict__.get("_operations", {}).get(name)
        if operation is None:
            raise AttributeError(f"{self.__dict__.get('bridge', 'the bridge')} has no operation {name!r}")
        known = set(operation["arguments"].get("properties") or {})

        async def call(**arguments: Any) -> Any:
            if unknown := sorted(set(arguments) - known):
                raise UsageError(
                    f"{self.bridge}:{name} has no argument {', '.join(unknown)}",
                    hint=f"It takes {', '.join(sorted(known)) or 'nothing'}.",
                )
            return await self._client.run(
                f"{self.bridge}:{name}", arguments, session=self._session, tenant=self._tenant
            )

        call.__name__ = name
        call.__doc__ = operation["summary"]
        return call
