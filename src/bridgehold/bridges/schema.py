"""The part of JSON Schema that a manifest may use, checked at the host before a guest sees anything.

A manifest may come from a tenant, so its schema is hostile input too: there is no ``$ref`` (nothing
to fetch, nothing recursive), no ``pattern`` (no expression that a text can make run for minutes),
and what is not supported is refused when the manifest is read, not ignored when a command comes.
An object is closed unless its schema says otherwise: a name that nobody declared reaches no code.
Messages name places and expectations and never repeat a value: arguments may hold secrets.

Work is counted in *steps*: a value met by a part of a schema, a name looked up, a few comparisons. A
check has `MAX_STEPS` and gives way to the loop every `TURN`; a message is worded only if it is shown.
"""

from __future__ import annotations

import asyncio
import reprlib
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from bridgehold.bridges.schema_form import (
    MAX_PROBLEMS,
    TYPES,
    Schema,
    as_number,
    extra_names,
    is_integer,
    is_number,
)
from bridgehold.errors import LimitError
from bridgehold.ids import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


MAX_STEPS = 2_000_000
"""Of one check; a request has at most 1,000,000 values."""
TURN = 2_000
"""Steps after which a check that is awaited lets others run: 1 to 3 ms."""
_MESSAGE = 300
_LOOKED_UP = 64
"""Names or short texts that are looked up in one step."""
_COMPARED = 4096
"""Characters of a text that cost as much as a short one."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60


_Place = str | tuple["_Place", str | int]
"""Where a value stands: the name of the whole, then names and indices inwards."""
_Problem = tuple[_Place, "str | Callable[[bool], str]"]
"""A place and what is wrong there; worded when it is shown, with or without a near name."""


def problems(schema: Schema, value: object, where: str = "arguments") -> list[str]:
    """Where and how `value` does not fit `schema` (which has no problems); at most `MAX_PROBLEMS`.

    Raises `LimitError` where telling takes more than `MAX_STEPS`.
    """
    found: list[_Problem] = []
    for problem in _problems(schema, value, where, [MAX_STEPS]):
        if problem is None:
            raise _too_long(where)
        found.append(problem)
        if len(found) == MAX_PROBLEMS:
            break
    return [_text(problem) for problem in found]


async def problems_in_turns(
    schema: Schema, value: object, where: str = "arguments"
) -> tuple[list[str], bool]:
    """As `problems`, while the loop goes on with its other work; and whether it did so."""
    found: list[_Problem] = []
    steps, left = [TURN], MAX_STEPS
    for problem in _problems(schema, value, where, steps):
        if problem is not None:
            found.append(problem)
            if len(found) == MAX_PROBLEMS:
                break
        elif (left := left - TURN) <= 0:
            raise _too_long(where)
        else:
            steps[0] += TURN
            await asyncio.sleep(0)
    return [_text(problem) for problem in found], left < MAX_STEPS


def _too_long(where: str) -> LimitError:
    return LimitError(
        f"{where}: more than {MAX_STEPS} steps to check them against their schema",
        hint="Send less at once, or declare fewer forms (anyOf, enum) of what is many.",
    )


async def names_within(
    arguments: object, names: Mapping[str, str], first: str = ""
) -> tuple[tuple[str, ...], bool]:
    """`first`, if any, and what `names` says of each key that stands in `arguments`, at any depth; once each.

    A command's resources: its operation's kind, and each whose id it is given. The loop goes on with its
    other work every `TURN` values; and whether it did so.
    """
    found = {first: None} if first else {}
    waiting = [iter((arguments,))] if names else []
    left, waited = TURN, False
    while waiting:
        for one in waiting[-1]:
            left -= 1
            if not left:
                left, waited = TURN, True
                await asyncio.sleep(0)
            if isinstance(one, dict):
                found.update((names[key], None) for key in sorted(names.keys() & one.keys()))
                waiting.append(iter(one.values()))
                break
            if isinstance(one, list):
                waiting.append(iter(one))
                break
        else:
            waiting.pop()
    return tuple(found), waited


def _problems(schema: Schema, value: object, where: _Place, steps: list[int]) -> Iterator[_Problem | None]:
    """None where `steps` are used up: whoever asks adds some, or leaves."""
    steps[0] -= 1
    if steps[0] < 0:
        yield None
    kinds = schema.get("type")
    if kinds is not None:
        allowed = [str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])]
        if not any(isinstance(value, _PLAIN.get(kind, ())) or _fits(kind, value) for kind in allowed):
            yield where, f"{' or '.join(allowed)} expected, {_kind(value)} given"
            return
    listed = schema.get("enum")
    if isinstance(listed, list) and not _among(value, listed, steps):
        yield where, partial(_one_of, listed)
    if "const" in schema and not _among(value, [schema["const"]], steps):
        yield where, partial(_one_of, [schema["const"]])
    if isinstance(value, dict):
        yield from _object_problems(schema, value, where, steps)
    elif isinstance(value, list):
        yield from _array_problems(schema, value, where, steps)
    elif isinstance(value, str):
        if "minLength" in schema or "maxLength" in schema:
            yield from _bounds(schema, len(value), "Length", where, "characters")
    elif is_number(value):
        yield from _number_problems(schema, as_number(value), where)
    if "anyOf" in schema:
        yield from _choice_problems(schema, value, where, steps)


def _object_problems(
    schema: Schema, value: dict[str, object], where: _Place, steps: list[int]
) -> Iterator[_Problem | None]:
    properties = schema.get("properties", {})
    assert isinstance(properties, dict)  # noqa: S101 - the schema was checked
    required = schema.get("required", [])
    assert isinstance(required, list)  # noqa: S101 - the schema was checked
    steps[0] -= (len(required) + len(properties)) // _LOOKED_UP
    for name in required:
        if name not in value:
            yield (where, name), "missing"
    if "minProperties" in schema or "maxProperties" in schema:
        yield from _bounds(schema, len(value), "Properties", where, "entries")
    extra = False if value.keys() <= properties.keys() else extra_names(schema)
    # What may have any name has no schema: a million of them are not looked at.
    for name in [name for name in properties if name in value] if extra is True else value:
        if name in properties:
            yield from _problems(properties[name], value[name], (where, name), steps)
        elif extra is False:
            yield (where, name), partial(_unknown, name, properties)
        elif isinstance(extra, dict):
            yield from _problems(extra, value[name], (where, name), steps)


def _array_problems(
    schema: Schema, value: list[object], where: _Place, steps: list[int]
) -> Iterator[_Problem | None]:
    yield from _bounds(schema, len(value), "Items", where, "items")
    items = schema.get("items")
    if isinstance(items, dict) and items:
        for index, item in enumerate(value):
            yield from _problems(items, item, (where, index), steps)


def _choice_problems(
    schema: Schema, value: object, where: _Place, steps: list[int]
) -> Iterator[_Problem | None]:
    choices = schema.get("anyOf")
    if not isinstance(choices, list):
        return
    first: list[_Problem] = []
    for choice in choices:
        for found in _problems(choice, value, where, steps):
            if found is not None:
                first.append(found)
                break
            yield None
        else:
            return
    yield where, partial(_no_form, first)


def _text(problem: _Problem, *, near: bool = True) -> str:
    where, what = problem
    inwards = []
    while isinstance(where, tuple):
        where, last = where
        inwards.append(f"[{last}]" if isinstance(last, int) else f".{last[:80]}")
    return f"{where}{''.join(reversed(inwards))}: {what if isinstance(what, str) else what(near)}"


def _one_of(listed: list[object], _near: bool) -> str:
    shown = ", ".join(_BRIEF.repr(item) for item in listed[:12])
    return f"{'one of ' if len(listed) > 1 else ''}{shown} expected"


def _unknown(name: str, properties: Schema, near: bool) -> str:
    return f"unknown{nearest(name, properties) if near else ''}"


def _no_form(first: list[_Problem], _near: bool) -> str:
    """`first`: of each form, what was found first. What no reader sees of a long answer is not worded."""
    said: list[str] = []
    for one in first:
        if sum(map(len, said)) > _MESSAGE:
            break
        said.append(_text(one, near=False))
    return f"fits none of {len(first)} forms ({'; '.join(said)[:_MESSAGE]})"


def _number_problems(schema: Schema, value: float, where: _Place) -> Iterator[_Problem]:
    tests: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
        ("minimum", lambda number, bound: number >= bound, "at least"),
        ("maximum", lambda number, bound: number <= bound, "at most"),
        ("exclusiveMinimum", lambda number, bound: number > bound, "more than"),
        ("exclusiveMaximum", lambda number, bound: number < bound, "less than"),
    )
    for key, holds, words in tests:
        if key in schema and not holds(value, as_number(schema[key])):
            yield where, f"{words} {schema[key]} expected"


def _bounds(schema: Schema, count: int, what: str, where: _Place, unit: str) -> Iterator[_Problem]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and count < as_number(least):
        yield where, f"at least {least} {unit} expected, {count} given"
    if most is not None and count > as_number(most):
        yield where, f"at most {most} {unit} expected, {count} given"


_PLAIN: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def _fits(kind: str, value: object) -> bool:
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind])
    return is_integer(value) if kind == "integer" else is_number(value)


def _kind(value: object) -> str:
    return next((name for name in TYPES if _fits(name, value)), type(value).__name__)


def _among(value: object, listed: list[object], steps: list[int]) -> bool:
    if isinstance(value, str):
        steps[0] -= len(listed) * (1 + len(value) // _COMPARED) // _LOOKED_UP
        return value in listed
    return any(_same(value, item, steps) for item in listed)


def _same(left: object, right: object, steps: list[int]) -> bool:
    """Equality as JSON has it: true is not 1, at any depth."""
    steps[0] -= 1
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name], steps) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right, repeat(steps)))
    if isinstance(left, str):
        steps[0] -= len(left) // _COMPARED
    return left == right and isinstance(left, bool) == isinstance(right, bool)
