"""The one normaliser of hosts, host patterns, URL paths and path patterns.

Everything that compares a host or a path compares what comes out of here. Each function is
idempotent, and refuses (`DeniedError`) what two parsers could read in two ways.

Hosts: lower case; one trailing dot is removed, two are refused; NUL, control characters, white
space, userinfo, percent signs, zones and anything that isn't ASCII are refused (write the A-label,
``xn--…``); numbers in every spelling become the IPv4 address that a resolver would dial.

Paths: percent-decoded once; what still has a percent sign, ``.`` and ``..`` segments, ``//``,
backslashes, ``;``, an encoded slash, control characters and non-ASCII are refused; one trailing
slash is removed. What comes out may be sent as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.policies import globs
from bridgehold.policies.addresses import (
    Address,
    is_public,
    looks_numeric,
    parse_ipv4,
    parse_ipv6,
    why_not_public,
)

__all__ = [
    "Host",
    "host_covers",
    "host_matches",
    "is_public",
    "meet_paths",
    "normalise_host",
    "normalise_host_pattern",
    "normalise_path",
    "normalise_path_pattern",
    "path_covers",
    "path_matches",
    "prune_paths",
    "why_not_public",
]

MAX_HOST = 253
MAX_PATH = 2_000
_MAX_MEET = 256

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]+", re.ASCII)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)


class Host(msgspec.Struct, frozen=True):
    """A host after the one normalisation. `address` is set where the name is an IP literal."""

    name: str
    """Lower case, no trailing dot; an address in its shortest form, without brackets."""
    address: Address | None = None

    def __str__(self) -> str:
        return self.name


def normalise_host(text: str) -> Host:
    """The one form of `text` (no port, no userinfo). Raises `DeniedError`."""
    if len(text) > MAX_HOST + 1:
        raise _refused("host", text, f"is longer than {MAX_HOST} characters")
    if not text.isascii():
        raise _refused("host", text, "is not ASCII", hint="Write the A-label (xn--…) of the name.")
    for character in text:
        if character <= " " or character in '\x7f%@/\\?#"<>^`{|}':
            raise _refused("host", text, f"contains {character!r}")
    if text.startswith("[") or ":" in text:
        return _ipv6(text)
    name = text.lower().removesuffix(".")
    if name and looks_numeric(name):
        return _ipv4(text, name)
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("host", text, "is not a host's name")
    return Host(name)


def _ipv4(text: str, name: str) -> Host:
    try:
        address = parse_ipv4(name)
    except ValueError as error:
        raise _refused("host", text, f"is no IPv4 address: {error}") from None
    return Host(str(address), address)


def _ipv6(text: str) -> Host:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = parse_ipv6(bare)
    except ValueError:
        raise _refused("host", text, "is no IPv6 address") from None
    return Host(str(address), address)


def normalise_host_pattern(text: str) -> str:
    """A host, or ``*.`` and a name of two labels or more. ``*`` stands for exactly one label."""
    if not text.startswith("*."):
        return normalise_host(text).name
    rest = normalise_host(text[2:])
    if rest.address is not None or "." not in rest.name:
        hint = "A pattern is *. and a name, such as *.example.com."
        raise _refused("host pattern", text, "is too wide", hint=hint)
    return f"*.{rest.name}"


def host_matches(pattern: str, host: str | Host) -> bool:
    """Whether normalised `pattern` allows `host`: label by label, never by suffix of a text."""
    plain = host if isinstance(host, Host) else normalise_host(host)
    if not pattern.startswith("*."):
        return plain.name == pattern
    first, dot, rest = plain.name.partition(".")
    return plain.address is None and bool(first and dot) and rest == pattern[2:]


def host_covers(wide: str, narrow: str) -> bool:
    """Whether every host that the pattern `narrow` allows is allowed by `wide` too."""
    if narrow.startswith("*."):
        return wide == narrow
    return host_matches(wide, narrow)


def normalise_path(text: str) -> str:
    """The one form of a URL's path (no query). Raises `DeniedError`."""
    if len(text) > MAX_PATH:
        raise _refused("path", text, f"is longer than {MAX_PATH} characters")
    if not text.startswith("/"):
        raise _refused("path", text, "does not begin with a slash")
    segments = text[1:].split("/")
    if len(segments) > 1 and segments[-1] == "":
        segments.pop()
    if segments == [""]:
        if text != "/":
            raise _refused("path", text, "has an empty segment")
        return "/"
    return "/" + "/".join(_segment(text, segment) for segment in segments)


def _segment(path: str, raw: str) -> str:
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), raw)
    if plain == "":
        raise _refused("path", path, "has an empty segment")
    if plain in (".", ".."):
        raise _refused("path", path, "climbs with '.' or '..'")
    if not _SEGMENT.fullmatch(plain):
        raise _refused("path", path, "has a character that two parsers read in two ways")
    return plain


def normalise_path_pattern(text: str) -> str:
    """A path in which ``*`` stands for any characters of one segment; the first slash may be left out."""
    path = normalise_path(text if text.startswith("/") else f"/{text}")
    for segment in path.split("/"):
        if globs.too_wild(segment):
            raise _refused("path pattern", text, "has a segment with too many '*', or too long a one")
    return path


def path_matches(pattern: str, path: str) -> bool:
    """Whether `pattern` allows the normalised `path`: as many segments, each matched, case kept."""
    wanted, given = pattern.split("/"), path.split("/")
    return len(wanted) == len(given) and all(
        globs.matches(glob, segment) and (segment != "" or glob == "")
        for glob, segment in zip(wanted, given, strict=True)
    )


def path_covers(wide: str, narrow: str) -> bool:
    """Whether every path that `narrow` allows is allowed by `wide` too."""
    return path_matches(wide, narrow)


def prune_paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """`patterns` without those that another one covers, sorted."""
    return globs.prune(patterns, path_covers)


def meet_paths(left: str, right: str) -> tuple[str, ...]:
    """Patterns that together allow what both allow; past 256 of them less, never more."""
    if left == right:
        return (left,)
    ours, theirs = left.split("/")[1:], right.split("/")[1:]
    if len(ours) != len(theirs):
        return ()
    found = [""]
    for mine, other in zip(ours, theirs, strict=True):
        options = [glob for glob in globs.meet(mine, other) if glob]
        found = [f"{head}/{glob}" for head in found for glob in options][:_MAX_MEET]
    return tuple(found)


def _refused(what: str, text: str, why: str, *, hint: str = "") -> DeniedError:
    return DeniedError(f"the {what} {text[:120]!r} {why}", where="names", hint=hint)
