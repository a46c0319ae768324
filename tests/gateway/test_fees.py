"""What a provider bills by use is refused, or has its fee, before it goes out and after a restart (ABUSE 59)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_support import Stand, make_grant, on_stand

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import EgressIntent, EgressOutcome
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.errors import BudgetError
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.values import ToolContext, ToolMeans, ToolSpec
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.shapes import each_answer
from bridgehold.keeper.spending import Prices, Spending, prices_of
from bridgehold.keeper.usage import UsageTap
from bridgehold.keeper.values import keeper_config, parse_config, prices_told
from bridgehold.policies.content import UNREADABLE, ParsedRequest, body_facts, head_facts
from bridgehold.policies.model import Ceilings, Endpoint, Rate, Rules, SecretGrant
from bridgehold.policies.tenants import Tenant
from bridgehold.policies.uses import MOST_KINDS, UNBOUND, Use
from waiting import eventually

OWNER = ("acme", "dspy")
CHAT: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}]}
RESPONSE: dict[str, Any] = {"model": "gpt-5", "input": "x"}
MESSAGE: dict[str, Any] = {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
SEARCH, CODE = {"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}
PICTURE = {"model": "gpt-image-1", "prompt": "x"}


def uses(shape: str, path: str, body: Any, *granted: str, **more: Any) -> dict[str, int]:
    asked = ParsedRequest(path=path, body=body, method="POST" if body else "GET", **more)
    found = body_facts(shape, asked, granted)
    assert not found.first, "it is let out"
    return {use.names[0]: use.times for use in each_answer(shape, body, found.uses)}


PLAIN = [
    ("openai", "/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}, ()),
    ("openai", "/responses", RESPONSE, ("tools", "store")),
    ("openai", "/embeddings", {"model": "e", "input": ["a", "b"]}, ("*",)),
    ("openai", "/models", None, ()),
    (
        "openai",
        "/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]},
        ("messages[].content[].image_url.url",),
    ),
]  # fmt: skip
BILLED: list[tuple[str, str, Any, tuple[str, ...], dict[str, int]]] = [
    ("openai", "/responses", {**RESPONSE, "tools": [SEARCH]}, ("tools[].type=web_search",),
     {"tools[].type=web_search": UNBOUND}),
    ("openai", "/responses", {**RESPONSE, "tools": [SEARCH, SEARCH, CODE], "max_tool_calls": 3}, ("tools",),
     {"tools[].type=web_search": 3, "tools[].type=code_interpreter": 3}),
    ("openai", "/responses", {**RESPONSE, "tools": [SEARCH], "max_tool_calls": -3}, ("*",),
     {"tools[].type=web_search": UNBOUND}),
    ("openai", "/responses", {**RESPONSE, "store": True}, ("store",), {"store=true": 1}),
    ("openai", "/responses", {**RESPONSE, "tools": [{"type": "image_generation"}]}, ("tools[].type",),
     {"tools[].type=image_generation": UNBOUND}),
    ("openai", "/responses", {**RESPONSE, "tools": [{"type": "not_known_yet"}]}, ("tools[].type",),
     {"tools[].type=not_known_yet": UNBOUND}),
    ("openai", "/chat/completions", {**CHAT, "web_search_options": {}, "n": 4}, ("web_search_options",),
     {"web_search_options": 4}),
    ("openai", "/chat/completions", {**CHAT, "model": "gpt-4o-search-preview"}, ("model",),
     {"model=gpt-4o-search-preview": 1}),
    ("openai", "/chat/completions", {**CHAT, "service_tier": "priority"}, ("service_tier",),
     {"service_tier=priority": 1}),
    ("anthropic", "/messages",
     {**MESSAGE, "tools": [{"type": "web_search_20250305", "name": "w", "max_uses": 2},
                           {"type": "code_execution_20250522", "name": "c", "max_uses": -1}]}, ("tools[].type",),
     {"tools[].type=web_search_20250305": 2, "tools[].type=code_execution_20250522": UNBOUND}),
    ("gemini", "/models/g:generateContent",
     {"contents": [], "tools": [{"googleSearch": {}}], "generationConfig": {"candidateCount": 2}}, ("tools",),
     {"tools[].googleSearch": 2 * UNBOUND}),
    ("openai", "/images/generations", {**PICTURE, "n": 5}, (), {"/images/generations": 5}),
    ("custom", "/images/generations", PICTURE, (), {"/images/generations": 1}),
    ("openai", "/audio/speech", {"model": "tts-1", "voice": "v", "input": "x" * 2_500}, (), {"/audio/speech": 3}),
    ("openai", "/v1/files", {"file": "x", "purpose": "y"}, ("(path)=/files", "file", "purpose"),
     {"(path)=/files": 1}),
    ("openai", "/vector_stores", {"name": "x"}, ("*",), {"(path)=/vector_stores": 1}),
    ("openai", "/responses", {**RESPONSE, "tools": [{"type": f"t{n}"} for n in range(MOST_KINDS + 1)]}, ("tools",),
     {**{f"tools[].type=t{n}": UNBOUND for n in range(1, MOST_KINDS + 1)}, "(body)": 1}),
]  # fmt: skip


@pytest.mark.parametrize("bounded", ["money_per_day", "money_per_month"])
def test_each_use_that_a_grant_lets_in_has_its_fee_or_is_refused(bounded: str) -> None:
    limits = Ceilings(**{bounded: 100_000_000})
    for shape, path, body, granted in PLAIN:
        assert uses(shape, path, body, *granted) == {}, "tokens are all of it"
    for shape, path, body, granted, expected in BILLED:
        assert uses(shape, path, body, *granted) == expected
        facts = body_facts(shape, ParsedRequest(path=path, body=body), granted)
        met = each_answer(shape, body, facts.uses)
        budgets = Budgets(Spending(lambda name: Tenant(name=name, limits=limits), Prices({"p": 1.0})))
        with pytest.raises(BudgetError) as refused:
            budgets.reserve(OWNER, "p", Rate(), 1, 0.0, uses=met)
        assert refused.value.where == "providers.p.fees"
        assert met[0].names[0] in refused.value.message
        assert f'[providers.p.fees] "{met[0].names[0]}"' in refused.value.hint
        assert budgets.spent("acme", "p").requests == 0
        unbounded = Budgets(Spending())
        assert unbounded.reserve(OWNER, "p", Rate(), 1, 0.0, uses=met).fees == 0, "no money is counted"
        for key in ("*", *({met[0].names[-1]} if len(met) == 1 else ())):
            budgets.spending.prices = Prices({"p": 1.0}, fees={"p": {key: 0.25}})
            held = budgets.reserve(OWNER, "p", Rate(), 0, 0.0, uses=met)
            assert held.fees == 250_000 * sum(expected.values())
            held.give_back()
        assert budgets.spending.used("acme").money_per_day == 0
    asked = ParsedRequest(path="/files", method="POST")
    assert [use.names[0] for use in head_facts("openai", asked, ("(path)",)).uses] == ["(path)=/files"]
    assert [use.names for use in UNREADABLE.uses] == [("(body)",)], "what nobody has read may be anything"


def test_a_fee_is_charged_first_settled_once_and_a_fold_of_the_audit(tmp_path: Path) -> None:
    text = (
        '[providers.openai]\nbase_url = "https://x.example"\nprice = 1\n[providers.openai.fees]\n'
        '"tools[].type=web_search" = 0.01\n"tools" = 2\n"/images/generations" = 0.17\n'
    )
    (tmp_path / "config.toml").write_text(text)
    config = load_config(tmp_path / "config.toml", {})
    kept = keeper_config(Layout(config=tmp_path, state=tmp_path, run=tmp_path), config)
    prices = prices_of(config)
    assert prices_told(parse_config(msgspec.json.encode(kept))).fees == prices.fees
    search, other = (
        Use(("tools[].type=web_search", "tools[].type", "tools[]", "tools"), 10),
        Use(("x", "tools")),
    )
    assert (prices.fee("openai", search), prices.fee("openai", other)) == (100_000, 2_000_000)
    assert prices.fee("openai", Use(("store",))) is None is prices.fee("gone", search)
    ceilings = Ceilings(money_per_day=150_000)
    spending = Spending(lambda name: Tenant(name=name, limits=ceilings), prices)
    budgets = Budgets(spending)
    held = budgets.reserve(OWNER, "openai", Rate(), 60_000, 0.0, uses=(search,))
    assert spending.used("acme").money_per_day == 160_000
    with pytest.raises(BudgetError, match="money per day"):
        budgets.reserve(OWNER, "openai", Rate(), 0, 0.0)
    held.settle(10, held.fees_due(200))
    held.settle(0, 0)
    assert spending.used("acme").money_per_day == 100_010, "its tokens are settled, its uses stay"
    refused = budgets.reserve(OWNER, "openai", Rate(), 0, 0.0, uses=(search,))
    refused.settle(0, refused.fees_due(429, (("web_search", 99),)))
    budgets.reserve(OWNER, "openai", Rate(), 0, 0.0, uses=(search,), fees=1).give_back()
    assert spending.used("acme").money_per_day == 100_010
    assert budgets.reserve(OWNER, "openai", Rate(), 0, 0.0, fees=70).fees == 70, "a cell's own word, if more"
    assert spending.used("acme").money_per_month == 100_080

    told = msgspec.json.decode(
        msgspec.json.encode(cell_wire.Spent(periods=spending.of("acme"))), type=cell_wire.Spent
    )
    copied = Spending(prices=prices)
    copied.restore("acme", told.periods)
    assert copied.used("acme").money_per_day == 100_080

    restarted = Spending(prices=Prices())
    day = restarted.today()

    def line(kind: str, ref: str, **fields: object) -> Entry:
        of = {"provider": "openai", **fields}
        time = f"{day}T10:00:00.000000Z"
        return Entry(ref=ref, instance="i", seq=1, time=time, kind=kind, place="", tenant="acme", fields=of)

    Budgets(restarted).fold(
        [
            line("egress.intent", "i.1", reserved=5, fees=500),
            line("egress.outcome", "i.2", intent="i.1", charged=5, fees=300),
            line("egress.intent", "i.3", fees=40),
            line("egress.intent", "i.4", fees=9_000),
            line("egress.outcome", "i.5", intent="i.4", unsent=True, fees=9_000),
            line("egress.outcome", "i.6", intent="i.1", fees=-10**6),
            line("egress.sent", "i.7", fees=True),
        ]
    )  # fmt: skip
    assert restarted.used("acme").money_per_day == 340, "one whose end nobody saw keeps its fee"


ANSWERS: list[tuple[str, str, str, dict[str, int]]] = [
    ("openai", "application/json", ('{"output":[{"type":"web_search_call"},{"type":"message"},{"type":"web_search_call"},'
     '{"type":"function_call"},{"type":"code_interpreter_call"}]}'), {"web_search": 2, "code_interpreter": 1}),
    ("openai", "text/event-stream",
     'data: {"type":"response.output_item.done","item":{"type":"file_search_call"}}\n\n' * 3
     + 'data: {"type":"response.completed","response":{"output":[{"type":"file_search_call"}]}}\n\n', {"file_search": 3}),
    ("openai", "application/json", '{"created":1,"data":[{"b64_json":"x"},{"url":"x"},{"embedding":[1]}]}',
     {"/images/generations": 2}),
    ("openai", "text/event-stream", 'data: {"type":"image_generation.completed","b64_json":"x"}\n\n' * 2,
     {"/images/generations": 2}),
    ("anthropic", "application/json",
     '{"usage":{"output_tokens":1,"server_tool_use":{"web_search_requests":12,"web_fetch_requests":0,"x":3}}}',
     {"web_search": 12}),
    ("anthropic", "text/event-stream",
     ('data: {"type":"message_start","message":{"usage":{"server_tool_use":{"web_search_requests":1}}}}\n\n'
     'data: {"type":"message_delta","usage":{"server_tool_use":{"web_search_requests":4}}}\n\n'), {"web_search": 4}),
    ("gemini", "application/json", '[{"candidates":[{"groundingMetadata":{"webSearchQueries":["a","b"]}},{}]}]',
     {"googleSearch": 2}),
    ("openai", "application/json", ('{"usage":{"server_tool_use":{"web_search_requests":-3,"y_requests":true}},'
     '"output":[7,{"type":[]}],"data":"x","candidates":[{"groundingMetadata":{"webSearchQueries":9}}]}'), {}),
    ("anthropic", "application/json", '{"usage":{"server_tool_use":{"web_search_requests":99999999999999999}}}',
     {"web_search": 1_000}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "kind", "answer", "expected"), ANSWERS)
def test_an_answer_that_counts_more_uses_than_were_charged_is_charged_with_them(
    shape: str, kind: str, answer: str, expected: dict[str, int]
) -> None:
    tap = UsageTap(shape, kind)
    for at in range(0, len(answer), 11):
        tap.feed(answer[at : at + 11].encode())
    tap.end()
    used = tap.counted.used
    assert dict(used) == expected
    budgets = Budgets(Spending(prices=Prices({}, fees={"p": {"*": 0.01}})))
    for charged in (0, 1, 2, 2_000):
        names = {
            "/images/generations": ("/images/generations",),
            "googleSearch": ("tools[].googleSearch", "tools"),
        }
        uses = tuple(
            Use(names.get(one, (f"tools[].type={one}_20991231", "tools[].type")), charged)
            for one in expected
            if charged
        )
        held = budgets.reserve(OWNER, "p", Rate(), 0, 0.0, uses=uses)
        due = sum(max(charged, count) for count in expected.values()) * 10_000
        assert held.fees == charged * len(expected) * 10_000
        assert held.fees_due(200, used) == due
        assert held.fees_due(429, used) == 0
        held.settle(0, held.fees_due(200, used))
        held.settle(0, 0)


def test_a_guest_and_a_tool_are_told_which_fee_is_missing_and_charged_with_the_one_that_stands(
    tmp_path: Path,
) -> None:
    """`n` asks for two answers, each with a search of the provider's own."""
    body = {**CHAT, "web_search_options": {}, "n": 2}
    endpoint = Endpoint(provider="openai", paths=("/chat/completions",), fields=("web_search_options",))
    grant = make_grant(
        endpoints=(endpoint,),
        tools=Rules(allow=("ask",)),
        tool_secrets=(SecretGrant(name="openai", provider="openai"),),
    )
    ask_for = ToolSpec(name="ask", how="http", parameters={"additionalProperties": True})

    async def by_tool(stand: Stand) -> None:
        tools = HttpTools(stand.keeper, stand.budgets, stand.providers)
        tools.replace({"ask": ("openai", "/chat/completions", False)})
        caller = ToolContext(tenant="acme", principal="tester", session="s-acme", command=stand.command)
        events = SessionEvents(stand.audit, "acme", "s-acme", per_second=100)
        try:
            await tools.call(ask_for, dict(body), caller, ToolMeans(grant, events))
        finally:
            await events.close()

    async def act(stand: Stand) -> None:
        limits = Ceilings(money_per_day=1_000_000)
        spending = stand.budgets.spending = Spending(
            lambda name: Tenant(name=name, limits=limits), Prices({"openai": 1.0})
        )
        refused = await stand.ask(body=body)
        assert (refused.status, refused.headers["x-bridgehold-rule"]) == (429, "providers.openai.fees")
        assert '[providers.openai.fees] "web_search_options"' in refused.message
        with pytest.raises(BudgetError, match="web_search_options"):
            await by_tool(stand)
        assert not stand.provider.log
        spending.prices = Prices({"openai": 1.0}, fees={"openai": {"web_search_options": 0.02}})
        assert (await stand.ask(body=body)).status == 200
        await by_tool(stand)
        await eventually(lambda: len(stand.audit.of(EgressOutcome)) == 2)
        both = [*stand.audit.of(EgressIntent), *stand.audit.of(EgressOutcome)]
        assert [one.fees for one in both] == [40_000] * 4
        assert spending.used("acme").money_per_day == 80_000 + sum(one.charged for one in both[2:])

    on_stand(tmp_path, act, grant)
