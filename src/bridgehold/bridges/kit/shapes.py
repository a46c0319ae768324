"""The simulated provider in two other shapes, anthropic's messages and gemini's contents (pure).

A request is read into the OpenAI form, for which `answers` and `tool_calls` have what to say, and
their words are written in the shape that was asked in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bridgehold.bridges.kit.answers import text_of, tokens_of
from bridgehold.bridges.kit.replies import event, words, written
from bridgehold.bridges.kit.tool_calls import ToolCall


def read_anthropic(body: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAI form of a request for a message."""
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": text_of(body["system"])})
    for message in _tables(body.get("messages")):
        content = message.get("content")
        results = [part for part in _tables(content) if part.get("type") == "tool_result"]
        messages += [{"role": "tool", "content": text_of(part.get("content"))} for part in results]
        if not results:
            messages.append({"role": message.get("role"), "content": text_of(content)})
    tools = [_function(tool, "input_schema") for tool in _tables(body.get("tools"))]
    asked: dict[str, Any] = {"messages": messages, "tools": tools}
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        asked["tool_choice"] = named if choice.get("type") == "tool" else choice.get("type")
    return asked


def anthropic_message(
    model: str, text: str, prompt_tokens: int, calls: Sequence[ToolCall] = ()
) -> dict[str, Any]:
    """Anthropic's answer with `text` and `calls`."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text or not calls else []
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
        for call in calls
    ]
    return {
        "id": "msg_sim",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": prompt_tokens, "output_tokens": tokens_of(written(text, calls))},
    }


def anthropic_events(
    model: str, text: str, prompt_tokens: int, calls: Sequence[ToolCall] = ()
) -> list[bytes]:
    """Every event of a streamed message, encoded."""
    whole = anthropic_message(model, text, prompt_tokens, calls)
    usage = whole["usage"]
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    listed: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, part in enumerate(whole["content"]):
        empty = {**part, "text": ""} if part["type"] == "text" else {**part, "input": {}}
        listed.append({"type": "content_block_start", "index": index, "content_block": empty})
        listed += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(part)]
        listed.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    listed.append({"type": "message_delta", "delta": ended, "usage": usage})
    listed.append({"type": "message_stop"})
    return [f"event: {one['type']}\n".encode() + event(one) for one in listed]


def _deltas(part: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if part["type"] == "text":
        yield from ({"type": "text_delta", "text": word} for word in words(part["text"]))
    else:
        for piece in words(json.dumps(part["input"])):
            yield {"type": "input_json_delta", "partial_json": piece}


def read_gemini(body: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAI form of a request to generate content."""
    system = body.get("systemInstruction")
    messages: list[dict[str, Any]] = []
    if isinstance(system, Mapping):
        messages.append({"role": "system", "content": _texts(system)})
    for content in _tables(body.get("contents")):
        answers = [
            part["functionResponse"]
            for part in _tables(content.get("parts"))
            if isinstance(part.get("functionResponse"), Mapping)
        ]
        messages += [{"role": "tool", "content": json.dumps(answer.get("response"))} for answer in answers]
        if not answers:
            role = "assistant" if content.get("role") == "model" else "user"
            messages.append({"role": role, "content": _texts(content)})
    asked: dict[str, Any] = {
        "messages": messages,
        "tools": [
            _function(
                declared, "parametersJsonSchema" if "parametersJsonSchema" in declared else "parameters"
            )
            for tool in _tables(body.get("tools"))
            for declared in _tables(tool.get("functionDeclarations"))
        ],
    }
    wanted = body.get("generationConfig")
    schema = wanted.get("responseJsonSchema") if isinstance(wanted, Mapping) else None
    if isinstance(schema, Mapping):
        asked["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return asked


def gemini_content(
    model: str, text: str, prompt_tokens: int, calls: Sequence[ToolCall] = (), *, last: bool = True
) -> dict[str, Any]:
    """An answer; with `last` False one of a stream's, whose reason to stop comes later."""
    parts: list[dict[str, Any]] = [{"text": text}] if text or not calls else []
    parts += [{"functionCall": {"name": call.name, "args": json.loads(call.arguments)}} for call in calls]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if not last:
        return {"candidates": [candidate], "modelVersion": model}
    spent = tokens_of(written(text, calls))
    usage = {
        "promptTokenCount": prompt_tokens,
        "candidatesTokenCount": spent,
        "totalTokenCount": prompt_tokens + spent,
    }
    ended = {**candidate, "finishReason": "STOP"}
    return {"candidates": [ended], "usageMetadata": usage, "modelVersion": model}


def gemini_events(model: str, text: str, prompt_tokens: int, calls: Sequence[ToolCall] = ()) -> list[bytes]:
    """Every event of a streamed answer, encoded; the last one has the usage of all."""
    pieces = [gemini_content(model, word, 0, last=False) for word in words(text)]
    final = gemini_content(model, text, prompt_tokens, calls)
    if pieces:
        final["candidates"] = [
            {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}
        ]
    return [event(piece) for piece in (*pieces, final)]


def _texts(content: Mapping[str, Any]) -> str:
    return text_of(content.get("parts"))


def _function(tool: Mapping[str, Any], schema: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.get("name"), "parameters": tool.get(schema)}}


def _tables(items: object) -> Iterable[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
