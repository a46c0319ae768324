"""As `places.Skeleton`, of a text that is taken apart in turns (`strict_turns`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import TypeVar

from bridgehold import strict_turns
from bridgehold.protocol.places import Place, Skeleton, Wrong, twice
from bridgehold.strict_turns import KEY, Piece

T = TypeVar("T")
_AROUND = object()
"""What is open around a piece."""


def before(data: bytes, offset: int) -> Generator[None, None, Place | None]:
    """See `Skeleton.before`."""

    def found(part: _Part) -> Place | None:
        piece = part.piece
        if not piece.start <= offset < piece.end:
            return None
        return part.skeleton.before(offset - piece.start + len(part.before))

    part_and_place = yield from _first(data, found)
    return None if part_and_place is None else part_and_place[0].real(part_and_place[1])


def deeper(data: bytes, depth: int) -> Generator[None, None, Place | None]:
    """See `Skeleton.deeper`."""
    found = yield from _first(data, lambda part: part.skeleton.deeper(depth))
    return None if found is None else found[0].real(found[1])


def wrong(data: bytes) -> Generator[None, None, Wrong | None]:
    """See `Skeleton.wrong`."""
    found = yield from _first(data, lambda part: part.skeleton.wrong())
    return None if found is None else Wrong(found[0].real(found[1].place), found[1].value)


def repeated(data: bytes) -> Generator[None, None, tuple[Place, str] | None]:
    """The first object that ends with a key twice in it, and the key."""
    keys = _Keys()
    found = yield from _first(data, keys.read)
    return None if found is None else (found[0].real(found[1][0]), found[1][1])


class _Part:
    """A piece as JSON of its own, and where it stands in the whole."""

    def __init__(self, data: bytes, piece: Piece, spine: list[str | int]) -> None:
        self.piece = piece
        self.before = strict_turns.around(piece)
        self.text = self.before + data[piece.start : piece.end]
        self.skeleton = Skeleton(self.text)
        self._spine = spine

    def real(self, place: Place) -> Place:
        """Of a place in the piece, that in the whole text."""
        steps = list(place.steps)
        for level, step in enumerate(steps[: len(self._spine)]):
            known = self._spine[level]
            if isinstance(step, int) and isinstance(known, int):
                steps[level] = known + step
                if step:
                    break
            elif step != KEY:
                break
            else:
                steps[level] = known
        return Place(tuple(steps), of_key=place.of_key)


def _first(data: bytes, look: Callable[[_Part], T | None]) -> Generator[None, None, tuple[_Part, T] | None]:
    """The first piece in which `look` finds something, as long as what is read is JSON."""
    spine: list[str | int] = []
    for piece in (yield from strict_turns.pieces(data)):
        part = _Part(data, piece, spine)
        if (found := look(part)) is not None:
            return part, found
        yield
        place = None if piece.broken else part.skeleton.at_end()
        if place is None or len(place.steps) != len(piece.left):
            return None
        spine = list(part.real(place).steps)
        yield
    return None


class _Keys:
    """Those of each object that is open, as piece after piece is read."""

    def __init__(self) -> None:
        self._open: list[list[str]] = []
        """From the outermost object on."""

    def read(self, part: _Part) -> tuple[Place, str] | None:
        """The first object that ends in a piece with a key twice in it, and the key."""
        ended: list[list[str]] = []
        known = list(self._open)

        def pairs(made: list[tuple[str, object]]) -> object:
            first = made[0][1] if made else None
            while isinstance(first, list) and first:
                first = first[0]
            around = first is _AROUND and made[0][0] == KEY
            keys = known.pop() if around else []
            keys += [key for key, _ in made[around:]]
            ended.append(keys)
            return _AROUND if around else None

        piece = part.piece
        text = strict_turns.around(piece, b"NaN") + part.text[len(part.before) :] + piece.closed
        json.loads(
            text, object_pairs_hook=pairs, parse_constant=lambda _: _AROUND, parse_int=len, parse_float=len
        )
        whole = len(ended) - piece.left.count(b"{")
        for number, keys in enumerate(ended[:whole]):
            if (key := twice(keys)) is not None:
                place = part.skeleton.end_of_object(number)
                return None if place is None else (place, key)
        self._open = [*known, *reversed(ended[whole:])]
        return None
