"""The effective settings, key by key, and where each comes from: the environment, the file or a default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridgehold import reads
from bridgehold.config.kinds import Strict
from bridgehold.config.load import Config, load_config, overrides
from bridgehold.errors import ConfigError

_DEPTH = 3


class EffectiveSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One key's value. `by`, its source: a variable's name, ``config.toml`` or ``default``."""

    key: str
    value: object
    by: str


def effective_settings(path: Path, environ: Mapping[str, str]) -> list[EffectiveSetting]:
    """Every key of the configuration at `path`, sorted. Raises `ConfigError`."""
    config = load_config(path, environ)
    in_file = _flat(
        "", reads.parse_toml(reads.read_text(path, ConfigError, or_none=True), ConfigError, str(path))
    )
    variables = {".".join(one.path): one.variable for one in overrides(environ)}

    def by(key: str) -> str:
        found = [name for place, name in variables.items() if f"{key}.".startswith(f"{place}.")]
        if found:
            return found[-1]
        return "config.toml" if any(f"{key}.".startswith(f"{place}.") for place in in_file) else "default"

    return [EffectiveSetting(key=key, value=value, by=by(key)) for key, value in sorted(flat(config).items())]


def flat(config: Config) -> dict[str, object]:
    """Keys such as ``bridges.dspy.pool_size``, and what they hold (pure)."""
    return _flat("", to_json(config))


def flat_defaults(place: str, section: type[Strict]) -> dict[str, object]:
    """The defaults of a table's keys, as `flat` has them below `place` (pure)."""
    fields = [field for field in msgspec.structs.fields(section) if not field.required]
    return _flat(f"{place}.", to_json({field.name: default_of(field) for field in fields}))


def default_of(field: msgspec.structs.FieldInfo) -> object:
    """What a key holds that nobody says."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def to_json(table: Strict | dict[str, object]) -> dict[str, object]:
    """A table's keys, and what they hold, as JSON has it."""
    found: dict[str, object] = msgspec.json.decode(msgspec.json.encode(table))
    return found


def _flat(place: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict) or place.count(".") >= _DEPTH:
        return {place.removesuffix("."): value}
    found: dict[str, object] = {}
    for key, below in value.items():
        found |= _flat(f"{place}{key}.", below)
    return found
