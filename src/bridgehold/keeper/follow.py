"""Where a hub's redirect may lead, and whether the key goes along (pure).

Redirects are followed here, and nowhere else, because a hub keeps large files on other hosts. Within
the hub's own origin the key stays; to any other host that the operator's table names goes a bare
request. What the table does not name is refused, wherever the redirect came from.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import msgspec

from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import DeniedError, ProviderError
from bridgehold.keeper.protocol import REDIRECT
from bridgehold.policies.names import host_matches, normalise_host

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_HOPS = 3
PASSED_ON = ("x-repo-commit", "x-linked-etag", "x-linked-size")
"""What only the hub itself may say of a file, never a host that it leads to."""
_LONGEST = 8_190
_DEFAULT_PORTS = {"https": 443, "http": 80}


FOLLOWED = "x-bridgehold-followed"
"""Our own header of an answer: the host that gave it, where it was not the hub."""


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """The next request of a chain."""

    url: str
    host: str
    """Normalised."""
    keyed: bool
    """Whether it stays with the hub, and carries its key."""

    def __repr__(self) -> str:
        return f"Hop({self.host})"  # the URL's query may be a signature


def next_hop(entry: ProviderEntry, before: Hop, location: str) -> Hop:
    """Raises `DeniedError` (``redirect``) for a place that the table doesn't name, else `ProviderError`."""
    if not location or len(location) > _LONGEST or not location.isascii() or not location.isprintable():
        raise ProviderError(f"{entry.name} redirects to nowhere", where=entry.host)
    try:
        url = urljoin(before.url, location).partition("#")[0]
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ProviderError(f"{entry.name} redirects to what is no URL", where=entry.host) from None
    if parts.username is not None or parts.password is not None or "\\" in url or " " in url:
        raise _refused(entry, "a URL that two parsers read in two ways")
    if parts.scheme != "https" and not (parts.scheme == "http" and entry.private):
        raise _refused(entry, f"{parts.scheme[:20] or 'no scheme'}, not https")
    host = normalise_host(parts.hostname or "").name
    if _origin(entry) == (parts.scheme, host, port):
        # A host that was reached without the key gets none on the way back either.
        return Hop(url=url, host=host, keyed=before.keyed)
    if not any(_fits(place, host, port, parts.scheme) for place in entry.hosts):
        raise _refused(entry, f"{host}:{port}, which its entry does not name")
    return Hop(url=url, host=host, keyed=False)


def _origin(entry: ProviderEntry) -> tuple[str, str, int]:
    parts = urlsplit(entry.base_url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    return parts.scheme, normalise_host(parts.hostname or "").name, port


def _fits(place: str, host: str, port: int, scheme: str) -> bool:
    pattern, colon, wanted = place.partition(":")
    return host_matches(pattern, host) and port == (int(wanted) if colon else _DEFAULT_PORTS[scheme])


def _refused(entry: ProviderEntry, what: str) -> DeniedError:
    return DeniedError(
        f"{entry.name} redirects to {what[:300]}",
        where=REDIRECT,
        hint=f"Where its files lie is named by the operator: `[providers.{entry.name}] hosts`.",
    )
