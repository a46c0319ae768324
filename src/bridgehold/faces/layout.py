"""Text laid out for a terminal (pure): paragraphs and tables, without boxes, nothing cut inside a word.

Widths are in cells of a terminal. A word that is wider than the terminal stays whole, and its line with it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import msgspec

Part = str | tuple[str, str]
"""A text, or a text with its style: ``("dim text", "dim")``."""
Line = list[tuple[str, str]]
"""Texts with their styles, from left to right."""
_GAP, _UNDER = 2, 4
_LAST = 24
"""A last column narrower than this is none; words longer than the column stand under the row."""
_MOST_ROWS = 0.75
"""Of the rows; those with longer words are blocks, rather than that their words decide the width of all."""


class Column(msgspec.Struct, frozen=True):
    """`right`: numbers with their units. `extra`: left out first where there is no width for all.

    `styles`: of certain texts, where they say how something stands.
    """

    name: str
    right: bool = False
    style: str = ""
    extra: bool = False
    styles: dict[str, str] = {}

    def styled(self, text: str) -> str:
        """The style of a cell that holds `text`."""
        return self.styles.get(text, self.style)


def number(name: str, *, extra: bool = False) -> Column:
    """A column of numbers, their units beside them."""
    return Column(name, right=True, extra=extra)


def dim(name: str, *, extra: bool = False) -> Column:
    """A column that is read last: sources, times."""
    return Column(name, style="dim", extra=extra)


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def fold(text: str, width: int, further: int = 0) -> list[str]:
    """Lines of at most `width` cells, broken at spaces only; a longer word has a line of its own.

    `further`: the width of all lines but the first, where it is another.
    """
    lines: list[str] = []
    for part in text.split("\n"):
        line: str | None = None
        for word in part.split(" "):
            room = further if further and lines else width
            if line is None:
                line = word
            elif line.strip() and cells(line) + 1 + cells(word) > room:
                lines.append(line.rstrip())
                line = word
            else:
                line = f"{line} {word}"
        lines.append((line or "").rstrip())
    return lines


def paragraph(parts: Iterable[Part], width: int, *, under: str = "") -> list[Line]:
    """Lines of text in several styles; those after the first begin with `under`."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    text = "".join(piece for piece, _ in styled)
    found: list[Line] = []
    place = 0
    for folded in fold(text, width, max(1, width - cells(under))):
        at = text.index(folded, place)
        place = at + len(folded)
        line = list(_between(styled, at, place))
        found.append([(under, ""), *line] if found and under else line)
    return found


def _between(styled: Iterable[tuple[str, str]], start: int, end: int) -> Iterator[tuple[str, str]]:
    """The pieces of a text from `start` to `end`."""
    at = 0
    for piece, style in styled:
        shown = piece[max(0, start - at) : max(0, end - at)]
        if shown:
            yield shown, style
        at += len(piece)


Row = Sequence[str] | str
"""Its cells; or the heading of the rows that follow, up to the next one."""


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Line]:
    """A heading, and a line or more for each row.

    Columns without any text are left out. Where not all words stand beside each other, the few rows with the
    longest words become blocks, key by key; then columns marked `extra` go; then every row is a block.
    """
    full = [row for row in rows if not isinstance(row, str)]
    used = [n for n in range(len(columns)) if any(row[n] for row in full)] or [0]
    step = _GAP if len(full) < len(rows) else 0
    while True:
        kept = [columns[n] for n in used]
        shown = [row if isinstance(row, str) else [row[n] for n in used] for row in rows]
        cut = [row for row in shown if not isinstance(row, str)]
        for share in (1.0, _MOST_ROWS):
            widths = _least(kept, cut, share)
            if (spare := width - step - _GAP * (len(kept) - 1) - sum(widths)) >= 0:
                return list(_lines(kept, shown, _widened(kept, cut, widths, spare), width, step))
        extra = [n for n in used if columns[n].extra]
        if not extra:
            return list(_blocks(kept, shown, width))
        used.remove(extra[-1])


def _least(columns: Sequence[Column], rows: Sequence[Sequence[str]], share: float) -> list[int]:
    """The width that each column needs for the words of that share of its rows; the first for all of them."""
    found = []
    for n, column in enumerate(columns):
        words = [row[n].split("\n" if column.right else None) for row in rows]
        needed = sorted(max(map(cells, one), default=0) for one in words) or [0]
        widest = needed[-1 if n == 0 else math.ceil(share * len(needed)) - 1]
        if n == len(columns) - 1 > 0:
            widest = min(widest, _LAST)
        found.append(max(cells(column.name), widest))
    return found


def _widened(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int], spare: int
) -> list[int]:
    """The same with what is `spare` given to those that have longer lines."""
    found = list(widths)
    most = [
        max([0, *(cells(line) for row in rows for line in row[n].split("\n"))]) for n in range(len(columns))
    ]
    while spare and (narrow := [n for n in range(len(columns)) if found[n] < most[n]]):
        share = max(1, spare // len(narrow))
        for n in narrow:
            given = min(share, most[n] - found[n], spare)
            found[n] += given
            spare -= given
    return found


def _lines(
    columns: Sequence[Column], rows: Sequence[Row], widths: Sequence[int], width: int, step: int
) -> Iterator[Line]:
    if any(column.name for column in columns):
        yield _line(columns, [column.name for column in columns], widths, step, style="dim")
    for position, row in enumerate(rows):
        if isinstance(row, str):
            if position:
                yield []
            yield [(row, "bold")]
            continue
        folded = [fold(cell, room) for cell, room in zip(row, widths, strict=True)]
        over = [any(cells(line) > room for line in lines) for lines, room in zip(folded, widths, strict=True)]
        if any(over[:-1]):
            yield from _block(columns, row, width, step)
            continue
        if over[-1] and len(row) > 1:
            folded[-1] = [""]
        for n in range(max(len(lines) for lines in folded)):
            yield _line(columns, [lines[n] if n < len(lines) else "" for lines in folded], widths, step)
        if over[-1] and len(row) > 1:
            for line in fold(row[-1], max(_LAST, width - step - _UNDER)):
                yield [(" " * (step + _UNDER), ""), (line, columns[-1].style)]


def _line(
    columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int], step: int, style: str = ""
) -> Line:
    line: Line = [(" " * step, "")] if step else []
    last = max((n for n, text in enumerate(texts) if text), default=0)
    for n, text in enumerate(texts[: last + 1]):
        pad = " " * (widths[n] - cells(text))
        if columns[n].right:
            line.append((pad, ""))
        line.append((text, style or columns[n].styled(text)))
        if n < last:
            line.append((" " * _GAP if columns[n].right else f"{pad}{' ' * _GAP}", ""))
    return line


def _blocks(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Iterator[Line]:
    """Every row as a block, an empty line between them."""
    headed = True
    for row in rows:
        if not headed:
            yield []
        headed = isinstance(row, str)
        if isinstance(row, str):
            yield [(row, "bold")]
        else:
            yield from _block(columns, row, width, 0)


def _block(columns: Sequence[Column], row: Sequence[str], width: int, step: int) -> Iterator[Line]:
    """The row's first cell, and under it the others with their names."""
    before = " " * (step + _UNDER)
    label = max((cells(column.name) for column in columns[1:]), default=0)
    yield [(" " * step, ""), (row[0], columns[0].styled(row[0]))]
    room = max(_LAST, width - cells(before) - label - _GAP)
    for column, cell in zip(columns[1:], row[1:], strict=True):
        for n, line in enumerate(fold(cell.strip(), room) if cell else []):
            name = (column.name if n == 0 else "").ljust(label)
            yield [(before, ""), (name, "dim"), (" " * _GAP, ""), (line, column.styled(cell))]


_NUMBER = re.compile(r"[-~]?[0-9][0-9,.]*( ?[A-Za-z%/µ]+)?")


def grouped(rows: Iterable[Sequence[str]]) -> list[Row]:
    """Rows of a dotted key, a value and more, under the table of their key; its numbers end together."""
    tables: dict[str, list[Sequence[str]]] = {}
    for key, *more in rows:
        place, _, name = key.rpartition(".")
        tables.setdefault(place, []).append((name, *more))
    found: list[Row] = []
    for place, below in sorted(tables.items(), key=lambda item: item[0] != ""):
        width = max((cells(row[1]) for row in below if _NUMBER.fullmatch(row[1])), default=0)
        found += [place] if place else []
        found += [
            (name, value.rjust(width) if _NUMBER.fullmatch(value) else value, *more)
            for name, value, *more in below
        ]
    return found
