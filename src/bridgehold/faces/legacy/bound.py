"""A bound session: it lives exactly as long as the process that opened it. One request, from open to end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from bridgehold.client.client import Client
from bridgehold.client.connection import Progress
from bridgehold.error_texts import defect_of
from bridgehold.errors import BridgeholdError
from bridgehold.protocol.parts import Moved


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a session ended, when it was not us."""

    code: str
    reason: str
    status: int
    cause: str = ""
    """The kernel's word on its worker's end: ``exited``, ``signal``, ``memory``, ``killed``."""
    exit: int = -1
    """Exit status, or signal number."""


class BoundSession:
    """Opened by `hold`; when this process ends, however it ends, the host ends the session too."""

    def __init__(
        self, client: Client, method: str, params: dict[str, Any], on_event: Progress | None = None
    ) -> None:
        self._further = on_event
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[str] = loop.create_future()
        self._opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.ended: asyncio.Future[End] = loop.create_future()
        self._task = asyncio.create_task(self._hold(client, method, params))

    async def id(self) -> str:
        """Waits until it is open. Raises what kept it from opening."""
        return await asyncio.shield(self._opened)

    @property
    def opened(self) -> bool:
        """Whether it is open, or was; false too while it opens, and where it failed to."""
        return self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None

    @property
    def alive(self) -> bool:
        """Whether the host still answers the request that holds it."""
        return not self._task.done()

    async def close(self) -> None:
        """End it. The host is told by the request's end; nothing is waited for but that."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _hold(self, client: Client, method: str, params: dict[str, Any]) -> None:
        try:
            said = await client.request(method, params, self._on_event, Moved())  # its events are bytes
            end = msgspec.convert(said, End)
        except Exception as defect:  # noqa: BLE001 - whoever waits for its opening or its end hears of a defect
            error = (
                defect if isinstance(defect, BridgeholdError) else defect_of(defect, "the session's request")
            )
            end = End(code=error.code, reason=error.message, status=error.exit_status)
            if not self._opened.done():
                self._opened.set_exception(error.bare())
        if not self.ended.done():
            self.ended.set_result(end)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("type") == "open" and not self._opened.done():
            self._opened.set_result(str(event["session"]))
        elif self._further is not None:
            self._further(event)
