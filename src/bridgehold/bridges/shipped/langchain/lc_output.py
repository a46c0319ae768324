"""Structured output: a caller's JSON Schema, and whether an answer fits it.

Providers promise to keep to a schema and sometimes don't; LangChain hands on whatever was JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from bridgehold_sdk import InvalidInput

_DEPTH = 20
_SIZE = 2_000
_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class OutputMismatch(RuntimeError):  # noqa: N818 - named for what the caller meets
    """The model's answer does not fit the schema that was asked for."""


def read_schema(schema: dict[str, Any], title: str) -> dict[str, Any]:
    """`schema` with a title (providers want one), or `InvalidInput` where it can't be one of an object."""
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        raise InvalidInput('output_schema: {"type": "object", "properties": {…}} is expected')
    left = [_SIZE]
    for problem in _faults(schema, "output_schema", left, 0):
        raise InvalidInput(problem)
    if unknown := sorted(set(schema.get("required", [])) - set(schema["properties"])):
        raise InvalidInput(f"output_schema: {', '.join(unknown)[:200]} is required and no property")
    name = str(schema.get("title") or title)
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:60]
    return {**schema, "title": plain or "answer"}


def _faults(schema: object, where: str, left: list[int], depth: int) -> Iterator[str]:
    left[0] -= 1
    if left[0] < 0 or depth > _DEPTH:
        yield f"output_schema: at most {_SIZE} parts, {_DEPTH} deep"
        return
    if not isinstance(schema, dict):
        yield f"{where}: a schema is an object"
        return
    if "$ref" in schema:
        yield f"{where}: $ref is not supported; write the part where it is used"
        return
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _KINDS:
            yield f"{where}: type {str(kind)[:60]!r} is none of {', '.join(_KINDS)}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{where}.required: a list of names"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield f"{where}.properties: an object"
        return
    for name, part in properties.items():
        yield from _faults(part, f"{where}.{name[:60]}", left, depth + 1)
    if "items" in schema:
        yield from _faults(schema["items"], f"{where}[]", left, depth + 1)
    choices = schema.get("anyOf", [])
    for index, part in enumerate(choices if isinstance(choices, list) else [choices]):
        yield from _faults(part, f"{where}.anyOf[{index}]", left, depth + 1)
    if not isinstance(schema.get("enum", []), list):
        yield f"{where}.enum: a list of values"


def check_output(schema: dict[str, Any], value: object) -> Any:
    """`value`, or `OutputMismatch` that says where it does not fit; keywords not known here don't count."""
    for problem in _misfits(schema, value, "output"):
        raise OutputMismatch(f"the model's answer doesn't fit the schema: {problem}")
    return value


def _misfits(schema: dict[str, Any], value: object, where: str) -> Iterator[str]:
    kinds = schema.get("type", [])
    listed = kinds if isinstance(kinds, list) else [kinds]
    if listed and not any(_is(value, kind) for kind in listed):
        yield f"{where}: {' or '.join(listed)} is expected, not {type(value).__name__}"
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: no number"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: none of the values of the enum"
    if "const" in schema and value != schema["const"]:
        yield f"{where}: not the value of const"
    choices = schema.get("anyOf")
    if choices and not any(next(_misfits(part, value, where), None) is None for part in choices):
        yield f"{where}: fits none of anyOf"
    if isinstance(value, dict):
        yield from _object_misfits(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _misfits(schema["items"], item, f"{where}[{index}]")


def _object_misfits(schema: dict[str, Any], value: dict[str, Any], where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}.{name}: missing"
    for name, item in value.items():
        if name in properties:
            yield from _misfits(properties[name], item, f"{where}.{name}")
        elif schema.get("additionalProperties") is False:
            yield f"{where}.{name[:60]}: not in the schema"


def _is(value: object, kind: str) -> bool:
    if kind in ("integer", "number") and isinstance(value, bool):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS[kind])
