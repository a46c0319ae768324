"""What of a changed ``config.toml`` a running host takes over, and what waits for a restart (pure)."""

from __future__ import annotations

import msgspec

from bridgehold.host.config import Config
from bridgehold.host.config_sections import (
    BridgeSection,
    PrincipalSection,
    ProviderSection,
    Strict,
    ToolSection,
)
from bridgehold.host.config_view import flat, flat_table

_TABLES: dict[str, type[Strict]] = {
    "bridges": BridgeSection,
    "principals": PrincipalSection,
    "providers": ProviderSection,
    "tools": ToolSection,
}
_LIVE_HOST = ("max_sessions", "artifacts")


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

    What the other processes were told at their start stays: where keys are and may go, the machine's share,
    where HTTP is served, and which folders of scripts the launcher may mount.
    """
    host = old.host.model_copy(update={key: getattr(new.host, key) for key in _LIVE_HOST})
    fixed = {name: section.scripts for name, section in old.bridges.items()}
    bridges = {
        name: section.model_copy(update={"scripts": fixed.get(name, "")})
        for name, section in new.bridges.items()
    }
    told = {name: getattr(old, name) for name in ("secrets", "providers", "http")}
    merged = new.model_copy(update={**told, "host": host, "bridges": bridges})
    return merged, Reload(applied=_differences(old, merged), waiting=_differences(merged, new))


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
            found |= flat_table(f"{table}.{name}", section.model_construct())
    return found
