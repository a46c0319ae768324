"""The reverse proxy: keys go in on the way out, come out on the way back, and every step is written."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import msgspec
import pytest
from gateway_support import (
    CHAT,
    KEYS,
    OTHER_PLACEHOLDER,
    PLACEHOLDER,
    Stand,
    make_grant,
    on_stand,
    parse,
)

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import EgressIntent, EgressOutcome, EgressRefused, Event, kind_of
from bridgehold.bridges.kit.provider import Behaviour, fingerprint
from bridgehold.host.shares.buffers import Buffers
from bridgehold.keeper.budgets import Budgets, Spent
from bridgehold.keeper.values import KeeperConfig, UpstreamLimits
from bridgehold.policies.model import Endpoint, Limits, Rate, SecretGrant
from waiting import eventually


def test_a_call_gets_the_key_and_two_events(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        reply = await stand.ask()
        assert reply.status == 200
        assert reply.json["choices"][0]["message"]["content"] == "You said: hello"
        (seen,) = stand.provider.log
        assert seen.key_fingerprint == fingerprint(KEYS["acme"])
        assert PLACEHOLDER.encode() not in seen.body
        await eventually(lambda: stand.audit.of(EgressOutcome))
        (intent,), (outcome,) = stand.audit.of(EgressIntent), stand.audit.of(EgressOutcome)
        assert (intent.provider, intent.method, intent.path) == ("openai", "POST", "/chat/completions")
        assert stand.audit.durable[stand.audit.events.index(intent)]
        assert stand.audit.events.index(intent) < stand.audit.events.index(outcome)
        usage = reply.json["usage"]
        assert (outcome.input_tokens, outcome.output_tokens) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        assert (outcome.status, outcome.model, outcome.code, outcome.estimated) == (
            200,
            "gpt-4o-mini",
            "",
            False,
        )
        assert outcome.command == stand.command
        assert outcome.intent == f"i-test.{stand.audit.events.index(intent) + 1}"

    on_stand(tmp_path, act, process=True)


def test_a_request_between_commands_is_flagged_as_background(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.command = ""
        await stand.ask()
        assert stand.audit.of(EgressIntent)[0].background

    on_stand(tmp_path, act)


def test_the_version_prefix_may_be_sent_or_left_out(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask("/openai/v1/chat/completions")).status == 200
        assert [seen.path for seen in stand.provider.log] == ["/v1/chat/completions"]
        other = await stand.ask("/openai/v1beta2/chat/completions")  # a client's own choice
        assert other.status == 403
        assert b"ends in /v1: have the client ask for that, not v1beta2" in other.body
        assert "have the client ask for that" in stand.audit.of(EgressRefused)[0].reason
        assert b"have the client" not in (await stand.ask("/openai/v1/nothing")).body

    on_stand(tmp_path, act)


def test_every_auth_slot_is_emptied(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        slots = dict.fromkeys(("x-api-key", "api-key", "x-goog-api-key", "Proxy-Authorization"), PLACEHOLDER)
        slots |= {"Cookie": "a=b", "OpenAI-Organization": "org-other", "X-Smuggled": "data"}
        assert (await stand.ask(f"/openai/chat/completions?key={PLACEHOLDER}", headers=slots)).status == 200
        (seen,) = stand.provider.log
        assert seen.query == ""
        assert set(seen.headers) == {
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
        } - ({"accept"} - set(seen.headers))

    on_stand(tmp_path, act)


def test_a_stream_arrives_event_by_event(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(chunk_ms=60, script=("one two three four",)))
        body = json.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
        writer.write(
            f"POST /openai/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\n"
            f"Authorization: Bearer {PLACEHOLDER}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        arrivals: list[float] = []
        loop = asyncio.get_running_loop()
        text = b""
        while b"[DONE]" not in text:
            text += await asyncio.wait_for(reader.read(65536), 30)
            arrivals.append(loop.time())
        writer.close()
        assert len(arrivals) >= 5, "the events came in one piece"
        await eventually(lambda: stand.audit.of(EgressOutcome))
        (outcome,) = stand.audit.of(EgressOutcome)
        assert outcome.output_tokens == 4
        assert not outcome.estimated

    on_stand(tmp_path, act, process=True)


def test_a_stream_without_usage_is_charged_with_its_bound(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(usage=False))
        body = {**CHAT, "stream": True, "max_tokens": 300}
        await stand.ask(body=body)
        await eventually(lambda: stand.audit.of(EgressOutcome))
        (outcome,) = stand.audit.of(EgressOutcome)
        (intent,) = stand.audit.of(EgressIntent)
        assert outcome.estimated
        assert outcome.output_tokens >= 1
        assert outcome.charged == intent.reserved == outcome.request_bytes + 300
        assert stand.budgets.spent("acme", "openai").tokens == outcome.charged

    on_stand(tmp_path, act)


@pytest.mark.parametrize(
    "when", ["before its head", "after its head", "after usage began", "its session ends"]
)
def test_an_answer_that_a_guest_leaves_is_charged_with_its_bound(tmp_path: Path, when: str) -> None:
    """The provider may have made all of it, and bills what it made."""
    path, asked = "/openai/chat/completions", {**CHAT, "stream": True, "max_tokens": 300}
    behaviour = Behaviour(chunk_ms=10_000, script=("one two three four",))
    if when in ("before its head", "its session ends"):
        behaviour = Behaviour(latency_ms=10_000)

    async def act(stand: Stand) -> None:
        stand.provider.behave(behaviour)
        if when == "after usage began":  # messages say their input, and one token, at once
            facts = stand.providers["openai"]
            stand.providers["openai"] = msgspec.structs.replace(facts, shape="anthropic")
            grant = make_grant(endpoints=(Endpoint(provider="openai", paths=("/messages",)),))
            await stand.open(grant)
        body = json.dumps(asked).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
        where = "/openai/messages" if when == "after usage began" else path
        writer.write(
            f"POST {where} HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\n"
            f"Authorization: Bearer {PLACEHOLDER}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if when in ("before its head", "its session ends"):
            await eventually(lambda: stand.provider.log)
        else:
            await reader.readuntil(b"data:")
        if when == "its session ends":
            await stand.gateways[-1].close()
        writer.close()
        await eventually(lambda: stand.audit.of(EgressOutcome))
        (outcome,) = stand.audit.of(EgressOutcome)
        (intent,) = stand.audit.of(EgressIntent)
        assert outcome.code == ("cancelled" if when == "its session ends" else "guest_gone")
        assert outcome.charged == intent.reserved == len(stand.provider.log[0].body) + 300
        assert stand.budgets.spent("acme", "openai").tokens == outcome.charged

    on_stand(tmp_path, act, process=when == "before its head")


def test_a_document_that_is_left_before_its_last_byte_is_charged_for_what_passed(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(script=("x" * 8_000_000,) * 2))
        for asked in (CHAT, {**CHAT, "max_tokens": 300}):
            body = json.dumps(asked).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            writer.write(
                f"POST /openai/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\n"
                f"Authorization: Bearer {PLACEHOLDER}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await reader.readexactly(1_000_000)
            before = len(stand.audit.of(EgressOutcome))
            writer.close()
            await eventually(lambda before=before: len(stand.audit.of(EgressOutcome)) > before)
        open_ended, bounded = stand.audit.of(EgressOutcome)
        assert open_ended.code == bounded.code == "guest_gone"
        assert open_ended.charged > 990_000
        assert bounded.charged > 990_000 // 8
        assert bounded.charged < 8_000_000 // 8

    on_stand(tmp_path, act)


def test_a_guest_that_asks_for_no_usage_is_charged_by_it_and_sees_none(tmp_path: Path) -> None:
    """The client's first choice of each event is there, as if the gateway had asked for nothing."""

    async def act(stand: Stand) -> None:
        for options in ({}, {"stream_options": {"include_usage": False}}):
            before = len(stand.audit.of(EgressOutcome))
            reply = await stand.ask(body={**CHAT, "stream": True, "max_tokens": 300, **options})
            events = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: ")]
            assert events[-1] == "[DONE]"
            assert all(json.loads(event)["choices"][0] for event in events[:-1])
            await eventually(lambda before=before: len(stand.audit.of(EgressOutcome)) > before)
            outcome = stand.audit.of(EgressOutcome)[-1]
            assert not outcome.estimated
            assert outcome.charged == outcome.input_tokens + outcome.output_tokens < 300

    on_stand(tmp_path, act)


CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
HONEST = [
    ("openai", "/chat/completions", CHAT),
    ("openai", "/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("openai", "/responses", {"model": "m", "input": "hello"}),
    ("openai", "/responses", {"model": "m", "input": "hello", "stream": True}),
    ("openai", "/embeddings", {"model": "m", "input": ["hello"] * 50}),
    ("anthropic", "/messages", {**CHAT, "max_tokens": 500}),
    ("anthropic", "/messages", {**CHAT, "max_tokens": 500, "stream": True}),
    ("gemini", "/models/g:generateContent", CONTENTS),
    ("gemini", "/models/g:streamGenerateContent?alt=sse", CONTENTS),
]


def test_a_whole_honest_answer_is_charged_with_what_it_says_and_no_more(tmp_path: Path) -> None:
    """In every shape, in one piece and streamed: what is seen never says more than an honest provider."""
    long = "An answer of many words, some of them extraordinarily long: " + "word after word, " * 200
    paths = ("/chat/completions", "/responses", "/embeddings", "/messages", "/models/*")

    async def act(stand: Stand) -> None:
        facts = stand.providers["openai"]
        await stand.open(make_grant(endpoints=(Endpoint(provider="openai", paths=paths),)))
        for shape, path, body in HONEST:
            version = "v1beta" if shape == "gemini" else "v1"
            stand.providers["openai"] = msgspec.structs.replace(facts, shape=shape, version=version)
            stand.provider.behave(Behaviour(script=(long,)))
            before = len(stand.audit.of(EgressOutcome))
            reply = await stand.ask(f"/openai{path}", body)
            assert reply.status == 200, reply.body
            await eventually(lambda before=before: len(stand.audit.of(EgressOutcome)) > before)
            outcome = stand.audit.of(EgressOutcome)[-1]
            assert not outcome.estimated, path
            assert outcome.charged == outcome.input_tokens + outcome.output_tokens, (path, outcome)
            assert outcome.model

    on_stand(tmp_path, act)


def test_what_nobody_generated_is_not_charged(tmp_path: Path) -> None:
    """A provider that says no, and one that never saw the request."""

    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(status=503))
        assert (await stand.ask()).status == 503
        port = await stand.open(make_grant("nobody"), session="s-n")
        assert (await stand.ask(port=port)).status == 403
        await eventually(lambda: len(stand.audit.of(EgressOutcome)) == 2)
        assert [outcome.charged for outcome in stand.audit.of(EgressOutcome)] == [0, 0]
        assert all(intent.reserved > 8_192 for intent in stand.audit.of(EgressIntent))

    on_stand(tmp_path, act)


# Row 28: placeholders


def test_a_wrong_placeholder_is_refused(tmp_path: Path) -> None:
    cases = [
        (None, 401, "placeholder.missing", "normal"),
        ("sk-bh-of-another-session-222222222", 403, "placeholder.session", "high"),
        (OTHER_PLACEHOLDER, 403, "placeholder.provider", "high"),
        ("sk-proj-somebodys-own-key-33333333", 401, "placeholder.own-key", "high"),
    ]

    async def act(stand: Stand) -> None:
        for key, status, rule, severity in cases:
            reply = await stand.ask(key=key)
            assert reply.status == status
            assert f"rule {rule}" in reply.message
            assert "bridgehold why i-test." in reply.message
            event = stand.audit.of(EgressRefused)[-1]
            assert (event.rule, event.severity) == (rule, severity)
        assert not stand.provider.log
        assert not stand.audit.of(EgressIntent)

    on_stand(tmp_path, act)


def test_two_different_keys_in_one_request_are_refused(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        reply = await stand.ask(headers={"x-api-key": "sk-another-0000"})
        assert reply.status == 403
        assert stand.audit.of(EgressRefused)[0].rule == "placeholder.mixed"
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_a_placeholder_of_another_tenant_or_of_an_ended_session_opens_nothing(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        theirs = "sk-bh-umbra-openai-4444444444444444"
        other = await stand.open(make_grant("umbra"), session="s-umbra", placeholders={"openai": theirs})
        assert (await stand.ask(key=PLACEHOLDER, port=other)).status == 403
        mine = stand.gateways[0]._port
        assert (await stand.ask(key=theirs, port=mine)).status == 403
        await stand.gateways[1].close()
        assert (await stand.ask(key=theirs, port=mine)).status == 403
        with pytest.raises(OSError, match="Connect"):
            await stand.ask(key=theirs, port=other)
        assert not stand.provider.log
        assert all(event.severity == "high" for event in stand.audit.of(EgressRefused))

    on_stand(tmp_path, act)


def test_each_tenant_gets_its_own_key(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        theirs = "sk-bh-umbra-openai-4444444444444444"
        other = await stand.open(make_grant("umbra"), session="s-umbra", placeholders={"openai": theirs})
        await stand.ask(key=theirs, port=other)
        await stand.ask(port=stand.gateways[0]._port)
        prints = [seen.key_fingerprint for seen in stand.provider.log]
        assert prints == [fingerprint(KEYS["umbra"]), fingerprint(KEYS["acme"])]

    on_stand(tmp_path, act, process=True)


def test_a_key_from_the_arguments_lives_as_long_as_its_session(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        inline = "sk-inline-55555555555555555555"
        await stand.keeper.put_session_secret("s-acme", "openai", inline, tenant="acme")
        await stand.ask()
        await stand.keeper.drop_session("s-acme", tenant="acme")
        await stand.ask()
        prints = [seen.key_fingerprint for seen in stand.provider.log]
        assert prints == [fingerprint(inline), fingerprint(KEYS["acme"])]
        assert inline.encode() not in stand.everything()

    on_stand(tmp_path, act)


def test_inline_keys_pass_puts_the_guests_own_key_in(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        own = "sk-proj-somebodys-own-key-33333333"
        assert (await stand.ask(key=own)).status == 401, "the simulator does not know this key"
        assert stand.provider.log[0].key_fingerprint == fingerprint(own)
        assert stand.audit.of(EgressIntent)[0].how == "pass"
        assert own.encode() not in stand.everything()

    on_stand(tmp_path, act, make_grant(inline_keys="pass"))


# Row 25 and the granted paths


def test_paths_are_normalised_once_or_refused(tmp_path: Path) -> None:
    cases = [
        ("/openai/files", "default-deny"),
        ("/openai/chat/completions/%2e%2e/files", "names.path"),
        ("/openai/chat/../files", "names.path"),
        ("/openai//chat/completions", "names.path"),
        ("/openai/chat%2fcompletions", "names.path"),
        ("/openai/chat/completions%00", "names.path"),
        ("/openai/chat%252fcompletions", "names.path"),
        ("/openai/chat/completions;a=b", "names.path"),
        ("/openai/CHAT/completions", "default-deny"),
    ]

    async def act(stand: Stand) -> None:
        for path, rule in cases:
            reply = await stand.ask(path)
            assert (reply.status, reply.json["error"]["code"]) == (403, rule), path
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_an_encoded_letter_is_decoded_before_the_decision(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask("/openai/ch%61t/completions")).status == 200
        assert stand.provider.log[0].path == "/v1/chat/completions"

    on_stand(tmp_path, act)


def test_method_provider_and_query_are_decided_too(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask("/openai/chat/completions", None, method="GET")).status == 403
        assert (await stand.ask("/gemini/chat/completions")).status == 403
        assert (await stand.ask("/openai/chat/completions?purpose=leak")).status == 403
        assert not stand.provider.log

    on_stand(tmp_path, act)


# Row 45: bodies that make the provider an exit or a drawer


def test_a_body_that_reaches_further_is_refused(tmp_path: Path) -> None:
    url = {"type": "image_url", "image_url": {"url": "http://thief.example/loot"}}
    cases: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": [url]}]},
        {"tools": [{"type": "web_search"}]},
        {"previous_response_id": "resp_1"},
        {"web_search_options": {}},
    ]

    async def act(stand: Stand) -> None:
        for extra in cases:
            reply = await stand.ask(body={**CHAT, **extra})
            assert reply.status == 403, extra
            assert reply.json["error"]["code"] == "network.endpoints.openai.remote_content"
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_what_is_decided_on_is_what_is_sent(tmp_path: Path) -> None:
    """A key that stands twice: the decision and the provider must not see different ones."""

    async def act(stand: Stand) -> None:
        twice = b'{"model":"m","messages":[],"tools":[{"type":"web_search"}],"tools":[]}'
        assert (await stand.ask(body=twice)).status == 200
        assert stand.provider.log[0].body.count(b"tools") == 1
        assert b"web_search" not in stand.provider.log[0].body

    on_stand(tmp_path, act)


def test_a_body_that_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    cases = [b"not json", b"[" * 5_000 + b"]" * 5_000, b"[" + b"[]," * 200_000 + b"[]]", b"\xff"]

    async def act(stand: Stand) -> None:
        for body in cases:
            assert (await stand.ask(body=body)).status == 403
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_a_granted_remote_content_goes_through(tmp_path: Path) -> None:
    endpoint = Endpoint(provider="openai", paths=("/chat/completions",), remote_content=True)

    async def act(stand: Stand) -> None:
        assert (await stand.ask(body={**CHAT, "tools": [{"type": "web_search"}]})).status == 200

    on_stand(tmp_path, act, make_grant(endpoints=(endpoint,)))


def test_a_granted_field_goes_through_and_no_other(tmp_path: Path) -> None:
    fields = ("frobnicate", "tools[].type=web_search", "?purpose", "openai-beta=assistants=v2")
    endpoint = Endpoint(provider="openai", paths=("/chat/completions", "/responses"), fields=fields)

    async def act(stand: Stand) -> None:
        more = {"frobnicate": 1, "tools": [{"type": "web_search", "filters": {}}]}
        path = "/openai/chat/completions?purpose=x"
        assert (
            await stand.ask(path, {**CHAT, **more}, headers={"OpenAI-Beta": "assistants=v2"})
        ).status == 200
        assert stand.provider.log[0].query == "purpose=x"
        for other in ({"tools": [{"type": "mcp"}]}, {"frobnicated": 1}):
            assert (await stand.ask(body={**CHAT, **other})).status == 403
        assert (await stand.ask("/openai/responses", {"model": "m", "input": "x"})).status == 200
        assert json.loads(stand.provider.log[-1].body)["store"] is False

    on_stand(tmp_path, act, make_grant(endpoints=(endpoint,)))


def test_what_generates_nothing_reserves_its_input_alone(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask("/openai/embeddings", {"model": "m", "input": "x"})).status == 200
        (intent,) = stand.audit.of(EgressIntent)
        assert intent.reserved == len(stand.provider.log[0].body)

    on_stand(tmp_path, act)


def test_whose_key_came_is_judged_before_a_byte_of_the_body_is_read(tmp_path: Path) -> None:
    """Who has no placeholder holds nothing of what the host has for bodies, and is told while it still sends."""

    async def act(stand: Stand) -> None:
        stand.buffers = Buffers(8 << 20, share=2, patience_s=1)
        ports = [await stand.open(session=f"s-{number}") for number in range(2)]
        stalled = []
        for number, key in enumerate(["", "Authorization: Bearer sk-bh-of-nobody-0000000000000000\r\n"] * 4):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.write(
                f"POST /openai/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{ports[0]}\r\n{key}"
                f"Content-Length: {4 << 20}\r\n\r\n".encode()
            )
            answer = parse(await asyncio.wait_for(reader.read(), 30))
            assert answer.status == (403 if key else 401), number
            stalled.append(writer)
        assert stand.buffers.held == 0
        assert [event.rule for event in stand.audit.of(EgressRefused)] == [
            "placeholder.missing",
            "placeholder.session",
        ] * 4
        assert (await stand.ask(port=ports[1])).status == 200
        assert (await stand.ask(key="sk-bh-else-0000000000000000", body={"x": "y" * 300_000})).status == 403
        assert (await stand.ask("/openai/a/../../b%2f..", body={"x": "y" * 300_000})).status == 403
        declared = (
            f"POST /openai/x HTTP/1.1\r\nHost: 127.0.0.1:{ports[1]}\r\nContent-Length: {1 << 40}\r\n\r\n"
        )
        assert parse(await stand.raw(declared.encode(), port=ports[1])).status == 401
        for writer in stalled:
            writer.close()

    on_stand(tmp_path, act)


BY_HEAD = {
    "method": ("DELETE /openai/chat/completions", "", "network.endpoints.openai.methods"),
    "path": ("POST /openai/files", "", "default-deny"),
    "a path that is granted and unknown": ("POST /openai/threads", "", "network.endpoints.openai.fields"),
    "a method that is granted and unknown": ("PUT /openai/chat/completions", "", "network.endpoints.openai.fields"),
    "query": ("POST /openai/chat/completions?purpose=x", "", "network.endpoints.openai.fields"),
    "header": ("POST /openai/chat/completions", "OpenAI-Beta: assistants=v2\r\n", "network.endpoints.openai.fields"),
    "a model in the path": ("POST /openai/deployments/ft:x/chat/completions", "", "network.endpoints.openai.remote_content"),
    "no secret": ("POST /other/chat/completions", "", "secrets"),
    "a budget that is used up": ("POST /openai/chat/completions", "", "rate.provider_tokens_total"),
}  # fmt: skip


def test_what_a_head_decides_is_decided_before_a_byte_of_its_body(tmp_path: Path) -> None:
    """The body never comes, and the answer does; a session that goes on so has none judged."""
    paths = ("/chat/completions", "/threads", "/deployments/*/chat/completions")
    grant = make_grant(
        endpoints=(Endpoint(provider="openai", paths=paths, methods=("POST", "PUT")), Endpoint(provider="other", paths=paths)),
        secrets=(SecretGrant(name="openai", provider="openai"),),
        rate=Rate(provider_tokens_total=1),
    )  # fmt: skip

    async def act(stand: Stand) -> None:
        for line, more, rule in BY_HEAD.values():
            if rule == "rate.provider_tokens_total":
                assert (await stand.ask()).status == 200
                await eventually(lambda: stand.budgets.spent("acme", "openai").tokens)
            key = OTHER_PLACEHOLDER if "/other/" in line else PLACEHOLDER
            reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            writer.write(
                f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\nAuthorization: Bearer {key}\r\n{more}"
                f"Content-Length: {8 << 20}\r\n\r\n".encode()
            )
            answer = parse(await asyncio.wait_for(reader.read(), 30))
            writer.close()
            assert answer.json["error"]["code"] == rule, line
        assert stand.buffers.held == 0
        assert len(stand.provider.log) == 1

    on_stand(tmp_path, act, grant)


def test_each_byte_that_is_judged_is_paid_for_by_its_session(tmp_path: Path) -> None:
    """Whatever the body says, and whatever becomes of it: one text of a mebibyte has no brackets to count."""

    async def act(stand: Stand) -> None:
        parts, taken = stand.gateways[-1]._reverse._parts, list[float]()
        asked = parts.take

        def take(tokens: float, now: float) -> float:
            taken.append(tokens)
            return asked(tokens, now) * 0

        parts.take = take  # type: ignore[method-assign]  # what it is asked for, and no wait
        for body in (
            {**CHAT, "user": "x" * (1 << 20)},
            {**CHAT, "zz": "x" * (1 << 20)},
            b"x" * (1 << 20),
            CHAT,
        ):
            taken.clear()
            await stand.ask(body=body)
            size = len(body) if isinstance(body, bytes) else len(json.dumps(body))
            assert sum(taken) >= size // 64
        assert len(stand.provider.log) == 2

    on_stand(tmp_path, act)


def test_a_body_past_its_bound_is_refused(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        reply = await stand.ask(body={**CHAT, "user": "x" * 20_000})
        assert reply.status == 413
        assert not stand.provider.log

    on_stand(tmp_path, act, make_grant(limits=Limits(request_bytes=16_384)))


# Row 29: redirects and echoes


RESPONSES = "/openai/responses"
WITHIN = {
    "/v1/responses": RESPONSES,
    "responses": None,  # beside /v1/chat/completions: /v1/chat/responses, which isn't granted
    "../responses": RESPONSES,
    "../../v1/./responses?a=b#c": f"{RESPONSES}?a=b",
    "http://127.0.0.1:{port}/v1/responses": RESPONSES,
    "HTTP://127.0.0.1:{port}/v1/responses": RESPONSES,
    "//127.0.0.1:{port}/v1/responses": RESPONSES,
    "/v1/responses?key=sk-real&a=1": f"{RESPONSES}?key={PLACEHOLDER}&a=1",
    "?page=2": "/openai/chat/completions?page=2",
    "/v1/chat/completions/?a=1": "/openai/chat/completions?a=1",
}
BEYOND = (
    "/v1/chat/completions/", "/responses", "/v2/responses", "/v1", "/", "/v1/../responses", "/v1x/responses", "../../../responses",
    "/v1/%2e%2e/admin", "/v1//responses", "/v1/files", "/v1/res\\ponses", "/v1/res%2fponses",
    "https://127.0.0.1:{port}/v1/responses", "http://127.0.0.1:1/v1/responses", "http://localhost:{port}/v1/responses",
    "//169.254.169.254/v1/responses", "http://u:p@127.0.0.1:{port}/v1/responses", "http://[::1/v1/responses",
    "file:///etc/passwd", "data:,x", "javascript:alert(1)", "/\\127.0.0.1/v1/responses",
    "http://127.0.0.1:{port}@evil.example/v1/responses", "/v1/responses\u00e9", "/v1/" + "x" * 5_000,
)  # fmt: skip


def test_a_redirect_within_the_providers_base_is_one_below_its_name(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        for place, wanted in WITHIN.items():
            for path in ("/openai/chat/completions", "/openai/v1/chat/completions"):
                stand.provider.behave(Behaviour(redirect_to=place.format(port=stand.provider.port)))
                before = len(stand.provider.log)
                reply = await stand.ask(path)
                assert len(stand.provider.log) == before + 1  # returned, and not followed
                if wanted is None:
                    assert (reply.status, reply.headers["x-bridgehold-rule"]) == (403, "gateway.redirect"), (
                        place
                    )
                    continue
                assert (reply.status, reply.headers["location"]) == (307, wanted), place
                if wanted == RESPONSES:
                    stand.provider.behave(Behaviour())
                    again = await stand.ask(reply.headers["location"], {"model": "m", "input": "hello"})
                    assert again.status == 200, again.body
        stand.provider.behave(Behaviour(redirect_to="/v1/responses", redirect_status=201))
        assert (await stand.ask()).headers["location"] == RESPONSES
        stand.provider.behave(Behaviour(redirect_to="http://elsewhere.example/", redirect_status=201))
        reply = await stand.ask()
        assert (reply.status, "location" in reply.headers) == (201, False)

    on_stand(tmp_path, act)


def test_a_redirect_beyond_the_base_or_the_grant_is_refused_and_nobodys_attack(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        for place in BEYOND:
            stand.provider.behave(Behaviour(redirect_to=place.format(port=stand.provider.port)))
            reply = await stand.ask()
            assert reply.status == 403, (place, reply)
            assert reply.headers["x-bridgehold-rule"] == "gateway.redirect"
            assert "openai redirects to" in reply.message, place
            assert "[providers.openai] base_url" in reply.message
            assert "location" not in reply.headers
            refused = stand.audit.of(EgressRefused)[-1]
            assert (refused.rule, refused.severity) == ("gateway.redirect", "normal")
        assert len(stand.audit.of(EgressRefused)) == len(BEYOND)
        stand.provider.behave(Behaviour(redirect_to="/v1/responses", redirect_status=302))
        reply = await stand.ask()  # a client that follows asks by GET, which isn't granted
        assert (reply.status, "'GET' is none of POST" in reply.message) == (403, True)

    on_stand(tmp_path, act)


@pytest.mark.parametrize("where", ["body", "header", "stream"])
def test_an_echo_of_the_key_is_scrubbed(tmp_path: Path, where: str) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(echo_key=where))  # type: ignore[arg-type]  # one of three
        data = await _ask_raw(stand, {**CHAT, "stream": where == "stream"})
        assert KEYS["acme"].encode() not in data
        assert KEYS["acme"][: len(KEYS["acme"]) * 3 // 4].encode() not in data
        assert b"*****" in data
        await eventually(lambda: stand.audit.of(EgressOutcome))
        assert stand.audit.of(EgressOutcome)[0].scrubbed >= 1

    on_stand(tmp_path, act, process=True)


async def _ask_raw(stand: Stand, body: object) -> bytes:
    payload = json.dumps(body).encode()
    data = await stand.raw(
        f"POST /openai/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\nConnection: close\r\n"
        f"Authorization: Bearer {PLACEHOLDER}\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
        + payload
    )
    return data + parse(data).body


# Budgets, failures, and the audit that must come first


def test_requests_past_the_budget_get_429(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        statuses = [(await stand.ask()).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert stand.audit.of(EgressRefused)[0].rule == "rate.provider_requests_total"
        assert len(stand.provider.log) == 2

    on_stand(tmp_path, act, make_grant(rate=Rate(provider_requests_total=2)))


def test_tokens_past_the_budget_get_429(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        assert (await stand.ask()).status == 200
        await eventually(lambda: stand.audit.of(EgressOutcome))
        reply = await stand.ask()
        assert reply.status == 429
        assert reply.json["error"]["code"] == "rate.provider_tokens_total"

    on_stand(tmp_path, act, make_grant(rate=Rate(provider_tokens_total=3)))


def test_many_at_once_spend_no_more_than_one_after_the_other(tmp_path: Path) -> None:
    """Thirty at once, of which each may use 1,100 tokens, from two sessions and two bridges of a tenant."""

    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(latency_ms=300))
        asked = {**CHAT, "max_tokens": 1_000}
        rate = Rate(provider_tokens_total=5_000)
        other = await stand.open(make_grant(rate=rate, bridge="other"), session="s-other")
        ports = (stand.gateways[0]._port, other)
        replies = await asyncio.gather(*(stand.ask(body=asked, port=ports[n % 2]) for n in range(30)))
        statuses = sorted(reply.status for reply in replies)
        assert statuses == [200] * 5 + [429] * 25
        assert len(stand.provider.log) == 5

    on_stand(tmp_path, act, make_grant(rate=Rate(provider_tokens_total=5_000)))


def test_nothing_goes_out_without_its_intent(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.audit.failing = True
        reply = await stand.ask()
        assert reply.status == 503
        assert not stand.provider.log
        assert stand.degraded, "a refusal that can't be written degrades the host"
        stand.audit.failing = False
        assert stand.budgets.spent("acme", "openai").requests == 0

    on_stand(tmp_path, act)


def test_a_missing_secret_says_how_to_set_it(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        port = await stand.open(make_grant("nobody"), session="s-n")
        reply = await stand.ask(port=port)
        assert reply.status == 403
        assert "nobody" in reply.message
        assert not stand.provider.log

    on_stand(tmp_path, act)


def test_a_provider_that_breaks_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(break_after=2, script=("one two three four five",)))
        data = await _ask_raw(stand, {**CHAT, "stream": True})
        assert b"one" in data
        assert not data.partition(b"\r\n\r\n")[2].endswith(b"0\r\n\r\n"), "the end was made up"
        await eventually(lambda: stand.audit.of(EgressOutcome))
        assert stand.audit.of(EgressOutcome)[0].code == "keeper.provider"

    on_stand(tmp_path, act)


def test_a_provider_that_is_down_is_a_502_with_words(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        reply = await stand.ask()
        assert reply.status == 502
        assert "openai could not be reached" in reply.message
        assert stand.budgets.spent("acme", "openai").tokens == 0, "nothing was sent"

    on_stand(tmp_path, act, process=True, base_url="http://127.0.0.1:9/v1")


UNSENT = {
    "no place at the host": ("bridgehold.keeper.client.REQUESTS", 0, "busy"),
    "no place at the keeper": ("bridgehold.keeper.main.REQUESTS", 0, "busy"),
    "too long for a frame": ("bridgehold.keeper.channel.CONTROL_BYTES", 120, "limit"),
    "too large for the keeper": ("bridgehold.keeper.values.UpstreamLimits.request_bytes", 1, "limit"),
}


@pytest.mark.parametrize("way", UNSENT)
def test_what_never_left_costs_nothing_now_and_after_a_restart(  # ABUSE 59
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, value, code = UNSENT[way]
    if way == "too large for the keeper":
        limits = UpstreamLimits(request_bytes=value)
        monkeypatch.setattr("gateway_support.KeeperConfig", partial(KeeperConfig, limits=limits))
    else:
        monkeypatch.setattr(place, value)

    async def act(stand: Stand) -> None:
        reply = await stand.ask(body={**CHAT, "max_tokens": 1_000})
        assert reply.status == 502
        assert not stand.provider.log
        await eventually(lambda: stand.audit.of(EgressOutcome))
        (outcome,) = stand.audit.of(EgressOutcome)
        assert (outcome.code, outcome.charged, outcome.unsent) == (f"keeper.{code}", 0, True)
        assert stand.audit.of(EgressIntent)[0].reserved > 1_000
        folded = Budgets()
        folded.fold(entries(stand.audit.events))
        assert stand.budgets.spent("acme", "openai") == folded.spent("acme", "openai") == Spent()

    on_stand(tmp_path, act)


def entries(events: list[Event]) -> list[Entry]:
    """As a reader of the audit finds them."""
    return [
        Entry(
            ref=f"i-test.{number}",
            instance="i-test",
            seq=number,
            time="",
            kind=kind_of(type(event)),
            place="",
            tenant=event.tenant,
            fields=msgspec.to_builtins(event),
        )
        for number, event in enumerate(events, 1)
    ]
