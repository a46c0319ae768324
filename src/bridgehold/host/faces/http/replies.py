"""Answers as HTTP responses: JSON, an error's body, and the headers that every answer has."""

from __future__ import annotations

import msgspec
from aiohttp import web

from bridgehold.errors import BridgeholdError
from bridgehold.host.faces.http.statuses import Refused, status_of

_ALWAYS = {
    "Server": "bridgehold",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_RETRY_SECONDS = "1"


def headers(more: dict[str, str] | None = None) -> dict[str, str]:
    """What every response says: not to be stored, guessed at or shown in a frame."""
    return {**_ALWAYS, **(more or {})}


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers()
    )


def refusal(status: int, error: BridgeholdError, more: dict[str, str] | None = None) -> web.Response:
    """``{code, message, hint, where, retry, event}``."""
    later = {"Retry-After": _RETRY_SECONDS} if error.retry == "later" else {}
    return web.Response(
        body=msgspec.json.encode(error.info()),
        status=status,
        content_type="application/json",
        headers=headers(later | (more or {})),
    )


def refused(error: BridgeholdError | Refused) -> web.Response:
    if isinstance(error, Refused):
        return refusal(error.status, error.error, error.headers)
    return refusal(status_of(error.code), error)
