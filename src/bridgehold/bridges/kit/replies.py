"""The simulated provider's documents and stream events, in OpenAI's shapes (pure but for the time)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from bridgehold.bridges.kit.answers import tokens_of
from bridgehold.bridges.kit.tool_calls import ToolCall


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
        document["usage"] = _usage(written(text, calls), prompt_tokens)
    return document


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def written(text: str, calls: Sequence[ToolCall]) -> str:
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
        spent = _usage(written(text, calls), prompt_tokens)
        events.append(event({**base, "choices": [], "usage": spent}))
    return [*events, b"data: [DONE]\n\n"]


def embeddings(model: str, vectors: list[list[float]], tokens: int) -> dict[str, Any]:
    """OpenAI's answer with `vectors`, for a request of so many `tokens`."""
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def models() -> dict[str, Any]:
    """OpenAI's list of models: three names."""
    names = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names],
    }


def event(value: dict[str, Any]) -> bytes:
    """One event of a stream, encoded."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
