"""When the simulated provider calls a caller's tools, and with what: deterministic, like its answers.

It calls a tool that the last message of the user's names (``calculator {"expression": "6*7"}``), or
one that the request demands. Arguments are the JSON object behind the name, or made from the tool's
schema. Once a tool has answered, it says what the tool said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bridgehold.bridges.kit.answers import from_schema, text_of

_MOST = 8
"""Calls in one answer."""


class ToolCall(NamedTuple):
    """One call of a tool by the simulated model."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


def tool_calls(body: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls that answer a chat completion's `body`; empty where a text does."""
    tools = dict(_functions(body.get("tools")))
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none" or not isinstance(last, Mapping):
        return ()
    text = text_of(last.get("content"))
    if isinstance(choice, Mapping):
        holder = choice.get("function")
        demanded = holder.get("name") if isinstance(holder, Mapping) else None
        names = [demanded] if isinstance(demanded, str) and demanded in tools else []
    else:
        names = _named(tools, text) if last.get("role") == "user" else []
        if choice in ("required", "any") and not names:
            names = list(tools)[:1]
    place = len(messages) if isinstance(messages, list) else 0
    return tuple(
        ToolCall(f"call_sim_{place}_{index}", name, json.dumps(_arguments(name, tools[name], text)))
        for index, name in enumerate(names[:_MOST])
    )


def _functions(tools: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, schema of the arguments) of each function."""
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            yield function["name"], schema if isinstance(schema, Mapping) else {}


def _named(tools: Mapping[str, Any], text: str) -> list[str]:
    """The tools that `text` names, in the order in which it does."""
    return sorted((name for name in tools if name and name in text), key=text.index)


def _arguments(name: str, schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    behind = text.partition(name)[2].lstrip(" :(")
    if behind.startswith("{"):
        try:
            given, _ = json.JSONDecoder().raw_decode(behind)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict):
            return given
    return from_schema(schema, text)
