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
import math
import reprlib
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING

from bridgehold.errors import LimitError
from bridgehold.ids import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Schema = dict[str, object]

MAX_PROBLEMS = 20
MAX_STEPS = 2_000_000
"""Of one check; a request has at most 1,000,000 values."""
TURN = 2_000
"""Steps after which a check that is awaited lets others run: 1 to 3 ms."""
MAX_NODES = 500
MAX_DEPTH = 24
MAX_ENUM = 200
MAX_CHOICES = 16
MAX_LISTED = 5_000
"""Values in all of a schema's `enum`, `const` and `required`, those inside of others counted."""
MAX_NAME = 200
"""Characters of a property's name."""
_MESSAGE = 300
_LOOKED_UP = 64
"""Names or short texts that are looked up in one step."""
_COMPARED = 4096
"""Characters of a text that cost as much as a short one."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_NOTES = ("title", "description", "default", "examples", "format")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
KEYWORDS = (
    *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf"),
    *_COUNTS,
    *_NUMBERS,
    *_NOTES,
)


_Place = str | tuple["_Place", str | int]
"""Where a value stands: the name of the whole, then names and indices inwards."""
_Problem = tuple[_Place, "str | Callable[[bool], str]"]
"""A place and what is wrong there; worded when it is shown, with or without a near name."""


def schema_problems(schema: object, where: str) -> list[str]:
    """What is wrong with a schema itself, at most `MAX_PROBLEMS`; an empty list where it can be used."""
    return list(islice(_schema_problems(schema, where, [MAX_NODES, MAX_LISTED], 0), MAX_PROBLEMS))


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


def closed(schema: Schema) -> Schema:
    """`schema` (which has no problems) with what `problems` assumes written out, at every depth."""
    made = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        made["properties"] = {name: closed(part) for name, part in properties.items()}
    for key in ("items", "additionalProperties"):
        part = schema.get(key)
        if isinstance(part, dict):
            made[key] = closed(part)
    choices = schema.get("anyOf")
    if isinstance(choices, list):
        made["anyOf"] = [closed(part) for part in choices]
    return {**made, "additionalProperties": False} if _extra(schema) is False else made


def named(schema: Schema) -> Schema:
    """What `schema` says of arguments, which are given by name: none at all where it says nothing."""
    return {"type": "object", **schema}


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


def _extra(schema: Schema) -> object:
    """What the schema of an object says of names that it doesn't declare: nothing said is no."""
    kinds = schema.get("type", ())
    speaks = "properties" in schema or "object" in (kinds if isinstance(kinds, list) else (kinds,))
    return schema.get("additionalProperties", not speaks)


def _schema_problems(schema: object, where: str, left: list[int], depth: int) -> Iterator[str]:
    """`left`: how many parts and how many listed values a schema may still have."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        yield f"{where[:200]}: a schema has at most {MAX_NODES} parts, {MAX_DEPTH} deep"
        return
    if not isinstance(schema, dict):
        yield f"{where}: a schema is a table"
        return
    for key in schema:
        if key not in KEYWORDS:
            yield f"{where}: {key[:80]!r} is not supported{nearest(key, KEYWORDS)}"
    yield from _keyword_problems(schema, where, left)
    properties = schema.get("properties", {})
    if isinstance(properties, dict):
        for name, part in properties.items():
            place = f"{where}.properties.{name[:MAX_NAME]}"
            if len(name) > MAX_NAME:
                yield f"{place}: a name has at most {MAX_NAME} characters"
            yield from _schema_problems(part, place, left, depth + 1)
    extra = schema.get("additionalProperties", True)
    if not isinstance(extra, bool):
        yield from _schema_problems(extra, f"{where}.additionalProperties", left, depth + 1)
    if "items" in schema:
        yield from _schema_problems(schema["items"], f"{where}.items", left, depth + 1)
    choices = schema.get("anyOf", [])
    if isinstance(choices, list):
        for index, part in enumerate(choices):
            yield from _schema_problems(part, f"{where}.anyOf[{index}]", left, depth + 1)


def _keyword_problems(schema: Schema, where: str, left: list[int]) -> Iterator[str]:
    kinds = schema.get("type", [])
    named = kinds if isinstance(kinds, list) else [kinds]
    if len(named) > len(_TYPES) or any(kind not in _TYPES for kind in named):
        yield f"{where}.type: one of {', '.join(_TYPES)}, or a list of them"
    if not isinstance(schema.get("properties", {}), dict):
        yield f"{where}.properties: a table"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{where}.required: a list of names"
    for key, most in (("enum", MAX_ENUM), ("anyOf", MAX_CHOICES)):
        listed = schema.get(key, [None])
        if not isinstance(listed, list) or not 1 <= len(listed) <= most:
            yield f"{where}.{key}: a list of 1 to {most}"
    for key in ("enum", "const", "required"):
        if key in schema:
            left[1] -= size(schema[key], left[1])
            if left[1] < 0:
                yield f"{where}.{key}: a schema lists at most {MAX_LISTED} values"
    for key in _COUNTS:
        if key in schema and not (_is_integer(schema[key]) and _number(schema[key]) >= 0):
            yield f"{where}.{key}: an integer, 0 or more"
    for key in _NUMBERS:
        if key in schema and not _is_number(schema[key]):
            yield f"{where}.{key}: a number"


def size(value: object, most: int) -> int:
    """How many values there are in `value`, itself among them; counted until there are more than `most`."""
    count, waiting = 0, [value]
    while waiting and count <= most:
        one = waiting.pop()
        count += 1
        if isinstance(one, dict | list):
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return count


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
    elif _is_number(value):
        yield from _number_problems(schema, _number(value), where)
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
    extra = False if value.keys() <= properties.keys() else _extra(schema)
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
        if key in schema and not holds(value, _number(schema[key])):
            yield where, f"{words} {schema[key]} expected"


def _bounds(schema: Schema, count: int, what: str, where: _Place, unit: str) -> Iterator[_Problem]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and count < _number(least):
        yield where, f"at least {least} {unit} expected, {count} given"
    if most is not None and count > _number(most):
        yield where, f"at most {most} {unit} expected, {count} given"


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)  # of any size: no float is made of it


def _is_integer(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> float:
    assert isinstance(value, int | float)  # noqa: S101 - callers asked `_is_number`
    return value


_PLAIN: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def _fits(kind: str, value: object) -> bool:
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind])
    return _is_integer(value) if kind == "integer" else _is_number(value)


def _kind(value: object) -> str:
    return next((name for name in _TYPES if _fits(name, value)), type(value).__name__)


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
