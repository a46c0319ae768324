"""Reading TOML tables strictly: every key is asked for by name, every fault is kept with its line."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

from bridgehold.ids import nearest
from bridgehold.policies.locate import locate

MOST_FAULTS = 50
"""Of one file: what is wrong beyond is neither told nor worded."""


class Faults:
    """The faults of one file, in the order they were found, with the lines they stand in."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.found: list[str] = []
        self._text = text

    def add(self, path: str, message: str) -> None:
        """`path` is dotted: ``operations.create.effect``."""
        if self.full:
            return
        line = self._line(path)
        self.found.append(f"{self.file}{f':{line}' if line else ''}: {path}: {message}")

    @property
    def full(self) -> bool:
        """Whether there are as many as are told."""
        return len(self.found) == MOST_FAULTS

    @functools.cached_property
    def _lines(self) -> dict[str, int]:
        """Looked for where something is wrong: the look takes a quarter of the time of all the reading."""
        return locate(self._text)

    def _line(self, path: str) -> int:
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path.rpartition(".")[0]
        return 0


class Table:
    """One table. `text`, `flag` and the rest note a fault and return a harmless value of their type."""

    def __init__(self, data: object, path: str, faults: Faults) -> None:
        self.path = path
        self.faults = faults
        self._data: dict[str, object] = {}
        self._asked: set[str] = set()
        if isinstance(data, dict):
            self._data = data
        else:
            faults.add(path, "a table is expected")

    def place(self, key: str) -> str:
        """The dotted path of `key`, as faults name it."""
        return f"{self.path}.{key}" if self.path else key

    def fault(self, key: str, message: str) -> None:
        """Note a fault at `key`; reading goes on, so that all faults are told at once."""
        self.faults.add(self.place(key), message)

    def has(self, key: str) -> bool:
        """Whether the file has `key`, of whatever type."""
        return key in self._data

    def raw(self, key: str) -> object:
        """The value of `key` as TOML gave it, or None. A key that is never read is a fault in the end."""
        self._asked.add(key)
        return self._data.get(key)

    def text(self, key: str, *, default: str | None = None, longest: int = 500) -> str:
        """A string of at most `longest` characters. Without `default` a missing key is a fault."""
        value = self.raw(key)
        if value is None:
            if default is None:
                self.fault(key, "missing")
            return default or ""
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            self.fault(key, f"text of at most {longest} printable characters is expected")
            return ""
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing."""
        value = self.raw(key)
        if not isinstance(value, bool | None):
            self.fault(key, "true or false is expected")
        return value is True

    def texts(self, key: str, *, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of strings; `default` where the key is missing."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fault(key, "a list of texts is expected")
            return ()
        return tuple(value)

    def choice(self, key: str, known: Iterable[str], *, default: str | None = None) -> str:
        """One of `known`. Without `default` a missing key is a fault."""
        value = self.text(key, default=default)
        listed = list(known)
        if value and value not in listed:
            self.fault(key, f"one of {', '.join(listed)} is expected{nearest(value, listed)}")
            return listed[0]
        return value or listed[0]

    def table(self, key: str) -> Table:
        """The table below `key`; an empty one where it is missing."""
        value = self.raw(key)
        return Table({} if value is None else value, self.place(key), self.faults)

    def tables(self, key: str) -> list[Table]:
        """An array of tables."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(key, "an array of tables is expected")
            return []
        return [Table(item, f"{self.place(key)}[{index}]", self.faults) for index, item in enumerate(value)]

    def named(self, key: str) -> dict[str, Table]:
        """A table of tables, by name."""
        value = self.table(key)
        return {name: Table(item, value.place(name), self.faults) for name, item in value.items()}

    def items(self) -> list[tuple[str, object]]:
        """Keys and values as TOML gave them, in the file's order."""
        return list(self._data.items())

    def finish(self) -> None:
        """Note every key that nobody asked for, with the nearest that is known."""
        for key in self._data:
            if key not in self._asked and not self.faults.full:
                self.fault(key, f"unknown key{nearest(key, self._asked)}")
