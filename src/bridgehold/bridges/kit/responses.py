"""OpenAI's responses: a request read into the form of chat completions, and documents and events (pure)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridgehold.bridges.kit.answers import text_of, tokens_of
from bridgehold.bridges.kit.replies import event, words, written
from bridgehold.bridges.kit.tool_calls import ToolCall


def read_response(body: Mapping[str, Any]) -> dict[str, Any]:
    """The form of chat completions of a request for a response."""
    given = body.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": str(given or "")}]
    instructions = body.get("instructions")
    messages: list[dict[str, Any]] = []
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        if not isinstance(item, Mapping):
            continue
        if item.get("type") == "function_call_output":
            messages.append({"role": "tool", "content": _output(item.get("output"))})
        elif item.get("type") != "function_call":
            messages.append({"role": item.get("role", "user"), "content": text_of(item.get("content"))})
    asked: dict[str, Any] = {"messages": messages, "tools": list(_tools(body.get("tools")))}
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        asked["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(choice, str):
        asked["tool_choice"] = choice
    wanted = body.get("text")
    form = wanted.get("format") if isinstance(wanted, Mapping) else None
    if form is not None:
        asked["response_format"] = form
    return asked


def _output(value: object) -> str:
    return value if isinstance(value, str) else text_of(value)


def _tools(tools: object) -> Iterator[dict[str, Any]]:
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, Mapping) and tool.get("type") == "function":
            function = {"name": tool.get("name"), "parameters": tool.get("parameters")}
            yield {"type": "function", "function": function}


def response(
    model: str,
    text: str,
    prompt_tokens: int,
    calls: Sequence[ToolCall] = (),
    *,
    status: str = "completed",
) -> dict[str, Any]:
    """A response that says `text`, or makes `calls`."""
    spoken = written(text, calls)
    output_tokens = tokens_of(spoken) if spoken else 0
    return {
        "id": "resp_sim",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": model,
        "output": [*([_message(text, status)] if text else []), *(_call(call, status) for call in calls)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + output_tokens,
        },
    }


def _message(text: str, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_sim", "status": status, "role": "assistant", "content": [part]}


def _call(call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{call.id}",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def response_events(model: str, text: str, prompt_tokens: int, calls: Sequence[ToolCall] = ()) -> list[bytes]:
    """Every event of a streamed response, encoded."""
    begun = response(model, "", prompt_tokens, status="in_progress")
    done = response(model, text, prompt_tokens, calls)
    listed: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for place, item in enumerate(done["output"]):
        steps = _message_events(item, place) if item["type"] == "message" else _called(item, place)
        listed += [*steps, {"type": "response.output_item.done", "output_index": place, "item": item}]
    listed.append({"type": "response.completed", "response": done})
    return [
        f"event: {one['type']}\n".encode() + event({**one, "sequence_number": number})
        for number, one in enumerate(listed)
    ]


def _message_events(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": place, "content_index": 0}
    part = item["content"][0]
    empty = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": place, "item": empty}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
    for word in words(part["text"]):
        yield {"type": "response.output_text.delta", **where, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}


def _called(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": place}
    empty = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": place, "item": empty}
    for piece in words(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
    yield {"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]}
