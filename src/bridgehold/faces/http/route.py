"""What an endpoint is: its path, its handler, what it takes and gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

import msgspec
from aiohttp import web

from bridgehold.faces.http.calls import Call
from bridgehold.faces.http.flow import Flow
from bridgehold.faces.http.replies import answer

Handler = Callable[..., Awaitable[object]]
"""Takes the call and, as `asked`, its JSON body, if it takes one; gives a response, or what its JSON says."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint."""

    method: str
    path: str
    """As OpenAPI and the router write it: ``/v1/sessions/{session}``."""
    handler: Handler
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

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0].removesuffix(".")

    async def respond(self, call: Call) -> web.StreamResponse:
        """Have `call` handled. Raises what the handler does, and what `Call.body` does."""
        asked = (await call.body(self.body),) if "asked" in self.handler.__annotations__ else ()
        given = await self.handler(call, *asked)
        if isinstance(given, Flow):
            return await call.pass_back(given, self.status)
        return given if isinstance(given, web.StreamResponse) else answer(given, self.status)


def route(method: str, path: str, **facts: Any) -> Callable[[Handler], Route]:
    """Make an endpoint of its handler. `facts`: further fields of `Route`.

    `body` is the type of the handler's `asked`; said here only where the handler reads its body itself.
    """

    def make(handler: Handler) -> Route:
        asked = {"body": kind} if (kind := get_type_hints(handler).get("asked")) is not None else {}
        return Route(method=method, path=path, handler=handler, **asked, **facts)

    return make
