"""Commands under way, by the principal who asked for them: to be cancelled, and to be answered.

A name means something to its own principal only; another's is "not found", as one that never was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from bridgehold.errors import CancelledError, NotFoundError, UsageError
from bridgehold.ids import parse_name, random_id


class Running:
    """One command from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.work: asyncio.Future[Any] | None = None
        self.cancelled = False
        self.calls: set[int] = set()
        """Tool calls that were sent to the caller and are not answered."""
        self.host_name = ""
        """What the host calls the command; known once a tool of it was called."""

    def cancel(self) -> None:
        self.cancelled = True
        if self.work is not None:
            self.work.cancel()

    async def result(self, work: asyncio.Future[Any]) -> Any:
        """Of `work`, to its end. Raises `CancelledError` (the typed one) where its caller cancelled it."""
        try:
            return await work
        except asyncio.CancelledError:
            if self.cancelled and work.cancelled():
                raise CancelledError("the command was cancelled by its caller") from None
            raise


class Commands:
    """Every command under way."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Running] = {}

    @contextlib.contextmanager
    def enter(self, principal: str, name: str) -> Iterator[Running]:
        """A command called `name`, or by a drawn name, for as long as the block. Raises `UsageError`."""
        running = Running(parse_name(name, "command") if name else random_id("h"))
        key = (principal, running.name)
        if key in self._running:
            raise UsageError(f"a command {running.name!r} is under way", where="id")
        self._running[key] = running
        try:
            yield running
        finally:
            del self._running[key]

    def find(self, principal: str, name: str) -> Running:
        """Raises `NotFoundError`."""
        found = self._running.get((principal, name))
        if found is None:
            raise NotFoundError(f"no command {name[:80]!r} is under way here", hint="")
        return found

    def __len__(self) -> int:
        return len(self._running)
