"""Small TOML files of one table, read strictly: every fault with its line and the nearest key (pure).

What `bridgehold tenant` and `bridgehold token` write; a file edited by hand is read by the same rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from bridgehold.ids import nearest
from bridgehold.policies.load import read_toml
from bridgehold.policies.locate import locate
from bridgehold.policies.model import Source
from bridgehold.policies.problems import Faulty, Problem
from bridgehold.policies.values import read_value
from bridgehold.policies.vocabulary import Key

LONGEST_TEXT = 300
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Table:
    """One table of a file: values by key, problems by line. Ask for all of it, then `done`."""

    def __init__(self, text: str, file: str, below: str = "") -> None:
        """`below`: the table's dotted name; empty: the whole file. Raises `Faulty` for what is no TOML."""
        self.file = file
        self._below = below
        self._problems: list[Problem] = []
        self._asked: set[str] = set()
        inner: object = read_toml(text, file)
        self._lines = locate(text)
        for part in below.split(".") if below else ():
            inner = inner.get(part) if isinstance(inner, dict) else None
        self.there = inner is not None
        self._data: dict[str, object] = inner if isinstance(inner, dict) else {}
        if self.there and not isinstance(inner, dict):
            self.fault("", "a table is expected")

    @property
    def source(self) -> Source:
        """Where the table stands."""
        return self._source("")

    def fault(self, key: str, message: str) -> None:
        """Note a fault at `key`; `done` raises all of them."""
        place = f"{self._below}.{key}" if self._below and key else self._below or key
        self._problems.append(Problem(self._source(key), place[:200], message))

    def text(self, key: str, default: str = "") -> str:
        """One line of at most `LONGEST_TEXT` printable characters."""
        value = self._value(key, default)
        if isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable():
            return value
        self.fault(key, f"a text of one line is expected, of at most {LONGEST_TEXT} characters")
        return default

    def choice(self, key: str, options: tuple[str, ...], default: str) -> str:
        """One of `options`; `default` where the key is missing."""
        value = self._value(key, default)
        if isinstance(value, str) and value in options:
            return value
        near = nearest(value, options) if isinstance(value, str) else ""
        self.fault(key, f"one of {', '.join(options)} is expected{near}")
        return default

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false; `default` where the key is missing."""
        value = self._value(key, default)
        if isinstance(value, bool):
            return value
        self.fault(key, "true or false is expected")
        return default

    def time(self, key: str) -> float:
        """Seconds since the epoch of ``2026-12-31T00:00:00Z``; 0 where it isn't said."""
        value = self._value(key, "")
        try:
            return parse_time(value) if value != "" else 0.0
        except ValueError as error:
            self.fault(key, str(error))
            return 0.0

    def names(self, key: str) -> tuple[str, ...]:
        """A list of texts; what they are is the caller's to check."""
        value = self._value(key, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value) and len(value) <= 500:
            return tuple(str(one) for one in value)
        self.fault(key, "a list of names is expected")
        return ()

    def typed(self, key: Key) -> object:
        """By the reader of a policy's values; None where it isn't said."""
        if key.path not in self._data:
            self._asked.add(key.path)
            return None
        try:
            return read_value(key, self._value(key.path, None))
        except ValueError as error:
            self.fault(key.path, str(error))
            return None

    def inner(self, key: str) -> None:
        """A table of its own stands there, and is read by itself."""
        self._asked.add(key)

    def done(self, *more: Table) -> None:
        """Raise `Faulty` with every problem of this table and of `more`, unknown keys among them."""
        found: list[Problem] = []
        for table in (self, *more):
            for key in table._data.keys() - table._asked:  # noqa: SLF001 - of its own kind
                table.fault(key, f"unknown key{nearest(key, table._asked)}")  # noqa: SLF001
            found += table._problems  # noqa: SLF001
        if found:
            raise Faulty(sorted(found, key=lambda one: one.source.line))

    def _value(self, key: str, default: object) -> object:
        self._asked.add(key)
        return self._data.get(key, default)

    def _source(self, key: str) -> Source:
        full = f"{self._below}.{key}" if self._below and key else self._below or key
        while full and full not in self._lines:
            full = full.rpartition(".")[0]
        return Source(self.file, self._lines.get(full, 0))


def parse_time(value: object) -> float:
    """Seconds since the epoch of ``2026-12-31T00:00:00Z``. Raises `ValueError`."""
    try:
        str(value).encode("ascii")  # strptime takes the digits of every script
        return datetime.strptime(str(value), _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError(f"{str(value)[:40]!r} is no time such as 2026-12-31T00:00:00Z") from None


def format_time(seconds: float) -> str:
    """``2026-12-31T00:00:00Z``; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME) if seconds else ""


def rendered(table: str, values: Mapping[str, object]) -> str:
    """One table as TOML; an empty text or list is left out."""
    lines = [f"[{table}]"] if table else []
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value not in ("", ())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(inner)}' for key, inner in value.items())} }}"
    return str(value).lower() if isinstance(value, bool) else str(value)
