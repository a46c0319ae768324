"""No order of requests, aborts and restarts spends more than the budget and a request per slot (ABUSE 59)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bridgehold.audit.entries import Entry
from bridgehold.config.load import load_config
from bridgehold.errors import BudgetError, SuspendedError
from bridgehold.host.shares import cell_wire
from bridgehold.keeper import spending as periods
from bridgehold.keeper.budgets import Budgets, Reservation
from bridgehold.keeper.shapes import most_tokens
from bridgehold.keeper.spending import Prices, Used
from bridgehold.keeper.usage import NOTHING, UsageTap, charge
from bridgehold.policies.model import Ceilings, Rate
from bridgehold.policies.tables import parse_time
from bridgehold.policies.tenants import Tenant
from bridgehold.policies.uses import Use

OWNER, BUDGET, SLOTS, LARGEST = ("acme", "dspy"), 3_000, 3, 400
GUESS, TOKEN = 8, "w"


def intent(ref: str, reserved: int, **more: object) -> Entry:
    return entry("egress.intent", ref, provider="openai", reserved=reserved, **more)


def entry(kind: str, ref: str = "i.0", tenant: str = "acme", **fields: object) -> Entry:
    return Entry(ref=ref, instance="i", seq=1, time="", kind=kind, place="", tenant=tenant, fields=fields)


def spent(budgets: Budgets) -> tuple[int, int]:
    found = budgets.spent("acme", "openai")
    return found.requests, found.tokens


def test_what_was_spent_is_a_fold_of_the_audit() -> None:
    """An intent is its reservation until its outcome says better; lines from before say tokens alone."""
    budgets = Budgets()
    budgets.fold(
        [
            intent("i.1", 700),
            entry("egress.outcome", provider="openai", intent="i.1", charged=9, input_tokens=1),
            entry("command.intent", "i.2"),
            intent("i.3", 500),
            intent("i.4", 0, how="older"),
            entry("egress.outcome", provider="openai", intent="i.4", input_tokens=40, output_tokens=-2),
            entry("egress.intent", "i.5", provider="", reserved=10**6),
            entry("egress.outcome", tenant="umbra", provider="openai", intent="i.0", charged=5),
        ]
    )
    assert spent(budgets) == (3, 9 + 500 + 40)
    assert budgets.spent("umbra", "openai").tokens == 5
    with pytest.raises(BudgetError) as refused:
        budgets.reserve(OWNER, "openai", Rate(provider_requests_total=3), 1, 0.0)
    assert refused.value.where == "rate.provider_requests_total"


def test_what_a_cell_writes_gives_back_nothing_that_the_keeper_charged() -> None:
    """Nor what another tenant's was charged with, nor more than once: requests and tokens stay spent."""
    sent = [entry("egress.sent", f"i.{number}", provider="openai", reserved=100) for number in (1, 2, 3)]

    def unsent(intent: str, kind: str = "egress.outcome", **more: object) -> Entry:
        return entry(kind, **{"provider": "openai", "intent": intent, "unsent": True, **more})

    written = [unsent("i.1"), unsent("i.2", tenant="umbra"), unsent("")]
    written += [unsent("i.3", "egress.ended", tenant="umbra"), unsent("i.9", "egress.ended")]
    budgets = Budgets()
    budgets.fold([*sent, *written])
    assert spent(budgets) == (3, 300)
    budgets = Budgets()
    budgets.fold([*sent, unsent("i.3", "egress.ended"), *written, unsent("i.3", "egress.ended")])
    assert spent(budgets) == (2, 200)


def test_a_request_that_was_never_sent_costs_nothing() -> None:
    budgets = Budgets()
    held = budgets.reserve(OWNER, "openai", Rate(), 1_000, 0.0)
    assert spent(budgets) == (1, 1_000)
    held.give_back()
    held.settle(5_000)
    assert spent(budgets) == (0, 0)


def test_bridges_and_policies_with_different_rates_leave_each_other_alone() -> None:
    """Neither taking turns, nor a session under an older policy, fills a bucket up again."""
    budgets, slow, fast = (
        Budgets(),
        Rate(provider_requests_per_minute=60),
        Rate(provider_requests_per_minute=600),
    )

    def sent(owner: tuple[str, str], rate: Rate, now: float) -> bool:
        try:
            budgets.reserve(owner, "openai", rate, 0, now)
        except BudgetError as error:
            assert error.where == "rate.provider_requests_per_minute"
            return False
        return True

    taken = {"dspy": 0, "enhanced": 0}
    for _ in range(300):
        taken["dspy"] += sent(("acme", "dspy"), slow, 0.0)
        taken["enhanced"] += sent(("acme", "enhanced"), fast, 0.0)
    assert taken == {"dspy": 10, "enhanced": 100}
    assert not any(sent(("acme", "dspy"), rate, 0.0) for rate in (fast, slow) * 50), (
        "a change of rate refills"
    )
    assert sent(("acme", "dspy"), slow, 1.0)
    assert not sent(("acme", "dspy"), fast, 1.0)


SAYS = {
    "openai": b'data: {"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n',
    "anthropic": b'data: {"type":"message_delta","usage":{"cache_read_input_tokens":%d,"output_tokens":%d}}\n\n',
    "gemini": b'data: {"usageMetadata":{"promptTokenCount":%d,"thoughtsTokenCount":%d}}\n\n',
}


FEE = 0.01
SEARCH = {
    "openai": "tools[].type=web_search",
    "anthropic": "tools[].type=web_search_20250305",
    "gemini": "tools[].googleSearch",
}


def searched(shape: str, count: int) -> bytes:
    """An event that counts searches of the provider's own."""
    if shape == "openai":
        said = '"response":{{"output":[{}]}}'.format(",".join(['{"type":"web_search_call"}'] * count))
    elif shape == "anthropic":
        said = f'"usage":{{"server_tool_use":{{"web_search_requests":{count}}}}}'
    else:
        queries = ",".join(['"q"'] * count)
        said = f'"candidates":[{{"groundingMetadata":{{"webSearchQueries":[{queries}]}}}}]'
    return f"data: {{{said}}}\n\n".encode()


class Running(msgspec.Struct):
    """A request under way. The provider bills `given` and `made` tokens for it, whatever becomes of it, and
    so many `searches`: of more than it was to make it says how many they were."""

    ref: str
    held: Reservation
    shape: str
    given: int
    made: int
    bounded: bool = True
    searches: int = 0
    allowed: int = 0


LEFT = {  # what a guest may leave, with its text
    "one document": '{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"%s","refusal":null}}]}',
    "a document with thoughts": '{"content":[{"type":"thinking","thinking":"%s"},{"type":"text","text":"a\\"b"}]}',
    "a list as Gemini streams": '[{"candidates":[{"content":{"parts":[{"text":"%s"}],"role":"model"}}]},{"x":1}]',
    "arguments as a table": '{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"%s":[1,{"b":2}]}}}]}}]}',
    "events": 'data: {"choices":[{"delta":{"content":"%s"}}]}\n\ndata: {"choices":[]}\n\n',
    "events in a shape of their own": 'data: {"type":"response.output_text.delta","delta":"%s"}\n\ndata: {}\n\n',
}  # fmt: skip


def fee(searches: int) -> int:
    return round(searches * FEE * 1_000_000)


def fresh_budgets() -> Budgets:
    return Budgets(periods.Spending(prices=Prices(fees={"openai": {"tools": FEE}})))


def fees_of(budgets: Budgets) -> int:
    """Millionths, of this month."""
    return max((period.fees for period in budgets.spending.of("acme").values()), default=0)


class Spending(RuleBasedStateMachine):
    """A hostile guest with some slots, an honest provider, and a host that is killed at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.budgets = fresh_budgets()
        self.fees = 0
        """Millionths that were billed."""
        self.lines: list[Entry] = []
        self.running: list[Running] = []
        self.billed = 0
        self.now = 0.0

    @precondition(lambda self: len(self.running) < SLOTS)
    @rule(
        size=st.integers(0, 100),
        most=st.integers(1, 150),
        answers=st.integers(1, 2),
        share=st.floats(0, 1),
        shape=st.sampled_from(sorted(SAYS)),
        bounded=st.booleans(),
        searches=st.integers(0, 6),
        allowed=st.integers(0, 3),
    )
    def send(
        self,
        size: int,
        most: int,
        answers: int,
        share: float,
        shape: str,
        bounded: bool,
        searches: int,
        allowed: int,
    ) -> None:
        self.now += 1
        names = ("maxOutputTokens", "candidateCount") if shape == "gemini" else ("max_tokens", "n")
        asked: dict[str, object] = dict(zip(names, (most, answers), strict=True))
        bound = most_tokens(shape, {"generationConfig": asked} if shape == "gemini" else asked, size)
        if not bounded:  # what such a one is taken to want is a guess
            bound, share = size + GUESS, 0
        rate = Rate(provider_tokens_total=BUDGET, provider_requests_per_minute=60)
        try:
            uses = (Use((SEARCH[shape], "tools"), allowed),) if allowed else ()
            held = self.budgets.reserve(OWNER, "openai", rate, bound, self.now, uses=uses)
        except BudgetError:
            assert spent(self.budgets)[1] >= BUDGET
            return
        ref = f"i.{len(self.lines)}"
        self.lines.append(intent(ref, bound, fees=held.fees))
        running = Running(ref, held, shape, size, int(most * answers * share), bounded, searches, allowed)
        self.fees += fee(min(searches, allowed))
        self.billed += running.given + running.made
        self.running.append(running)

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, SLOTS),
        end=st.sampled_from(["head", "early", "mute", "negative", "said", *LEFT]),
        written=st.integers(0, 150),
        cut=st.floats(0, 1),
        over=st.booleans(),
    )
    def end(self, which: int, end: str, written: int, cut: float, over: bool) -> None:
        """Left before the head; before usage; usage absent, negative; or said, in each shape's own words.

        Or left anywhere within an answer of any kind, each byte of whose text is a token; or, where it is
        `over`, no more of it comes.
        """
        one = self.running.pop(which % len(self.running))
        counted = NOTHING
        if end in LEFT:
            answer = (LEFT[end] % (TOKEN * written)).encode()
            answer = answer[: int(len(answer) * cut)]
            tap = UsageTap(one.shape, "text/event-stream" if end.startswith("events") else "application/json")
            for at in range(0, len(answer), 7):
                tap.feed(answer[at : at + 7])
            if over:
                tap.end()
            counted = tap.counted
            self.billed += 0 if one.bounded else answer.count(TOKEN.encode())
        elif end != "head":
            tap = UsageTap(one.shape, "text/event-stream")
            tap.feed(b"event: x\ndata: {}\n\n" * min(one.made, 3))
            if end == "early":
                tap.feed(
                    SAYS["gemini" if one.shape == "gemini" else "openai"].split(b"\n")[0] % (one.given, 1)
                    + b"\n"
                )
            elif end in ("negative", "said"):
                said = (one.given, one.made) if end == "said" else (-one.given - 1, -1)
                if end == "said" and one.searches:
                    tap.feed(searched(one.shape, one.searches))
                    self.fees += fee(max(0, one.searches - one.allowed))
                tap.feed(SAYS[one.shape] % said)
            if end != "early":
                tap.end()
            counted = tap.counted
        open_ended = 0 if one.bounded else max(1, one.given)
        charged = charge(one.held.tokens, counted, 0 if end == "head" else 200, open_ended=open_ended)
        fees = one.held.fees_due(200, counted.used)
        one.held.settle(charged, fees)
        facts = {"provider": "openai", "intent": one.ref, "charged": charged, "fees": fees}
        self.lines.append(entry("egress.outcome", f"i.{len(self.lines)}", **facts))

    @rule()
    def restart(self) -> None:
        """The host is killed: what runs is lost, and the next host knows the audit alone."""
        self.running.clear()
        self.budgets = fresh_budgets()
        self.budgets.fold(self.lines)

    @invariant()
    def never_more_than_the_budget_and_a_request_per_slot(self) -> None:
        assert self.billed <= BUDGET + SLOTS * LARGEST

    @invariant()
    def nobody_is_charged_less_than_billed(self) -> None:
        assert spent(self.budgets)[1] >= self.billed
        assert fees_of(self.budgets) >= self.fees

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        folded = fresh_budgets()
        folded.fold(self.lines)
        assert spent(folded) == spent(self.budgets)
        assert fees_of(folded) == fees_of(self.budgets)


def test_no_order_of_requests_ends_and_restarts_overdraws() -> None:
    run_state_machine_as_test(
        Spending, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


class Clock:
    """Seconds since the epoch, as a test has them pass."""

    def __init__(self, text: str) -> None:
        self.now = parse_time(text)

    def __call__(self) -> float:
        return self.now


def test_days_and_months_are_counted_beside_the_tenants_ceilings_and_pass() -> None:
    clock = Clock("2026-11-29T23:59:00Z")
    ceilings = Ceilings(requests_per_day=2, tokens_per_month=100)
    budgets = Budgets(periods.Spending(lambda name: Tenant(name=name, limits=ceilings), clock=clock))

    def ask(tokens: int) -> Reservation:
        return budgets.reserve(OWNER, "openai", Rate(), tokens, 0.0)

    first = ask(10)
    budgets.reserve(OWNER, "anthropic", Rate(), 10, 0.0)
    with pytest.raises(BudgetError) as caught:
        ask(1)
    assert (caught.value.where, caught.value.retry) == ("tenant.limits.requests_per_day", "later")
    budgets.reserve(("other", "b"), "openai", Rate(), 10, 0.0)
    clock.now = parse_time("2026-11-30T00:00:10Z")
    first.settle(70)  # of a day that is over: its month still counts it
    assert budgets.spending.used(OWNER[0]).tokens_per_day == 0
    assert budgets.spending.used(OWNER[0]).tokens_per_month == 80
    ask(20).settle(20)
    with pytest.raises(BudgetError, match="tokens per month: 100"):
        ask(1)
    clock.now = parse_time("2026-12-01T00:00:00Z")
    ask(1)
    assert budgets.spending.used(OWNER[0]).requests_per_month == 1


def test_a_clock_that_is_set_back_over_midnight_gives_nothing_back() -> None:
    clock = Clock("2026-11-30T23:59:59Z")
    ceilings = Ceilings(requests_per_day=2, requests_per_month=2)
    budgets = Budgets(periods.Spending(lambda name: Tenant(name=name, limits=ceilings), clock=clock))
    for now in ("2026-12-01T00:00:01Z", "2026-11-30T23:59:58Z"):
        clock.now = parse_time(now)
        budgets.reserve(OWNER, "openai", Rate(), 1, 0.0)
    for now in ("2026-11-30T23:59:59Z", "2026-12-01T00:00:02Z"):
        clock.now = parse_time(now)
        with pytest.raises(BudgetError):
            budgets.reserve(OWNER, "openai", Rate(), 1, 0.0)


def test_a_restart_forgets_neither_day_nor_month() -> None:
    clock = Clock("2026-11-29T12:00:00Z")
    entries = [
        at("2026-10-31", intent("i.1", 1_000)),
        at("2026-11-02", intent("i.2", 50)),
        at("2026-11-02", entry("egress.outcome", provider="openai", intent="i.2", charged=30)),
        at("2026-11-29", intent("i.4", 7)),
    ]
    budgets = Budgets(periods.Spending(clock=clock))
    budgets.fold(entries)
    assert budgets.spending.used("acme") == Used(
        requests_per_day=1, requests_per_month=2, tokens_per_day=7, tokens_per_month=37
    )


def test_nothing_is_spent_for_a_tenant_that_is_suspended() -> None:
    budgets = Budgets(periods.Spending(lambda name: Tenant(name=name, state="suspended", reason="unpaid")))
    with pytest.raises(SuspendedError, match="unpaid"):
        budgets.reserve(OWNER, "openai", Rate(), 1, 0.0)
    assert budgets.spending.used(OWNER[0]) == Used()


def at(day: str, one: Entry) -> Entry:
    return msgspec.structs.replace(one, time=f"{day}T10:00:00.000000Z")


def test_money_is_tokens_at_their_providers_price_and_no_price_is_no_licence() -> None:
    ceilings = Ceilings(money_per_day=2_000_000)
    spending = periods.Spending(
        lambda name: Tenant(name=name, limits=ceilings), periods.Prices({"openai": 10.0, "hub": 0.0})
    )
    budgets = Budgets(spending)
    with pytest.raises(BudgetError, match="anthropic costs is not known"):
        budgets.reserve(OWNER, "anthropic", Rate(), 1, 0.0)
    budgets.reserve(OWNER, "hub", Rate(), 0, 0.0).settle(0)
    held = budgets.reserve(OWNER, "openai", Rate(), 300_000, 0.0)
    assert spending.used(OWNER[0]).money_per_day == 3_000_000
    with pytest.raises(BudgetError, match=r"money per day: 2\.0") as caught:
        budgets.reserve(OWNER, "openai", Rate(), 1, 0.0)
    assert caught.value.where == "tenant.limits.money_per_day"
    held.settle(100_000)
    assert spending.used(OWNER[0]).money_per_month == 1_000_000
    budgets.reserve(OWNER, "openai", Rate(), 1, 0.0)


def test_a_model_has_its_own_price_and_one_that_nobody_listed_the_dearest(tmp_path: Path) -> None:
    text = '[providers.openai]\nbase_url = "https://x.example"\nprice = 10\n[providers.openai.models."gpt-4.1"]\nprice = 1\n'
    (tmp_path / "config.toml").write_text(text)
    section = load_config(tmp_path / "config.toml", {}).providers["openai"]
    models = {("openai", name): one.price for name, one in section.models.items()}
    assert models == {("openai", "gpt-4.1"): 1.0}
    prices = periods.Prices(
        {"openai": section.price}, {**models, ("local", "free"): 0.0, ("local", "dear"): 5.0}
    )
    ceilings = Ceilings(money_per_day=2_000_000)
    spending = periods.Spending(lambda name: Tenant(name=name, limits=ceilings), prices)
    budgets = Budgets(spending)
    budgets.reserve(OWNER, "openai", Rate(), 300_000, 0.0, "gpt-4.1").settle(200_000)
    assert spending.used(OWNER[0]).money_per_day == 200_000
    for model in ("gpt-4.1 ", "GPT-4.1", "another", ""):
        budgets.reserve(OWNER, "openai", Rate(), 1_000, 0.0, model).give_back()
        budgets.reserve(OWNER, "openai", Rate(), 1_000, 0.0, model).settle(100)
    assert spending.used(OWNER[0]).money_per_day == 204_000
    for model in ("free", "another", ""):
        with pytest.raises(BudgetError, match="is not known"):
            budgets.reserve(OWNER, "local", Rate(), 1, 0.0, model)
    budgets.reserve(OWNER, "local", Rate(), 1_000, 0.0, "dear")
    assert spending.used(OWNER[0]).money_per_day == 209_000
    dear = periods.Prices({"openai": 1.0}, {("openai", "gpt-5-pro"): 120.0, ("openai", "gpt-5-nano"): 0.1})
    for name in (
        "gpt-5-pro",
        "gpt-5-pro-2025-10-06",
        "GPT-5-PRO",
        "gpt-5-nano-2025-08-07",
        "openai/gpt-5-pro",
        "",
    ):
        assert dear.of("openai", name) == 120, "another name of a listed model makes it no cheaper"
    assert (dear.of("openai", "gpt-5-nano"), dear.of("openai", None), dear.of("other", "gpt-5-pro")) == (
        0.1,
        1,
        0,
    )
    restarted = periods.Spending(prices=prices)
    day = restarted.today()
    cheap = at(day, intent("i.1", 900, model="gpt-4.1"))
    ended = entry("egress.outcome", provider="openai", intent="i.1", charged=500, model="gpt-4.1")
    Budgets(restarted).fold([cheap, at(day, ended), at(day, intent("i.2", 10, model="x"))])
    assert restarted.used(OWNER[0]).money_per_day == 500 + 100


def test_no_part_of_a_millionth_is_lost_with_a_request() -> None:
    """A body's length would say how each is rounded: many small requests are what one large one is."""
    prices = periods.Prices({"emb": 0.02, "fine": 0.000_1})
    spending = periods.Spending(prices=prices)
    budgets = Budgets(spending)
    for _ in range(2_000):
        held = budgets.reserve(OWNER, "emb", Rate(provider_requests_per_minute=10**6), 70, 0.0)
        assert spending.used(OWNER[0]).money_per_day > 0
        held.settle(12)
    assert spending.used(OWNER[0]).money_per_day == 480
    budgets.reserve(OWNER, "fine", Rate(), 10, 0.0).settle(1)
    assert spending.used(OWNER[0]).money_per_day == 481, "rounded up, once"
    copied = periods.Spending(prices=prices)
    told = cell_wire.Spent(periods=spending.of(OWNER[0]))
    copied.restore(OWNER[0], msgspec.json.decode(msgspec.json.encode(told), type=cell_wire.Spent).periods)
    assert copied.used(OWNER[0]) == spending.used(OWNER[0]), "a cell begins with the same"


def test_a_request_is_settled_at_the_price_that_it_was_charged_at() -> None:
    spending = periods.Spending(prices=periods.Prices({"openai": 10.0}))
    budgets = Budgets(spending)
    held = budgets.reserve(OWNER, "openai", Rate(), 1_000, 0.0)
    spending.prices = periods.Prices({"openai": 1.0})  # a reload
    held.settle(100)
    assert spending.used(OWNER[0]).money_per_day == 1_000
    budgets.reserve(OWNER, "openai", Rate(), 100, 0.0).give_back()
    assert spending.used(OWNER[0]).money_per_day == 1_000
