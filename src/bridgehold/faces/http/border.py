"""HTTP middleware: a request's id, token and share of the bounds; every failure as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from bridgehold.error_texts import defect_of
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    HostUnavailableError,
    InternalError,
    NotFoundError,
    UsageError,
)
from bridgehold.faces.http.calls import Call, Face
from bridgehold.faces.http.checks import bearer, check_accept, check_host
from bridgehold.faces.http.guard import BoundedServer
from bridgehold.faces.http.replies import answer, refused, send
from bridgehold.faces.http.route import Route
from bridgehold.faces.http.routes import ROUTES
from bridgehold.faces.http.statuses import Refused

_HEALTH = "/healthz"
_HEALTH_SECONDS = 1.0
_HEAD = ".head"
_HELD = "bridgehold.held"
_GONE = 499
"""No status of an answer: the caller went away before it."""

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Border:
    """The application's one middleware, and its health."""

    def __init__(self, face: Face, names: frozenset[str]) -> None:
        self._face = face
        self._names = names
        self._healthy = (0.0, False)
        self.server: BoundedServer | None = None

    def application(self) -> web.Application:
        """All routes behind this border."""

        @web.middleware
        async def border(request: web.Request, handler: Next) -> web.StreamResponse:
            return await self._answered(request)

        app = web.Application(middlewares=[border])
        for route in ROUTES:
            app.router.add_route(route.method, route.path, _unreached, name=route.name)
            if route.method == "GET" and route.gives_kind != "text/event-stream":
                app.router.add_route("HEAD", route.path, _unreached, name=f"{route.name}{_HEAD}")
        for method, name in (("GET", "healthz"), ("HEAD", f"healthz{_HEAD}")):
            app.router.add_route(method, _HEALTH, _unreached, name=name)
        return app

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        if self.server is not None:
            self.server.busy.add(request.protocol)
        response: web.StreamResponse | None = None
        try:
            response = await self._response(request)
            if self.server is not None and self.server.leaving:
                response.force_close()
            await send(request, response, self._face.config.read_s)
        finally:
            if response is not None and _HELD in response:
                response[_HELD].give_back()
            if self.server is not None:
                self.server.answered(request.protocol)
        return response

    async def _response(self, request: web.Request) -> web.StreamResponse:
        """Whatever comes of it. Raises `ConnectionError` where nobody is there to be told."""
        status = _GONE
        try:
            response = await self._handled(request)
            status = response.status
        except (BridgeholdError, Refused) as error:
            response = _respond(request, error)
            status = response.status
        except (ConnectionError, RequestPayloadError):
            raise ConnectionError("the caller went away") from None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last border: a defect must not end the face
            status = 500
            response = _respond(request, defect_of(error, _label(request)))
        finally:
            self._face.metrics.requests.labels(_label(request), _method(request), str(status)).inc()
        return response

    async def _handled(self, request: web.Request) -> web.StreamResponse:
        check_host(request.headers.getall("Host", []), self._names)
        name = (request.match_info.route.name or "").removesuffix(_HEAD)
        if name == "healthz":
            return await self._health()
        token = bearer(request.headers.getall("Authorization", []))
        async with self._face.links.of(token) as link:
            route = _BY_NAME.get(name)
            if route is None:
                raise _no_route(request)
            kinds = [route.gives_kind, *(["text/event-stream"] if route.streams else [])]
            check_accept(request.headers.getall("Accept", []), kinds)
            call = Call(self._face, request, link)
            try:
                response = await self._in_turn(route, call)
            finally:
                call.body_share.give_back()
            _hold(call, response)
            return response

    async def _in_turn(self, route: Route, call: Call) -> web.StreamResponse:
        """Within its principal's share. Raises `Refused`."""
        if route.uncounted:
            return await route.respond(call)
        principal, requests = call.caller.principal, self._face.requests
        place, under_way = requests.of(principal), requests.held_by(principal)
        if under_way >= self._face.config.requests or not place.take(1):
            raise Refused(429, BusyError(f"{principal} has {under_way} requests under way", hint=""))
        try:
            return await route.respond(call)
        finally:
            place.give_back()

    async def _health(self) -> web.StreamResponse:
        """Whether the host takes connections; asked at most once a second, since anyone may ask."""
        now = asyncio.get_running_loop().time()
        if now - self._healthy[0] > _HEALTH_SECONDS:
            self._healthy = (now, await self._face.links.alive())
        if not self._healthy[1]:
            raise HostUnavailableError("the host takes no connections")
        return answer({"status": "ok"})


_BY_NAME: dict[str, Route] = {route.name: route for route in ROUTES}


async def _unreached(_request: web.Request) -> web.StreamResponse:
    raise InternalError("a route was entered past its border")


def _hold(call: Call, response: web.StreamResponse) -> None:
    """An answer counts until its caller has read it. Raises `BusyError`: the command ran all the same."""
    share = call.share()
    if not response.prepared and not share.take(response.content_length or 0):
        raise BusyError(
            f"{call.caller.principal} leaves too many bytes of answers unread: this one is dropped",
            hint="Read the answers as they come. What was asked for was done; its receipt is in the audit.",
            retry="no",
        )
    response[_HELD] = share


def _respond(request: web.Request, error: BridgeholdError | Refused) -> web.StreamResponse:
    """The failure as a response. Raises `ConnectionError` where one has begun: it is cut off instead."""
    if request.writer.output_size > 0:
        raise ConnectionError("a part of the response has been sent")
    return refused(error)


def _no_route(request: web.Request) -> Refused:
    found = request.match_info.http_exception
    if isinstance(found, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(found.allowed_methods))
        error = UsageError(f"this path takes {allowed}", where="method", hint="GET /openapi.json lists all.")
        return Refused(405, error, {"Allow": allowed})
    hint = "GET /openapi.json lists all."
    if request.path.endswith("/"):
        hint = f"No path here ends in a slash. {hint}"
    return Refused(404, NotFoundError("there is no such path", hint=hint))


def _label(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def _method(request: web.Request) -> str:
    return request.method if request.method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} else "other"
