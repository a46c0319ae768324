"""The shipped langchain bridge under a real host: forked, through the gateway, to the test kit's provider."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.kit.provider import Behaviour, Provider
from bridgehold.client.sync import SyncSession
from bridgehold.config.layout import Layout
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_provider
from hostile.stage import BRIDGE, MANIFEST, Stage, make_home, start_host, stop_host
from waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]
KIND = "root" if os.getuid() == 0 else "self"
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}
SHAPES = ("openai", "anthropic", "gemini")
PATHS = {
    "openai": ["/chat/completions", "/moved/chat/completions", "/models", "/moved/models"],
    "anthropic": ["/messages", "/moved/messages", "/v1/messages", "/moved/v1/messages"],
    "gemini": ["/models/*:generateContent", "/moved/*/models/*:generateContent"],
}
CLIENTS = """
import sys
bridge = sys._getframe(1).f_locals["self"]
one = bridge.provider({shape!r})
base, key = one.base_url, one.placeholder
chat = {{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "hello"}}]}}
authorised = {{"authorization": "Bearer " + key}}

def httpx_(moved):
    import httpx
    with httpx.Client(follow_redirects=True, headers=authorised, timeout=60) as client:
        said = client.post(base + moved + "/chat/completions", json=chat)
    return [said.status_code, len(said.history), said.json().get("choices", said.text)]

def requests_(moved):
    import requests
    said = requests.post(base + moved + "/chat/completions", json=chat, headers=authorised)
    return [said.status_code, len(said.history), said.json().get("choices", said.text)]

def urllib_(moved):
    import json, urllib.request
    asked = urllib.request.Request(base + moved + "/models", headers=authorised)
    with urllib.request.urlopen(asked) as said:
        return [said.status, int(said.url != asked.full_url), json.load(said)["data"]]

def openai_(moved):
    import openai
    with openai.OpenAI(base_url=base + moved, api_key=key, max_retries=0) as client:
        try: said = client.chat.completions.create(**chat)
        except openai.PermissionDeniedError as error: return [403, 0, str(error)]
    return [200, 1, said.choices[0].message.content]

def anthropic_(moved):
    import anthropic
    with anthropic.Anthropic(base_url=base + moved, api_key=key, max_retries=0) as client:
        said = client.messages.create(max_tokens=9, **chat)
    return [200, 1, said.content[0].text]

try: result["said"] = {client}_({moved!r})
except BaseException as error: result["said"] = [0, 0, type(error).__name__ + ": " + str(error)[:500]]
"""
REDIRECTED = [
    ("openai", "httpx", "/moved", "/v1/chat/completions", ""),
    ("openai", "requests", "/moved", "http://127.0.0.1:{port}/v1/chat/completions", ""),
    ("openai", "openai", "/moved", "//127.0.0.1:{port}/v1/chat/completions", ""),
    ("openai", "openai", "/moved", "http://127.0.0.1:{port}/v1/chat/completions", ""),
    ("openai", "urllib", "/moved", "/v1/models", ""),
    ("anthropic", "anthropic", "/moved", "/v1/messages", ""),
    ("openai", "httpx", "", "/v1/files", "is none of the granted paths"),
    ("openai", "requests", "", "http://127.0.0.1:1/v1/moved/chat/completions", "not where it is configured"),
    ("openai", "openai", "", "/elsewhere", "beyond its base /v1"),
]
"""(shape, client, what stands before its path, where it is sent, what a refusal says)."""


def _write_drawing_bridge(layout: Layout) -> None:
    """A bridge on the same environment and the same preload, for looking at what a fork draws."""
    shipped = Catalogue.load().get("langchain")
    folder = layout.bridges / "draws"
    folder.mkdir()
    for name in ("requirements.in", "requirements.lock"):
        shutil.copy(shipped.folder / name, folder)
    preload = (
        f"[preload]\nmodules = {json.dumps(shipped.preload)}\ncalls = {json.dumps(shipped.preload_calls)}\n"
    )
    needs = "".join(
        f'[[needs.secrets]]\nname = "{name}"\nprovider = "{name}"\n[[needs.endpoints]]\nprovider = "{name}"\n'
        f'methods = ["POST", "GET"]\nremote_content = true\npaths = {json.dumps(PATHS[name])}\n'
        for name in SHAPES
    )
    files = 'requirements = "requirements.in"\nlock = "requirements.lock"\n'
    manifest = MANIFEST.format(name="draws").replace(
        "[operations.act]", files + preload + needs + "[operations.act]", 1
    )
    (folder / "bridge.toml").write_text(manifest)
    (folder / "hostile.py").write_text(BRIDGE.format(at_import=""))
    limits = '[limits]\nmemory = "1GiB"\nstartup = "60s"\n[sandbox]\nstart = "fork"\n'
    rest = 'weakenings = ["private_network"]\n'
    rest += "".join(
        f'[secrets.{name}]\nprovider = "{name}"\n[network.endpoints.{name}]\nmethods = ["POST", "GET"]\n'
        f"remote_content = true\npaths = {json.dumps(PATHS[name])}\n"
        for name in SHAPES
    )
    operations = '[operations]\nallow = ["*"]\n'
    text = 'extends = "baseline"\n' + rest.partition("\n")[0] + "\n"
    (layout.policies / "draws.toml").write_text(text + limits + operations + rest.partition("\n")[2])


@pytest.fixture(scope="module")
def hosted() -> Iterator[tuple[Stage, Provider]]:
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid(), environments=True)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        bases = {name: provider.base_url + ("beta" if name == "gemini" else "") for name in SHAPES}
        layout.config_file.write_text(
            "".join(
                f'[providers.{name}]\nbase_url = "{bases[name]}"\nshape = "{name}"\nprivate = true\n'
                for name in SHAPES
            )
            + '[bridges.langchain]\npolicy = "own"\n'
        )
        _write_drawing_bridge(layout)
        policy = 'extends = "langchain"\nweakenings = ["private_network"]\n'
        (layout.policies / "own.toml").write_text(policy)
        (layout.tenants / "narrow.toml").write_text("[rate]\nprovider_requests_total = 0\n")
        layout.secrets.mkdir(parents=True, exist_ok=True)
        layout.secrets.chmod(0o700)
        for name in SHAPES:
            for tenant in ("local", "narrow"):
                SecretAdmin.open_file(layout.secrets).set(tenant, name, provider.key.encode())
        process = start_host(layout)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        yield Stage(kind=KIND, layout=layout, client=client, supervisor=process.pid), provider


def test_forked_sessions_run_chains_and_agents_with_a_key_that_is_not_inside(
    hosted: tuple[Stage, Provider],
) -> None:
    stage, provider = hosted
    for name in ("one", "two"):
        with stage.client.session("langchain") as session:
            shapes = session.run("configure_llm", {"model": "gpt-4o-mini"})
            assert shapes["shape"] == "openai"
            session.run("create_chain", {"id": "c", "template": "Say {word}"})
            done = session.run("run_chain", {"chain_id": "c", "inputs": {"word": name}})
            assert done["output"] == f"You said: Say {name}"
            batch = session.run("batch_chain", {"chain_id": "c", "inputs": [{"word": "a"}, {"word": "b"}]})
            assert [result["output"] for result in batch["results"]] == ["You said: Say a", "You said: Say b"]
            session.run("create_agent", {"id": "a", "tools": ["calculator"]})
            ran = session.run("run_agent", {"agent_id": "a", "input": 'calculator {"expression": "6*7"}'})
            assert (ran["steps"][0]["result"], ran["output"]) == ("42", "You said: 42")
    assert provider.requests_with_key() == len(provider.log) == 2 * 5
    fell = [event["reason"] for event in stage.events("start.fell_back")]
    assert fell == []
    proofs = stage.events("worker.attested")
    assert len(proofs) == 2
    assert all(proof["zygote"] for proof in proofs)
    spent = [event for event in stage.events("egress.outcome") if event["session"]]
    assert all(event["input_tokens"] and event["output_tokens"] for event in spent)


def streamed(session: SyncSession, operation: str, arguments: dict[str, object]) -> list[dict[str, Any]]:
    """All that comes of a stream, its result last."""

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in session._awaited.stream(operation, arguments)]

    return session._loop.run(collect())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_provider_of_each_shape_is_reached_and_charged(hosted: tuple[Stage, Provider], shape: str) -> None:
    stage, provider = hosted
    before = provider.requests_with_key()
    with stage.client.session("langchain") as session:
        made = session.run("configure_llm", {"model": "some-model", "provider": shape, "max_tokens": 100})
        assert made["shape"] == shape
        session.run("create_chain", {"id": "c", "template": "Say {word}"})
        done = session.run("run_chain", {"chain_id": "c", "inputs": {"word": "one"}})
        assert done["output"] == "You said: Say one"
        assert done["usage"]["input_tokens"] == 2
        *pieces, last = streamed(session, "stream_chain", {"chain_id": "c", "inputs": {"word": "two"}})
        texts = [event["data"]["text"].strip() for event in pieces]
        assert texts == ["You", "said:", "Say", "two"]
        assert last["value"]["output"] == "You said: Say two"
        assert last["value"]["usage"]["input_tokens"] == 2
        session.run("create_chain", {"id": "city", "template": "A city", "output_schema": CITY})
        city = session.run("run_chain", {"chain_id": "city"})["output"]
        assert isinstance(city["people"], int)
        session.run("create_agent", {"id": "a", "tools": ["calculator"]})
        ran = session.run("run_agent", {"agent_id": "a", "input": 'calculator {"expression": "6*7"}'})
        assert ran["steps"][0]["result"] == "42"
        assert "42" in ran["output"]
    assert provider.requests_with_key() - before == 5
    spent = stage.events("egress.outcome")[-5:]
    assert all(event["input_tokens"] and event["output_tokens"] for event in spent)


def test_siblings_draw_ids_of_their_own_and_have_no_thread_of_the_zygotes(
    hosted: tuple[Stage, Provider],
) -> None:
    stage, _ = hosted
    code = (
        "import os, uuid_utils\n"
        "from langchain_core.utils.uuid import uuid7\n"
        "result['ids'] = [uuid_utils.uuid4().hex, uuid7().hex[-8:], uuid_utils.uuid7().hex[-8:]]\n"
        "result['threads'] = len(os.listdir('/proc/self/task'))\n"
    )
    drawn: list[str] = []
    for _ in range(3):
        with stage.client.session("draws") as session:
            found = session.run("act", {"code": code})
            drawn += found["ids"]
            assert found["threads"] == 2  # the command's own, and the one that reads the wire
    assert len(set(drawn)) == len(drawn)
    assert [event["reason"] for event in stage.events("start.fell_back")] == []


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shapes_errors_are_told_apart_by_its_own_client(
    hosted: tuple[Stage, Provider], shape: str
) -> None:
    """What the simulator says is what the real clients, inside, take for these errors."""
    stage, provider = hosted
    codes = {
        "auth": "provider_auth",
        "rate_limit": "rate_limit",
        "context_length": "context_length",
        "server": "provider",
        "overloaded": "provider",
    }
    seen = {}
    with stage.client.session("langchain") as session:
        session.run("configure_llm", {"model": "some-model", "provider": shape, "max_retries": 0})
        session.run("create_chain", {"id": "c", "template": "Say {word}"})
        for error in codes:
            provider.behave(Behaviour(error=error))  # type: ignore[arg-type]  # each is a kind of error
            try:
                session.run("run_chain", {"chain_id": "c", "inputs": {"word": "one"}})
            except BridgeholdError as raised:
                seen[error] = raised.code
        provider.behave(Behaviour())
        assert session.run("run_chain", {"chain_id": "c", "inputs": {"word": "one"}})
    assert seen == codes


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_in_the_middle_of_a_stream_has_the_code_of_its_status(
    hosted: tuple[Stage, Provider], shape: str
) -> None:
    stage, provider = hosted
    codes = {
        "rate_limit": ("rate_limit", "later"),
        "context_length": ("context_length", "no"),
        "server": ("provider", "later"),
        "overloaded": ("provider", "later"),
    }
    seen = {}
    with stage.client.session("langchain") as session:
        session.run("configure_llm", {"model": "some-model", "provider": shape, "max_retries": 0})
        session.run("create_chain", {"id": "c", "template": "Say {word}"})
        for error in codes:
            provider.behave(Behaviour(error=error, error_after=2))  # type: ignore[arg-type]  # each is one
            try:
                streamed(session, "stream_chain", {"chain_id": "c", "inputs": {"word": "one"}})
            except BridgeholdError as raised:
                seen[error] = (raised.code, raised.retry)
        provider.behave(Behaviour())
    assert seen == codes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refusal_of_the_gateway_is_no_providers(hosted: tuple[Stage, Provider], shape: str) -> None:
    """By each shape's own client, inside: the error says the rule, and nobody is sent to look for a key."""
    stage, _ = hosted
    with stage.client.session("langchain", tenant="narrow") as session:
        session.run("configure_llm", {"model": "some-model", "provider": shape, "max_retries": 0})
        session.run("create_chain", {"id": "c", "template": "Say {word}"})
        with pytest.raises(BridgeholdError) as caught:
            session.run("run_chain", {"chain_id": "c", "inputs": {"word": "one"}})
    assert caught.value.code == "budget", caught.value
    assert "bridgehold why" in caught.value.message
    assert "secrets set" not in caught.value.hint


def test_a_killed_workers_models_chains_and_agents_are_made_again_without_asking_a_provider(
    hosted: tuple[Stage, Provider],
) -> None:
    stage, provider = hosted
    with stage.client.session("langchain") as session:
        session.run("configure_llm", {"model": "gpt-4o-mini", "id": "main"})
        session.run("create_chain", {"id": "c", "template": "Say {word}", "llm": "main"})
        session.run("create_agent", {"id": "a", "tools": ["calculator"]})
        session.run("run_chain", {"chain_id": "c", "inputs": {"word": "one"}})
        before = len(provider.log)
        info = next(one for one in stage.client.request("sessions", {}) if one["id"] == session.id)
        os.kill(info["pid"], signal.SIGKILL)
        until(lambda: session.id in {one["session"] for one in stage.events("session.closed")})
        done = session.run("run_chain", {"chain_id": "c", "inputs": {"word": "two"}})
        assert done["output"] == "You said: Say two"
        assert len(provider.log) == before + 1
        ran = session.run("run_agent", {"agent_id": "a", "input": 'calculator {"expression": "6*7"}'})
        assert ran["output"] == "You said: 42"
    opened = stage.events("session.opened")[-1]
    assert session.lost == [opened["recovers"]]
    repeated = [e for e in stage.events("command.intent") if e["session"] == opened["session"]]
    assert [e["operation"] for e in repeated if e["replays"]] == [
        "langchain:configure_llm",
        "langchain:create_chain",
        "langchain:create_agent",
    ]


def test_real_clients_follow_a_providers_redirect_to_its_own_place_and_to_no_other(
    hosted: tuple[Stage, Provider],
) -> None:
    stage, provider = hosted
    attacks = len([one for one in stage.events("egress.refused") if one["severity"] == "high"])
    try:
        with stage.client.session("draws") as session:
            for shape, client, moved, place, refusal in REDIRECTED:
                status = 302 if client == "urllib" else 307
                provider.behave(
                    Behaviour(redirect_to=place.format(port=provider.port), redirect_status=status)
                )
                code = CLIENTS.format(shape=shape, client=client, moved=moved)
                said = session.run("act", {"code": code})["said"]
                assert said[:2] == ([403, 0] if refusal else [200, 1]), (client, place, said)
                assert refusal in str(said[2]), (client, place, said)
    finally:
        provider.behave(Behaviour())
    refused = stage.events("egress.refused")
    assert [one["rule"] for one in refused][-3:] == ["gateway.redirect"] * 3
    assert len([one for one in refused if one["severity"] == "high"]) == attacks
