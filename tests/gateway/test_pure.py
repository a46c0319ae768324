"""The pure parts: ClientHello, usage, shapes, budgets, buckets."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from bridgehold.audit.events import EgressIntent, EgressOutcome
from bridgehold.errors import BudgetError, BusyError
from bridgehold.host.budgets import Budgets, Buffers
from bridgehold.host.gateway.clienthello import BOUND, NotTls, server_name
from bridgehold.host.gateway.credentials import presented
from bridgehold.host.gateway.shapes import Denial, denial_body, wanted_tokens
from bridgehold.host.gateway.usage import UsageTap
from bridgehold.policies.model import Rate


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
    assert server_name(records) == "api.example.com"


def test_a_broken_client_hello_never_raises_anything_else() -> None:
    data = real_hello("api.example.com")
    for at in range(len(data)):
        for value in (0x00, 0x01, 0x7F, 0xFF):
            broken = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                found = server_name(broken)
            except NotTls:
                continue
            assert found is None or isinstance(found, str)
    with pytest.raises(NotTls):
        server_name(b"\x16\x03\x01\x00\x01\x01" * BOUND)


@pytest.mark.parametrize(
    ("shape", "lines", "wanted"),
    [
        ("openai", ['{"usage":{"prompt_tokens":7,"completion_tokens":3}}'], (7, 3)),
        (
            "openai",
            ['{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":2}}}'],
            (5, 2),
        ),
        (
            "anthropic",
            ['{"message":{"usage":{"input_tokens":4,"output_tokens":1}}}', '{"usage":{"output_tokens":9}}'],
            (4, 9),
        ),
        ("gemini", ['{"usageMetadata":{"promptTokenCount":6,"candidatesTokenCount":8}}'], (6, 8)),
    ],
)
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_usage_is_read_from_streams_however_they_are_cut(
    shape: str, lines: list[str], wanted: tuple[int, int], step: int
) -> None:
    tap = UsageTap(shape, "text/event-stream; charset=utf-8")
    stream = b"".join(b"event: x\ndata: " + line.encode() + b"\n\n" for line in ["{}", *lines, "[DONE]"])
    for at in range(0, len(stream), step):
        tap.feed(stream[at : at + step])
    usage, estimated = tap.result(100)
    assert (usage.input_tokens, usage.output_tokens) == wanted
    assert not estimated


@pytest.mark.parametrize("number", ["-5", "1e99", '"7"', "true", "null", "[]", "99999999999999999999"])
def test_a_provider_cannot_write_what_is_no_count(number: str) -> None:
    tap = UsageTap("openai", "application/json")
    tap.feed(b'{"usage":{"prompt_tokens":%s,"completion_tokens":%s}}' % (number.encode(), number.encode()))
    usage, _ = tap.result(0)
    assert usage.output_tokens < 10**6


def test_usage_holds_little_of_what_flows_by() -> None:
    tap = UsageTap("openai", "text/event-stream")
    for _ in range(100):
        tap.feed(b"x" * 65_536)
    assert len(tap._buffer) <= 512 * 1024
    tap = UsageTap("openai", "application/json")
    for _ in range(100):
        tap.feed(b"x" * 65_536)
    assert len(tap._buffer) <= 2 * 1024 * 1024
    assert tap.result(0)[1], "an estimate is marked as one"


@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini", "custom"])
def test_every_shape_carries_rule_and_remedy(shape: str) -> None:
    body = denial_body(shape, Denial(status=403, rule="default-deny", message="no; bridgehold why i.1"))
    assert b"bridgehold why i.1" in body


def test_wanted_tokens_are_bounded_by_what_can_be_a_count() -> None:
    assert wanted_tokens("openai", {"max_tokens": 50}, 400) == 150
    assert wanted_tokens("openai", {"max_tokens": -1}, 0) == 1_024
    assert wanted_tokens("openai", {"max_tokens": "many"}, 0) == 1_024
    assert wanted_tokens("openai", None, 0) == 1_024


def test_credentials_are_never_shown() -> None:
    found = presented("p", {"p": "sk-bh-1"}, [("authorization", "Bearer sk-own-key")], [])
    assert found.verdict == "own_key"
    assert "sk-own-key" not in repr(found)
    assert presented("p", {"p": "sk-bh-1"}, [("authorization", "bearer   sk-bh-1")], []).verdict == "ok"
    assert presented("p", {"p": "sk-bh-1"}, [], [("key", "sk-bh-1")]).verdict == "ok"


def spent(budgets: Budgets) -> tuple[int, int]:
    found = budgets.spent("acme", "openai")
    return found.requests, found.tokens


def outcome(tokens: int) -> EgressOutcome:
    return EgressOutcome(
        tenant="acme", intent="i.1", provider="openai", host="h", method="POST", path="/", status=200,
        request_bytes=1, response_bytes=1, ms=1, input_tokens=tokens, output_tokens=1,
    )  # fmt: skip


def test_budgets_are_a_fold_of_the_audit() -> None:
    """The same from values and from decoded lines, so that a restart forgets nothing."""
    intent = EgressIntent(tenant="acme", provider="openai", host="h", method="POST", path="/", rule="r")
    from_values, from_lines = Budgets(), Budgets()
    from_values.fold([intent, outcome(9), intent])
    lines: list[dict[str, object]] = [
        {"kind": "egress.intent", "tenant": "acme", "provider": "openai"},
        {"kind": "command.intent", "tenant": "acme"},
        {
            "kind": "egress.outcome",
            "tenant": "acme",
            "provider": "openai",
            "input_tokens": 9,
            "output_tokens": 1,
        },
        {"kind": "egress.intent", "tenant": "acme", "provider": "openai"},
        {"kind": "egress.intent", "tenant": "acme", "provider": ""},
    ]
    from_lines.fold(lines)
    assert spent(from_values) == spent(from_lines) == (2, 10)
    with pytest.raises(BudgetError) as refused:
        from_lines.reserve("acme", "openai", Rate(provider_requests_total=2), 1, 0.0)
    assert refused.value.where == "rate.provider_requests_total"
    from_lines.reserve("umbra", "openai", Rate(provider_requests_total=2), 1, 0.0)


def test_requests_under_way_count_with_what_they_reserved() -> None:
    budgets, rate = Budgets(), Rate(provider_tokens_total=1_000)
    first = budgets.reserve("acme", "openai", rate, 1_000, 0.0)
    with pytest.raises(BudgetError):
        budgets.reserve("acme", "openai", rate, 1_000, 0.0)
    first.settle(10)
    first.settle(10)
    assert spent(budgets) == (1, 10)
    budgets.reserve("acme", "openai", rate, 1_000, 0.0).give_back()
    assert spent(budgets) == (1, 10)


def test_requests_per_minute_come_back_with_time() -> None:
    budgets, rate = Budgets(), Rate(provider_requests_per_minute=60)
    for _ in range(10):
        budgets.reserve("acme", "openai", rate, 1, 0.0)
    with pytest.raises(BudgetError):
        budgets.reserve("acme", "openai", rate, 1, 0.0)
    budgets.reserve("acme", "openai", rate, 1, 1.0)


def test_one_session_cannot_hold_all_buffers() -> None:
    async def act() -> None:
        buffers = Buffers(800, share=8, patience_s=0.1)
        async with buffers.hold("a", 100) as holding:
            with pytest.raises(BusyError):
                async with buffers.hold("a", 1):
                    pass
            async with buffers.hold("b", 100):
                assert buffers.held == 200
            holding.shrink(10)
            async with buffers.hold("a", 90):
                assert buffers.held == 100
        assert buffers.held == 0

    asyncio.run(act())
