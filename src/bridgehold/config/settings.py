"""The configuration that holds now, and what of a changed ``config.toml`` a running host takes over.

What may change while the host runs is read from `Settings` at each use; the rest waits for a restart.
"""

from __future__ import annotations

import msgspec

from bridgehold.config.effective import flat, flat_defaults, to_json
from bridgehold.config.kinds import Strict
from bridgehold.config.load import Config
from bridgehold.config.sections import (
    BridgeSection,
    FeaturesSection,
    PrincipalSection,
    ProviderSection,
    ToolSection,
)
from bridgehold.ids import Digest, digest_bytes
from bridgehold.policies.units import parse_size

_NO_SECTION = BridgeSection()


class Settings:
    """One per host; `now` is replaced as a whole."""

    def __init__(self, config: Config) -> None:
        self.now = config

    @property
    def features(self) -> FeaturesSection:
        """The switches as the last reload left them."""
        return self.now.features

    def bridge(self, name: str) -> BridgeSection:
        """The section of one bridge, or the defaults where it has none."""
        return self.now.bridges.get(name, _NO_SECTION)

    def recovers(self, tenant: str, bridge: str) -> bool:
        """Whether a lost session is made again."""
        return self.features.on("recovery", tenant) and self.bridge(bridge).recovery

    def pool(self, tenant: str, bridge: str) -> PoolLimits:
        """The warm pool of one tenant and bridge."""
        section = self.bridge(bridge)
        return PoolLimits(
            size=section.pool_size if self.features.on("pools", tenant) else 0,
            overflow=section.overflow,
            checkout_s=section.checkout_timeout_s,
        )

    def zygotes(self) -> ZygoteLimits:
        """``[zygotes]`` in numbers."""
        section = self.now.zygotes
        return ZygoteLimits(
            budget_bytes=parse_size(section.budget),
            memory_bytes=parse_size(section.memory),
            max_age_s=section.max_age_s,
            growth=section.growth,
            warm_s=section.warm_s,
            check_s=section.check_s,
        )


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one bridge: the pool of the seeds, in sandboxes that are used once."""

    size: int = 0
    """Sandboxes in the warm pool of each tenant; 0: no pool, and starts are not counted."""
    overflow: int = 4
    """Starts beyond the pooled ones that may be under way at once."""
    checkout_s: float = 10.0
    """The longest wait for one or the other."""


class ZygoteLimits(msgspec.Struct, frozen=True, kw_only=True):
    """``[zygotes]``, in numbers."""

    budget_bytes: int
    memory_bytes: int
    max_age_s: float
    growth: float
    warm_s: float
    check_s: float


_TABLES: dict[str, type[Strict]] = {
    "bridges": BridgeSection,
    "principals": PrincipalSection,
    "providers": ProviderSection,
    "tools": ToolSection,
}
_LIVE_HOST = ("max_sessions", "artifacts", "read_roots")


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """`applied` and `waiting` are keys, such as ``bridges.dspy.pool_size``; never values."""

    applied: tuple[str, ...]
    waiting: tuple[str, ...]
    """Changed too, and only a restart takes them over."""
    files: tuple[str, ...] = ()
    """Policies, tenants' files and manifests that changed since the start or the last reload: each command
    reads them, so that they hold already."""


def merge(old: Config, new: Config) -> tuple[Config, Reload]:
    """The configuration to go on with, and what of `new` is in it.

    What stays: where keys are kept, the machine's share, and where HTTP is served.
    """
    host = msgspec.structs.replace(old.host, **{key: getattr(new.host, key) for key in _LIVE_HOST})
    told = {name: getattr(old, name) for name in ("secrets", "http")}
    merged = msgspec.structs.replace(new, host=host, **told)
    return merged, Reload(applied=_differences(old, merged), waiting=_differences(merged, new))


def digest_of_told(config: Config) -> Digest:
    """Of what the supervisor tells keeper and launcher of `config`, which it reads for itself (pure)."""
    told = (
        {name: to_json(section) for name, section in config.providers.items()},
        {name: section.scripts for name, section in config.bridges.items() if section.scripts},
        config.host.read_roots,
    )
    return digest_bytes(msgspec.json.encode(told, order="sorted"))


def _differences(one: Config, other: Config) -> tuple[str, ...]:
    """The keys in which they differ, in order; of a table that only one of them has those that it says."""
    before, after = _beside(one, other), _beside(other, one)
    found = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    for table in _TABLES:
        for name in getattr(one, table).keys() ^ getattr(other, table).keys():
            place = f"{table}.{name}"
            if not any(key.startswith(f"{place}.") for key in found):
                found.add(place)
    return tuple(sorted(found))


def _beside(config: Config, other: Config) -> dict[str, object]:
    """`config` flat, with the defaults of tables that only `other` has."""
    found = flat(config)
    for table, section in _TABLES.items():
        for name in getattr(other, table).keys() - getattr(config, table).keys():
            found |= flat_defaults(f"{table}.{name}", section)
    return found
