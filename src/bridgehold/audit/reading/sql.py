"""A question as SQL with parameters, for the columns that the index has (pure).

What is compiled fits at least each event that fits the question, or with `sure` at most those;
`Compiled.exact` says when it is both. What is negated is compiled the other way; and every row is judged
again by `linear`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import NamedTuple, TypeGuard

from bridgehold.audit.chain import parse_reference
from bridgehold.audit.query import Tie
from bridgehold.audit.reading.columns import NAMES, NUMBERED, NUMBERS, number_of, shared_number
from bridgehold.audit.reading.fields import FRAMEWORK
from bridgehold.audit.reading.linear import needle_of
from bridgehold.audit.reading.syntax import All, AnyOf, Compare, Expression, Not, Text, folded
from bridgehold.audit.reading.texts import Needle, anywhere, behind, filled, flagged, measured

_KEPT = (*NAMES, FRAMEWORK)
_TEXT = "substr(?, id - ?, 1) = x'01'"
"""A needle's blob, and the row before its first."""


class Compiled(NamedTuple):
    """A condition on a row of ``events``."""

    sql: str
    parameters: tuple[str | int | bytes | Needle, ...] = ()
    exact: bool = False
    """An event fits it that fits the question, and no other."""

    @property
    def needles(self) -> tuple[Needle, ...]:
        """What has to be looked for in texts first."""
        return tuple(one for one in self.parameters if isinstance(one, Needle))

    def at(self, first: int, found: Callable[[Needle], bytes]) -> tuple[object, ...]:
        """The parameters for a text whose first event is `first`."""
        both = ((found(one), first - 1) if isinstance(one, Needle) else (one,) for one in self.parameters)
        return tuple(value for some in both for value in some)


_ANY, _NONE = Compiled("1"), Compiled("0")


def compile_tie(tie: Tie, key: bytes) -> tuple[str, tuple[int, ...]]:
    """What fits at least each row of a line with `tie`; of a digest nothing but its kinds is known."""
    parts, parameters = ["1"], list[int]()
    if tie.name == "seq":
        parts.append("seq = ?")
        parameters.append(int(tie.value))
    elif tie.name in NUMBERED:
        parts.append(f"{tie.name} = ?")
        parameters.append(shared_number(tie.value))
    elif tie.name in NAMES:
        parts.append(f"{tie.name} = ?")
        parameters.append(number_of(key, tie.value))
    if tie.kinds:
        parts.append(f"kind IN ({', '.join('?' * len(tie.kinds))})")
        parameters += [number_of(key, kind) for kind in tie.kinds]
    return " AND ".join(parts), tuple(parameters)


def compile_question(
    expression: Expression, key: bytes, *, texts: bool = True, sure: bool = False
) -> Compiled:
    """The condition for an index whose names are numbered with `key`. Not `texts`: by columns alone.

    `sure`: no event fits it that doesn't fit the question; else each does that does.
    """
    match expression:
        case All(()):
            return Compiled("1", exact=True)
        case All(parts):
            return _joined(" AND ", [compile_question(one, key, texts=texts, sure=sure) for one in parts])
        case AnyOf(parts):
            named, rest = _named(parts)
            others = (compile_question(one, key, texts=texts, sure=sure) for one in rest)
            return _joined(" OR ", [*_kinds(parts), *(_one_of(*one, key) for one in named.items()), *others])
        case Not(part):
            inner = compile_question(part, key, texts=texts, sure=not sure)
            return Compiled(f"NOT ({inner.sql})", inner.parameters, inner.exact)
        case Text() | Compare():
            found = _leaf(expression, key, sure=sure)
            return found if texts or not found.needles else _NONE if sure else _ANY


def scoped(question: Expression, scope: Expression, key: bytes) -> Compiled:
    """Rows of `scope` alone, and by columns alone: what others wrote changes not even how long it takes."""
    return _joined(" AND ", [compile_question(one, key, texts=False) for one in (scope, question)])


def may_fit(expression: Expression, has: Callable[[Needle], bool], *, odd: bool) -> bool:
    """Whether one of some events may fit, by their texts. `has`: one of them has it; `odd`: one is so."""
    match expression:
        case All(parts):
            return all(may_fit(one, has, odd=odd) for one in parts)
        case AnyOf(parts):
            return any(may_fit(one, has, odd=odd) for one in parts)
        case Text() | Compare():
            needle, always = _looked_for(expression)
            return needle is None or (odd and always) or has(needle)
        case Not():
            return True


@functools.lru_cache(1_024)
def _looked_for(leaf: Text | Compare) -> tuple[Needle | None, bool]:
    """What stands in the text of each event that fits, and whether it need not where one is odd."""
    if isinstance(leaf, Compare) and leaf.value == "":
        return None, True
    compiled = _leaf(leaf, b"", sure=False)
    return next(iter(compiled.needles), None), not compiled.exact


def _leaf(leaf: Text | Compare, key: bytes, *, sure: bool) -> Compiled:
    if isinstance(leaf, Text):
        return Compiled(_TEXT, (anywhere(needle_of(leaf.needle)),), exact=True)
    found = _compare(leaf, key)
    if found is None:
        return _by_text(leaf, sure=sure)
    return found if found.exact or not sure else _NONE


def _joined(word: str, parts: list[Compiled]) -> Compiled:
    sql = word.join(f"({one.sql})" for one in parts)
    parameters = tuple(value for one in parts for value in one.parameters)
    return Compiled(sql, parameters, exact=all(one.exact for one in parts))


def _compare(wanted: Compare, key: bytes) -> Compiled | None:
    """By columns; None: no column has it."""
    field, value = wanted.field, wanted.value
    if field.name in _KEPT:
        return _kept(wanted, key)
    if field.type == "kind":
        return _kinds((wanted,))[0]
    if field.type == "event":
        return Compiled("seq = ?", ((parse_reference(str(value)) or ("", 0))[1],))
    if field.type == "time" or field.name in NUMBERS:
        return Compiled(f"coalesce({field.name} {wanted.operator} ?, 0)", (value,), exact=True)
    if field.name in NUMBERED and wanted.operator == "=":
        return Compiled(f"{field.name} = ?", (shared_number(str(value)),))
    return None


def _named(parts: tuple[Expression, ...]) -> tuple[dict[str, list[str]], list[Expression]]:
    """Names that one field of the index may have, by field; and what else there is, but for kinds."""
    named: dict[str, list[str]] = {}
    rest: list[Expression] = []
    for one in parts:
        if isinstance(one, Compare) and one.operator == "=" and one.field.name in _KEPT:
            named.setdefault(one.field.name, []).append(str(one.value))
        elif not _is_kind(one):
            rest.append(one)
    return named, rest


def _one_of(name: str, values: list[str], key: bytes) -> Compiled:
    """In one expression, however many they are: SQLite's are only so deep."""
    numbers = json.dumps([number_of(key, value) for value in values])
    return Compiled(f"{name} IN (SELECT value FROM json_each(?))", (numbers,), exact=True)  # noqa: S608 - a field of ours


def _is_kind(part: Expression) -> TypeGuard[Compare]:
    return isinstance(part, Compare) and part.field.type == "kind"


def _kinds(parts: tuple[Expression, ...]) -> list[Compiled]:
    """All kinds that `parts` name, looked up once, however many they are; nothing where they name none."""
    named = [str(one.value) for one in parts if _is_kind(one)]
    either = " OR ".join(["text = ? OR substr(text, 1, ?) = ?"] * len(named))
    parameters = tuple(value for one in named for value in (one, len(one) + 1, f"{one}."))
    query = f"kind IN (SELECT id FROM names WHERE {either})"  # noqa: S608 - signs of ours
    return [Compiled(query, parameters, exact=True)] if named else []


def _kept(wanted: Compare, key: bytes) -> Compiled:
    """A name that the index has once for all events that bear it."""
    name = wanted.field.name
    if wanted.operator == "=":
        return Compiled(f"{name} = ?", (number_of(key, str(wanted.value)),), exact=True)
    query = f"{name} IN (SELECT id FROM names WHERE instr(folded, ?) > 0)"  # noqa: S608 - a field of ours
    return Compiled(query, (folded(str(wanted.value)).encode("utf-8"),), exact=True)


def _by_text(wanted: Compare, *, sure: bool) -> Compiled:
    """Its name, and what is looked for, stand in the line, if that is spelled as usual."""
    name, value, kind = wanted.field.name, wanted.value, wanted.field.type
    if isinstance(value, int):
        if kind == "flag":
            return _spelt(flagged(name, value, sure=sure), sure=sure)
        return _spelt(measured(name, wanted.operator, value, sure=sure), sure=sure)
    if kind == "list":  # of which text, the line doesn't say
        return _NONE if sure else _spelt(anywhere(needle_of(value)), sure=False) if value else _ANY
    if value == "":
        inner = _spelt(filled(name, sure=not sure), sure=not sure)
        return Compiled(f"NOT ({inner.sql})", inner.parameters)
    if sure and wanted.operator == "=":  # of which case, the text doesn't say
        return _NONE
    return _spelt(behind(name, needle_of(value), sure=sure), sure=sure)


def _spelt(needle: Needle, *, sure: bool) -> Compiled:
    return Compiled(f"NOT odd AND {_TEXT}" if sure else f"odd OR {_TEXT}", (needle,))
