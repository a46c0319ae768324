"""How the simulated provider answers, and what it keeps of each request."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bridgehold.bridges.kit.faults import Faults
from bridgehold.bridges.kit.refusals import ErrorKind


class Scripted(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, as a test wants it: a text, calls of tools, or an error."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(tool, arguments)."""
    error: ErrorKind | Literal[""] = ""
    latency_ms: int = 0


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How it answers from now on."""

    latency_ms: int = 0
    """Before the head of an answer."""
    chunk_ms: int = 0
    """Between two events of a stream."""
    error: ErrorKind | Literal[""] = ""
    """Every request gets this error, in the words of the shape that it asks in."""
    status: int = 200
    """Another status answers every request with an error of that kind."""
    fail_next: int = 0
    """So many requests get 429 (or `error`, or `status`), then all is well again."""
    retry_after_s: int = 0
    """What ``Retry-After`` says with 429 and overloads."""
    context_tokens: int = 0
    """A prompt of more tokens gets the shape's error for it; 0: any length is taken."""
    echo_key: Literal["", "body", "header", "stream"] = ""
    """Send the caller's key back, as careless proxies and debug pages do."""
    redirect_to: str = ""
    """Every request is sent there, but for one that comes there."""
    redirect_status: int = 307
    error_after: int = -1
    """`error` comes as an event, after so many events of a stream; else, where there is none, all is well."""
    break_after: int = -1
    """Cut the connection after so many events of a stream."""
    usage: bool = True
    script: tuple[str | Scripted, ...] = ()
    """The next answers, in order; then the deterministic ones."""
    faults: Faults | None = None
    """Faults by chance, the same at every run."""


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came. The key only as a fingerprint."""

    method: str
    path: str
    query: str
    key_fingerprint: str
    """First 16 hexadecimal digits of the key's SHA-256; empty without a key."""
    authorised: bool
    headers: tuple[str, ...]
    """Names only."""
    body: bytes
    stream: bool = False
    fault: str = ""
    """Which fault `Behaviour.faults` made of it."""
