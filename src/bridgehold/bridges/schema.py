"""The part of JSON Schema that a manifest may use, checked at the host before a guest sees anything.

A manifest may come from a tenant, so its schema is hostile input too: there is no ``$ref`` (nothing
to fetch, nothing recursive), no ``pattern`` (no expression that a text can make run for minutes),
and what is not supported is refused when the manifest is read, not ignored when a command comes.
An object is closed unless its schema says otherwise: a name that nobody declared reaches no code.
Messages name places and expectations and never repeat a value: arguments may hold secrets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bridgehold.ids import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Schema = dict[str, object]

MAX_PROBLEMS = 20
MAX_NODES = 500
MAX_DEPTH = 24
MAX_ENUM = 200
MAX_CHOICES = 16
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


def schema_problems(schema: object, where: str) -> list[str]:
    """What is wrong with a schema itself; an empty list where it can be used."""
    return list(_schema_problems(schema, where, [MAX_NODES], 0))[:MAX_PROBLEMS]


def problems(schema: Schema, value: object, where: str = "arguments") -> list[str]:
    """Where and how `value` does not fit `schema` (which has no problems); at most `MAX_PROBLEMS`."""
    found: list[str] = []
    for problem in _problems(schema, value, where):
        found.append(problem)
        if len(found) == MAX_PROBLEMS:
            break
    return found


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


def names_within(arguments: object, names: Mapping[str, str], first: str = "") -> tuple[str, ...]:
    """`first`, if any, and what `names` says of each key that stands in `arguments`, at any depth; once each.

    A command's resources: its operation's kind, and each whose id it is given.
    """
    found = {first: None} if first else {}
    waiting = [arguments] if names else []
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found.update(dict.fromkeys(names[key] for key in one if key in names))
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return tuple(found)


def _extra(schema: Schema) -> object:
    """What the schema of an object says of names that it doesn't declare: nothing said is no."""
    kinds = schema.get("type", ())
    speaks = "properties" in schema or "object" in (kinds if isinstance(kinds, list) else (kinds,))
    return schema.get("additionalProperties", not speaks)


def _schema_problems(schema: object, where: str, left: list[int], depth: int) -> Iterator[str]:
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        yield f"{where[:200]}: a schema has at most {MAX_NODES} parts, {MAX_DEPTH} deep"
        return
    if not isinstance(schema, dict):
        yield f"{where}: a schema is a table"
        return
    for key in schema:
        if key not in KEYWORDS:
            yield f"{where}: {key!r} is not supported{nearest(key, KEYWORDS)}"
    yield from _keyword_problems(schema, where)
    properties = schema.get("properties", {})
    if isinstance(properties, dict):
        for name, part in properties.items():
            yield from _schema_problems(part, f"{where}.properties.{name}", left, depth + 1)
    extra = schema.get("additionalProperties", True)
    if not isinstance(extra, bool):
        yield from _schema_problems(extra, f"{where}.additionalProperties", left, depth + 1)
    if "items" in schema:
        yield from _schema_problems(schema["items"], f"{where}.items", left, depth + 1)
    choices = schema.get("anyOf", [])
    if isinstance(choices, list):
        for index, part in enumerate(choices):
            yield from _schema_problems(part, f"{where}.anyOf[{index}]", left, depth + 1)


def _keyword_problems(schema: Schema, where: str) -> Iterator[str]:
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            yield f"{where}.type: one of {', '.join(_TYPES)}"
    if not isinstance(schema.get("properties", {}), dict):
        yield f"{where}.properties: a table"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{where}.required: a list of names"
    for key, most in (("enum", MAX_ENUM), ("anyOf", MAX_CHOICES)):
        listed = schema.get(key, [None])
        if not isinstance(listed, list) or not 1 <= len(listed) <= most:
            yield f"{where}.{key}: a list of 1 to {most}"
    for key in _COUNTS:
        if key in schema and not (_is_integer(schema[key]) and _number(schema[key]) >= 0):
            yield f"{where}.{key}: an integer, 0 or more"
    for key in _NUMBERS:
        if key in schema and not _is_number(schema[key]):
            yield f"{where}.{key}: a number"


def _problems(schema: Schema, value: object, where: str) -> Iterator[str]:
    kinds = schema.get("type")
    if kinds is not None:
        allowed = [str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])]
        if not any(isinstance(value, _PLAIN.get(kind, ())) or _fits(kind, value) for kind in allowed):
            yield f"{where}: {' or '.join(allowed)} expected, {_kind(value)} given"
            return
    listed = schema.get("enum")
    if isinstance(listed, list) and not any(_same(value, item) for item in listed):
        yield f"{where}: one of {', '.join(repr(item)[:60] for item in listed[:12])} expected"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where}: {schema['const']!r} expected"
    if isinstance(value, dict):
        yield from _object_problems(schema, value, where)
    elif isinstance(value, list):
        yield from _array_problems(schema, value, where)
    elif isinstance(value, str):
        if "minLength" in schema or "maxLength" in schema:
            yield from _bounds(schema, len(value), "Length", where, "characters")
    elif _is_number(value):
        yield from _number_problems(schema, _number(value), where)
    if "anyOf" in schema:
        yield from _choice_problems(schema, value, where)


def _object_problems(schema: Schema, value: dict[str, object], where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    assert isinstance(properties, dict)  # noqa: S101 - the schema was checked
    required = schema.get("required", [])
    assert isinstance(required, list)  # noqa: S101 - the schema was checked
    for name in required:
        if name not in value:
            yield f"{where}.{name}: missing"
    if "minProperties" in schema or "maxProperties" in schema:
        yield from _bounds(schema, len(value), "Properties", where, "entries")
    extra = _extra(schema) if value.keys() - properties.keys() else False
    for name, item in value.items():
        place = f"{where}.{name[:80]}"
        if name in properties:
            yield from _problems(properties[name], item, place)
        elif extra is False:
            yield f"{place}: unknown{nearest(name, properties)}"
        elif isinstance(extra, dict):
            yield from _problems(extra, item, place)


def _array_problems(schema: Schema, value: list[object], where: str) -> Iterator[str]:
    yield from _bounds(schema, len(value), "Items", where, "items")
    items = schema.get("items")
    if isinstance(items, dict) and items:
        for index, item in enumerate(value):
            yield from _problems(items, item, f"{where}[{index}]")


def _choice_problems(schema: Schema, value: object, where: str) -> Iterator[str]:
    choices = schema.get("anyOf")
    if not isinstance(choices, list):
        return
    first: list[str] = []
    for choice in choices:
        found = next(_problems(choice, value, where), None)
        if found is None:
            return
        first.append(found)
    yield f"{where}: fits none of {len(choices)} forms ({'; '.join(first)[:300]})"


def _number_problems(schema: Schema, value: float, where: str) -> Iterator[str]:
    tests: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
        ("minimum", lambda number, bound: number >= bound, "at least"),
        ("maximum", lambda number, bound: number <= bound, "at most"),
        ("exclusiveMinimum", lambda number, bound: number > bound, "more than"),
        ("exclusiveMaximum", lambda number, bound: number < bound, "less than"),
    )
    for key, holds, words in tests:
        if key in schema and not holds(value, _number(schema[key])):
            yield f"{where}: {words} {schema[key]} expected"


def _bounds(schema: Schema, count: int, what: str, where: str, unit: str) -> Iterator[str]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and count < _number(least):
        yield f"{where}: at least {least} {unit} expected, {count} given"
    if most is not None and count > _number(most):
        yield f"{where}: at most {most} {unit} expected, {count} given"


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


def _same(left: object, right: object) -> bool:
    """Equality as JSON has it: true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)
