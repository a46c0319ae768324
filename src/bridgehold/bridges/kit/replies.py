"""The simulated provider's documents and stream events, in OpenAI's shapes (pure but for the time)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from bridgehold.bridges.kit.answers import tokens_of
from bridgehold.bridges.kit.tool_calls import ToolCall


def error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def chat(
    model: str, text: str, prompt_tokens: int, *, usage: bool = True, calls: Sequence[ToolCall] = ()
) -> dict[str, Any]:
    """A chat completion that says `text`, or makes `calls`."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message |= {"content": text or None, "tool_calls": [_call(call) for call in calls]}
    finish = "tool_calls" if calls else "stop"
    document: dict[str, Any] = {
        "id": "chatcmpl-sim",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
    }
    if usage:
        document["usage"] = _usage(said(text, calls), prompt_tokens)
    return document


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def said(text: str, calls: Sequence[ToolCall]) -> str:
    """All that the model wrote, for counting."""
    return " ".join([text, *(f"{call.name} {call.arguments}" for call in calls)])


def _usage(text: str, prompt_tokens: int) -> dict[str, int]:
    completion = tokens_of(text)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
    }


def words(text: str) -> list[str]:
    """The pieces a stream sends: a word and what follows it, as tokens roughly are."""
    return re.findall(r"\S+\s*|\s+", text)


def chat_events(
    model: str, text: str, prompt_tokens: int, *, usage: bool, calls: Sequence[ToolCall] = ()
) -> list[bytes]:
    """Every event of a streamed chat completion, encoded."""
    base = {
        "id": "chatcmpl-sim",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": word}) for word in words(text)]
    for index, call in enumerate(calls):
        whole = {"index": index, **_call(call)}
        events.append(chunk({"tool_calls": [whole | {"function": {"name": call.name, "arguments": ""}}]}))
        events += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in words(call.arguments)
        ]
    events.append(chunk({}, "tool_calls" if calls else "stop"))
    if usage:
        spent = _usage(said(text, calls), prompt_tokens)
        events.append(event({**base, "choices": [], "usage": spent}))
    return [*events, b"data: [DONE]\n\n"]


def response(model: str, text: str, prompt_tokens: int, *, status: str = "completed") -> dict[str, Any]:
    output_tokens = tokens_of(text) if text else 0
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "type": "message",
        "id": "msg_sim",
        "status": status,
        "role": "assistant",
        "content": [part],
    }
    return {
        "id": "resp_sim",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": model,
        "output": [message] if text else [],
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


def response_events(model: str, text: str, prompt_tokens: int) -> list[bytes]:
    """Every event of a streamed response, encoded."""
    begun = response(model, "", prompt_tokens, status="in_progress")
    item = {"type": "message", "id": "msg_sim", "status": "in_progress", "role": "assistant", "content": []}
    place = {"item_id": "msg_sim", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    done = response(model, text, prompt_tokens)
    listed: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
    ]
    listed += [
        {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in words(text)
    ]
    listed += [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]},
        {"type": "response.completed", "response": done},
    ]
    return [
        f"event: {one['type']}\n".encode() + event({**one, "sequence_number": number})
        for number, one in enumerate(listed)
    ]


def embeddings(model: str, vectors: list[list[float]], tokens: int) -> dict[str, Any]:
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def models() -> dict[str, Any]:
    names = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names],
    }


def event(value: dict[str, Any]) -> bytes:
    """One event of a stream, encoded."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
