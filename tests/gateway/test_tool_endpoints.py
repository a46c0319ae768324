"""Operators' tools that are endpoints: what a call costs, whose key it may use, and what the audit has of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_support import CHAT, Stand, make_grant, on_stand

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import EgressIntent, EgressOutcome, Event, kind_of
from bridgehold.bridges.kit.provider import Behaviour
from bridgehold.errors import ApplicationError, BudgetError, DeniedError, ProviderError
from bridgehold.host.cell.tools.http import HttpTools
from bridgehold.host.cell.tools.values import ToolContext, ToolMeans, ToolSpec
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.spending import Prices, Spending
from bridgehold.policies import fields
from bridgehold.policies.model import Ceilings, Rate, Rules, SecretGrant
from bridgehold.policies.tenants import Tenant
from waiting import eventually

ASK = ToolSpec(name="ask", how="http", parameters={"additionalProperties": True})
KEY = SecretGrant(name="openai", provider="openai")
CALLER = ToolContext(tenant="acme", principal="tester", session="s-acme", command="c-0000000000000001")


def written(stand: Stand, event: Event) -> Entry:
    """As the audit has it."""
    ref = f"i-test.{next(at for at, one in enumerate(stand.audit.events, 1) if one is event)}"
    fields = msgspec.to_builtins(event)
    time = f"{stand.budgets.spending.today()}T10:00:00.000000Z"
    return Entry(
        ref=ref,
        instance="i",
        seq=1,
        time=time,
        kind=kind_of(type(event)),
        place="",
        tenant="acme",
        fields=fields,
    )


def granted(**changes: Any) -> Any:
    given = {"endpoints": (), "secrets": (), "tools": Rules(allow=("ask",)), "tool_secrets": (KEY,)}
    return make_grant(**{**given, **changes})


async def ask(
    stand: Stand,
    grant: Any = None,
    arguments: dict[str, object] = CHAT,
    path: str = "/chat/completions",
    *,
    names_model: bool = False,
) -> Any:
    tools = HttpTools(stand.keeper, stand.budgets, stand.providers)
    tools.replace({"ask": ("openai", path, names_model)})
    events = SessionEvents(stand.audit, "acme", "s-acme", per_second=100)
    try:
        return await tools.call(ASK, dict(arguments), CALLER, ToolMeans(grant or granted(), events))
    finally:
        await events.close()


def test_a_call_counts_as_any_request_to_the_provider_does(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        answer = await ask(stand)
        usage = answer["usage"]
        (intent,), (outcome,) = stand.audit.of(EgressIntent), stand.audit.of(EgressOutcome)
        assert (intent.provider, intent.how, intent.path, intent.rule) == (
            "openai", "tool", "/chat/completions", "tools.allow[0]",
        )  # fmt: skip
        assert (intent.tenant, intent.principal, intent.command) == ("acme", "tester", CALLER.command)
        assert intent.reserved > 8_192
        assert outcome.charged == usage["prompt_tokens"] + usage["completion_tokens"] > 0
        spent = stand.budgets.spent("acme", "openai")
        assert (spent.requests, spent.tokens) == (1, outcome.charged)
        for rate, rule in (
            (Rate(provider_requests_total=1), "rate.provider_requests_total"),
            (Rate(provider_tokens_total=1), "rate.provider_tokens_total"),
        ):
            with pytest.raises(BudgetError) as used_up:
                await ask(stand, granted(rate=rate))
            assert used_up.value.where == rule
        stand.budgets = Budgets(
            Spending(lambda name: Tenant(name=name, limits=Ceilings(money_per_day=1_000_000)))
        )
        with pytest.raises(BudgetError) as unpriced:
            await ask(stand)
        assert unpriced.value.where == "providers.openai.price"
        stand.budgets = Budgets(
            Spending(
                lambda name: Tenant(name=name, limits=Ceilings(requests_per_day=1)),
                Prices({"openai": 9.0}, {("openai", "gpt-4o-mini"): 2.0}),
            )
        )
        await ask(stand, names_model=True)
        with pytest.raises(BudgetError, match="requests per day"):
            await ask(stand)
        assert stand.budgets.spending.used("acme").money_per_day == outcome.charged * 2
        assert len(stand.provider.log) == 2
        assert len(stand.audit.of(EgressIntent)) == 2

    on_stand(tmp_path, act)


def test_where_the_address_says_which_model_answers_an_argument_makes_nothing_cheaper(tmp_path: Path) -> None:
    prices = {("openai", "gpt-4o-mini"): 2.0, ("openai", "dear"): 20.0}

    async def act(stand: Stand) -> None:
        for named, names_model, price, said in (
            ("gpt-4o-mini", False, 9, ""),
            ("gpt-4o-mini", True, 2, "gpt-4o-mini"),
            ("dear", False, 20, "dear"),
            ("dear-2026-01-01", False, 20, "dear-2026-01-01"),
            ("dear-2026-01-01", True, 20, "dear-2026-01-01"),
            (7, False, 9, ""),
            (7, True, 9, ""),
        ):
            stand.budgets = Budgets(Spending(prices=Prices({"openai": 9.0}, prices)))
            arguments = {**CHAT, "model": named}
            await ask(stand, arguments=arguments, names_model=names_model)
            intent, outcome = stand.audit.of(EgressIntent)[-1], stand.audit.of(EgressOutcome)[-1]
            assert (intent.model, outcome.model) == (said, said)
            assert stand.budgets.spending.used("acme").money_per_day == outcome.charged * price > 0
            again = Budgets(Spending(prices=stand.budgets.spending.prices))
            again.fold([written(stand, intent), written(stand, outcome)])
            assert again.spending.used("acme") == stand.budgets.spending.used("acme")
        bounded = Tenant(name="acme", limits=Ceilings(money_per_day=1_000_000))
        stand.budgets = Budgets(Spending(lambda _: bounded, Prices({}, prices)))
        with pytest.raises(BudgetError) as unknown:  # of the address's model nobody said what it costs
            await ask(stand)
        assert unknown.value.where == "providers.openai.price"

    on_stand(tmp_path, act)


def test_no_tool_uses_a_secret_that_the_policy_does_not_name(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        for grant in (
            granted(tool_secrets=()),
            granted(tool_secrets=(SecretGrant(name="other", provider="other"),)),
        ):
            with pytest.raises(DeniedError, match="no secret is granted for openai") as refused:
                await ask(stand, grant)
            assert "[secrets.openai]" in refused.value.hint
        assert not stand.provider.log
        assert not stand.audit.of(EgressIntent)
        assert stand.budgets.spent("acme", "openai").requests == 0
        # Of two secrets of a tenant's it is the granted one that is put in, not what the keeper would take.
        named = SecretGrant(name="none_such", provider="openai")
        with pytest.raises(Exception, match="none_such"):
            await ask(stand, granted(tool_secrets=(named,)))
        (outcome,) = stand.audit.of(EgressOutcome)
        assert outcome.unsent
        assert outcome.charged == stand.budgets.spent("acme", "openai").requests == 0

    on_stand(tmp_path, act)


def test_every_way_out_of_a_call_is_settled_once(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        stand.provider.behave(Behaviour(latency_ms=10_000))
        left = asyncio.create_task(ask(stand))
        await eventually(lambda: stand.provider.log)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        stand.provider.behave(Behaviour(status=503))
        with pytest.raises(ApplicationError, match="status 503"):
            await ask(stand)
        stand.provider.behave(Behaviour(script=("x" * 5_000_000,)))
        with pytest.raises(Exception, match="more than 4194304 bytes"):
            await ask(stand)
        cancelled, refused, long = stand.audit.of(EgressOutcome)
        assert (cancelled.code, refused.status, long.code) == ("cancelled", 503, "keeper.limit")
        reserved = stand.audit.of(EgressIntent)[0].reserved
        assert (cancelled.charged, refused.charged) == (reserved, 0)
        assert long.charged > 4_000_000
        assert stand.budgets.spent("acme", "openai").tokens == sum(one.charged for one in (cancelled, long))
        stand.audit.failing = True
        with pytest.raises(Exception, match="disk is full"):
            await ask(stand)
        assert len(stand.provider.log) == 3
        assert stand.budgets.spent("acme", "openai").requests == 3

    on_stand(tmp_path, act)


def test_a_service_that_is_no_model_costs_requests_alone(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        facts = stand.providers["openai"]
        stand.providers["openai"] = type(facts)(
            name="openai", host=facts.host, port=facts.port, shape="custom"
        )
        stand.provider.behave(Behaviour(usage=False))
        await ask(stand)
        (outcome,) = stand.audit.of(EgressOutcome)
        assert outcome.status == 200
        spent = stand.budgets.spent("acme", "openai")
        assert (spent.requests, spent.tokens) == (1, outcome.charged)
        assert outcome.charged < 8_192
        with pytest.raises((ProviderError, ApplicationError)):
            await ask(stand, path="/nowhere")

    on_stand(tmp_path, act)


def test_media_in_arguments_are_reserved_as_at_the_gateway(tmp_path: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    said: dict[str, object] = {
        "model": "m",
        "messages": [{"role": "user", "content": [part]}],
        "max_tokens": 9,
    }

    async def act(stand: Stand) -> None:
        await ask(stand, arguments=said)
        await ask(stand, arguments={**said, "user": "x" * 20_000})
        small, large = stand.audit.of(EgressIntent)
        image = fields.shape_of("openai").media.image
        assert small.reserved > image
        assert large.reserved > image + 20_000
        with pytest.raises(ApplicationError, match="404"):
            await ask(stand, arguments={"query": "x", "url": "https://x"}, path="/search")
        assert stand.audit.of(EgressIntent)[-1].reserved < 10_000, "a path that is no model's has no media"

    on_stand(tmp_path, act)
