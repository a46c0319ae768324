"""Where a TOML file sets each key: dotted key to line. `tomllib` keeps no positions.

The text must have been accepted by `tomllib` before; this walks it once, over strings of all four
kinds, comments, arrays over several lines, inline tables, dotted and quoted keys and arrays of
tables. ``a.b``, ``list[2]`` and ``tables[0].key`` are the forms of a dotted key.
"""

from __future__ import annotations

import re
from bisect import bisect_left

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_LINE_STRINGS = r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_PART = re.compile(rf"[ \t]*({_LINE_STRINGS}|[A-Za-z0-9_-]+)[ \t]*(\.?)")
"""One part of a dotted key, and the dot that another follows."""
_VALUE = re.compile(
    r'[ \t]*(?:(?P<opens>[\[{])|"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    rf"|'''(?:[^']|'(?!''))*'{{3,5}}|{_LINE_STRINGS}|[^,\]}}\n#]*)",
    re.DOTALL,
)
"""A value that is no table and no array, or how one begins."""


def locate(text: str) -> dict[str, int]:
    """Line (from 1) of every table, key and array item of a well-formed file."""
    walker = _Walker(text)
    walker.document()
    return walker.lines


class _Walker:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._arrays: dict[str, int] = {}
        self.lines: dict[str, int] = {}

    def document(self) -> None:
        table = ""
        while self._more():
            if self._text[self._place] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> str:
        many = self._text.startswith("[[", self._place)
        line = bisect_left(self._ends, self._place) + 1
        self._place += 2 if many else 1
        parts = self._key()
        self._place += 2 if many else 1
        path = ""
        for index, part in enumerate(parts):
            path = f"{path}.{part}" if path else part
            last = index == len(parts) - 1
            if last and many:
                self.lines.setdefault(path, line)
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = f"{path}[{self._arrays[path]}]"
            self.lines.setdefault(path, line)
        return path

    def _pair(self, table: str) -> None:
        line = bisect_left(self._ends, self._place) + 1
        path = table
        for part in self._key():
            path = f"{path}.{part}" if path else part
            self.lines.setdefault(path, line)
        self._place += 1  # the equals sign, on which `_key` stops
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a dotted key; stops at what follows it (``=`` or ``]``)."""
        parts: list[str] = []
        while found := _PART.match(self._text, self._place):
            parts.append(found[1][1:-1] if found[1][0] in "\"'" else found[1])
            self._place = found.end()
            if not found[2]:
                return parts
        raise ValueError("neither a key nor a string")

    def _value(self, path: str) -> None:
        found = _VALUE.match(self._text, self._place)
        if found is None or found.end() == self._place:
            raise ValueError("no value where one is due")
        self._place = found.end()
        if found["opens"] == "[":
            self._items(path)
        elif found["opens"] == "{":
            while self._until("}"):
                self._pair(path)

    def _items(self, path: str) -> None:
        index = 0
        while self._until("]"):
            item = f"{path}[{index}]"
            self.lines.setdefault(item, bisect_left(self._ends, self._place) + 1)
            self._value(item)
            index += 1

    def _until(self, end: str) -> bool:
        """Step over blanks and a comma; whether something comes before `end`, which is stepped over, too."""
        for _ in range(2):
            if not self._more():
                raise ValueError("the text ends in the middle")
            if self._text[self._place] != ",":
                break
            self._place += 1
        if self._text[self._place] != end:
            return True
        self._place += 1
        return False

    def _more(self) -> bool:
        """Step over blanks and comments; whether there is more."""
        found = _BLANK.match(self._text, self._place)
        self._place = found.end() if found else self._place
        return self._place < len(self._text)
