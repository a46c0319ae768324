"""The keeper's configuration, and where each provider's key goes. Read from an inherited descriptor.

The keeper believes this table and nothing else: whatever the host asks, a key goes only to the
base URL that stands here beside its provider.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from bridgehold.errors import ConfigError, DeniedError
from bridgehold.ids import is_name
from bridgehold.policies.names import normalise_host_pattern

if TYPE_CHECKING:
    from bridgehold.host.config import Config
    from bridgehold.host.config_sections import ProviderSection
    from bridgehold.host.layout import Layout

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
        return self.auth != "none"

    @property
    def secret_name(self) -> str:
        return self.secret or self.name

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where secrets are kept. The store is what is named here: never auto-detected."""

    folder: str
    store: Literal["file", "keyring", "systemd"] = "file"
    keyring_backend: Literal["secretservice", "cryptfile"] = "secretservice"
    passphrase_credential: str = ""
    """systemd credential that unlocks the encrypted file; the 0600 key file beside it if empty."""
    credentials_directory: str = ""
    """``$CREDENTIALS_DIRECTORY`` of the service."""
    timeout_ms: int = 20_000
    """Longest wait for one access: Argon2 takes about a second, a session bus may never answer."""


class UpstreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one request, whatever the host asks for."""

    request_bytes: int = 64 * 1024 * 1024
    response_bytes: int = 256 * 1024 * 1024
    download_bytes: int = 1024 * 1024 * 1024 * 1024
    """Of a file of a hub; the policy's own bound is the host's to keep."""
    connect_ms: int = 10_000
    idle_ms: int = 300_000
    """Longest silence of a provider, before and within its answer."""
    total_ms: int = 1_800_000


class KeeperConfig(msgspec.Struct, frozen=True, kw_only=True):
    secrets: StoreConfig
    providers: tuple[ProviderEntry, ...] = ()
    limits: UpstreamLimits = UpstreamLimits()
    cache_ms: int = 900_000
    """How long an unused value stays in memory."""
    reload_ms: int = 1_000
    """How often the index is looked at; a change takes effect within 5 s, streams included."""


def store_config(layout: Layout, config: Config, *, credentials_directory: str = "") -> StoreConfig:
    """The store that the operator's configuration names, in the layout's folder."""
    return StoreConfig(
        folder=str(layout.secrets),
        store=config.secrets.store,
        keyring_backend=config.secrets.keyring_backend,
        passphrase_credential=config.secrets.passphrase_credential,
        credentials_directory=credentials_directory,
    )


def keeper_config(layout: Layout, config: Config, *, credentials_directory: str = "") -> KeeperConfig:
    """The keeper's configuration from the operator's. Raises `ConfigError` for a wrong provider."""
    entries = tuple(provider_entry(name, section) for name, section in sorted(config.providers.items()))
    made = KeeperConfig(
        secrets=store_config(layout, config, credentials_directory=credentials_directory), providers=entries
    )
    check_config(made, str(layout.config_file))
    return made


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


def check_config(config: KeeperConfig, where: str = "") -> None:
    """Every fault of the providers' table in one `ConfigError`."""
    faults = [fault for entry in config.providers for fault in provider_faults(entry)]
    names = [entry.name for entry in config.providers]
    faults += [f"providers.{name}: stands there twice" for name in set(names) if names.count(name) > 1]
    if faults:
        raise ConfigError(
            f"{len(faults)} fault(s):\n  " + "\n  ".join(faults),
            where=where,
            hint="docs/reference/gateway.md describes a provider's entry.",
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
    if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        return False
    try:
        return normalise_host_pattern(host) == host
    except DeniedError:
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


def parse_config(data: bytes) -> KeeperConfig:
    """What the supervisor wrote. Raises `ConfigError`."""
    try:
        config = msgspec.json.decode(data, type=KeeperConfig)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"the keeper's configuration can't be read: {error}") from error
    check_config(config)
    return config
