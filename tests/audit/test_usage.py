"""What was used, folded from the audit."""

from __future__ import annotations

import msgspec

from bridgehold.audit.client import undone
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import EgressIntent
from bridgehold.audit.usage import Used, fold
from bridgehold.host.acts import acts_of
from bridgehold.keeper.budgets import Budgets


def entry(kind: str, time: str, tenant: str, session: str, ref: str = "i.1", **fields: object) -> Entry:
    return Entry(
        ref=ref,
        instance="i",
        seq=1,
        time=time,
        kind=kind,
        place="",
        tenant=tenant,
        session=session,
        fields=fields,
    )


ENTRIES = [
    entry("session.opened", "2026-11-20T10:00", "acme", "s1", bridge="dspy"),
    entry("command.outcome", "2026-11-20T10:01", "acme", "s1", code="", cpu_us=1_500),
    entry("egress.outcome", "2026-11-20T10:01", "acme", "s1", provider="openai", model="m", code="",
          input_tokens=10, output_tokens=5, request_bytes=100, response_bytes=200),
    entry("session.opened", "2026-11-21T10:00", "umbra", "s2", bridge="python"),
    entry("command.outcome", "2026-11-21T10:01", "umbra", "s2", code="timeout", cpu_us=7),
    entry("command.outcome", "2026-11-21T10:02", "acme", "s1", code="", cpu_us=500),
    entry("egress.outcome", "2026-11-21T10:02", "acme", "s1", provider="openai", model="m", code="rate_limit",
          input_tokens=1, estimated=True, intent="i.9", charged=700),
    entry("egress.intent", "2026-11-21T10:02", "acme", "s1", "i.9", provider="openai", reserved=900),
    entry("egress.outcome", "2026-11-21T10:02", "acme", "s1", provider="openai", model="m", intent="i.9", code=""),
    entry("egress.intent", "2026-11-21T10:03", "umbra", "s2", "i.10", provider="openai", reserved=500, model="m"),
    entry("egress.intent", "2026-11-21T10:03", "umbra", "s2", "i.12", provider="openai", reserved=500, model="n"),
    entry("egress.outcome", "2026-11-21T10:03", "umbra", "s2", provider="openai", model="n", intent="i.12",
          code="keeper.busy", charged=0, unsent=True),
    entry("egress.intent", "2026-11-21T10:03", "umbra", "s2", "i.11", provider="", reserved=0),
]  # fmt: skip


def test_rows_are_by_tenant_bridge_and_provider() -> None:
    assert fold(ENTRIES) == [
        Used(tenant="acme", bridge="dspy", sessions=1, commands=2, cpu_us=2_000),
        Used(
            tenant="acme", bridge="dspy", provider="openai", model="m", requests=3, failed=1, input_tokens=11,
            output_tokens=5, charged=700, estimated=1, sent_bytes=100, received_bytes=200,
        ),
        Used(tenant="umbra", bridge="python", sessions=1, commands=1, failed=1, cpu_us=7),
        Used(tenant="umbra", bridge="python", provider="openai", model="m", requests=1, charged=500),
        Used(tenant="umbra", bridge="python", provider="openai", model="n"),
    ]  # fmt: skip


def test_what_failed_at_a_provider_is_a_part_of_what_went_out() -> None:
    """An answer of 401 failed; what was refused here, for want of a key, never was a request there."""
    said = dict.fromkeys(("input_tokens", "output_tokens", "charged"), 0)
    told = [
        (200, "", False),
        (401, "", False),
        (503, "", False),
        (0, "gateway.upstream", False),
        (403, "secrets", True),
    ]
    found = fold(
        [
            entry("egress.outcome", "2026-11-20T10:01", "acme", "s1", provider="openai", status=status, code=code,
                  unsent=unsent, **said)
            for status, code, unsent in told
        ]
    )  # fmt: skip
    assert [(one.requests, one.failed) for one in found] == [(4, 3)]


def test_a_time_and_a_tenant_bound_it_and_a_session_from_before_keeps_its_bridge() -> None:
    found = fold(ENTRIES, tenant="acme", since="2026-11-21")
    assert [(one.bridge, one.provider, one.commands, one.requests) for one in found] == [
        ("dspy", "", 1, 0),
        ("dspy", "openai", 0, 2),
    ]
    assert fold(ENTRIES, until="2026-11-20") == []


def test_another_tenants_line_says_nothing_of_a_session_of_the_same_id() -> None:
    planted = entry("session.opened", "2026-11-20T10:00", "umbra", "s1", bridge="python")
    found = fold([ENTRIES[0], planted, *ENTRIES[1:]])
    assert [one for one in found if one.tenant == "acme"] == [
        one for one in fold(ENTRIES) if one.tenant == "acme"
    ]
    ran = [
        entry("command.intent", "2026-11-20T10:01", tenant, "s1", operation="x", rule="r")
        for tenant in ("acme", "umbra")
    ]
    acts = list(acts_of([ENTRIES[0], planted, *ran], {}))
    assert {(one.tenant, one.bridge) for one in acts} == {("acme", "dspy"), ("umbra", "python")}


def test_usage_and_budgets_count_the_same() -> None:
    """Whatever became of a request: whole, under way, never sent, announced and never begun."""
    facts = {"provider": "openai", "host": "h", "method": "POST", "path": "/x"}
    begun = EgressIntent(
        tenant="acme", session="s1", rule="r", how="gateway", background=False, reserved=40, **facts
    )
    own = ("kind", "tenant", "session")
    never = {
        name: value for name, value in msgspec.to_builtins(undone(begun, "i.3")).items() if name not in own
    }
    day = "2026-11-21T10:00"
    entries = [
        entry("egress.intent", day, "acme", "s1", "i.1", **facts, reserved=100, model="m"),
        entry("egress.outcome", day, "acme", "s1", **facts, intent="i.1", charged=7, model="m"),
        entry("egress.intent", day, "acme", "s1", "i.2", **facts, reserved=50, model="m"),
        entry("egress.intent", day, "acme", "s1", "i.3", **facts, reserved=40, model="m"),
        entry("egress.outcome", day, "acme", "s1", **never),
        entry("egress.intent", day, "acme", "s1", "i.4", **facts, reserved=30, model="m"),
        entry("egress.outcome", day, "acme", "s1", **facts, intent="i.4", unsent=True, model="m"),
    ]
    budgets = Budgets()
    budgets.fold(entries)
    spent, rows = budgets.spent("acme", "openai"), fold(entries)
    assert (spent.requests, spent.tokens) == (2, 57)
    assert (sum(one.requests for one in rows), sum(one.charged for one in rows)) == (2, 57)


def test_what_a_cell_says_of_requests_that_the_keeper_sends_changes_no_bill() -> None:
    """Left out, told twice, taken back, of less than nothing: usage and budgets have the keeper's word."""
    day, facts = "2026-11-21T10:00", {"provider": "openai", "model": "m"}

    def sent(ref: str, **more: object) -> Entry:
        return entry("egress.sent", day, "acme", "s1", ref, **facts, reserved=100, **more)

    def ended(intent: str, **more: object) -> Entry:
        return entry("egress.ended", day, "acme", "s1", **facts, intent=intent, **more)

    def cells(kind: str, tenant: str = "acme", **more: object) -> Entry:
        return entry(kind, day, tenant, "s1", "i.7", **{**facts, **more})

    whole = [sent("i.1"), ended("i.1", charged=7, input_tokens=3), sent("i.2"), sent("i.3")]
    whole.append(ended("i.3", unsent=True))
    lies = [
        cells("egress.intent", kept=True, reserved=900),
        cells("egress.outcome", kept=True, intent="i.7", charged=900),
        cells("egress.outcome", intent="i.2", unsent=True),
        cells("egress.outcome", "umbra", intent="i.2", unsent=True),
        cells("egress.outcome", intent="i.1", charged=-50, input_tokens=-50, unsent=True),
        entry("command.outcome", day, "acme", "s1", cpu_us=-10),
    ]
    budgets = Budgets()
    budgets.fold([*whole, *lies])
    spent = budgets.spent("acme", "openai")
    rows = [one for one in fold([*whole, *lies], tenant="acme") if one.provider]
    assert (spent.requests, spent.tokens) == (2, 107)
    assert [(one.requests, one.charged, one.input_tokens) for one in rows] == [(2, 107, 3)]
    assert all(one.cpu_us == 0 for one in fold(lies))
