"""What holds for every policy, ceiling and manifest: narrowing never widens, deny is the default."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.errors import PolicyError
from bridgehold.policies import globs
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.content import NO_BODY, BodyFacts
from bridgehold.policies.decide import (
    decide_connect,
    decide_egress,
    decide_operation,
    decide_secret,
    decide_tool,
)
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Connect, Endpoint, Grant, Machine, Needs, Policy, SecretGrant

ANYTHING = Needs(
    endpoints=tuple(
        Endpoint(provider=name, methods=("GET", "POST"), paths=("/*", "/*/*"), remote_content=True)
        for name in ("openai", "other")
    ),
    connects=(
        Connect(host="a.example.com"),
        Connect(host="*.example.com"),
        Connect(host="10.0.0.7", private=True),
    ),
    secrets=(
        SecretGrant(name="openai", provider="openai"),
        SecretGrant(name="token", how="env", variable="TOKEN"),
    ),
    operations=("b:run", "b:run_all", "b:stop", "b:delete"),
    resources=("program", "model"),
)
MACHINE = Machine(cgroup="v2", uids="range", cpus=64)
FACTS = (NO_BODY, BodyFacts(remote_url="x"))
PATHS = ("/chat", "/chat/completions", "/files", "/files/x", "/Chat")

patterns = st.lists(st.sampled_from(["b:*", "b:run", "b:run*", "*:stop", "*", "b:*_all", "x"]), max_size=3)
paths = st.lists(
    st.sampled_from(["/chat", "/chat/*", "/*", "/files/x", "/*/completions"]), min_size=1, max_size=3
)
hosts = st.lists(
    st.sampled_from(
        [("a.example.com", False), ("*.example.com", False), ("10.0.0.7", True), ("10.0.0.7", False)]
    ),
    max_size=3,
)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(toml(item) for item in value)}]" if isinstance(value, list) else f"'{value}'" if isinstance(value, str) else str(value)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """A policy file, or a tenant's, of any of the tables."""
    lines = []
    if draw(st.booleans()):
        names = draw(
            st.sets(st.sampled_from(["env_secret", "connect", "private_network", "inline_keys_pass"]))
        )
        lines.append(f"weakenings = {toml(sorted(names))}")
    if draw(st.booleans()):
        lines.append(f"inline_keys = '{draw(st.sampled_from(['refuse', 'capture', 'pass']))}'")
    if draw(st.booleans()):
        connects = ", ".join(
            f"{{ host = '{host}', private = {toml(private)} }}" for host, private in draw(hosts)
        )
        lines.append(f"network.connect = [{connects}]")
    if draw(st.booleans()):
        lines.append(f"[limits]\nmemory = '{draw(st.sampled_from([32, 64, 128]))}MiB'")
    if draw(st.booleans()):
        lines.append(f"[rate]\nprovider_requests_total = {draw(st.sampled_from([0, 1, 9]))}")
    for table in ("operations", "tools", "resources"):
        for verb in ("allow", "deny"):
            if draw(st.booleans()):
                lines.append(f"[{table}]" if f"[{table}]" not in lines else "")
                lines.append(f"{verb} = {toml(draw(patterns))}")
    for provider in ("openai", "other"):
        if draw(st.booleans()):
            methods = draw(st.lists(st.sampled_from(["GET", "POST"]), min_size=1, unique=True))
            lines.append(
                f"[network.endpoints.{provider}]\npaths = {toml(draw(paths))}\nmethods = {toml(methods)}"
            )
            lines.append(f"remote_content = {toml(draw(st.booleans()))}")
    if draw(st.booleans()):
        lines.append("[secrets.openai]")
    if draw(st.booleans()):
        lines.append("[secrets.token]\nhow = 'env'\nvariable = 'TOKEN'")
    return "\n".join(lines)


def policy_of(text: str) -> Policy:
    return compose("p", lambda name: (text, "p.toml") if name == "p" else None)


def grant_of(policy: Policy, ceiling: Policy | None) -> Grant | None:
    try:
        return resolve(ANYTHING, policy, ceiling, MACHINE, tenant="t", bridge="b", version="1")
    except PolicyError:
        return None


def allowed(grant: Grant) -> set[tuple[object, ...]]:
    """Every act of a fixed set that `grant` allows."""
    found: set[tuple[object, ...]] = set()
    for operation in ("run", "run_all", "stop", "delete", "other"):
        for resource in (None, "program", "model", "x"):
            if decide_operation(grant, "b", operation, resource).allowed:
                found.add(("operation", operation, resource))
    found |= {("tool", name) for name in ("run", "b:run", "x") if decide_tool(grant, name).allowed}
    for provider in ("openai", "other"):
        for method in ("GET", "POST", "DELETE"):
            for path in PATHS:
                for facts in FACTS:
                    if decide_egress(grant, provider, method, path, facts).allowed:
                        found.add(("egress", provider, method, path, facts))
    for host in ("a.example.com", "b.example.com", "example.com", "10.0.0.7"):
        if decide_connect(grant, host, 443).allowed:
            found.add(("connect", host))
    if decide_secret(grant, "openai", provider="openai").allowed:
        found.add(("secret", "openai"))
    if decide_secret(grant, "token", variable="TOKEN").allowed:
        found.add(("secret", "token"))
    found |= {("weakening", name) for name in grant.weakenings}
    return found


@settings(max_examples=400, deadline=None)
@given(files(), files())
def test_a_ceiling_never_widens(text: str, bound: str) -> None:
    policy = policy_of(text)
    wide = grant_of(policy, None)
    if wide is None:
        return
    narrow = grant_of(policy, compose_tenant("t", bound, "t.toml", "b", lambda _: None))
    if narrow is None:
        return
    assert allowed(narrow) <= allowed(wide)
    assert narrow.limits.memory_bytes <= wide.limits.memory_bytes
    most = wide.rate.provider_requests_total
    assert most == 0 or 0 < narrow.rate.provider_requests_total <= most


@settings(max_examples=100, deadline=None)
@given(files())
def test_a_policy_as_its_own_ceiling_changes_nothing(text: str) -> None:
    policy = policy_of(text)
    wide = grant_of(policy, None)
    if wide is None:
        return
    same = grant_of(policy, compose_tenant("t", text, "t.toml", "b", lambda _: None))
    assert same is not None
    assert allowed(same) == allowed(wide)


@settings(max_examples=200, deadline=None)
@given(files())
def test_a_manifest_that_asks_for_nothing_gets_nothing(text: str) -> None:
    try:
        grant = resolve(Needs(), policy_of(text), None, MACHINE, tenant="t", bridge="b", version="1")
    except PolicyError:
        return
    tools = {act for act in allowed(grant) if act[0] not in ("tool", "weakening")}
    assert tools == set()


@settings(max_examples=200, deadline=None)
@given(files())
def test_every_decision_says_which_rule_and_why(text: str) -> None:
    grant = grant_of(policy_of(text), None)
    if grant is None:
        return
    for decision in (
        decide_operation(grant, "b", "run"),
        decide_egress(grant, "openai", "POST", "/chat", NO_BODY),
        decide_connect(grant, "a.example.com", 443),
        decide_secret(grant, "token", variable="TOKEN"),
    ):
        assert decision.rule
        assert decision.reason
        assert decision.source == "default" or decision.source.startswith("p.toml:")
        if decision.allowed:
            assert decision.source != "default"


words = st.text(alphabet="ab*", max_size=6).filter(lambda text: not globs.too_wild(text))


@settings(max_examples=500, deadline=None)
@given(words, words, st.text(alphabet="ab", max_size=8))
def test_globs_meet_exactly(left: str, right: str, name: str) -> None:
    both = globs.matches(left, name) and globs.matches(right, name)
    assert any(globs.matches(pattern, name) for pattern in globs.meet(left, right)) == both
    if globs.covers(left, right) and globs.matches(right, name):
        assert globs.matches(left, name)


@given(st.text(alphabet="ab*", max_size=8), st.text(alphabet="abc", max_size=10))
def test_globs_match_as_fnmatch_does(pattern: str, name: str) -> None:
    import fnmatch

    assert globs.matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


def test_the_ends_of_a_glob_do_not_overlap() -> None:
    assert not globs.matches("aba*aba", "aba")
    assert globs.matches("aba*aba", "abaaba")


def test_a_hostile_name_costs_little() -> None:
    pattern, name = "*a*a*a*b", "a" * 200_000
    assert not globs.matches(pattern, name)
    wide = "*" + "ab" * 20 + "*" + "ba" * 20 + "*"
    assert globs.meet(wide, wide[::-1])
