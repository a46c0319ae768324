"""Who may see the page (pure): one token, once, for one cookie; one name of the host; no other site.

The token is exchanged for a cookie that no script reads and no other site sends. A name that a stranger's
DNS leads here (rebinding) is none of ours, so it is refused before anything is read.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

COOKIE = "bridgehold-review"
ENTER = "/enter"
_SAME = frozenset({"same-origin", "none", ""})
"""What a browser says of who asks; tools that are no browser say nothing."""
_UNSAID = frozenset({"", "null"})
"""Origins of a form that a page without referrers sends: its browser says by the header above whose it is."""
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every answer, refusals and files too."""


class Visit(NamedTuple):
    """What a request says of itself."""

    method: str
    path: str
    host: str
    cookie: str = ""
    site: str = ""
    """``Sec-Fetch-Site``."""
    origin: str = ""


class Refused(NamedTuple):
    """Why nothing is shown, in words for whoever asked."""

    status: HTTPStatus
    reason: str
    remedy: str


_ELSEWHERE = Refused(
    HTTPStatus.MISDIRECTED_REQUEST,
    "This page answers to its own address alone.",
    "Open the address that `bridgehold review` printed.",
)
_ONLY_SHOWS = Refused(HTTPStatus.METHOD_NOT_ALLOWED, "This page only shows; it changes nothing.", "")
_ANOTHER_SITE = Refused(
    HTTPStatus.FORBIDDEN, "Another site asked for this page.", "Open it from the address bar."
)
_NOT_LET_IN = Refused(
    HTTPStatus.UNAUTHORIZED,
    "This browser has not been let in.",
    "Open the link that `bridgehold review` printed. It works once: run the command again for another.",
)


class Gate:
    """One run of the page: its token, its cookie, its names."""

    def __init__(self, authority: str, token: str = "", changes: str = "") -> None:
        """`authority`: ``ADDRESS:PORT`` as it listens. `token`: made, if it isn't given. `changes`: how paths
        begin below which something may be changed; empty: nowhere."""
        self._changes = changes
        self.token = token or secrets.token_urlsafe(32)
        self.cookie = secrets.token_urlsafe(32)
        address, _, port = authority.rpartition(":")
        self._hosts = {authority}
        if address in ("127.0.0.1", "[::1]"):
            self._hosts.add(f"localhost:{port}")
        self._spent = False

    @property
    def spent(self) -> bool:
        """Whether the token has been exchanged."""
        return self._spent

    def enter(self, token: str) -> bool:
        """Whether this is the token, for the first time. It is worth nothing afterwards."""
        right = hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode("ascii"))
        if not right or self._spent:
            return False
        self._spent = True
        return True

    def judge(self, visit: Visit) -> Refused | None:
        """Why this visit is refused; None: it may go on."""
        if visit.host not in self._hosts:
            return _ELSEWHERE
        entering = visit.path == ENTER
        changing = visit.method not in ("GET", "HEAD") and not (entering and visit.method == "POST")
        if changing and not (
            visit.method == "POST" and self._changes and visit.path.startswith(self._changes)
        ):
            return _ONLY_SHOWS
        if entering and visit.method != "POST":
            return None  # the token is the proof, wherever its link was opened from
        own = {f"http://{host}" for host in self._hosts}
        ours = visit.origin in own or (visit.site == "same-origin" and visit.origin in _UNSAID)
        if visit.site not in _SAME or not (ours or (visit.origin == "" and not changing)):
            return _ANOTHER_SITE
        let_in = hmac.compare_digest(visit.cookie.encode("utf-8", "replace"), self.cookie.encode("ascii"))
        return None if let_in or entering or visit.path.startswith("/static/") else _NOT_LET_IN

    def set_cookie(self) -> str:
        """The header's value: for this host and its lifetime, out of reach of scripts and other sites."""
        return f"{COOKIE}={self.cookie}; HttpOnly; SameSite=Strict; Path=/"
