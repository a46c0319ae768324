"""What a schema itself may be: of which words, how large, how deep. A tenant may have written it."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from bridgehold.ids import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, object]
MAX_PROBLEMS = 20
MAX_NODES = 500
MAX_DEPTH = 24
MAX_ENUM = 200
MAX_CHOICES = 16
MAX_LISTED = 5_000
"""Values in all of a schema's `enum`, `const` and `required`, those inside of others counted."""
MAX_NAME = 200
"""Characters of a property's name."""
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
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
    """What is wrong with a schema itself, at most `MAX_PROBLEMS`; an empty list where it can be used."""
    return list(islice(_schema_problems(schema, where, [MAX_NODES, MAX_LISTED], 0), MAX_PROBLEMS))


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
    return {**made, "additionalProperties": False} if extra_names(schema) is False else made


def named(schema: Schema) -> Schema:
    """What `schema` says of arguments, which are given by name: none at all where it says nothing."""
    return {"type": "object", **schema}


def extra_names(schema: Schema) -> object:
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
    if len(named) > len(TYPES) or any(kind not in TYPES for kind in named):
        yield f"{where}.type: one of {', '.join(TYPES)}, or a list of them"
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
        if key in schema and not (is_integer(schema[key]) and as_number(schema[key]) >= 0):
            yield f"{where}.{key}: an integer, 0 or more"
    for key in _NUMBERS:
        if key in schema and not is_number(schema[key]):
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


def is_number(value: object) -> bool:
    """Whether it is a number as JSON has them: finite, and no boolean."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)  # of any size: no float is made of it


def is_integer(value: object) -> bool:
    """Whether it is a whole number, as 1.0 is."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def as_number(value: object) -> float:
    """What `is_number` or `is_integer` has said is one."""
    assert isinstance(value, int | float)  # noqa: S101 - callers asked `is_number`
    return value
