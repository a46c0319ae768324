"""What a question is, once it is understood: frozen, typed values (pure)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from bridgehold.audit.reading.fields import FIELDS, Field

Operator = Literal["=", "<", "<=", ">", ">=", "~"]
ORDER: Mapping[Operator, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
"""Of two values of one type."""


class Compare(msgspec.Struct, frozen=True):
    """One field against one value of its type. ``~``: the text stands in it, upper and lower case alike."""

    field: Field
    operator: Operator
    value: str | int


class Text(msgspec.Struct, frozen=True):
    """A text that stands in what is the event's own: its kind, its ties and its fields, as stored."""

    needle: str


class Not(msgspec.Struct, frozen=True):
    """What doesn't fit."""

    part: Expression


class All(msgspec.Struct, frozen=True):
    """Each of them fits; of none, every event does."""

    parts: tuple[Expression, ...] = ()


class AnyOf(msgspec.Struct, frozen=True):
    """One of them fits, or several."""

    parts: tuple[Expression, ...]


Expression = Compare | Text | Not | All | AnyOf
EVERYTHING = All()


def equal(name: str, value: str | int) -> Compare:
    """A field that has just this value."""
    return Compare(FIELDS[name], "=", value)


def both(*parts: Expression) -> Expression:
    """All of them, without what says nothing."""
    kept = tuple(one for one in parts if one != EVERYTHING)
    return kept[0] if len(kept) == 1 else All(kept)


def folded(text: str) -> str:
    """The text with A to Z as a to z, and nothing else changed: what is stored is folded so."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
