"""The walk that takes keys out of arguments, pure: under a name, beside one, in a pair, in a command line."""

from __future__ import annotations

import re
from collections.abc import Generator

from bridgehold.audit.key_names import (
    is_key_name,
    is_token_name,
    looks_random,
    looks_secret,
)
from bridgehold.audit.key_shapes import is_shape
from bridgehold.errors import UsageError

TURN = 500
"""Values, and 32 characters of a text beside them, after which a look lets others run: 1 to 3 ms."""
DEEPEST = 128
LONGEST = 8 * 1024
"""Of a key; a longer text is looked for none."""
_PLACEHOLDER = re.compile(r"sk-bh-[A-Za-z0-9_-]{1,200}")
_SCHEME = re.compile(r"(?:bearer|basic|token|apikey) +", re.IGNORECASE)
_ORDINARY = frozenset(
    ["token", "tokens", "secret", "secrets", "credential", "credentials", "cookie", "cookies"]
)
"""Names of keys that are words as well: what stands there must look like one."""
_SURE, _MAYBE = 8, 16
_GONE = object()
TEXT = 5
"""A text costs a value more for each ``1 << TEXT`` characters of it that are looked at."""
_Path = tuple[str, ...]
_Container = dict[str, object] | list[object]
NAMING = ("name", "key", "header", "field", "k", "n", "var", "variable", "env", "param", "parameter")
_LONGEST_NAMING = max(map(len, NAMING))
_VALUES = ("value", "values", "v", "val")
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9_.-]{1,63}")
_ASSIGNED = re.compile(r"(?:--?)?([A-Za-z][A-Za-z0-9_.-]{1,63})(?:=|:[ ]?)(.+)", re.DOTALL)
_WITH_HEADER = ("-H", "--header")
_NOT_ITSELF = ("$", "%", "<", "{", "@")
"""What begins so is where the value comes from, or where it goes, and not the value."""


class Search:
    """One walk over arguments. `found` holds (path, value) of each key."""

    def __init__(self) -> None:
        self.found: list[tuple[_Path, str]] = []
        self._depth = 0
        self._left = TURN

    def within(self, value: _Container, path: _Path, least: int) -> Generator[None, None, _Container]:
        """`value` without keys. `least`: as `_least`, of a name above it."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise UsageError(f"arguments nest deeper than {DEEPEST}")
        if isinstance(value, dict):
            kept: _Container = yield from self._table(value, path, least)
        else:
            kept = yield from self._list(value, path, least)
        self._depth -= 1
        return kept

    def _kept(self, value: str | bytes, path: _Path, least: int) -> object:
        """`value`, or `_GONE` where it is a key. Bytes are of a foreign script's wire."""
        if len(value) > LONGEST:
            return value
        text = value if isinstance(value, str) else value.decode("latin-1")
        if not _is_key(text, path[-1], least=least):
            return value
        self.found.append((path, _SCHEME.sub("", text.strip(), count=1)))
        return _GONE

    def _list(self, value: list[object], path: _Path, least: int) -> Generator[None, None, list[object]]:
        match value:
            case [str(name), str(text)] if below := _least(name):
                kept = self._kept(text, (*path, name), below)
                return [name] if kept is _GONE else value
        left: list[object] = []
        for item in value:
            self._left -= 1
            if self._left < 0:
                self._left = TURN
                yield
            if isinstance(item, (dict, list)):
                left.append((yield from self.within(item, path, least)))
                continue
            if not isinstance(item, (str, bytes)):
                left.append(item)
                continue
            self._left -= len(item) >> TEXT
            before = left[-1] if left and isinstance(left[-1], str) else ""
            flag = before if _FLAG.fullmatch(before) else ""
            if isinstance(item, str) and len(item) <= LONGEST:
                said = _ASSIGNED.fullmatch(item)
                if self._is_argument(flag, item, path):
                    left.pop()  # it would take what comes after it for its value
                    continue
                if said is not None and self._is_argument(said[1], said[2], path):
                    if flag in _WITH_HEADER:
                        left.pop()
                    continue
            kept = self._kept(item, path, least)
            if kept is not _GONE:
                left.append(kept)
        return left

    def _is_argument(self, name: str, value: str, path: _Path) -> bool:
        """Whether `value` is a key that an item of a list says of `name`, or the item after a flag."""
        bare = _SCHEME.sub("", value.strip(), count=1)
        if not _least(name) or bare.startswith(_NOT_ITSELF) or _PLACEHOLDER.fullmatch(bare):
            return False
        sure = is_key_name(name) and name.strip("-").lower() not in _ORDINARY
        if not (is_shape(value) or (looks_secret(bare, _SURE) if sure else looks_random(bare))):
            return False
        self.found.append(((*path, name.lstrip("-")), bare))
        return True

    def _table(
        self, value: dict[str, object], path: _Path, least: int
    ) -> Generator[None, None, dict[str, object]]:
        kept: dict[str, object] = {}
        said = yield from self._named(value)
        for key, item in value.items():
            self._left -= 1
            if isinstance(key, str):
                self._left -= len(key) >> TEXT
            if self._left < 0:
                self._left = TURN
                yield
            name = said if said and isinstance(key, str) and key.lower() in _VALUES else key
            if not isinstance(key, str):  # of a foreign script's wire
                place, below = (*path, str(key)), least
            elif is_shape(key[:LONGEST]):
                self.found.append(((*path, "…"), key.strip()))
                continue
            else:
                place, below = (*path, name), least or _least(name)
            if isinstance(item, (dict, list)):
                kept[key] = yield from self.within(item, place, below)
            elif not isinstance(item, (str, bytes)):
                kept[key] = item
            else:
                self._left -= len(item) >> TEXT
                left = self._kept(item, place, below)
                if left is not _GONE:
                    kept[key] = left
        return kept

    def _named(self, value: dict[str, object]) -> Generator[None, None, str]:
        """The name of keys that `value` says another of its entries is the value of; empty: none."""
        for key, name in value.items():
            self._left -= 1
            if self._left < 0:
                self._left = TURN
                yield
            naming = isinstance(key, str) and len(key) <= _LONGEST_NAMING and key.lower() in NAMING
            if naming and isinstance(name, str) and _least(name):
                return name
        return ""


def _is_key(value: str, name: str, *, least: int) -> bool:
    if not value or len(value) > LONGEST or _PLACEHOLDER.fullmatch(value):
        return False
    if is_shape(value):
        return True
    if is_key_name(name) and name.lower() not in _ORDINARY:
        return True
    least = _least(name) or least
    return least > 0 and not is_key_name(value) and looks_secret(value, least)


def _least(name: str) -> int:
    """How long a value under `name` is that could be a key; 0 where none is looked for."""
    return _SURE if is_key_name(name) else _MAYBE if is_token_name(name) else 0
