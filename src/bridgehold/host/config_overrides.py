"""Single keys of the configuration, said by variables of the environment (pure).

``BRIDGEHOLD__HOST__MAX_SESSIONS=50`` is ``max_sessions = 50`` in ``[host]``: two underscores before every
part, in capitals. A value is read as TOML, and as a string where it is none. A name with a hyphen can't be
written so: it belongs into the file.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping

import msgspec

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


def said_by(environ: Mapping[str, str]) -> dict[str, str]:
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
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        return text
