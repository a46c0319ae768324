"""Bodies that make a provider an exit or a shared drawer (ABUSE 45), and honest ones that don't."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.policies.content import MAX_DEPTH, MAX_VALUES, UNREADABLE, body_facts


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-5", "messages": [{"role": "user", "content": content}], **more}


def respond(items: Any, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-5", "input": items, **more}


SCHEMA = {
    "type": "object",
    "properties": {"url": {"type": "string"}, "image_url": "https://x", "file_id": "f"},
}

HONEST: list[dict[str, Any]] = [
    chat("See https://example.com/file_id and tools"),
    chat([{"type": "text", "text": "https://x"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]),
    chat([{"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA"}}]),
    chat("x", tools=[{"type": "function", "function": {"name": "open", "parameters": SCHEMA}}], tool_choice="auto"),
    chat("x", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}),
    chat("x", store=False, previous_response_id=None, tools=[], temperature=0.1, stream=True, stream_options={"include_usage": True}),
    chat("x", metadata={"url": "https://x", "a_b": "1", "ab": "2"}, logit_bias={"123": -100}),
    {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"url": "https://x"}'}}]}]},
    {"model": "m", "prompt": ["a", "b"], "max_tokens": 3},
    {"model": "text-embedding-3-small", "input": [[1, 2, 3], [4]]},
    {"model": "text-embedding-3-small", "input": list(range(300_000))},
    respond("x", store=False, text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}),
    respond([{"role": "user", "content": [{"type": "input_text", "text": "x"}]}, {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c", "output": "1"}, {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}]),
    respond("x", tools=[{"type": "function", "name": "f", "parameters": SCHEMA}, {"type": "custom", "name": "g"}]),
    {"model": "claude", "max_tokens": 1, "tools": [{"name": "f", "input_schema": SCHEMA}],
     "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"url": "https://x", "a_b": 1, "ab": 1}}]}]},
    {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"uri": "https://x"}}}, {"inlineData": {"mimeType": "a", "data": "b"}}]}],
     "tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}], "generationConfig": {"responseSchema": SCHEMA}},
]  # fmt: skip

URLS: list[dict[str, Any]] = [
    chat([{"type": "image_url", "image_url": {"url": "https://evil.example/?q=secret"}}]),
    chat([{"type": "image_url", "image_url": "http://evil.example"}]),
    chat([{"type": "image_url", "image_url": {"url": " data:x"}}]),
    chat([{"type": "image_url", "imageUrl": {"URL": "https://evil.example"}}]),
    chat([{"type": "image_url", "IMAGE_URL": "https://evil.example"}]),
    chat([{"type": "image_url", "image_\u212aurl": "x", "image_ur\u017f": ["https://evil.example"], "image_urls": ["https://evil.example"]}]),
    chat([{"type": "video_url", "video_url": {"url": "ftp://evil.example"}}]),
    chat([[{"image_url": "https://evil.example"}]]),
    respond([{"role": "user", "content": [{"type": "input_image", "image_url": "https://evil.example"}]}]),
    respond([{"role": "user", "content": [{"type": "input_file", "file_url": "https://evil.example"}]}]),
    respond([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "https://evil.example"}]}]),
    {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "https://evil.example"}}]}]},
    {"messages": [{"content": [{"type": "image", "image": "https://evil.example"}]}]},
    {"contents": [{"parts": [{"fileData": {"fileUri": "gs://x"}}]}]},
    {"type": "tool_use", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://evil.example"}]}]},
    chat("x", extra={"parameters": {"image_url": "https://evil.example"}}),
]  # fmt: skip

TOOLS: list[dict[str, Any]] = [
    *[respond("x", tools=[{"type": kind}]) for kind in
      ("web_search", "web_search_preview", "web_search_2025_08_26", "file_search", "code_interpreter", "mcp", "computer_use_preview",
       "image_generation", "shell", "", None, 3)],
    respond("x", tools=[{"type": "function", "name": "f"}, {"type": "mcp", "server_url": "https://evil.example"}]),
    respond("x", tools=[{"Type": "web_search"}]),
    respond("x", tools={"type": "web_search"}),
    respond("x", Tools=[{"type": "web_search"}]),
    respond("x", tools=["web_search"]),
    chat("x", web_search_options={}),
    chat("x", plugins=[{"id": "web"}]),
    chat("x", mcp_servers=[{"type": "url"}]),
    chat("x", data_sources=[{}]),
    {"contents": [], "tools": [{"googleSearch": {}}]},
    {"contents": [], "tools": [{"functionDeclarations": [], "url_context": {}}]},
    {"model": "gpt-4o-search-preview", "messages": []},
    {"Model": "o3-deep-research", "messages": []},
    {"model": "meta/llama:online", "messages": []},
    {"model": "perplexity/sonar", "messages": []},
]  # fmt: skip

STORED: list[dict[str, Any]] = [
    respond("x", ſtore=True),
    respond("x", previous_response_id="resp_1"),
    respond("x", conversation="conv_1"),
    respond("x", conversation={"id": "conv_1"}),
    respond("x", store=True),
    respond("x", background=True),
    respond("x", prompt={"id": "pmpt_1"}),
    respond([{"type": "item_reference", "id": "msg_1"}]),
    respond([{"id": "msg_1"}]),
    respond([{"type": None, "id": "msg_1"}]),
    respond([{"type": "image_generation_call", "id": "ig_1"}]),
    respond([{"type": "reasoning", "id": "rs_1", "summary": []}]),
    respond([{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]),
    respond([{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]),
    respond("x", vector_store_ids=["vs_1"]),
    respond("x", container="cntr_1"),
    chat([{"type": "file", "file": {"file_id": "file_1"}}]),
    {"model": "m", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
    {"contents": [], "cachedContent": "cachedContents/x"},
]  # fmt: skip


@pytest.mark.parametrize("body", HONEST)
@pytest.mark.parametrize("shape", ["openai", "custom"])
def test_inference_is_inference(body: dict[str, Any], shape: str) -> None:
    assert body_facts(shape, body).first == ""


@pytest.mark.parametrize("body", URLS)
def test_urls_that_the_provider_would_fetch(body: dict[str, Any]) -> None:
    assert body_facts("openai", body).remote_url


@pytest.mark.parametrize("body", TOOLS)
def test_tools_that_the_provider_would_run(body: dict[str, Any]) -> None:
    assert body_facts("openai", body).server_tool


@pytest.mark.parametrize("body", STORED)
def test_objects_that_the_provider_stores(body: dict[str, Any]) -> None:
    assert body_facts("openai", body).stored_object


def test_the_place_is_named() -> None:
    facts = body_facts("openai", chat([{"type": "text"}, {"image_url": {"url": "https://evil.example"}}]))
    assert facts.first == "the provider would fetch a URL: messages[0].content[1].image_url.url"


def test_what_can_not_be_judged_is_said() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH + 2):
        deep = [{"a": deep}]
    assert body_facts("openai", chat(deep)).unreadable.startswith("deeper than")
    assert body_facts("openai", chat([{"a": 1}] * (MAX_VALUES + 1))).unreadable.startswith("more than")
    assert (
        body_facts("openai", {"store": False, "Store": True}).unreadable
        == "two spellings of one key in the body"
    )
    values: tuple[object, ...] = ([], "x", None, 3)
    for value in values:
        assert body_facts("openai", value) == UNREADABLE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "tools", "input", "type", "prompt", "model", "parameters", "content"]), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON, JSON)
def test_any_body_has_an_answer_and_a_url_beside_it_is_seen(value: Any, other: Any) -> None:
    body_facts("openai", value)
    facts = body_facts(
        "openai", {"messages": [{"content": [value, other, {"image_url": "https://evil.example"}]}]}
    )
    assert facts.remote_url
