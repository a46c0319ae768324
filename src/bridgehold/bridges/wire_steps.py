"""A frame's JSON, written in turns where it has much to say: no frame keeps the loop that others share.

What is small is written by one call in C, as many values at a time as make a piece; only what is around
them is walked here. Each piece is judged as `strict.measured` judges a whole text.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from typing import cast

from bridgehold import strict

PIECE = 4_000
_LONG = (str, dict, list, tuple)
_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def steps(value: object) -> Generator[None, None, bytes]:
    """JSON of `value`, strict. Raises `strict.StrictError`, and what `json` raises for what is no JSON."""
    writing = _Writing()
    yield from writing.add(value, 1)
    return b"".join(writing.out)


class _Writing:
    """One text, piece by piece."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self._values = 1

    def add(self, value: object, depth: int) -> Generator[None, None, None]:
        """`depth`: of what `value` is, if it is a container; the frame's own is 1."""
        if strict.weigh(value, PIECE) < PIECE:
            self._whole(value, depth)
        elif isinstance(value, str):
            yield from self._text(value)
        elif depth > strict.MAX_DEPTH:
            raise strict.too_deep(strict.MAX_DEPTH)
        elif isinstance(value, dict):
            self.out.append(b"{")
            yield from self._items(value.items(), depth)
            self.out.append(b"}")
        elif isinstance(value, list | tuple):
            self.out.append(b"[")
            yield from self._items(value, depth)
            self.out.append(b"]")
        yield

    def _items(self, items: Iterable[object], depth: int) -> Generator[None, None, None]:
        """Of a container that is open: of an object with their keys."""
        paired = self.out[-1] == b"{"
        batch: list[object] = []
        weight, first = 0, True
        self._values += 1
        for item in items:
            own = strict.weigh(item, PIECE) if item and isinstance(item, _LONG) else 1
            if own < PIECE:
                batch.append(item)
                weight += own
            if batch and (weight >= PIECE or own >= PIECE):
                first = self._batch(batch, depth, first=first, paired=paired)
                batch, weight = [], 0
                yield
            if own >= PIECE:
                self._comma(first)
                first = False
                if paired and isinstance(item, tuple):
                    yield from self._key(item[0])
                    item = item[1]  # noqa: PLW2901 - what is left of it
                yield from self.add(item, depth + 1)
        if batch:
            self._batch(batch, depth, first=first, paired=paired)

    def _key(self, key: object) -> Generator[None, None, None]:
        if isinstance(key, str):
            yield from self._text(key)
            self.out.append(b":")
        else:
            self.out.append(_json({key: 0})[1:-2].encode())

    def _text(self, text: str) -> Generator[None, None, None]:
        self.out.append(b'"')
        for at in range(0, len(text), PIECE * strict.TEXT):
            self.out.append(_json(text[at : at + PIECE * strict.TEXT])[1:-1].encode())
            yield
        self.out.append(b'"')

    def _comma(self, first: bool) -> None:
        if not first:
            self.out.append(b",")
            self._count(1)

    def _batch(self, batch: list[object], depth: int, *, first: bool, paired: bool) -> bool:
        """Add items that are small; False, as there is one before all others now."""
        self._comma(first)
        made: object = dict(cast("list[tuple[object, object]]", batch)) if paired else batch
        self._judged(data := _json(made).encode(), depth, known=1)
        self.out.append(data[1:-1])
        return False

    def _whole(self, value: object, depth: int) -> None:
        self._judged(data := _json(value).encode(), depth, known=0)
        self.out.append(data)

    def _judged(self, data: bytes, depth: int, *, known: int) -> None:
        """`known`: brackets of it that are counted already."""
        text = strict.measured(data, max_depth=max(0, strict.MAX_DEPTH - depth + 1))
        if text is data and b'"' in data:
            text = strict.outside_strings(data)
        self._count(sum(map(text.count, (b"[", b"{", b","))) - known)

    def _count(self, more: int) -> None:
        self._values += more
        if self._values > strict.MAX_VALUES:
            raise strict.too_many(strict.MAX_VALUES)
