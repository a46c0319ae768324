"""Signatures as text and as structure: read, checked before anything runs, described."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import dspy

from bridgehold_sdk import InvalidInput

TYPES: dict[str, Any] = {
    "": str,
    "str": str,
    "string": str,
    "text": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "boolean": bool,
    "list": list[Any],
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
    "dict": dict[str, Any],
    "object": dict[str, Any],
}


def make_signature(signature: str | dict[str, Any], instructions: str = "") -> Any:
    """A signature class of ``question -> answer`` or of ``{name, inputs, outputs}``."""
    try:
        if isinstance(signature, str):
            return dspy.Signature(signature, instructions or None)
        fields: dict[str, tuple[Any, Any]] = {}
        for kind, make in (("inputs", dspy.InputField), ("outputs", dspy.OutputField)):
            for item in signature[kind]:
                if item["name"] in fields:
                    raise InvalidInput(f"two fields are named {item['name']!r}")
                fields[item["name"]] = (field_type(item), make(desc=item.get("description") or None))
        text = instructions or signature.get("description") or None
        return dspy.make_signature(fields, text, signature.get("name") or "StringSignature")
    except (ValueError, TypeError, SyntaxError) as error:
        raise InvalidInput(f"the signature can't be read: {error}") from error


def field_type(item: dict[str, Any]) -> Any:
    """The Python type of a field, for DSPy."""
    if item.get("choices"):
        return Literal[tuple(item["choices"])]
    spelled = str(item.get("type") or "").replace(" ", "").lower()
    if spelled not in TYPES:
        known = ", ".join(name for name in TYPES if name)
        raise InvalidInput(f"field {item['name']!r}: type {spelled!r} is none of {known}")
    return TYPES[spelled]


def describe_signature(signature: Any) -> dict[str, Any]:
    """A signature's instructions and fields, as callers are told."""
    return {
        "name": signature.__name__,
        "instructions": signature.instructions,
        "inputs": list(_fields(signature.input_fields)),
        "outputs": list(_fields(signature.output_fields)),
    }


def check_inputs(signature: Any, inputs: dict[str, Any], what: str) -> None:
    """`InvalidInput` unless `inputs` are exactly the signature's, of its types."""
    wanted = signature.input_fields
    if missing := sorted(set(wanted) - set(inputs)):
        raise InvalidInput(f"inputs lack {', '.join(missing)}")
    if extra := sorted(set(inputs) - set(wanted)):
        raise InvalidInput(f"{what} has no input {', '.join(extra)[:300]}")


def _fields(fields: dict[str, Any]) -> Iterable[dict[str, str]]:
    for name, info in fields.items():
        annotation = info.annotation
        yield {
            "name": name,
            "type": annotation.__name__ if isinstance(annotation, type) else str(annotation),
            "description": str((info.json_schema_extra or {}).get("desc") or ""),
        }
