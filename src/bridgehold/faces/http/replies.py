"""Answers as HTTP responses: JSON, an error's body, and the headers that every answer has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from bridgehold.errors import BridgeholdError
from bridgehold.faces.http.statuses import Refused, status_of

_ALWAYS = {
    "Server": "bridgehold",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_RETRY_SECONDS = "1"
_SLOWEST = 64 * 1024
"""Bytes a second, of a large answer."""


def headers(more: dict[str, str] | None = None) -> dict[str, str]:
    """What every response says: not to be stored, guessed at or shown in a frame."""
    return {**_ALWAYS, **(more or {})}


def answer(value: object, status: int = 200) -> web.Response:
    """`value` as JSON, with the headers that every answer has."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers()
    )


def refusal(status: int, error: BridgeholdError, more: dict[str, str] | None = None) -> web.Response:
    """``{code, message, hint, where, retry, event, traceback}``, and ``output`` of a command."""
    later = {"Retry-After": _RETRY_SECONDS} if error.retry == "later" else {}
    return web.Response(
        body=msgspec.json.encode(error.info()),
        status=status,
        content_type="application/json",
        headers=headers(later | (more or {})),
    )


def refused(error: BridgeholdError | Refused) -> web.Response:
    """`error` as JSON, with the status that belongs to its code."""
    if isinstance(error, Refused):
        return refusal(error.status, error.error, error.headers)
    return refusal(status_of(error.code), error)


async def write(request: web.Request, response: web.StreamResponse, piece: bytes, seconds: float) -> None:
    """A part of a body. Raises `ConnectionError` where the caller reads nothing: it is cut off then."""
    async with _read_within(request, seconds):
        await response.write(piece)


async def send(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    """All that is left of `response`, as `write`."""
    size = response.content_length or 0
    async with _read_within(request, seconds + size / _SLOWEST):
        await response.prepare(request)
        await response.write_eof()


@contextlib.asynccontextmanager
async def _read_within(request: web.Request, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionError("the caller reads nothing") from None
