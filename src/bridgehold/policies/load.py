"""One policy file to a `Draft`: typed values by dotted key, each with the line that set it (pure).

Strict: an unknown key, a wrong type or a value out of range is a problem with file, line and the
nearest key; all problems of a file are found in one reading.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from bridgehold import reads
from bridgehold.ids import is_name, nearest
from bridgehold.policies.locate import locate
from bridgehold.policies.model import Connect, Source
from bridgehold.policies.problems import Faulty, Problem
from bridgehold.policies.values import read_value
from bridgehold.policies.vocabulary import BY_PATH, TABLES, children

MAX_BYTES = 256 * 1024
_TERSE = 200
_NO_WRITE = (
    "there is no writing outside of the sandbox: /scratch and /tmp are writable, sized by `limits.scratch`"
)


class Entry(msgspec.Struct, frozen=True):
    """One value of a file, or a table that stands in it. `items` are the sources of a list's items."""

    value: object
    shown: str
    source: Source
    items: tuple[Source, ...] = ()
    table: bool = False


class Draft(msgspec.Struct, frozen=True):
    """One file as it was read. Tables that stand in the file are among `entries`."""

    file: str
    extends: str
    entries: dict[str, Entry]


def parse(text: str, file: str, *, below: str = "", tenant: bool = False) -> Draft:
    """The draft of a file, or of its table `below` (``bridges.dspy`` of a tenant's file).

    `tenant`: tables ``[bridges.NAME]`` may stand beside; they are read by calls with `below`.
    Raises `Faulty` with every problem.
    """
    data = read_toml(text, file)
    if tenant and not below:
        data.pop("bridges", None)
        data.pop("tenant", None)  # `policies.tenants` reads it
    inner: object = data
    for part in below.split(".") if below else ():
        inner = inner.get(part, {}) if isinstance(inner, dict) else {}
    return parse_table(inner, file, locate(text), below=below)


def parse_table(inner: object, file: str, lines: dict[str, int], *, below: str) -> Draft:
    """The draft of a file's table `below`, which is `inner`; `lines` by dotted key, as `locate` has them."""
    reader = _Reader(file, lines, below)
    if isinstance(inner, dict):
        reader.table("", "", inner)
    else:
        reader.problem("", "a table is expected")
    if reader.problems:
        raise Faulty(reader.problems)
    extends = reader.entries.pop("extends", None)
    return Draft(file, str(extends.value) if extends else "", reader.entries)


def bridge_tables(text: str, file: str, known: Collection[str]) -> tuple[str, ...]:
    """Names of the tables ``[bridges.NAME]``; the rest of the file isn't looked at.

    Raises `Faulty` for each that is no table, or whose bridge is none of `known`: what is misspelt
    would bound nobody.
    """
    inner = read_toml(text, file).get("bridges", {})
    lines = locate(text)
    if not isinstance(inner, dict):
        raise Faulty([Problem(Source(file, lines.get("bridges", 0)), "bridges", "a table is expected")])
    faults = [
        Problem(
            Source(file, lines.get(f"bridges.{name}", 0)),
            f"bridges.{name}"[:_TERSE],
            f"there is no bridge of this name{nearest(name, known)}",
        )
        for name in inner
        if name not in known
    ]
    if faults:
        raise Faulty(faults)
    return tuple(inner)


def read_toml(text: str, file: str) -> dict[str, object]:
    """The tables of `text`. Raises `Faulty`, with the line."""
    if len(text) > MAX_BYTES:
        raise Faulty([Problem(Source(file), "", f"longer than {MAX_BYTES} characters")])
    try:
        return reads.load_toml(text)
    except ValueError as error:
        raise Faulty([Problem(Source(file, _line_of(error)), "", f"not TOML: {error}")]) from None


def _line_of(error: ValueError) -> int:
    _, found, rest = str(error).partition("(at line ")
    digits = rest.partition(",")[0]
    return int(digits) if found and digits.isascii() and digits.isdigit() else 0


class _Reader:
    """Walks the tables against the vocabulary. `pattern` is a path with ``*`` for chosen names."""

    def __init__(self, file: str, lines: dict[str, int], below: str) -> None:
        self._file = file
        self._lines = lines
        self._below = below
        self.entries: dict[str, Entry] = {}
        self.problems: list[Problem] = []

    def source(self, path: str) -> Source:
        """File and line of `path`, or of the nearest table around it."""
        full = f"{self._below}.{path}" if self._below and path else self._below or path
        while full and full not in self._lines:
            full = full.rpartition(".")[0]
        return Source(self._file, self._lines.get(full, 0))

    def problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(self.source(path), path, message))

    def table(self, path: str, pattern: str, data: dict[str, object]) -> None:
        known = children(pattern)
        for name, value in data.items():
            place = f"{path}.{name}" if path else name
            if place == "bridges":
                self.problem(place, "only a tenant's file has tables [bridges.NAME]")
            elif "*" in known and not is_name(name):
                self.problem(place, "not a name (lower-case letters, digits, '-' and '_'; at most 63)")
            elif name not in known and "*" not in known:
                extra = _NO_WRITE if place == "filesystem.write" else f"unknown key{nearest(name, known)}"
                self.problem(place[:_TERSE], extra)
            else:
                part = "*" if "*" in known else name
                self._member(place, f"{pattern}.{part}" if pattern else part, value)

    def _member(self, path: str, pattern: str, value: object) -> None:
        if pattern in TABLES:
            if isinstance(value, dict):
                self.entries[path] = Entry(None, "", self.source(path), table=True)
                self.table(path, pattern, value)
            else:
                self.problem(path, "a table is expected")
            return
        try:
            typed = read_value(BY_PATH[pattern], value)
        except ValueError as error:
            self.problem(path, str(error))
            return
        items: tuple[Source, ...] = ()
        if isinstance(typed, tuple) and isinstance(value, list):
            items = tuple(self.source(f"{path}[{index}]") for index in range(len(value)))
        self.entries[path] = Entry(typed, show(typed, value), self.source(path), items)


def show(typed: object, raw: object) -> str:
    """A value as a row of `policy explain` prints it: as it was written, lists in one line."""
    if isinstance(typed, tuple):
        texts = [f"{item.host}:{item.port}" if isinstance(item, Connect) else str(item) for item in typed]
        return ", ".join(texts) or "(none)"
    return str(raw).lower() if isinstance(raw, bool) else str(raw)
