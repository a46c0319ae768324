"""What of a request's head goes to a provider, and of its answer's comes back (pure)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from yarl import URL

from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import DeniedError, ProviderError
from bridgehold.keeper.protocol import UpstreamRequest
from bridgehold.keeper.scrub import Scrubber
from bridgehold.keeper.slots import AUTH_HEADERS, HOP_HEADERS, REQUEST_HEADERS
from bridgehold.policies.names import normalise_path

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"})
_HEADERS_BOUND = 64 * 1024
_CHARSET = re.compile(r"charset\*?\s*=\s*[\"']?([^\s;,\"']+)", re.IGNORECASE)
_ASCII_BASED = re.compile(r"utf-?8|us-ascii|ascii|latin-?1|iso[-_]?8859-\d{1,2}|windows-125\d", re.IGNORECASE)
_VALUE = re.compile(r"[\x20-\x7e\t]{0,8192}")


def make_url(entry: ProviderEntry, request: UpstreamRequest, query: list[tuple[str, str]]) -> URL:
    """The provider's base URL and the request's path, taken literally (pure). Raises `DeniedError`."""
    if request.method not in _METHODS:
        raise DeniedError(f"the method {request.method[:20]!r} goes to no provider", where="method")
    if normalise_path(request.path) != request.path:
        raise DeniedError("the path of a request is not normalised", where="path")
    text = entry.base_url.rstrip("/") + request.path
    if query:
        text += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    return URL(text, encoded=True)


def checked_headers(request: UpstreamRequest) -> dict[str, str]:
    """The request's headers if each may go on (pure), and our own. Raises `DeniedError`."""
    headers = {"Accept-Encoding": "identity"}
    for name, value in request.headers:
        if name not in REQUEST_HEADERS or name in AUTH_HEADERS or not _VALUE.fullmatch(value):
            raise DeniedError(f"the header {name[:60]!r} does not go to a provider", where="header")
        headers[name] = value
    return headers


def coding(headers: Any) -> str:
    """Which header tells of a coding that hides an answer's bytes (pure); empty where none does.

    Every header of a name counts. Only chunks are undone on the way here, and only a character set that
    writes ASCII as ASCII can be searched.
    """
    for name, plain in (("Content-Encoding", {"identity"}), ("Transfer-Encoding", {"chunked", "identity"})):
        said = [one.strip().lower() for value in headers.getall(name, ()) for one in value.split(",")]
        if any(one and one not in plain for one in said) or said.count("chunked") > 1:
            return name
    for value in headers.getall("Content-Type", ()):
        for charset in _CHARSET.findall(value):
            if not _ASCII_BASED.fullmatch(charset):
                return "Content-Type: charset"
    return ""


def returned_headers(headers: Any, scrubber: Scrubber) -> tuple[tuple[str, str], ...]:
    """A provider's headers as the guest may see them. Raises `ProviderError` past the bound."""
    dropped = HOP_HEADERS | {
        token.strip().lower() for value in headers.getall("Connection", ()) for token in value.split(",")
    }
    passed = [(name, value) for name, value in headers.items() if name.lower() not in dropped]
    if sum(len(name) + len(value) for name, value in passed) > _HEADERS_BOUND:
        raise ProviderError("the provider's headers are too long")
    kept = []
    for name, value in passed:
        shown = scrubber.text(value)
        kept.append(
            (
                scrubber.text(name.lower()),
                "".join(c if " " <= c <= "\xff" and c != "\x7f" else " " for c in shown),
            )
        )
    return tuple(kept)
