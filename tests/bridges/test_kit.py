"""The test kit's provider: which tools it calls, with what, and in three shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridgehold.bridges.kit import replies, shapes
from bridgehold.bridges.kit.answers import from_schema
from bridgehold.bridges.kit.tool_calls import ToolCall, tool_calls

ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": ADD}} for name in ("add", "subtract")]
CALL = ToolCall("call_1", "add", '{"a": 1, "b": 2}')


def asked(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text}], "tools": TOOLS, **more}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (asked("subtract, then add"), ["subtract", "add"]),
        (asked("nothing of the kind"), []),
        (asked("add", role="tool"), []),
        (asked("add", tool_choice="none"), []),
        (asked("hello", tool_choice="required"), ["add"]),
        (asked("add", tool_choice={"type": "function", "function": {"name": "subtract"}}), ["subtract"]),
        (asked("add", tool_choice={"type": "function", "function": {"name": ["add"]}}), []),
        ({"messages": [{"role": "user", "content": "add"}]}, []),
        ({"messages": [], "tools": TOOLS}, []),
        ({"messages": "add", "tools": [1, {"function": 2}]}, []),
    ],
)
def test_a_tool_is_called_where_it_is_named_or_demanded(body: dict[str, Any], names: list[str]) -> None:
    assert [call.name for call in tool_calls(body)] == names


def test_arguments_stand_behind_the_name_or_come_from_the_schema() -> None:
    (call,) = tool_calls(asked('add {"a": 1, "b": {"c": 2}} please'))
    assert json.loads(call.arguments) == {"a": 1, "b": {"c": 2}}
    (call,) = tool_calls(asked("add {not JSON}"))
    made = json.loads(call.arguments)
    assert set(made) == {"a", "b"}
    assert all(isinstance(value, int) for value in made.values())


def test_values_fit_a_schema_and_a_deep_one_ends() -> None:
    schema: dict[str, Any] = {
        "properties": {
            "kind": {"enum": ["small", "large"]},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "place": {"type": "object", "properties": {"city": {"type": "string"}}},
            "note": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        }
    }
    made = from_schema(schema, "a prompt")
    assert made["kind"] == "small"
    assert [type(size) for size in made["sizes"]] == [int]
    assert isinstance(made["place"]["city"], str)
    assert isinstance(made["note"], bool)
    deep: dict[str, Any] = {"properties": {}}
    for _ in range(400):
        deep = {"properties": {"inner": deep}}
    assert json.dumps(from_schema(deep, "a prompt")).count("inner") < 20


def test_tool_calls_in_three_shapes() -> None:
    message = replies.chat("m", "", 3, calls=[CALL])["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    assert message["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": CALL.arguments}
    written = shapes.anthropic_message("m", "", 3, [CALL])
    assert written["content"] == [
        {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1, "b": 2}}
    ]
    assert written["stop_reason"] == "tool_use"
    content = shapes.gemini_content("m", "", 3, [CALL])["candidates"][0]["content"]
    assert content["parts"] == [{"functionCall": {"name": "add", "args": {"a": 1, "b": 2}}}]


def test_pieces_of_a_stream_make_up_the_whole() -> None:
    text = "one two\nthree"
    said = "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in decoded(replies.chat_events("m", text, 3, usage=False))
    )
    assert said == text
    events = decoded(shapes.anthropic_events("m", text, 3))
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == text
    events = decoded(shapes.anthropic_events("m", "", 3, [CALL]))
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"a": 1, "b": 2}
    events = decoded(shapes.gemini_events("m", text, 3))
    assert "".join(event["candidates"][0]["content"]["parts"][0]["text"] for event in events) == text
    assert events[-1]["usageMetadata"]["promptTokenCount"] == 3


def decoded(events: list[bytes]) -> list[dict[str, Any]]:
    lines = b"".join(events).decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("read", [shapes.read_anthropic, shapes.read_gemini])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": 3, "contents": 3, "tools": 3, "system": 3, "systemInstruction": 3, "tool_choice": 3},
        {"messages": [1, {}], "contents": [1, {"parts": [1, {"functionResponse": 2}]}], "tools": [{}]},
        {"generationConfig": {"responseJsonSchema": 4}, "tool_choice": {}},
    ],
)
def test_what_is_no_request_of_a_shape_is_read_as_an_empty_one(read: Any, body: dict[str, Any]) -> None:
    assert tool_calls(read(body)) == ()
