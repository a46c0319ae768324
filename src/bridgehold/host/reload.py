"""What of a changed ``config.toml`` a running host takes over, and what waits for a restart (pure)."""

from __future__ import annotations

import msgspec

from bridgehold.host.config import Config
from bridgehold.host.config_view import flat

_LIVE_HOST = ("max_sessions", "artifacts")


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """`applied` and `waiting` are keys, such as ``bridges.dspy.pool_size``; never values."""

    applied: tuple[str, ...]
    waiting: tuple[str, ...]
    """Changed too, and only a restart takes them over."""


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
    """The keys in which they differ, in order."""
    before, after = flat(one), flat(other)
    return tuple(sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)))
