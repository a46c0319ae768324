"""Commands that a bridge's manifest allows, with arguments made from their schemas (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bridgehold.bridges.manifest import EFFECTS, Manifest, Operation

SAMPLE_ID = "sample"
"""The id of every resource that is made."""
_ORDER = ("configure", "create", "run", "read", "delete")
_DEEPEST = 8


class Command(NamedTuple):
    """One command of a bridge's exercise."""

    operation: str
    arguments: dict[str, Any]


def commands_of(manifest: Manifest) -> tuple[Command, ...]:
    """Every operation once, so that what needs a resource comes after what makes it."""
    assert set(_ORDER) == set(EFFECTS)  # noqa: S101 - an effect that has no place would never be tried
    ranked = sorted(manifest.operations.values(), key=lambda one: _ORDER.index(one.effect))
    return tuple(Command(one.name, _arguments(one)) for one in ranked)


def _arguments(operation: Operation) -> dict[str, Any]:
    schema = operation.arguments
    made: dict[str, Any] = _object(schema, _DEEPEST)
    properties = schema.get("properties")
    if operation.id_field and isinstance(properties, Mapping) and operation.id_field in properties:
        made[operation.id_field] = SAMPLE_ID
    return made


def sample(schema: Mapping[str, Any], name: str, depth: int = _DEEPEST) -> Any:
    """A value that fits: what the author gives as example or default, else the plainest."""
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        given = schema.get(key)
        if isinstance(given, list) and given:
            return given[0]
    choices = schema.get("anyOf")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) and depth:
        return sample(choices[0], name, depth - 1)
    kind = schema.get("type", "string")
    return _plainest(str(kind[0] if isinstance(kind, list) and kind else kind), schema, name, depth)


def _plainest(kind: str, schema: Mapping[str, Any], name: str, depth: int) -> Any:
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "array":
        return _array(schema, name, depth)
    return _object(schema, depth) if kind == "object" else _text(schema, name)


def _text(schema: Mapping[str, Any], name: str) -> str:
    text = f"sample {name}"
    text += "." * max(0, int(schema.get("minLength", 0)) - len(text))
    longest = schema.get("maxLength")
    return text if longest is None else text[: int(longest)]


def _number(schema: Mapping[str, Any], *, whole: bool) -> float | int:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = 1
    if low is not None and value <= low:
        value = low + 1 if "exclusiveMinimum" in schema else low
    if high is not None and value >= high:
        value = high - 1 if "exclusiveMaximum" in schema else high
    return int(value) if whole else value


def _array(schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
    items = schema.get("items")
    known = items if isinstance(items, Mapping) else {}
    count = max(int(schema.get("minItems", 0)), 1 if known else 0)
    if not depth:
        return []
    return [sample(known, name, depth - 1) for _ in range(min(count, int(schema.get("maxItems", count))))]


def _object(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    return dict(_members(schema, depth)) if depth else {}


def _members(schema: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    for name in schema.get("required", ()):
        fact = known.get(name)
        yield name, sample(fact if isinstance(fact, Mapping) else {}, name, depth - 1)
    wanted = [*known, "sample"][: int(schema.get("minProperties", 0))]
    more = schema.get("additionalProperties")
    for name in wanted:
        fact = known.get(name, more)
        yield name, sample(fact if isinstance(fact, Mapping) else {}, name, depth - 1)
