"""Where a TOML file sets each key: dotted key to line. `tomllib` keeps no positions.

The text must have been accepted by `tomllib` before; this walks it once, over strings of all four
kinds, comments, arrays over several lines, inline tables, dotted and quoted keys and arrays of
tables. ``a.b``, ``list[2]`` and ``tables[0].key`` are the forms of a dotted key.
"""

from __future__ import annotations

import re

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = (
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def locate(text: str) -> dict[str, int]:
    """Line (from 1) of every table, key and array item of a well-formed file."""
    walker = _Walker(text)
    walker.document()
    return walker.lines


class _Walker:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._counted = 0
        self._line = 1
        self._arrays: dict[str, int] = {}
        self.lines: dict[str, int] = {}

    def document(self) -> None:
        table = ""
        while True:
            self._skip(_BLANK)
            if self._place >= len(self._text):
                return
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> str:
        many = self._text.startswith("[[", self._place)
        self._place += 2 if many else 1
        line = self._here()
        parts = self._key()
        self._place += 2 if many else 1
        path = ""
        for index, part in enumerate(parts):
            path = _join(path, part)
            last = index == len(parts) - 1
            if last and many:
                self.lines.setdefault(path, line)
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = f"{path}[{self._arrays[path]}]"
            self.lines.setdefault(path, line)
        return path

    def _pair(self, table: str) -> None:
        line = self._here()
        path = table
        for part in self._key():
            path = _join(path, part)
            self.lines.setdefault(path, line)
        self._place += 1  # the equals sign, on which `_key` stops
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a dotted key; stops at what follows it (``=`` or ``]``)."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            if self._next() in "\"'":
                parts.append(self._take(*_STRINGS[2:])[1:-1])
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_SPACE)
            if self._next() != ".":
                return parts
            self._place += 1

    def _value(self, path: str) -> None:
        first = self._next()
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ('"', "'"):
            self._take(*_STRINGS)
        else:
            self._skip(_SCALAR)

    def _array(self, path: str) -> None:
        self._place += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self._next() == "]":
                break
            item = f"{path}[{index}]"
            self.lines.setdefault(item, self._here())
            self._value(item)
            index += 1
            self._skip(_BLANK)
            if self._next() == ",":
                self._place += 1
        self._place += 1

    def _inline_table(self, path: str) -> None:
        self._place += 1
        while True:
            self._skip(_BLANK)
            if self._next() == "}":
                break
            self._pair(path)
            self._skip(_BLANK)
            if self._next() == ",":
                self._place += 1
        self._place += 1

    def _next(self) -> str:
        """The next character. A text that ends here was not TOML: said, never looped over."""
        if self._place >= len(self._text):
            raise ValueError("the text ends in the middle")
        return self._text[self._place]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._place)
        self._place = match.end() if match else self._place

    def _take(self, *patterns: re.Pattern[str]) -> str:
        for pattern in patterns:
            if match := pattern.match(self._text, self._place):
                self._place = match.end()
                return match[0]
        raise ValueError("neither a key nor a string")

    def _here(self) -> int:
        """The line of the current place, counted on from the last one that was asked for."""
        self._line += self._text.count("\n", self._counted, self._place)
        self._counted = self._place
        return self._line


def _join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part
