"""Request heads, strictly: one reading is possible, or the answer is 400 (pure).

h11 parses; before it, what h11 forgives is refused: bare line feeds, folded lines, a length beside a
transfer coding, two lengths. After it, the target and Host must agree.
"""

from __future__ import annotations

import re
from typing import Literal

import h11
import msgspec

from bridgehold.errors import DeniedError
from bridgehold.policies.names import normalise_host

_FOLD = re.compile(rb"\r\n[ \t]")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\x00")
_ONCE = tuple(
    re.compile(rb"\r\n" + name + rb"[ \t]*:", re.IGNORECASE)
    for name in (b"host", b"content-length", b"transfer-encoding")
)
_ABSOLUTE = re.compile(r"http://([^/?#]*)(/[^?#]*)?(?:\?([^#]*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_TARGET = re.compile(r"[\x21-\x7e]+")


class BadRequest(Exception):  # noqa: N818 - it is the status's own name
    """The connection gets 400 and is closed; `rule` goes to the audit."""

    def __init__(self, rule: str, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
        self.status = status


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request wants to go, after the one reading."""

    kind: Literal["reverse", "proxy", "tunnel"]
    """Our own path; another host's, in absolute form; a tunnel."""
    method: str
    host: str = ""
    """Normalised; for ``proxy`` and ``tunnel``."""
    port: int = 0
    path: str = "/"
    """As sent, not normalised yet."""
    query: str = ""
    keep_alive: bool = True


def parse_head(head: bytes, bound: int) -> tuple[h11.Connection, h11.Request]:
    """The request in `head`, which ends with the empty line. Raises `BadRequest`."""
    if _BARE.search(head):
        raise BadRequest("http.bytes", "a bare line feed, carriage return or NUL in the head")
    if _FOLD.search(head):
        raise BadRequest("http.fold", "a folded header")
    if any(len(pattern.findall(head)) > 1 for pattern in _ONCE):  # h11 joins equal lengths into one
        raise BadRequest("http.framing", "a header that may stand once stands twice")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=bound)
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest("http.syntax", brief(error)) from None
    if not isinstance(event, h11.Request):
        raise BadRequest("http.syntax", "not a request")
    return connection, event


def check_head(request: h11.Request, own: frozenset[str], most_headers: int) -> Target:
    """Where `request` goes. `own` are our own authorities, ``127.0.0.1:8080`` and so on.

    Raises `BadRequest`.
    """
    _check_framing(request, most_headers)
    method = request.method.decode("ascii")
    target = request.target.decode("latin-1")
    hosts = [value for name, value in request.headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and request.http_version != b"1.0"):
        raise BadRequest("http.host", "not exactly one Host header")
    if not _TARGET.fullmatch(target):
        raise BadRequest("http.target", "the target has a character that two parsers read in two ways")
    if method == "CONNECT":
        host, port = split_authority(target, None)
        _check_host(hosts, f"{host}:{port}", 443)
        return Target(kind="tunnel", method=method, host=host, port=port, keep_alive=False)
    if target.startswith("/"):
        if hosts and hosts[0].decode("latin-1").lower() not in own:
            raise BadRequest("http.host", "Host is not this gateway's")
        path, _, query = target.partition("?")
        return Target(kind="reverse", method=method, path=path, query=query)
    return _absolute(method, target, hosts, own)


def _absolute(method: str, target: str, hosts: list[bytes], own: frozenset[str]) -> Target:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadRequest("http.target", "the target is no path, http:// URL or host:port")
    host, port = split_authority(found[1], 80)
    _check_host(hosts, f"{host}:{port}", 80)
    path, query = found[2] or "/", found[3] or ""
    if f"{host}:{port}" in own:
        return Target(kind="reverse", method=method, path=path, query=query)
    return Target(kind="proxy", method=method, host=host, port=port, path=path, query=query, keep_alive=False)


def _check_host(hosts: list[bytes], authority: str, default_port: int) -> None:
    """Host must name what the target names: whoever follows the one may not meet the other."""
    if hosts:
        host, port = split_authority(hosts[0].decode("latin-1"), default_port)
        if f"{host}:{port}" != authority:
            raise BadRequest("http.host", "Host and target name different places")


def split_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """(normalised host, port) of ``host``, ``host:port`` or ``[v6]:port``. Raises `BadRequest`."""
    if "@" in text:
        raise BadRequest("http.userinfo", "a user or password stands before the host")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "" if default_port is None else str(default_port)
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise BadRequest("http.port", "a port from 1 to 65535 is expected")
    try:
        return normalise_host(host).name, int(port)
    except DeniedError as error:
        raise BadRequest("names.host", error.message, status=403) from None


def _check_framing(request: h11.Request, most_headers: int) -> None:
    names = [name for name, _ in request.headers]
    if len(names) > most_headers:
        raise BadRequest("http.headers", f"more than {most_headers} headers", status=431)
    lengths = names.count(b"content-length")
    codings = [value for name, value in request.headers if name == b"transfer-encoding"]
    if lengths > 1 or len(codings) > 1 or (lengths and codings):
        raise BadRequest("http.framing", "more than one thing says how long the body is")
    if codings and (codings[0].strip().lower() != b"chunked" or request.http_version == b"1.0"):
        raise BadRequest("http.framing", "a transfer coding other than chunked")
    if request.http_version not in (b"1.1", b"1.0"):
        raise BadRequest("http.version", "HTTP/1.1 is spoken here", status=505)
    for name, value in request.headers:
        if name == b"expect" and value.strip().lower() != b"100-continue":
            raise BadRequest("http.expect", "only 100-continue can be expected", status=417)


def parse_query(query: str) -> list[tuple[str, str]]:
    """Decoded pairs, in order. Raises `BadRequest` for what two parsers read in two ways."""
    from urllib.parse import unquote_to_bytes

    pairs = []
    for part in query.split("&") if query else []:
        if ";" in part or "+" in part or part.count("=") > 1:
            raise BadRequest("http.query", "the query has a character that two parsers read in two ways")
        name, _, value = part.partition("=")
        try:
            pair = tuple(unquote_to_bytes(text).decode("ascii") for text in (name, value))
        except UnicodeDecodeError:
            raise BadRequest("http.query", "the query is not ASCII") from None
        if any(not " " <= character <= "~" for text in pair for character in text):
            raise BadRequest("http.query", "the query has a control character")
        pairs.append((pair[0], pair[1]))
    return pairs


def brief(error: h11.RemoteProtocolError) -> str:
    """h11's words without the bytes it quotes: a header line may hold a key."""
    return str(error).partition(":")[0][:100]


def declared(request: h11.Request, bound: int) -> int:
    """Bytes to hold for the body: its declared length, or the bound where it says none."""
    for name, value in request.headers:
        if name == b"content-length":
            return min(int(value), bound)
        if name == b"transfer-encoding":
            return bound
    return 0
