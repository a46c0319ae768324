"""The smallest rule that would have allowed a refusal: without it refused, with it allowed, and nothing else changes."""

from __future__ import annotations

import base64
import itertools

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.errors import BridgeholdError, DeniedError, PolicyError, UsageError
from bridgehold.policies import shipped
from bridgehold.policies.approved import (
    NAMEABLE,
    Approved,
    checked,
    in_force,
    next_end,
    read_rules,
    render,
    widened,
)
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Connect, Endpoint, Grant, Machine, Needs, Policy, SecretGrant
from bridgehold.policies.proposals import Smallest, smallest
from bridgehold.policies.simulate import Act, decide
from bridgehold.policies.tables import format_time

NEEDS = Needs(
    endpoints=(
        Endpoint(provider="openai", methods=("GET", "POST"), paths=("/*", "/*/*")),
        Endpoint(provider="other", methods=("GET", "POST"), paths=("/*", "/*/*")),
    ),
    connects=(
        Connect(host="a.example.com"),
        Connect(host="b.example.com"),
        Connect(host="10.0.0.7", private=True),
    ),
    secrets=(SecretGrant(name="openai", provider="openai"),),
    operations=("b:run", "b:stop", "b:delete"),
    resources=("program", "model"),
)
MACHINE = Machine(cgroup="v2", uids="range", cpus=4)
KEY = Ed25519PrivateKey.generate()
ACTS = (
    *(
        Act(what="operation", name=f"b:{name}", kinds=kinds)
        for name in ("run", "stop", "delete", "unheard_of")
        for kinds in ((), ("program",), ("model",))
    ),
    *(Act(what="tool", name=name) for name in ("search", "write")),
    *(Act(what="resource", name=name) for name in ("program", "model")),
    *(
        Act(what="egress", name=f"{provider} {method} {path}")
        for provider in ("openai", "other", "third")
        for method in ("GET", "POST", "DELETE")
        for path in ("/chat", "/chat/completions", "/files")
    ),
    *(
        Act(what="connect", name=f"{host}:443")
        for host in ("a.example.com", "b.example.com", "10.0.0.7", "169.254.169.254")
    ),
)
"""All that is asked about, before a rule and after it."""


def grants_of(text: str, ceiling: str = "") -> tuple[Policy, Policy | None]:
    """A policy, and a tenant's ceiling over it."""
    policy = compose("own", lambda name: (text, "own.toml") if name == "own" else shipped.read(name))
    known = ("b",)
    bound = compose_tenant("acme", ceiling, "acme.toml", "b", shipped.read, known=known) if ceiling else None
    return policy, bound


def granted(text: str, ceiling: str = "", adds: Policy | None = None) -> Grant:
    policy, bound = grants_of(text, ceiling)
    whole = widened(policy, [adds] if adds is not None else [])
    return resolve(NEEDS, whole, bound, MACHINE, tenant="acme", bridge="b", version="1")


def proposed(text: str, act: Act, ceiling: str = "", weakenings: tuple[str, ...] = ()) -> Smallest:
    return smallest(act, lambda adds: granted(text, ceiling, adds), weakenings)


def spelt(
    operations: list[str], denied: list[str], tools: list[str], kinds: list[str],
    endpoints: dict[str, tuple[list[str], list[str]]], hosts: list[str], weakenings: list[str],
) -> str:  # fmt: skip
    connects = "".join(f'{{ host = "{host}" }},' for host in hosts)
    lines = [
        f"weakenings = {weakenings}",
        f"[operations]\nallow = {operations}\ndeny = {denied}",
        f"[tools]\nallow = {tools}\n[resources]\nallow = {kinds}",
        f"[network]\nconnect = [{connects}]",
        *(f"[network.endpoints.{n}]\nmethods = {m}\npaths = {p}" for n, (m, p) in endpoints.items()),
    ]
    return "\n".join(lines).replace("'", '"')


def some(*options: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(options), unique=True, max_size=3)


ENDPOINTS = st.dictionaries(
    st.sampled_from(["openai", "other"]),
    st.tuples(some("GET", "POST"), some("/chat", "/chat/*", "/files")),
)
POLICIES = st.builds(
    spelt, some("b:run", "b:*", "b:stop"), some("b:delete", "b:s*"), some("search", "*"), some("program", "m*"),
    ENDPOINTS, st.just([]), some("connect", "private_network"),
)  # fmt: skip
CEILINGS = st.sampled_from(
    [
        "",
        '[operations]\nallow = ["b:run", "b:st*"]\n',
        '[network.endpoints.openai]\npaths = ["/chat"]\n',
        "[tools]\nallow = []\n",
    ]
)
WEAK = st.sampled_from([(), ("connect",), ("private_network",), NAMEABLE])


@settings(max_examples=300, deadline=None)
@given(text=POLICIES, ceiling=CEILINGS, act=st.sampled_from(ACTS), weakenings=WEAK)
def test_without_the_rule_refused_with_it_allowed_and_nothing_else_changes(
    text: str, ceiling: str, act: Act, weakenings: tuple[str, ...]
) -> None:
    before = granted(text, ceiling)
    try:
        found = proposed(text, act, ceiling, weakenings)
    except UsageError:
        assert decide(before, act).allowed
        return
    except DeniedError:
        assert not decide(before, act).allowed
        return
    _, adds = checked(found.grants)
    after = granted(text, ceiling, adds)
    assert not decide(before, act).allowed
    assert decide(after, act).allowed
    others = {
        one.name for one in ACTS if one != act and decide(before, one).allowed != decide(after, one).allowed
    }
    # An operation on a kind of resource is its own act without one, and the same rule is the kind's.
    assert others <= {
        act.name,
        *act.kinds,
        *(one.name for one in ACTS if set(one.kinds) & set(found.grants.get("resources.allow", ()))),
    }
    assert not set(found.grants.get("weakenings", ())) - set(weakenings)
    assert after.limits == before.limits
    assert after.secrets == before.secrets
    assert after.rate == before.rate


@settings(max_examples=200, deadline=None)
@given(text=POLICIES, ceiling=CEILINGS, act=st.sampled_from(ACTS), weakenings=WEAK)
def test_each_item_of_the_rule_is_needed(
    text: str, ceiling: str, act: Act, weakenings: tuple[str, ...]
) -> None:
    try:
        found = proposed(text, act, ceiling, weakenings)
    except BridgeholdError:
        return
    items = [(key, item) for key, several in found.grants.items() for item in several]
    for count in range(1, len(items)):
        for part in itertools.combinations(items, count):
            less = {key: tuple(item for of, item in part if of == key) for key, _ in part}
            try:
                grant = granted(text, ceiling, checked(less)[1])
            except BridgeholdError:
                continue
            assert not decide(grant, act).allowed


@settings(max_examples=100, deadline=None)
@given(text=POLICIES, act=st.sampled_from(ACTS), weakenings=WEAK)
def test_a_ceiling_binds_every_rule(text: str, act: Act, weakenings: tuple[str, ...]) -> None:
    ceiling = "weakenings = []\n[operations]\nallow = []\n[tools]\nallow = []\n[resources]\nallow = []\n"
    ceiling += "[network]\nconnect = []\n[network.endpoints]\n"
    with pytest.raises(DeniedError):
        proposed(text, act, ceiling, weakenings)


@pytest.mark.parametrize(
    ("grants", "why"),
    [
        ({"secrets.openai.how": ("env",)}, "no rule can say this"),
        ({"filesystem.devices": ("/dev/nvidia0",)}, "a person writes it"),
        ({"filesystem.read": ("/srv",)}, "a person writes it"),
        ({"network.connect": ("169.254.169.254:80 private",)}, "metadata"),
        ({"network.connect": ("0xA9FEA9FE:80 private",)}, "metadata"),
        ({"network.connect": ("metadata.google.internal:80 private",)}, "metadata"),
        ({"network.connect": ("10.0.0.7:443",)}, "not public"),
        ({"network.connect": ("*.example.com:443",)}, "no pattern"),
        ({"weakenings": ("env_secret",)}, "weakening"),
        ({"weakenings": ("devices",)}, "weakening"),
        ({"operations.allow": ("b:*",)}, "no pattern"),
        ({"network.endpoints.openai.paths": ("/chat/*",)}, "no pattern"),
        ({"network.endpoints.openai.fields": ("*",)}, "a person writes it"),
        ({"operations.deny": ("b:run",)}, "a person writes it"),
        ({"inline_keys": ("pass",)}, "no rule can say this"),
    ],
)
def test_what_no_rule_may_say(grants: dict[str, tuple[str, ...]], why: str) -> None:
    with pytest.raises(DeniedError, match=why):
        checked(grants)


def test_what_a_policy_denies_no_proposal_opens() -> None:
    with pytest.raises(DeniedError, match="denied by"):
        proposed(
            '[operations]\nallow = ["b:*"]\ndeny = ["b:delete"]\n', Act(what="operation", name="b:delete")
        )


def test_a_tunnel_needs_its_weakening_by_name_and_lint_tells_its_risk() -> None:
    act = Act(what="connect", name="a.example.com:443")
    with pytest.raises(DeniedError):
        proposed("", act)
    found = proposed("", act, weakenings=("connect",))
    assert found.grants == {"network.connect": ("a.example.com:443",), "weakenings": ("connect",)}
    assert {one.rule for one in found.risk} == {"tunnel", "weakening"}
    assert {one.severity for one in found.risk} == {"medium", "high"}


def test_a_private_address_needs_its_own_word() -> None:
    act = Act(what="connect", name="10.0.0.7:443")
    with pytest.raises(DeniedError):
        proposed("", act, weakenings=("connect",))
    found = proposed("", act, weakenings=NAMEABLE)
    assert "private-reach" in {one.rule for one in found.risk}


# --- the file ---


def signed(one: Approved, bridge: str = "b", tenant: str = "acme") -> Approved:
    import msgspec

    signature = base64.b64encode(KEY.sign(one.text(bridge, tenant))).decode()
    return msgspec.structs.replace(one, signature=signature)


def verified(signature: bytes, text: bytes) -> bool:
    try:
        KEY.public_key().verify(signature, text)
    except InvalidSignature:
        return False
    return True


def rule(number: int = 0, expires: float = 2_000_000_000, **grants: tuple[str, ...]) -> Approved:
    said = {key.replace("__", "."): items for key, items in grants.items()} or {
        "operations.allow": ("b:run",)
    }
    return Approved(
        id=f"p-{number:012}",
        event="i-0123456789ab.7",
        asked_by="alice",
        approved_by="bob",
        approved=format_time(1_900_000_000),
        expires=format_time(expires),
        seen="sha256:" + "0" * 64,
        grants=checked(said)[0],
    )


def test_rules_are_read_as_they_were_written() -> None:
    rules = [
        signed(rule(1)),
        signed(rule(2, network__connect=("a.example.com:443", "10.0.0.7:443 private"), weakenings=NAMEABLE)),
        signed(
            rule(
                3,
                network__endpoints__openai__methods=("POST",),
                network__endpoints__openai__paths=("/x",),
            )
        ),
    ]
    found = read_rules("b", "acme", render(rules), "b@acme.approved.toml", verified)
    assert [one.grants for one in found] == [one.grants for one in rules]
    assert str(found[0].adds.sources["operations.allow[0]"]).startswith("b@acme.approved.toml:")


def test_a_rule_that_was_changed_or_is_for_another_is_refused() -> None:
    text = render([signed(rule(1))])
    for changed in (
        text.replace("b:run", "b:stop"),
        text.replace("2033", "2034"),
        text.replace("bob", "eve"),
    ):
        assert changed != text
        with pytest.raises(PolicyError, match="signature"):
            read_rules("b", "acme", changed, "f", verified)
    for bridge, tenant in (("c", "acme"), ("b", "other")):
        with pytest.raises(PolicyError, match="signature"):
            read_rules(bridge, tenant, text, "f", verified)
    with pytest.raises(PolicyError, match="signature"):
        read_rules("b", "acme", text.replace("signature = ", "signature = 'x' #"), "f", verified)


def test_a_soundly_signed_rule_says_no_more_than_any_may() -> None:
    one = rule(1)
    text = render([signed(one)]).replace("grants.operations]\nallow", "grants.operations]\ndeny")
    with pytest.raises(PolicyError, match="a person writes it"):
        read_rules("b", "acme", text, "f", None)
    for more in ("[other]\n", "[rules.p-1]\n", "[rules.p-000000000009]\nx = 1\n"):
        with pytest.raises(PolicyError):
            read_rules("b", "acme", render([signed(one)]) + more, "f", verified)


def test_rules_end_by_themselves() -> None:
    rules = [rule(1, expires=100.0), rule(2, expires=200.0)]
    assert [one.id[-1] for one in in_force(rules, 99.0)] == ["1", "2"]
    assert [one.id[-1] for one in in_force(rules, 100.0)] == ["2"]
    assert (next_end(rules, 0.0), next_end(rules, 150.0), next_end(rules, 200.0)) == (100.0, 200.0, 0.0)


ODD = (
    'x]\n[rules.p-000000000000.grants.operations]\nallow=["b:delete"]\n#',
    "10.0.0.7:22 private", "\x1b[2Jx", "a\u202eb", "a\0b", "\u00e9", "a" * 5_000, "p]\n[evil", "", ":", "a:b:c", "a:99999999",
)  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("weakenings", [(), NAMEABLE])
def test_what_a_guest_wrote_for_a_name_is_no_text_of_a_rule(odd: str, weakenings: tuple[str, ...]) -> None:
    """It ends in a refusal of ours: neither in another rule than was asked for, nor in an error of Python's."""
    named = (
        ("operation", odd), ("operation", f"b:{odd}"), ("tool", odd), ("egress", f"{odd} GET /v1"),
        ("egress", f"openai {odd} /v1"), ("egress", f"openai GET /v1/{odd}"), ("connect", odd), ("connect", f"{odd}:443"),
    )  # fmt: skip
    for what, name in named:
        act = msgspec.convert({"what": what, "name": name, "allowed": False}, type=Act)
        try:
            found = proposed("", act, weakenings=weakenings)
        except BridgeholdError:
            continue
        assert all(item.isprintable() and item in name for items in found.grants.values() for item in items)
