"""The kernel's session: begun with its first cell, and anew once it is lost."""

from __future__ import annotations

import asyncio
import contextlib

from bridgehold.client.client import Host
from bridgehold.client.session import ClientSession
from bridgehold.errors import BridgeholdError

LOST = frozenset({"memory", "crash", "session_ended", "host_unavailable", "host_leaving", "cell_ended"})
"""After these what the session held is gone."""


class Place:
    """One session of `bridge` for `tenant` at the host that runs, or at a private one."""

    def __init__(self, bridge: str, tenant: str) -> None:
        self._bridge = bridge
        self._tenant = tenant
        self._stack = contextlib.AsyncExitStack()
        self._session: ClientSession | None = None
        self._turn = asyncio.Lock()

    async def session(self) -> ClientSession:
        """The session that is there, or a new one. Raises what `Host.open` and `Client.session` raise."""
        async with self._turn:
            if self._session is None:
                async with contextlib.AsyncExitStack() as stack:
                    client = await stack.enter_async_context(Host.open())
                    opened = client.session(self._bridge, tenant=self._tenant)
                    self._session = await stack.enter_async_context(opened)
                    self._stack = stack.pop_all()
            return self._session

    async def aclose(self) -> None:
        """End it; the next one that is asked for is fresh."""
        async with self._turn:
            self._session = None
            with contextlib.suppress(BridgeholdError, OSError):
                await self._stack.aclose()
