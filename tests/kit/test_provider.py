"""The simulated provider over real sockets: three shapes, streamed and whole, their errors, and faults by seed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridgehold.bridges.kit.behaviour import Scripted
from bridgehold.bridges.kit.faults import FAULTS, Faults, fault_of
from bridgehold.bridges.kit.provider import Behaviour, Provider
from bridgehold.bridges.kit.responses import read_response
from bridgehold.bridges.kit.tool_calls import tool_calls

ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
CALL = 'add {"a": 1, "b": 2}'


def request_of(
    shape: str, text: str, *, stream: bool = False, tools: bool = False
) -> tuple[str, dict[str, Any]]:
    """(path below the base, body) of the same question in a shape."""
    body: dict[str, Any]
    if shape == "chat":
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
        if tools:
            body["tools"] = [{"type": "function", "function": {"name": "add", "parameters": ADD}}]
        return "/chat/completions", body
    if shape == "responses":
        body = {"model": "m", "input": text, "stream": stream}
        if tools:
            body["tools"] = [{"type": "function", "name": "add", "parameters": ADD}]
        return "/responses", body
    if shape == "anthropic":
        body = {
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": text}],
            "stream": stream,
        }
        if tools:
            body["tools"] = [{"name": "add", "input_schema": ADD}]
        return "/messages", body
    body = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    if tools:
        body["tools"] = [{"functionDeclarations": [{"name": "add", "parameters": ADD}]}]
    return f"/models/m:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}", body


def said(shape: str, document: dict[str, Any]) -> tuple[str, list[Any]]:
    """(text, arguments of tool calls) of a whole answer."""
    if shape == "chat":
        message = document["choices"][0]["message"]
        calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        return message["content"] or "", calls
    if shape == "responses":
        texts = [part["text"] for item in document["output"] for part in item.get("content", [])]
        calls = [
            json.loads(item["arguments"]) for item in document["output"] if item["type"] == "function_call"
        ]
        return "".join(texts), calls
    if shape == "anthropic":
        texts = [part["text"] for part in document["content"] if part["type"] == "text"]
        return "".join(texts), [part["input"] for part in document["content"] if part["type"] == "tool_use"]
    parts = document["candidates"][0]["content"]["parts"]
    return "".join(part.get("text", "") for part in parts), [
        part["functionCall"]["args"] for part in parts if "functionCall" in part
    ]


def streamed(shape: str, events: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The same of a streamed one, put together from its pieces."""
    text, pieces = "", ""
    for event in events:
        if shape == "chat" and event["choices"]:
            delta = event["choices"][0]["delta"]
            text += delta.get("content") or ""
            pieces += "".join(call["function"]["arguments"] for call in delta.get("tool_calls", []))
        elif shape == "responses":
            text += event["delta"] if event["type"] == "response.output_text.delta" else ""
            pieces += event["delta"] if event["type"] == "response.function_call_arguments.delta" else ""
        elif shape == "anthropic":
            text += event.get("delta", {}).get("text", "")
            pieces += event.get("delta", {}).get("partial_json", "")
        elif shape == "gemini":
            piece, calls = said("gemini", event)
            text, pieces = text + piece, pieces + "".join(json.dumps(call) for call in calls)
    return text, [json.loads(pieces)] if pieces else []


class Caller:
    def __init__(self, provider: Provider, http: aiohttp.ClientSession) -> None:
        self.provider, self.http = provider, http

    async def ask(self, shape: str, text: str, *, key: str = "", **more: bool) -> tuple[int, Any, Any]:
        """(status, headers, body as text)."""
        path, body = request_of(shape, text, **more)
        headers = {"Authorization": f"Bearer {key or self.provider.key}"}
        async with self.http.post(self.provider.base_url + path, json=body, headers=headers) as answer:
            return answer.status, answer.headers, (await answer.read()).decode()


def play(body: Callable[[Caller], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Provider.open() as provider, aiohttp.ClientSession() as http:
            await body(Caller(provider, http))

    asyncio.run(run())


SHAPES = ["chat", "responses", "anthropic", "gemini"]


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_and_tool_calls_whole_and_streamed(shape: str) -> None:
    async def body(caller: Caller) -> None:
        for text, tools, calls in (("hello there", False, []), (CALL, True, [{"a": 1, "b": 2}])):
            status, _, whole = await caller.ask(shape, text, tools=tools)
            assert status == 200
            answer = said(shape, json.loads(whole))
            assert answer[1] == calls
            assert bool(answer[0]) == (not calls)
            _, headers, stream = await caller.ask(shape, text, tools=tools, stream=True)
            assert headers["content-type"].startswith("text/event-stream")
            lines = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
            assert streamed(shape, [json.loads(line) for line in lines]) == answer
            assert len(lines) > 1 or calls

    play(body)


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_as_scripted(shape: str) -> None:
    script = (
        "first",
        Scripted(calls=(("add", {"a": 5}),)),
        Scripted(error="overloaded"),
        Scripted(text="last", latency_ms=80),
    )

    async def body(caller: Caller) -> None:
        caller.provider.behave(Behaviour(script=script))
        assert said(shape, json.loads((await caller.ask(shape, "x"))[2])) == ("first", [])
        assert said(shape, json.loads((await caller.ask(shape, "x"))[2]))[1] == [{"a": 5}]
        assert (await caller.ask(shape, "x"))[0] in (503, 529)
        begun = time.monotonic()
        assert said(shape, json.loads((await caller.ask(shape, "x"))[2])) == ("last", [])
        assert time.monotonic() - begun >= 0.08
        assert "last" not in (await caller.ask(shape, "x"))[2]

    play(body)


@pytest.mark.parametrize(
    ("shape", "behaviour", "status", "kind"),
    [
        ("chat", Behaviour(error="auth"), 401, ("type", "invalid_request_error")),
        ("chat", Behaviour(error="rate_limit", retry_after_s=7), 429, ("code", "rate_limit_exceeded")),
        ("chat", Behaviour(context_tokens=2), 400, ("code", "context_length_exceeded")),
        ("chat", Behaviour(error="server"), 500, ("type", "server_error")),
        (
            "responses",
            Behaviour(error="overloaded", retry_after_s=7),
            503,
            ("type", "service_unavailable_error"),
        ),
        ("anthropic", Behaviour(error="auth"), 401, ("type", "authentication_error")),
        ("anthropic", Behaviour(error="rate_limit", retry_after_s=7), 429, ("type", "rate_limit_error")),
        (
            "anthropic",
            Behaviour(context_tokens=2),
            400,
            ("message", "prompt is too long: 5 tokens > 2 maximum"),
        ),
        ("anthropic", Behaviour(error="server"), 500, ("type", "api_error")),
        ("anthropic", Behaviour(error="overloaded", retry_after_s=7), 529, ("type", "overloaded_error")),
        ("gemini", Behaviour(error="auth"), 401, ("status", "UNAUTHENTICATED")),
        ("gemini", Behaviour(error="rate_limit", retry_after_s=7), 429, ("status", "RESOURCE_EXHAUSTED")),
        ("gemini", Behaviour(context_tokens=2), 400, ("status", "INVALID_ARGUMENT")),
        ("gemini", Behaviour(error="server"), 500, ("code", 500)),
        ("gemini", Behaviour(error="overloaded", retry_after_s=7), 503, ("status", "UNAVAILABLE")),
    ],
)
def test_errors_in_each_shapes_own_words(
    shape: str, behaviour: Behaviour, status: int, kind: tuple[str, Any]
) -> None:
    async def body(caller: Caller) -> None:
        caller.provider.behave(behaviour)
        for stream in (False, True):
            came, headers, text = await caller.ask(shape, "one two three four five", stream=stream)
            assert came == status
            assert json.loads(text)["error"][kind[0]] == kind[1]
            assert headers.get("retry-after") == ("7" if status in (429, 503, 529) else None)
        came, _, text = await caller.ask(shape, "x", key="wrong")
        assert (came, caller.provider.log[-1].authorised) == (401, False)

    play(body)


def test_so_many_fail_and_then_all_is_well_and_embeddings_are_there() -> None:
    async def body(caller: Caller) -> None:
        caller.provider.behave(Behaviour(fail_next=2))
        assert [(await caller.ask("chat", "x"))[0] for _ in range(3)] == [429, 429, 200]
        caller.provider.behave(Behaviour(fail_next=1, error="server"))
        assert [(await caller.ask("gemini", "x"))[0] for _ in range(2)] == [500, 200]
        headers = {"Authorization": f"Bearer {caller.provider.key}"}
        asked = {"model": "m", "input": ["one", "two"]}
        url = caller.provider.base_url + "/embeddings"
        async with caller.http.post(url, json=asked, headers=headers) as answer:
            document = await answer.json()
        assert [len(one["embedding"]) for one in document["data"]] == [8, 8]

    play(body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_what_its_name_says(kind: str, stream: bool) -> None:
    faults = Faults(seed=3, share=1.0, kinds=(kind,), spike_ms=150, drip_ms=20)  # type: ignore[arg-type]

    async def body(caller: Caller) -> None:
        _, _, good = await caller.ask("chat", "a question of some length", stream=stream)
        caller.provider.behave(Behaviour(faults=faults))
        begun = time.monotonic()
        if kind in ("reset", "reset_stream"):
            with pytest.raises(aiohttp.ClientError):
                await caller.ask("chat", "a question of some length", stream=stream)
        else:
            status, _, text = await caller.ask("chat", "a question of some length", stream=stream)
            took = time.monotonic() - begun
            assert status == {"rate_limit": 429, "server": 500, "overloaded": 503}.get(kind, 200)
            if kind in ("latency", "drip"):
                assert len(text) == len(good)
                assert took > 0.1
            if kind == "truncate":
                assert len(text) < len(good)
            if kind == "garbage":
                assert "<html>" in text
        assert caller.provider.log[-1].fault == kind

    play(body)


def test_faults_are_the_same_for_a_seed_and_come_in_bursts() -> None:
    def drawn(seed: int, **more: Any) -> list[str]:
        faults = Faults(seed=seed, **more)
        return [fault.kind if (fault := fault_of(faults, index)) else "" for index in range(400)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert set(drawn(1, share=0.5)) == {"", *FAULTS}
    assert set(drawn(1, share=0.0)) == {""}
    assert set(drawn(1, kinds=())) == {""}
    rare = "".join("x" if kind else "." for kind in drawn(5, share=0.02, kinds=("server",), burst=4))
    runs = [len(run) for run in rare.split(".") if run]
    assert runs
    assert all(run >= 4 for run in runs)
    single = "".join("x" if kind else "." for kind in drawn(5, share=0.02, kinds=("reset",), burst=4))
    assert min(len(run) for run in single.split(".") if run) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": 3, "tools": 3, "tool_choice": 3, "text": 3, "instructions": 3},
        {
            "input": [1, {}, {"type": "function_call_output", "output": 3}],
            "tools": [1, {}],
            "tool_choice": {},
        },
    ],
)
def test_what_is_no_request_for_a_response_is_read_as_an_empty_one(body: dict[str, Any]) -> None:
    assert tool_calls(read_response(body)) == ()


@pytest.mark.parametrize("program", [["bridgehold.bridges.kit"], ["bridgehold", "bridge", "provider"]])
def test_it_is_a_program_too(tmp_path: Path, program: list[str]) -> None:
    key = tmp_path / "key"
    command = [sys.executable, "-m", *program, "--key-file", str(key)]
    with subprocess.Popen(
        [*command, "--error", "rate_limit", "--retry-after", "9"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            base = process.stdout.readline().strip()
            process.stdout.readline()
            assert key.stat().st_mode & 0o777 == 0o600

            async def ask() -> tuple[int, str]:
                headers = {"Authorization": f"Bearer {key.read_text()}"}
                async with (
                    aiohttp.ClientSession() as http,
                    http.post(base + "/messages", json={}, headers=headers) as answer,
                ):
                    return answer.status, answer.headers["retry-after"]

            assert asyncio.run(ask()) == (429, "9")
        finally:
            process.terminate()
