"""Where in JSON that somebody wrote a value stands that can't arrive as it was sent.

Found on a skeleton of the text, as `bridgehold.strict` measures it: every step is linear and runs in C, so
that a request of any size is told its place, within five times of what reading it takes.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from bridgehold.strict import STRING

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
_LONGEST_DIGITS = 40
"""Beyond 64 bits whatever follows."""
_NUMBERS = re.compile(
    rb"-?+(?:NaN|Infinity|\d++(?:\.\d++)?[eE]\+?\d{3,}+|\d{300,}+\.\d++(?:[eE][-+]?\d++)?|\d{19,}+(?![.eE]))"
)
_INTEGER = re.compile(rb"-?\d+")
_FINE_ESCAPES = re.compile(
    rb"[^\\]*+(?:\\(?:[^u]|u(?![dD][89a-fA-F])|u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})[^\\]*+)*+",
    re.DOTALL,
)
_OPEN_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+', re.DOTALL)
_NOT_PLACES = bytes(set(range(256)) - set(b'[]{},:"'))
_STEPS = bytes.maketrans(b'[{]},:"', b"\x01\x01\xff\xff\x00\x00\x00")
_COMMA = 128
"""Added to the depth of each comma."""
_COMMAS = bytes(_COMMA if byte == ord(",") else 0 for byte in range(256))


@dataclass(frozen=True)
class Place:
    """From the outermost value on: keys of objects, positions in arrays."""

    steps: tuple[str | int, ...]
    of_key: bool = False
    """The fault is in a key of what `steps` lead to."""

    def below(self, name: str) -> str:
        """As the messages say it: `name`, then ``.key`` and ``[position]``."""
        said = name + "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in self.steps)
        said = said.removeprefix(".")
        return f"a key of {said}" if self.of_key else said


@dataclass(frozen=True)
class Wrong:
    """A value that JSON or 64 bits haven't, as Python reads it."""

    place: Place
    value: object


def twice(keys: list[str]) -> str | None:
    """The first that was there before (linear)."""
    seen: set[str] = set()
    return next((key for key in keys if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]  # `add` gives None


class Skeleton:
    """JSON that keeps the bounds of `strict.measured`, with every string as one quotation mark."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bare: bytes = STRING.sub(b'"', data)
        self._strings: list[bytes] | None = None

    def wrong(self) -> Wrong | None:
        """The first number or text that can't arrive as it was sent."""
        number = next(self._numbers(), None)
        half = self._half()
        if half is not None and (number is None or len(half[0]) <= number.start()):
            before, start = half
            text = STRING.match(self._data, start)
            place = self._place(before)
            return Wrong(place, json.loads(text[0])) if text is not None and place is not None else None
        if number is None:
            return None
        place = self._place(self._bare[: number.start()])
        token = number[0][:_LONGEST_DIGITS] if _INTEGER.fullmatch(number[0]) else number[0]
        return None if place is None else Wrong(place, json.loads(token))

    def end_of_object(self, number: int) -> Place | None:
        """Of the object that ends after so many others, where it isn't empty."""
        end = next(itertools.islice(re.finditer(b"}", self._bare), number, None)).start()
        place = self._place(self._bare[:end])
        return None if place is None else Place(place.steps[:-1])

    def at_end(self) -> Place | None:
        """Of the last item of what is open at the end."""
        return self._place(self._bare)

    def deeper(self, depth: int) -> Place | None:
        """Of the first container inside more than `depth`."""
        text = self._bare.translate(None, _NOT_PLACES)
        heights = accumulate(array("b", text.translate(_STEPS)))
        at = next((index for index, height in enumerate(heights) if height > depth), None)
        return None if at is None else self._place(text[:at])

    def before(self, offset: int) -> Place | None:
        """Of the byte at `offset`, which is in a string or in no value at all."""
        return self._place(STRING.sub(b'"', self._data[:offset]))

    def _place(self, before: bytes) -> Place | None:
        """Of what follows `before`, a beginning of the skeleton; of its last string, where that ends it."""
        text = before.translate(None, _NOT_PLACES)
        try:
            depths = bytes(accumulate(array("b", text.translate(_STEPS))))
        except ValueError:
            return None  # closed more often than opened
        height = depths[-1] if depths else 0
        if max(depths, default=0) >= _COMMA:
            return None
        marks = bytes(map(operator.or_, depths, text.translate(_COMMAS)))
        starts = [depths.rfind(bytes((level - 1,))) + 1 for level in range(1, height + 1)]
        steps: list[str | int] = []
        for level, (start, end) in enumerate(zip(starts, [*starts, len(text)][1:], strict=True), 1):
            comma = bytes((_COMMA + level,))
            if text[start : start + 1] == b"[":
                steps.append(marks.count(comma, start, end))
                continue
            opened = max(start, marks.rfind(comma, start, end)) + 1
            if b":" not in text[opened:end]:
                return Place(tuple(steps), of_key=True)
            steps.append(self._key(text.count(b'"', 0, opened)))
        return Place(tuple(steps))

    def _key(self, ordinal: int) -> str:
        if self._strings is None:
            self._strings = STRING.findall(self._data)
        try:
            return str(json.loads(self._strings[ordinal])).encode("utf-8", "backslashreplace").decode()
        except (IndexError, ValueError):
            return "?"

    def _numbers(self) -> Iterator[re.Match[bytes]]:
        for match in _NUMBERS.finditer(self._bare):
            if _INTEGER.fullmatch(match[0]):
                fine = len(match[0]) < _LONGEST_DIGITS and MIN_INTEGER <= int(match[0]) <= MAX_INTEGER
            else:
                fine = match[0][-1:].isdigit() and math.isfinite(float(match[0]))
            if not fine:
                yield match

    def _half(self) -> tuple[bytes, int] | None:
        """The skeleton before the first lone surrogate, and where its string starts in the text."""
        fine = _FINE_ESCAPES.match(self._data)
        if fine is None or fine.end() == len(self._data):
            return None
        begun = STRING.findall(self._data[: fine.end()])
        if not begun or _OPEN_STRING.fullmatch(begun[-1]) is None:
            return None
        quotes = [match.end() for match in re.finditer(b'"', self._bare)]
        return self._bare[: quotes[len(begun) - 1]], fine.end() - len(begun[-1])
