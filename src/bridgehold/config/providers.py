"""A provider as the operator describes it, and what is wrong with the description (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.ids import is_name, whole_number
from bridgehold.policies.names import normalise_host_pattern

if TYPE_CHECKING:
    from bridgehold.config.sections import ProviderSection


Shape = Literal["openai", "anthropic", "gemini", "custom", "hub"]
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_UNRESERVED = re.compile(r"(/[A-Za-z0-9_.~:-]+)*/?")


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream: where it is, and the one slot its key is put into."""

    name: str
    base_url: str
    shape: Shape = "openai"
    auth: str = "bearer"
    """``bearer``, ``header:NAME``, ``query:NAME``, or of a hub ``none``: it is asked without a key."""
    secret: str = ""
    """Name of the tenant's secret; the provider's own name if empty."""
    private: bool = False
    """It may live at a loopback or private address, and without TLS (weakening ``private_network``)."""
    hosts: tuple[str, ...] = ()
    """Of a hub: hosts (``host``, ``*.host``, ``host:port``) that its redirects may lead to, without a key."""

    @property
    def keyed(self) -> bool:
        """Whether the keeper puts a key into its requests."""
        return self.auth != "none"

    @property
    def secret_name(self) -> str:
        """The secret's name: that of the provider, unless `secret` names another."""
        return self.secret or self.name

    @property
    def host(self) -> str:
        """The host of its address, without the port; empty where the address has none."""
        return urlsplit(self.base_url).hostname or ""


def provider_entry(name: str, section: ProviderSection) -> ProviderEntry:
    """What the keeper is told of ``[providers.NAME]``."""
    return ProviderEntry(
        name=name,
        base_url=section.base_url,
        shape=section.shape,
        auth=section.auth,
        secret=section.secret,
        private=section.private,
        hosts=section.hosts,
    )


def provider_faults(entry: ProviderEntry) -> list[str]:
    """All that is wrong with it, each with its section's name (pure)."""
    faults = []
    if not is_name(entry.name):
        faults.append("is not a name")
    if entry.secret and not is_name(entry.secret):
        faults.append("secret is not a name")
    kind, _, slot = entry.auth.partition(":")
    if entry.auth == "none":
        if entry.shape != "hub":
            faults.append("auth none is a hub's only")
    elif entry.auth != "bearer" and (kind not in ("header", "query") or not _TOKEN.fullmatch(slot)):
        faults.append("auth is none of bearer, header:NAME, query:NAME")
    if entry.hosts and entry.shape != "hub":
        faults.append("hosts are a hub's only")
    faults += [
        f"hosts: {host[:80]!r} is no host, *.host or host:port" for host in entry.hosts if not is_place(host)
    ]
    faults += _url_faults(entry)
    return [f"providers.{entry.name[:63]}: {fault}" for fault in faults]


def is_place(text: str) -> bool:
    """Whether `text` is a host, a pattern of hosts, or either with a port (pure)."""
    host, colon, port = text.partition(":")
    try:
        return (not colon or 1 <= whole_number(port) <= 65_535) and normalise_host_pattern(host) == host
    except (DeniedError, ValueError):
        return False


def _url_faults(entry: ProviderEntry) -> list[str]:
    try:
        parts = urlsplit(entry.base_url)
        port_ok = parts.port is None or 1 <= parts.port <= 65_535
    except ValueError:
        return ["base_url is not a URL"]
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_ok:
        return ["base_url is not an http(s) URL"]
    faults = []
    if parts.username is not None or parts.password is not None:
        faults.append("base_url holds a user or a password")
    if parts.query or parts.fragment or not _UNRESERVED.fullmatch(parts.path):
        faults.append("base_url has more than a plain path")
    if parts.scheme == "http" and not entry.private:
        faults.append("base_url without TLS would show the key to the network (only with private = true)")
    return faults
