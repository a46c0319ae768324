"""`strict.loads` of a text with many values, in turns: no text keeps a loop for longer than a piece of it.

A text is cut at commas outside its strings. What lies between two cuts becomes JSON by what is open around
it (what is open is said again, with one item) and is read by the same parser;
what it has made is joined to what was open. So each step is in C, and linear. A text is JSON if each of its
pieces is, and nothing but a value stands before a cut.
"""

from __future__ import annotations

import re
import secrets
from array import array
from collections.abc import Generator
from itertools import accumulate
from typing import NamedTuple, cast

import msgspec

from bridgehold import strict
from bridgehold.strict import MAX_DEPTH, MAX_VALUES, StrictError, outside_strings

PIECE = 1 << 15
"""Bytes that are read at once, or up to the next comma."""
AT_ONCE = 16_000
"""Brackets and commas of a text that is read in one go: some milliseconds."""
LARGE = 1 << 20
"""Bytes that are, however few of them there are."""
DEEPEST = 2 * MAX_DEPTH
"""What lies deeper is taken apart no further: none that reads a text allows it. So what a piece says of what
is open around it is short, and what a piece itself holds is looked through so often at the most."""
_MARKS = (b",", b"[", b"{")
_ESCAPES = re.compile(rb"\\*+.?", re.DOTALL)
_PAST_NUMBER = re.compile(rb"[^\d.eE+-]")
_CHARACTER_BEGINS = re.compile(rb"[\x80-\xbf]{0,3}")
_SPACES = b" \t\r\n"
_CLOSED = bytes.maketrans(b"[{", b"]}")
KEY = secrets.token_hex(16)
"""Stands for that of an object's item that is open: none that a text has."""
_AROUND = {ord("["): b"[", ord("{"): b'{"%b":' % KEY.encode()}
_BYTE = re.compile(r"\(byte (\d+)\)$")
_Container = dict[str, object] | list[object]


class Piece(NamedTuple):
    """Bytes from `start`, a comma or the text's beginning, to `end`, a comma or its end."""

    start: int
    end: int
    opened: bytes
    """Brackets that are open where it begins."""
    left: bytes
    """And where it ends; the text's own end closes nothing."""
    kept: int
    """So many of `opened` are open throughout."""
    text: bytes
    """What of it is outside strings."""
    broken: bool = False
    """It is no part of any JSON that is `DEEPEST` deep or less."""

    @property
    def closed(self) -> bytes:
        """What ends all that is `left` open."""
        return self.left.translate(_CLOSED)[::-1]


def around(piece: Piece, item: bytes = b"null") -> bytes:
    """What makes JSON of a piece: all that is open around it, the innermost with an `item`."""
    return b"".join(map(_AROUND.__getitem__, piece.opened)) + item if piece.start else b""


def is_long(data: bytes) -> bool:
    """Whether reading it at once would keep a loop."""
    size = len(data)
    return size > AT_ONCE and (size > LARGE or sum(map(data.count, _MARKS)) > AT_ONCE)


def steps(
    data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES
) -> Generator[None, None, object]:
    """As `strict.loads`: the same values, the same errors."""
    if not is_long(data):
        return strict.loads(data, max_depth=max_depth, max_values=max_values)
    yield from _check_utf8(data)
    found = yield from pieces(data)
    yield from _measure(found, max_depth, max_values)
    return (yield from _Reading(data, max_depth).value(found))


def _check_utf8(data: bytes) -> Generator[None, None, None]:
    at = 0
    while at < len(data) and not data.isascii():
        begins = _CHARACTER_BEGINS.match(data, at + LARGE)
        end = len(data) if begins is None else begins.end()
        strict.check_utf8(data, at, end)
        at = end
        yield


def pieces(data: bytes) -> Generator[None, None, list[Piece]]:
    """Of which `data` consists, in their order."""
    found: list[Piece] = []
    opened, start = b"", 0
    while start < len(data):
        end = yield from _cut(data, start)
        piece = _piece(data, start, end, opened)
        found.append(piece)
        opened, start = piece.left, end
        yield
    return found


def _cut(data: bytes, start: int) -> Generator[None, None, int]:
    """The last comma outside strings within the first `PIECE` bytes that have one; or the end."""
    within, at = 0, start
    while (stop := at + PIECE) < len(data):
        if data[stop - 1] == ord("\\") and (run := _ESCAPES.match(data, stop)):
            stop = run.end()
        part = data[at:stop]
        if b"\\" in part:
            part = part.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        parts = part.split(b'"')
        if b"," in b"".join(parts[within::2])[at == start :]:
            for index in range(len(parts) - 1, -1, -1):
                stop -= len(parts[index])
                if index % 2 == within and (comma := parts[index].rfind(b",")) >= 0:
                    return stop + comma
                stop -= 1
        within ^= (len(parts) - 1) & 1
        at = stop
        yield
    return len(data)


def _piece(data: bytes, start: int, end: int, opened: bytes) -> Piece:
    text = outside_strings(data[start:end])
    rest = text.translate(None, strict.NOT_BRACKETS)
    broken = len(rest) > 2 * PIECE  # between two commas JSON has few, and `PIECE` bytes at most have commas
    size = -1
    for _ in range(0 if broken else DEEPEST + 1):
        if len(rest) == size:
            break
        size = len(rest)
        rest = rest.replace(b"[]", b"").replace(b"{}", b"")
    broken = broken or b"[]" in rest or b"{}" in rest
    more = b"" if broken else rest.lstrip(b"]}")
    ends = rest[: len(rest) - len(more)]
    kept = len(opened) - len(ends)
    broken = broken or kept < 0 or kept + len(more) > DEEPEST
    if broken or more.strip(b"[{") or opened[kept:].translate(_CLOSED)[::-1] != ends:
        return Piece(start, end, opened, b"", 0, text, broken=True)
    if end == len(data):
        return Piece(start, end, opened, b"", kept, text)
    empty = data[start:end].rstrip(_SPACES).endswith((b"[", b"{"))
    return Piece(start, end, opened, opened[:kept] + more, kept, text, broken=empty)


def _measure(found: list[Piece], max_depth: int, max_values: int) -> Generator[None, None, None]:
    """As `strict.measured`."""
    values, height, too_deep, too_long = 1, 0, False, False
    for piece in found:
        opened, closed = (sum(map(piece.text.count, marks)) for marks in ((b"[", b"{"), (b"]", b"}")))
        values += opened + piece.text.count(b",")
        if values > max_values:
            raise strict.too_many(max_values)
        if height + opened > max_depth:
            skeleton = piece.text.translate(None, strict.NOT_BRACKETS)
            for at in range(0, len(skeleton), PIECE):
                each = array("b", skeleton[at : at + PIECE].translate(strict.STEPS))
                heights = list(accumulate(each, initial=height))
                too_deep, height = too_deep or max(heights) > max_depth, heights[-1]
                yield
        else:
            height += opened - closed
        at = 0
        while at < len(piece.text) and not too_long:
            past = _PAST_NUMBER.search(piece.text, at + PIECE)
            end = len(piece.text) if past is None else past.end()
            too_long = strict.has_long_integer(piece.text, at, end)
            at = end
            yield
    if too_deep:
        raise strict.too_deep(max_depth)
    if too_long:
        raise strict.too_long()


def _parsed(data: bytes, max_depth: int) -> object:
    try:
        return strict.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise strict.no_json(error) from None
    except RecursionError:
        raise strict.too_deep(max_depth) from None


def _repeats(data: bytes, text: bytes, value: object) -> bool:
    """Whether a key stands twice in an object of `data`: written again it has fewer, as in `strict.loads`."""
    again = strict.encode(value)
    if b"\\" not in data:
        return data.count(b":") != again.count(b":")
    return text.count(b":") != outside_strings(again).count(b":")


class _Reading:
    """One text on its way to a value, piece by piece."""

    def __init__(self, data: bytes, max_depth: int) -> None:
        self._data = data
        self._max_depth = max_depth
        self._open: list[_Container] = []
        """What is open, from the outermost on."""
        self._twice = False

    def value(self, found: list[Piece]) -> Generator[None, None, object]:
        """Raises `StrictError`."""
        root: object = None
        for piece in found:
            prefix = around(piece)
            text = prefix + self._data[piece.start : piece.end] + piece.closed
            try:
                value = None if piece.broken else _parsed(text, self._max_depth)
            except StrictError:
                raise self._fault(prefix, piece) from None
            if piece.broken:
                raise self._fault(prefix, piece)
            yield
            self._twice = self._twice or _repeats(text, prefix + piece.text, value)
            if not piece.start:
                root = value
                self._open = [cast("_Container", value)][: len(piece.left)]
            elif not self._twice:
                self._join(value, piece.kept)
            if not self._twice:
                self._descend(len(piece.left))
            yield
        if self._twice:
            raise strict.same_key_twice()
        return root

    def _join(self, value: object, kept: int) -> None:
        """Add what a piece has made to what was open before it."""
        for one in self._open:
            if isinstance(one, list):
                items = cast("list[object]", value)
                value = items[0]
                one.extend(items[1:])
            else:
                fields = cast("dict[str, object]", value)
                value = fields.pop(KEY)
                size = len(one) + len(fields)
                one.update(fields)
                self._twice = self._twice or len(one) != size
        del self._open[kept:]

    def _descend(self, depth: int) -> None:
        """Open what the piece has left open: of each container the last."""
        while len(self._open) < depth:
            one = self._open[-1]
            inner = one[-1] if isinstance(one, list) else one[next(reversed(one))]
            self._open.append(cast("_Container", inner))

    def _fault(self, prefix: bytes, piece: Piece) -> StrictError:
        """What is wrong with a piece, as whoever reads the text in one go says it."""
        try:
            _parsed(prefix + self._data[piece.start :], self._max_depth)
        except StrictError as error:
            shift = piece.start - len(prefix)
            said = _BYTE.sub(lambda found: f"(byte {int(found[1]) + shift})", str(error))
            return StrictError(error.reason, said)
        return strict.no_json("its parts don't fit one another")
