"""What a command asks of the host: of the one that runs, or (`host=True`) of one that is started for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import typer

from bridgehold.client.client import Client, Host, connect
from bridgehold.errors import UsageError

T = TypeVar("T")


def using(act: Callable[[Client], Awaitable[T]], *, host: bool = False) -> T:
    """What `act` gives, with a client that is open meanwhile.

    Raises `HostUnavailableError`, and what `act` does.
    """

    async def acted() -> T:
        async with Host.open() if host else connect() as client:
            return await act(client)

    return asyncio.run(acted())


def ask(method: str, params: dict[str, Any], *, host: bool = False) -> Any:
    """The answer to one request of the protocol. Raises its typed error."""
    return using(lambda client: client.request(method, params), host=host)


def confirmed(question: str) -> bool:
    """Whether whoever sits there says yes, after what was shown. Raises `UsageError` where nobody can."""
    sys.stdout.flush()
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as abort:
        if not isinstance(abort.__context__, EOFError) or sys.stdin.isatty():
            raise
        sys.stderr.write("\n")
        hint = "Say --yes where nobody is asked."
        raise UsageError("nobody answered", where="standard input", hint=hint) from None


async def asked(method: str, params: dict[str, Any]) -> Any:
    """The same of the one that runs, in a loop."""
    async with connect() as client:
        return await client.request(method, params)
