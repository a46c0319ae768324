"""The pure parts: ClientHello, usage, shapes, buffers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import struct
import time
import zlib
from typing import Any

import pytest
from gateway_support import make_grant

from bridgehold.audit.formatter import check
from bridgehold.errors import BusyError, DeniedError
from bridgehold.host.cell.gateway.admit import Admitted
from bridgehold.host.cell.gateway.clienthello import BOUND, ClientHello, NotTls
from bridgehold.host.cell.gateway.credentials import presented
from bridgehold.host.cell.gateway.redirects import led_within
from bridgehold.host.cell.gateway.values import ProviderFacts
from bridgehold.host.shares.buffers import Buffers
from bridgehold.keeper.shapes import UNBOUND, Denial, denial_body, most_tokens, rules_of
from bridgehold.keeper.usage import NOTHING, Unasked, UsageTap, charge
from bridgehold.policies.content import BodyFacts, ParsedRequest, body_facts
from bridgehold.policies.model import Endpoint
from costs import as_in_a_host  # noqa: F401 - a fixture of all tests here


def server_name(data: bytes, step: int = BOUND * 8) -> str | None:
    hello, found = ClientHello(), None
    for at in range(0, len(data), step):
        found = hello.feed(data[at : at + step])
        if found is not None:
            break
    return found


def real_hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_a_real_client_hello_is_read_at_every_cut() -> None:
    data = real_hello("api.example.com")
    for cut in range(len(data)):
        assert server_name(data[:cut]) is None
    assert server_name(data) == "api.example.com"
    assert server_name(data + b"more") == "api.example.com"
    assert server_name(real_hello(None)) == ""


def test_a_client_hello_in_many_records_is_read() -> None:
    body = real_hello("api.example.com")[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(body[at : at + 9]).to_bytes(2, "big") + body[at : at + 9]
        for at in range(0, len(body), 9)
    )
    for step in (1, 2, 7, 5_000):
        assert server_name(records, step) == "api.example.com"


def test_a_client_hello_costs_each_of_its_bytes_once() -> None:
    """16 KiB of it, in records and reads of one byte: read anew at each, they are 20 million records."""
    one = b"\x16\x03\x01\x00\x01"
    message = b"\x01\x00\x3f\xff" + bytes(BOUND)
    before = time.thread_time()
    with pytest.raises(NotTls, match="within"):
        server_name(b"".join(one + message[at : at + 1] for at in range(BOUND)), 1)
    assert time.thread_time() - before < 2


def test_a_broken_client_hello_never_raises_anything_else() -> None:
    data = real_hello("api.example.com")
    for at in range(len(data)):
        for value in (0x00, 0x01, 0x7F, 0xFF):
            broken = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                found: object = server_name(broken)
            except NotTls as error:
                found = str(error)
            try:
                piecemeal: object = server_name(broken, 3)
            except NotTls as error:
                piecemeal = str(error)
            assert found == piecemeal
            assert found is None or isinstance(found, str)
    with pytest.raises(NotTls):
        server_name(b"\x16\x03\x01\x00\x01\x01" * BOUND)


STREAMS: dict[str, tuple[str, list[str], tuple[int, int]]] = {
    "chat": ("openai", ['{"usage":{"prompt_tokens":7,"completion_tokens":3}}', "[DONE]"], (7, 3)),
    "chat with thoughts in the total alone": (
        "openai", ['{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":900}}', "[DONE]"], (7, 893)),
    "responses": (
        "openai", ['{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":2}}}'], (5, 2)),
    "messages": (
        "anthropic",
        ['{"message":{"usage":{"input_tokens":4,"output_tokens":1}}}', '{"type":"message_delta","usage":{"output_tokens":9}}'],
        (4, 9)),
    "messages with caches": (
        "anthropic",
        [('{"message":{"usage":{"input_tokens":4,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,'
         '"cache_creation":{"ephemeral_5m_input_tokens":100},"output_tokens":1,"some_new_input_tokens":10000}}}'),
         ('{"type":"message_delta","usage":{"output_tokens":9,"iterations":[{"type":"message","output_tokens":9},'
         '{"type":"compaction","output_tokens":50}]}}')],
        (11104, 59)),
    "contents": ("gemini", ['{"usageMetadata":{"promptTokenCount":6,"candidatesTokenCount":8}}'], (6, 8)),
    "contents with thoughts, tools and a cache": (
        "gemini",
        [('{"usageMetadata":{"promptTokenCount":6,"cachedContentTokenCount":5,"toolUsePromptTokenCount":20,'
         '"thoughtsTokenCount":300,"candidatesTokenCount":8}}')],
        (26, 308)),
    "contents with a total of a newer kind": (
        "gemini", ['{"usageMetadata":{"promptTokenCount":6,"candidatesTokenCount":8,"totalTokenCount":99}}'], (6, 93)),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_usage_is_read_from_streams_however_they_are_cut(name: str, step: int) -> None:
    shape, lines, wanted = STREAMS[name]
    tap = UsageTap(shape, "text/event-stream; charset=utf-8")
    stream = b"".join(b"event: x\ndata: " + line.encode() + b"\n\n" for line in ["{}", *lines])
    for at in range(0, len(stream), step):
        tap.feed(stream[at : at + step])
    if shape == "gemini":  # no event of its own says that all was said
        assert not tap.counted.whole
        tap.end()
    said = tap.counted.said
    assert said is not None
    assert (said.input_tokens, said.output_tokens) == wanted
    assert tap.counted.whole
    assert charge(10**6, tap.counted, 200) == sum(wanted)


@pytest.mark.parametrize("number", ["-5", "1e99", '"7"', "true", "null", "[]", "99999999999999999999", "0"])
@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini"])
def test_what_is_no_count_was_not_said(shape: str, number: str) -> None:
    """Negative, missing, lying: the request stays charged with what it may have used."""
    form = {
        "openai": '{"usage":{"prompt_tokens":%s,"completion_tokens":%s}}',
        "anthropic": '{"usage":{"input_tokens":%s,"output_tokens":%s}}',
        "gemini": '{"usageMetadata":{"promptTokenCount":%s,"candidatesTokenCount":%s}}',
    }[shape]
    tap = UsageTap(shape, "application/json")
    tap.feed((form % (number, number)).encode())
    tap.end()
    assert charge(500, tap.counted, 200) == 500


@pytest.mark.parametrize(
    ("shape", "usage"),
    [
        ("openai", b'"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":9,"more":[%s]}'),
        ("anthropic", b'"usage":{"input_tokens":1,"output_tokens":1,"iterations":[%s]}'),
        (
            "gemini",
            b'"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":9,"promptTokensDetails":[%s]}',
        ),
    ],
)
def test_no_sum_of_what_a_provider_says_is_too_large_for_the_audit(shape: str, usage: bytes) -> None:
    """Nine thousand numbers, each of which is allowed, beside one of its own."""
    one = b'{"type":"compaction","input_tokens":999999999999,"output_tokens":999999999999}'
    body = usage.replace(b":9", b":999999999999") % b",".join([one] * 9_100)
    tap = UsageTap(shape, "application/json")
    tap.feed(b"{" + body + b"}")
    tap.end()
    said = tap.counted.said
    assert said is not None
    check({"in": said.input_tokens, "out": said.output_tokens, "charged": charge(0, tap.counted, 200)})
    assert charge(0, tap.counted, 200) >= 999_999_999_999


def test_an_answer_that_is_longer_than_its_usage_says_is_charged_by_what_was_seen() -> None:
    tap = UsageTap("openai", "text/event-stream")
    tap.feed(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * 1_000)
    tap.feed(b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n')
    assert charge(10, tap.counted, 200) == 1 + 997
    tap = UsageTap("anthropic", "application/json")
    tap.feed(
        b'{"content":[{"type":"text","text":"%s"}],"usage":{"input_tokens":1,"output_tokens":1}}'
        % (b"x" * 8_000)
    )
    tap.end()
    assert charge(10, tap.counted, 200) == 1_001


def test_an_honest_stream_of_responses_is_charged_what_it_says() -> None:
    """Its text stands there three times, and many of its events carry none."""
    tap, words = UsageTap("openai", "text/event-stream"), ["some", " words", " of", " an", " answer"] * 4
    text = "".join(words)
    events: list[dict[str, object]] = [
        {"type": "response.created"}, *({"type": "response.output_text.delta", "delta": word} for word in words),
        {"type": "response.output_text.done", "text": text}, {"type": "response.content_part.done", "part": {"text": text}},
        {"type": "response.completed", "response": {"output": [{"content": [{"text": text}]}],
                                                    "usage": {"input_tokens": 3, "output_tokens": 20}}},
    ]  # fmt: skip
    for event in events:
        tap.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert charge(10**6, tap.counted, 200) == 23


def test_an_answer_that_is_left_is_charged_what_was_said_and_what_passed() -> None:
    """No byte is missing but the last: the cheapest way out must be to read on."""
    text = b"word " * 50_000
    answers = {
        "openai": b'{"choices":[{"message":{"content":"%s"}}],"usage":{"prompt_tokens":9,"completion_tokens":64000}}',
        "anthropic": b'{"content":[{"text":"%s"}],"usage":{"input_tokens":9,"output_tokens":64000}}',
        "gemini": b'[{"candidates":[{"content":{"parts":[{"text":"%s"}]}}],"usageMetadata":{"promptTokenCount":9,'
        b'"candidatesTokenCount":64000}},{"candidates":[{"content":{"parts":[{"text":"\\"usageMetadata\\":{}"}]}}]}]',
    }  # fmt: skip
    for shape, form in answers.items():
        whole = form % text
        tap = UsageTap(shape, "application/json; charset=utf-8")
        tap.feed(whole)
        tap.end()
        assert charge(8_272, tap.counted, 200, open_ended=80) == 64_009
        tap = UsageTap(shape, "application/json; charset=utf-8")
        tap.feed(whole[:-1])
        assert charge(8_272, tap.counted, 200) == 64_009
        assert 250_000 < charge(8_272, tap.counted, 200, open_ended=80) < 251_000
        tap = UsageTap(shape, "application/json; charset=utf-8")
        tap.feed(whole[:80_000])
        assert 79_000 < charge(8_272, tap.counted, 200, open_ended=80) <= 80_080
        assert (
            9_000 < charge(8_272, tap.counted, 200) < 11_000
        )  # its bound is its own, and so is what was seen
        tap = UsageTap(shape, "application/json; charset=utf-8")
        for _ in range(16):
            tap.feed(form[:30] + text)  # longer than is kept
        tap.feed(whole[30:])
        tap.end()
        assert tap.counted.said is not None
        assert charge(8_272, tap.counted, 200) >= 64_009
    event = b'data: {"type":"response.output_text.delta","delta":"%s"}\n\n' % (b"w" * 400_000)
    lines = b'data: {"type":"response.output_text.delta",\ndata: "delta":\ndata: "%s"}\n\n' % (b"w" * 900)
    for answer, passed in (
        (event[:-4], 400_000),  # a line too long to keep
        (event[:80_000], 79_900),
        (event.replace(b"response.output", b"transcript"), 400_000),
        (lines, 900),
    ):
        for over in (False, True):
            tap = UsageTap("openai", "text/event-stream")
            for at in range(0, len(answer), 4_093):
                tap.feed(answer[at : at + 4_093])
            if over:
                tap.end()
            assert passed <= charge(8, tap.counted, 200, open_ended=8) - 8 <= passed + 100
    vectors = (
        b'{"data":[{"embedding":[' + b"0.123456," * 400_000 + b'0.1]},{"b64_json":"%s"}]}' % (b"Q" * 9_000)
    )
    tap = UsageTap("openai", "application/json")
    tap.feed(vectors)
    assert charge(100, tap.counted, 200, open_ended=80) == 100, "what is generated otherwise has no text"


def test_usage_holds_little_of_what_flows_by() -> None:
    tap = UsageTap("openai", "text/event-stream")
    for _ in range(100):
        tap.feed(b"x" * 65_536)
    assert len(tap._buffer) <= 512 * 1024
    tap = UsageTap("openai", "application/json")
    for _ in range(100):
        tap.feed(b"x" * 65_536)
    assert len(tap._buffer) <= 2 * 1024 * 1024
    tap.end()
    assert charge(77, tap.counted, 200) == 77, "an answer that is too long to read is charged by its bound"


@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini", "custom"])
def test_every_shape_carries_rule_and_remedy(shape: str) -> None:
    body = denial_body(shape, Denial(status=403, rule="default-deny", message="no; bridgehold why i.1"))
    assert b"bridgehold why i.1" in body


def test_the_most_that_a_request_may_use() -> None:
    def most(shape: str, body: object) -> int:
        return most_tokens(shape, body, 400) - 400

    assert most("openai", {"max_tokens": 50}) == 50
    assert most("openai", {"max_tokens": 50, "max_completion_tokens": 70, "n": 3}) == 210
    assert most("openai", {"max_tokens": 50, "prompt": ["a", "b"], "best_of": 4}) == 400
    assert most("openai", {"max_tokens": 50, "prompt": [1, "a", "b"]}) == 150
    assert most("openai", {"max_tokens": 10**30, "n": 10**30}) == 128_000_000
    assert most("openai", {"max_tokens": 50, "prompt": ["a"] * 9}) == 450
    assert most("openai", {"max_tokens": 50, "prompt": [1, 2, 3]}) == 50
    assert most("gemini", {"generationConfig": {"maxOutputTokens": 60, "candidateCount": 2}}) == 120
    assert most("gemini", {"generation_config": {"max_output_tokens": 60}}) == 60
    for silly in (-1, 0, "many", None, True, 1e9, [50]):
        assert most("openai", {"max_tokens": silly}) == UNBOUND
    assert most("openai", None) == UNBOUND
    assert most_tokens("openai", None, 0) == 0
    # A bound that a provider doesn't keep to: thoughts beyond it, pictures and sound, its own words on tools.
    assert (
        most(
            "gemini", {"generationConfig": {"maxOutputTokens": 60, "thinkingConfig": {"thinkingBudget": 900}}}
        )
        == 960
    )
    assert (
        most(
            "gemini", {"generationConfig": {"maxOutputTokens": 900, "thinkingConfig": {"thinkingBudget": 60}}}
        )
        == 900
    )
    assert most("anthropic", {"max_tokens": 50, "thinking": {"type": "enabled", "budget_tokens": 90}}) == 140
    assert most("gemini", {"generationConfig": {"maxOutputTokens": 60, "responseModalities": ["TEXT"]}}) == 60
    assert (
        most("gemini", {"generationConfig": {"maxOutputTokens": 60, "responseModalities": ["Image"]}})
        == UNBOUND
    )
    assert most("anthropic", {"max_tokens": 50, "tools": [{"name": "f"}]}) == 1_050
    draws = BodyFacts(model="gemini-2.5-flash-image")
    assert most_tokens("gemini", {"generationConfig": {"maxOutputTokens": 60}}, 0, draws) == UNBOUND
    assert most_tokens("openai", {"input": "x"}, 4_000, BodyFacts(each=6)) == 28_000
    assert most_tokens("openai", {"input": "x"}, 40, BodyFacts(generates=False, media=7)) == 47


def picture(side: int) -> str:
    """A picture of one colour as base64: its bytes say nothing of its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = zlib.compress(bytes(side // 8 + 1) * side, 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(made).decode()


PAGES = base64.b64encode(
    b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 100/Kids[%s]>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]>>endobj\ntrailer<</Root 1 0 R>>"
    % b" ".join([b"3 0 R"] * 100)
).decode()


@pytest.mark.parametrize(
    ("shape", "part", "billed"),
    [  # what the providers' own rules make of ten
        ("openai", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture(2_048)}"}}, 10 * (2_833 + 4 * 5_667)),
        ("anthropic", {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture(2_048)}}, 10 * 4_784),
        ("anthropic", {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PAGES}}, 1_000_000),
        ("gemini", {"inlineData": {"mimeType": "image/png", "data": picture(2_048)}}, 10 * 9 * 258),
        ("gemini", {"inlineData": {"mimeType": "application/pdf", "data": PAGES}}, 1_000 * 258),
    ],
)  # fmt: skip
def test_small_media_that_are_left_are_charged_what_the_provider_bills(
    shape: str, part: dict[str, Any], billed: int
) -> None:
    path, body = {
        "openai": ("/chat/completions", {"model": "gpt-4o-mini", "max_tokens": 16, "messages": [{"role": "user", "content": [part] * 10}]}),
        "anthropic": ("/messages", {"model": "c", "max_tokens": 16, "messages": [{"role": "user", "content": [part] * 10}]}),
        "gemini": ("/models/g:generateContent", {"contents": [{"parts": [part] * 10}], "generationConfig": {"maxOutputTokens": 16}}),
    }[shape]  # fmt: skip
    size = len(json.dumps(body))
    assert size < 40_000
    found = body_facts(shape, ParsedRequest(path=path, body=body))
    assert found.first == ""
    assert charge(most_tokens(shape, body, size, found), NOTHING, 0) >= billed


def event(**more: object) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", **more}).encode() + b"\n\n"


@pytest.mark.parametrize("step", [1, 3, 7, 10_000])
def test_usage_that_a_guest_did_not_ask_for_is_left_out_of_its_stream(step: int) -> None:
    word = event(choices=[{"index": 0, "delta": {"content": 'x "choices":[] "usage":{'}}], usage=None)
    filtered = event(choices=[], prompt_filter_results=[{}])
    usage = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
    done, comment = b"data: [DONE]\n\n", b": keep-alive\n\n"
    long = event(choices=[{"delta": {"content": "w" * 400_000}}]) if step > 100 else word
    for given, wanted in (
        (filtered + word + comment + usage + done, filtered + word + comment + done),
        (long + usage.replace(b"\n", b"\r\n") + done + b"tail", long + done + b"tail"),
        (usage.rstrip(), b""),
        (b"\n\n" + word[:-20], b"\n\n" + word[:-20]),
    ):
        unasked = Unasked()
        found = b"".join(unasked.feed(given[at : at + step]) for at in range(0, len(given), step))
        assert found + unasked.end() == wanted


def test_credentials_are_never_shown() -> None:
    found = presented("p", {"p": "sk-bh-1"}, [("authorization", "Bearer sk-own-key")], [])
    assert found.verdict == "own_key"
    assert "sk-own-key" not in repr(found)
    assert presented("p", {"p": "sk-bh-1"}, [("authorization", "bearer   sk-bh-1")], []).verdict == "ok"
    assert presented("p", {"p": "sk-bh-1"}, [], [("key", "sk-bh-1")]).verdict == "ok"


def test_neither_a_session_nor_a_tenant_can_hold_all_buffers() -> None:
    async def act() -> None:
        buffers = Buffers(800, share=8, patience_s=0.1)
        one, other = ("acme", "a"), ("acme", "b")
        async with buffers.hold(one, 100) as holding:
            with pytest.raises(BusyError):
                async with buffers.hold(one, 1):
                    pass
            async with buffers.hold(other, 100):
                assert buffers.held == 200
            holding.shrink(10)
            async with buffers.hold(one, 90):
                assert buffers.held == 100
        assert buffers.held == 0
        async with contextlib.AsyncExitStack() as stack:
            for number in range(4):  # of eight sessions, which could take all of it
                await stack.enter_async_context(buffers.hold(("acme", str(number)), 100))
            with pytest.raises(BusyError):
                await stack.enter_async_context(buffers.hold(("acme", "4"), 100))
            await stack.enter_async_context(buffers.hold(("other", "x"), 100))
        assert buffers.held == 0

    asyncio.run(act())


@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini"])
def test_a_provider_of_any_shape_is_charged_as_its_own_would_be(shape: str) -> None:
    said: dict[str, dict[str, Any]] = {
        "openai": {"usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        "anthropic": {"usage": {"input_tokens": 4, "output_tokens": 9, "cache_read_input_tokens": 1_000}},
        "gemini": {
            "usageMetadata": {"promptTokenCount": 6, "candidatesTokenCount": 8, "totalTokenCount": 99}
        },
    }
    asked: dict[str, dict[str, Any]] = {
        "openai": {"max_tokens": 5_000_000},
        "anthropic": {"max_tokens": 5_000_000},
        "gemini": {"generationConfig": {"maxOutputTokens": 5_000_000, "candidateCount": 2}},
    }
    own, custom = rules_of(shape).usage(said[shape]), rules_of("custom").usage(said[shape])
    assert own is not None
    assert custom is not None
    assert custom.input_tokens + custom.output_tokens >= own.input_tokens + own.output_tokens
    assert most_tokens("custom", asked[shape], 100) >= most_tokens(shape, asked[shape], 100) > 10**6


@pytest.mark.parametrize(
    ("method", "status", "asked", "location", "leads"),
    [
        ("GET", 301, (), "/v1/models/", ""),
        ("GET", 302, (("limit", "1"),), "/v1/models/?limit=1", ""),
        ("HEAD", 307, (), "https://api.example/v1/models/", ""),
        ("GET", 308, (("key", "sk-bh-placeholder"), ("a", "")), "/v1/models/?a=&key=other", ""),
        ("GET", 302, (), "/v1/models/?page=2", "/openai/models?page=2"),
        ("POST", 303, (), "/v1/models/", "/openai/models"),
        ("GET", 302, (), "/v1/others/", "/openai/others"),
    ],
)
def test_a_redirect_to_the_same_place_but_for_a_slash_never_makes_a_client_go_round(
    method: str, status: int, asked: tuple[tuple[str, str], ...], location: str, leads: str
) -> None:
    paths = ("/models", "/others")
    grant = make_grant(endpoints=(Endpoint(provider="openai", paths=paths, methods=("GET", "HEAD", "POST")),))
    facts = ProviderFacts(
        name="openai", host="api.example", port=443, base_url="https://api.example/v1", version="v1"
    )
    admitted = Admitted(
        provider=facts, method=method, path="/models", query=asked, headers=(), body=b"", rule="", secret="openai",
        credential="", model="", tokens=0, open_ended=False,
    )  # fmt: skip
    headers = [("location", location)]
    if not leads:
        with pytest.raises(DeniedError, match="which is where it was asked, but for a slash"):
            led_within(grant, admitted, "sk-bh-placeholder", status, headers)
        return
    assert led_within(grant, admitted, "sk-bh-placeholder", status, headers) == (("location", leads),)
