"""Hostile bytes to JSON values, or one typed reason why not.

Whether the bytes are UTF-8 is decided here. The parser proper is msgspec's (no NaN, no Infinity, no
trailing bytes). What it does not refuse is measured here on a *skeleton* of the text (its brackets,
commas and colons outside strings), before a value is built: depth, number of values, integers beyond
64 bits; and after it, repeated keys. Every step is linear and runs in C; the skeleton is made only
where the text as it stands does not already prove the bounds.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import Literal, get_args

import msgspec

MAX_DEPTH = 64
"""Arrays and objects inside one another, the frame's own object included."""
CALLERS_DEPTH = 60
"""Those of what a caller sends; a frame's own lie around them."""
MAX_VALUES = 1_000_000
"""Values in one frame: what a frame of three-byte values may make the host allocate is bounded."""

Reason = Literal["utf8", "json", "depth", "values", "integer", "duplicate_key"]
REASONS: tuple[str, ...] = get_args(Reason)

# An unterminated string matches to the end: otherwise each of its quotes would be tried as a start,
# and a megabyte of them would take minutes.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_LONG_INTEGER = re.compile(rb"(?<![\d.eE+])(?:-\d{19,}+|(?<!-)\d{20,}+)(?![.eE])")
NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
STEPS = bytes.maketrans(b"[{]},", b"\x01\x01\xff\xff\x00")
"""What each byte of a structure adds to its depth."""
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_DIGITS_19 = b"0" * 19
_CHARACTER = 4
"""Bytes that one may have."""
TEXT = 256
"""So many characters weigh as much as a value."""
_PIECE = 1 << 18
"""Bytes of a text that are taken apart at once: what its strings take meanwhile is bounded."""
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode


class StrictError(ValueError):
    """The bytes are no JSON that crosses a border here.

    `reason` is one of `REASONS`; `at`: the byte, of ``utf8``.
    """

    def __init__(self, reason: Reason, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.at = at


def loads(data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES) -> object:
    """The JSON value of `data`, or `StrictError`. Integers lie within 64 bits, keys are unique."""
    text = measured(data, max_depth=max_depth, max_values=max_values)
    try:
        value: object = decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise no_json(error) from None
    except RecursionError:
        raise too_deep(max_depth) from None
    if text.count(b":") > 1:  # writing it gives as many: a repeated key loses at least one
        again = encode(value)
        if b"\\" not in data:  # strings are written verbatim, and may be counted along
            same = data.count(b":") == again.count(b":")
        else:
            same = text.count(b":") == outside_strings(again).count(b":")
        if not same:
            raise same_key_twice()
    return value


def measured(data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES) -> bytes:
    """`data`, or all of it that stands outside strings, once it is sure that it keeps the bounds.

    Raises `StrictError`. Whether it is JSON is not looked at.
    """
    if not data.isascii():
        check_utf8(data)
    opened = data.count(b"[") + data.count(b"{")  # as if every bracket and comma within strings counted
    within = opened <= max_depth and opened + data.count(b",") < max_values
    if within and b"\\" not in data and _DIGITS_19 not in data.translate(_DIGITS):
        return data
    text = outside_strings(data)
    _check_size(text.translate(None, NOT_STRUCTURE), max_depth, max_values)
    _check_integers(text)
    return text


def outside_strings(data: bytes) -> bytes:
    """`data` with a quote for each string: of JSON what `STRING` leaves of it, in a third of the time."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # a quote that is left is an end of a string
    found: list[bytes] = []
    within = 0
    for at in range(0, len(data), _PIECE):
        parts = data[at : at + _PIECE].split(b'"')
        outside = b'"'.join(parts[within::2])
        found.append(b'"' + outside if within and len(parts) > 1 else outside)
        within ^= (len(parts) - 1) & 1
    return b"".join(found)


def check_utf8(data: bytes, start: int = 0, end: int | None = None) -> None:
    """Raise `StrictError` where it is none from `start` to `end`, neither of which is within a character."""
    try:
        data[start:end].decode("utf-8")
    except UnicodeDecodeError as error:
        at, reason = start + error.start, error.reason
        try:  # what is wrong with a character that `end` cuts off is what follows it
            data[at : at + _CHARACTER].decode("utf-8")
        except UnicodeDecodeError as whole:
            reason = whole.reason
        raise StrictError("utf8", f"not UTF-8: {reason} at byte {at}", at) from None


def _check_size(skeleton: bytes, max_depth: int, max_values: int) -> None:
    opened = skeleton.count(b"[") + skeleton.count(b"{")
    if opened + skeleton.count(b",") + 1 > max_values:
        raise too_many(max_values)
    if opened > max_depth:
        steps = array("b", skeleton.translate(STEPS))
        if max(accumulate(steps)) > max_depth:
            raise too_deep(max_depth)


def _check_integers(bare: bytes) -> None:
    if has_long_integer(bare, 0, len(bare)):
        raise too_long()


def has_long_integer(bare: bytes, start: int, end: int) -> bool:
    """Whether one between `start` and `end` lies beyond 64 bits, of a text without its strings."""
    if _DIGITS_19 not in bare[start:end].translate(_DIGITS):
        return False
    for match in _LONG_INTEGER.finditer(bare, start, end):
        digits = match[0]
        if len(digits) > 20 or not _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
            return True
    return False


def no_json(why: object) -> StrictError:
    """It can't be read."""
    return StrictError("json", f"not JSON: {why}")


def too_many(most: int) -> StrictError:
    """More than so many values."""
    return StrictError("values", f"more than {most} values")


def too_deep(most: int) -> StrictError:
    """More than so many containers inside one another."""
    return StrictError("depth", f"nested deeper than {most}")


def too_long() -> StrictError:
    """An integer beyond 64 bits."""
    return StrictError("integer", "an integer lies beyond 64 bits")


def same_key_twice() -> StrictError:
    """A key that is repeated."""
    return StrictError("duplicate_key", "an object has the same key twice")


def weigh(value: object, most: int) -> int:
    """Roughly its values, and its texts by their lengths; at the least `most` where it has as much (pure)."""
    weight, left = 0, [value]
    while left and weight < most:
        one = left.pop()
        if isinstance(one, str):
            weight += 1 + len(one) // TEXT
        elif isinstance(one, dict):
            weight += 1 + len(one)
            if weight < most:
                weight += sum(len(key) // TEXT for key in one if isinstance(key, str))
                left += one.values()
        elif isinstance(one, list | tuple):
            weight += 1 + len(one)
            if weight < most:
                left += one
        else:
            weight += 1
    return weight
