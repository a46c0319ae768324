"""The keeper's configuration, and where each provider's key goes. Read from an inherited descriptor.

The keeper believes this table and nothing else: whatever the host asks, a key goes only to the
base URL that stands here beside its provider. Only the supervisor tells it another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from bridgehold.config.providers import ProviderEntry, provider_entry, provider_faults
from bridgehold.errors import ConfigError
from bridgehold.keeper.spending import Prices

if TYPE_CHECKING:
    from bridgehold.config.layout import Layout
    from bridgehold.config.load import Config


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


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Of a million tokens; of a provider's own where no model is named."""

    provider: str
    model: str = ""
    price: float


class KeeperConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper process is started with."""

    secrets: StoreConfig
    providers: tuple[ProviderEntry, ...] = ()
    prices: tuple[Price, ...] = ()
    fees: dict[str, dict[str, float]] = {}
    """By provider, as its section says them."""
    limits: UpstreamLimits = UpstreamLimits()
    cache_ms: int = 900_000
    """How long an unused value stays in memory."""
    lasts: bool = False
    """Nobody's private host: all is loaded at its start, for packages may be replaced below it."""
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


def keeper_config(
    layout: Layout, config: Config, *, credentials_directory: str = "", lasts: bool = False
) -> KeeperConfig:
    """The keeper's configuration from the operator's. Raises `ConfigError` for a wrong provider."""
    entries = tuple(provider_entry(name, section) for name, section in sorted(config.providers.items()))
    made = KeeperConfig(
        secrets=store_config(layout, config, credentials_directory=credentials_directory),
        providers=entries,
        prices=_prices(config),
        fees={name: section.fees for name, section in config.providers.items()},
        lasts=lasts,
    )
    check_config(made, str(layout.config_file))
    return made


def _prices(config: Config) -> tuple[Price, ...]:
    found = []
    for name, section in config.providers.items():
        found.append(Price(provider=name, price=section.price))
        found += [Price(provider=name, model=model, price=one.price) for model, one in section.models.items()]
    return tuple(found)


def prices_told(config: KeeperConfig) -> Prices:
    """The same, as budgets reckon with them."""
    return Prices(
        {one.provider: one.price for one in config.prices if not one.model},
        {(one.provider, one.model): one.price for one in config.prices if one.model},
        config.fees,
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


def parse_config(data: bytes) -> KeeperConfig:
    """What the supervisor wrote. Raises `ConfigError`."""
    try:
        config = msgspec.json.decode(data, type=KeeperConfig)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"the keeper's configuration can't be read: {error}") from error
    check_config(config)
    return config
