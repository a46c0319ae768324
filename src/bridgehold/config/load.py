"""The operator's ``config.toml``: read strictly, every fault named at once, every default stated.

Variables of the environment may say single keys: ``BRIDGEHOLD__HOST__MAX_SESSIONS=50`` is
``max_sessions = 50`` in ``[host]``, two underscores before every part, in capitals. A value is read as TOML,
and as a string where it is none. A name with a hyphen can't be written so: it belongs into the file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import field

from bridgehold import reads
from bridgehold.config.kinds import Fault, FaultsError, Name, Strict, is_table, read_table
from bridgehold.config.providers import provider_entry, provider_faults
from bridgehold.config.retention import RetentionSection
from bridgehold.config.sections import (
    BridgeSection,
    FeaturesSection,
    FleetSection,
    HostSection,
    HttpSection,
    PrincipalSection,
    ProviderSection,
    PushSection,
    ReviewSection,
    SecretsSection,
    SupplySection,
    ToolSection,
    ZygotesSection,
)
from bridgehold.errors import ConfigError
from bridgehold.ids import is_name, nearest
from bridgehold.policies.model import GIB
from bridgehold.policies.units import parse_size

_HINT = "docs/reference/configuration.md lists every key with its type and default."
_GONE = "Put it back; an empty file means the defaults."


class Config(Strict, frozen=True):
    """All of ``config.toml``: a section for each of its tables, each with its defaults."""

    host: HostSection = HostSection()
    secrets: SecretsSection = SecretsSection()
    review: ReviewSection = ReviewSection()
    providers: dict[str, ProviderSection] = field(default_factory=dict)
    principals: dict[str, PrincipalSection] = field(default_factory=dict)
    bridges: dict[str, BridgeSection] = field(default_factory=dict)
    zygotes: ZygotesSection = ZygotesSection()
    tools: dict[str, ToolSection] = field(default_factory=dict)
    http: HttpSection = HttpSection()
    fleet: dict[Name, FleetSection] = field(default_factory=dict)
    supply: SupplySection = SupplySection()
    push: dict[Name, PushSection] = field(default_factory=dict)
    retention: RetentionSection = RetentionSection()
    features: FeaturesSection = FeaturesSection()
    default_bridge: str = "dspy"

    def reserve_bytes(self) -> int:
        """Memory that sandboxes never get, in bytes."""
        return parse_size(self.host.memory_reserve)


DEFAULT_PROVIDERS = {
    "openai": ProviderSection(base_url="https://api.openai.com/v1"),
    "anthropic": ProviderSection(
        base_url="https://api.anthropic.com/v1", shape="anthropic", auth="header:x-api-key"
    ),
    "gemini": ProviderSection(
        base_url="https://generativelanguage.googleapis.com/v1beta",
        shape="gemini",
        auth="header:x-goog-api-key",
    ),
}


def load_config(path: Path, environ: Mapping[str, str] | None = None, *, must_exist: bool = False) -> Config:
    """The configuration at `path`, and over it what `environ` says (this process's by default).

    Defaults where there is no file, unless there must be one. Raises one `ConfigError` that names all faults.
    """
    hint = _GONE if must_exist and not os.path.lexists(path) else _HINT
    text = reads.read_text(path, ConfigError, hint=hint, or_none=not must_exist)
    return parse_config(text, str(path), overrides(os.environ if environ is None else environ))


def parse_config(text: str, where: str, over: tuple[Override, ...] = ()) -> Config:
    """Pure half of `load_config`: all faults of `text` and of what overrides it, in one `ConfigError`."""
    for one in over:
        reads.check_plain(one.value, ConfigError, one.variable, hint=_HINT)
    data = overridden(reads.parse_toml(text, ConfigError, where, hint=_HINT), over)
    faults = []
    config = Config()
    try:
        config = read_table(Config, data)
    except FaultsError as error:
        faults = [_fault(fault, over) for fault in error.faults]
    else:
        faults = _name_faults(config)
    if faults:
        raise ConfigError(
            f"{len(faults)} fault(s):\n  " + "\n  ".join(faults),
            where=where,
            hint=_HINT,
        )
    tables: Any = data.get("providers", {})
    said = {name: _provider(name, one, tables[name]) for name, one in config.providers.items()}
    return msgspec.structs.replace(config, providers=DEFAULT_PROVIDERS | said)


def _provider(name: str, said: ProviderSection, keys: Iterable[str]) -> ProviderSection:
    """`said` by its `keys`, and what it leaves out as the provider of that name has it, unless it is of
    another shape."""
    known = DEFAULT_PROVIDERS.get(name)
    if known is None or ("shape" in keys and said.shape != known.shape):
        return said
    left = {"shape", "auth"} - set(keys)
    return msgspec.structs.replace(said, **{key: getattr(known, key) for key in left})


def _fault(fault: Fault, over: tuple[Override, ...]) -> str:
    """One line: the key, what is wrong, and the variable that said it; never the value."""
    place = fault.place
    said = next((f" ({one.variable})" for one in over if one.path[: len(place)] == place), "")
    said = said or next((f" ({one.variable})" for one in over if place[: len(one.path)] == one.path), "")
    near = nearest(place[-1], _keys(place[:-1])) if fault.unknown else ""
    return f"{'.'.join(place)}: {fault.what}{near}{said}"


def _keys(table: tuple[str, ...]) -> Iterable[str]:
    """Of a table of the configuration, as its model has them; none of one that there is not."""
    kind: Any = Config
    for part in table:
        fields = {one.name: one.type for one in msgspec.structs.fields(kind)} if is_table(kind) else {}
        kind = fields[part] if part in fields else (get_args(kind) or ("",))[-1]
    return kind.__struct_fields__ if is_table(kind) else ()


def _name_faults(config: Config) -> list[str]:
    faults = [
        f"{section}.{name}: not a name (lower-case letters, digits, '-' and '_'; at most 63)"
        for section, names in (
            ("principals", config.principals),
            ("bridges", config.bridges),
        )
        for name in names
        if not is_name(name)
    ]
    faults += [
        f"tools.{name}.provider: there is no [providers.{section.provider}]"
        for name, section in config.tools.items()
        if section.provider and section.provider not in {**DEFAULT_PROVIDERS, **config.providers}
    ]
    faults += [
        fault
        for name, section in config.providers.items()
        for fault in provider_faults(provider_entry(name, section))
    ]
    if "push" in config.providers:
        faults.append("providers.push: that name is of the sinks' keys; choose another")
    if config.reserve_bytes() > 1024 * GIB:
        faults.append("host.memory_reserve: more than 1 TiB")
    return faults


PREFIX = "BRIDGEHOLD__"


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """One key."""

    variable: str
    path: tuple[str, ...]
    value: object


def overrides(environ: Mapping[str, str]) -> tuple[Override, ...]:
    """What `environ` says, in the order of the variables' names."""
    return tuple(
        Override(
            variable=name,
            path=tuple(name.removeprefix(PREFIX).lower().split("__")),
            value=_value(environ[name]),
        )
        for name in sorted(environ)
        if name.startswith(PREFIX)
    )


def own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those variables of `environ` alone: for a process that gets nothing else of it."""
    return {name: value for name, value in environ.items() if name.startswith(PREFIX)}


def overridden(data: dict[str, object], over: tuple[Override, ...]) -> dict[str, object]:
    """`data` with each override in its place; a place that is no table is left for who checks the keys."""
    found = copy.deepcopy(data)
    for one in over:
        table: dict[str, object] = found
        for part in one.path[:-1]:
            below = table.setdefault(part, {})
            if not isinstance(below, dict):
                below = table[part] = {}
            table = below
        table[one.path[-1]] = one.value
    return found


def _value(text: str) -> object:
    try:
        return reads.load_toml(f"value = {text}")["value"] if "\n" not in text else text
    except ValueError:
        return text
