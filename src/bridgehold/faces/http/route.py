"""What an endpoint is: its path, its handler, what it takes and gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from bridgehold.faces.http.calls import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint."""

    method: str
    path: str
    """As OpenAPI and the router write it: ``/v1/sessions/{session}``."""
    handler: Handler
    summary: str
    body: Any = None
    """The type of its JSON body, if it takes one."""
    gives: Any = None
    """The type of its JSON answer; anything if None."""
    query: tuple[str, ...] = ()
    status: int = 200
    streams: bool = False
    """With ``Accept: text/event-stream`` it answers in events."""
    takes_bytes: bool = False
    gives_kind: str = "application/json"
    uncounted: bool = False
    """It ends what is under way, or lets it go on: never refused for the number of requests."""

    @property
    def name(self) -> str:
        """The handler's, as the OpenAPI document's ``operationId``."""
        return f"{self.handler.__module__.rpartition('.')[2]}_{self.handler.__name__}"
