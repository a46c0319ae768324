"""What the simulated provider says: deterministic answers to prompts, in the form the prompt asks for.

DSPy asks for fields by markers (``[[ ## answer ## ]]``) or as a JSON object; both are read out of
the prompt, so that its programs run without a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_TICKED = re.compile(r"`(\w+)`")
_QUESTION = re.compile(r"\[\[ ## (\w+) ## \]\]\s*\n(.*?)(?=\n\s*\[\[ ## |\nRespond with|\Z)", re.DOTALL)
_INSTRUCTION = re.compile(r"Respond with the corresponding output fields.*", re.DOTALL)
_JSON_INSTRUCTION = re.compile(r"Respond with a JSON object.*", re.DOTALL)
_KINDS = {"integer": "int", "number": "float", "boolean": "bool", "array": "list", "object": "dict"}
_DEEPEST = 8
"""Levels of a schema that are looked at."""
_FIELD_TYPE = re.compile(r"\[\[ ## (\w+) ## \]\]`? \(must be [^)]*Python ([^)]+)\)")


def answer(messages: Iterable[Mapping[str, Any]], response_format: object = None) -> str:
    """The assistant's text for `messages` in the OpenAI form."""
    texts = [text_of(message.get("content")) for message in messages]
    last = texts[-1] if texts else ""
    everything = "\n".join(texts)
    marked = _INSTRUCTION.search(last)
    if marked is not None and _MARKER.search(marked[0]):
        return _marked(marked[0], last)
    as_json = _JSON_INSTRUCTION.search(last)
    schema = _schema(response_format)
    if as_json is not None:
        names = [name for name in _TICKED.findall(as_json[0]) if name != "completed"]
        return json.dumps({name: value_for(name, "", last) for name in dict.fromkeys(names)})
    if schema is not None:
        return json.dumps(from_schema(schema, everything))
    if isinstance(response_format, Mapping) and response_format.get("type") == "json_object":
        return json.dumps({"answer": value_for("answer", "", last)})
    return f"You said: {_short(last)}"


def text_of(content: object) -> str:
    """The text of a message's content: a string, or parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            str(part.get("text", "")) for part in content if isinstance(part, Mapping) and "text" in part
        )
    return ""


def _marked(instruction: str, prompt: str) -> str:
    types = dict(_FIELD_TYPE.findall(instruction))
    names = [name for name in dict.fromkeys(_MARKER.findall(instruction)) if name != "completed"]
    subject = _subject(prompt)
    fields = [
        f"[[ ## {name} ## ]]\n{_plain(_value(name, types.get(name, ''), prompt, subject))}\n"
        for name in names
    ]
    return "\n".join([*fields, "[[ ## completed ## ]]"])


def value_for(name: str, kind: str, prompt: str) -> Any:
    """A value of field `name`; the same prompt always gives the same one."""
    return _value(name, kind, prompt, _subject(prompt))


def _subject(prompt: str) -> str:
    """What the prompt asks about: its first field, or all of it."""
    asked = _QUESTION.search(prompt)
    return _short(prompt if asked is None else asked[2])


def _value(name: str, kind: str, prompt: str, subject: str) -> Any:
    number = int.from_bytes(hashlib.sha256(f"{name}|{prompt}".encode()).digest()[:2], "big") % 100
    typed = {
        "int": number,
        "float": number / 100,
        "bool": number % 2 == 0,
        "list": [f"{name} one", f"{name} two"],
        "dict": {name: number},
    }
    for spelled, value in typed.items():
        if kind.strip().lower().startswith(spelled):
            return value
    if name in ("reasoning", "rationale"):
        return f"The input is: {subject} A provider on this machine answers it the same way each time."
    return f"The simulated {name} to: {subject}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _schema(response_format: object) -> Mapping[str, Any] | None:
    if not isinstance(response_format, Mapping):
        return None
    holder = response_format.get("json_schema")
    found = holder.get("schema") if isinstance(holder, Mapping) else response_format.get("schema")
    return found if isinstance(found, Mapping) else None


def from_schema(schema: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """An object that fits `schema`, as far as types, items, enums and the first of a choice go."""
    subject = _subject(prompt)
    return _object(schema, prompt, subject, _DEEPEST)


def _object(schema: Mapping[str, Any], prompt: str, subject: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or depth == 0:
        return {}
    return {
        name: _fitting(name, fact, prompt, subject, depth - 1)
        for name, fact in properties.items()
        if isinstance(fact, Mapping)
    }


def _fitting(name: str, fact: Mapping[str, Any], prompt: str, subject: str, depth: int) -> Any:
    choices, enum, items = fact.get("anyOf"), fact.get("enum"), fact.get("items")
    if depth and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return _fitting(name, choices[0], prompt, subject, depth - 1)
    if isinstance(enum, list) and enum:
        return enum[0]
    kind = str(fact.get("type", ""))
    if isinstance(fact.get("properties"), Mapping):
        return _object(fact, prompt, subject, depth)
    if kind == "array" and depth and isinstance(items, Mapping) and items.get("type", "string") != "string":
        return [_fitting(name, items, prompt, subject, depth - 1)]
    return _value(name, _KINDS.get(kind, ""), prompt, subject)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 120 else one_line[:117] + "…"


def tokens_of(text: str) -> int:
    """A count that is stable and of the right order: words and punctuation."""
    return max(1, len(re.findall(r"\w+|[^\w\s]", text)))


def embedding(text: str, size: int = 8) -> list[float]:
    """A vector of `size` numbers from -0.5 to 0.5 that depends on `text` alone."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return [round(byte / 255 - 0.5, 4) for byte in digest[:size]]
