"""What holds for every policy, ceiling and manifest: narrowing never widens, deny is the default."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.errors import PolicyError, UnsupportedError
from bridgehold.policies import globs
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.content import NO_BODY, BodyFacts, Finding, ParsedRequest, body_facts
from bridgehold.policies.decide import (
    decide_connect,
    decide_egress,
    decide_operation,
    decide_tool,
)
from bridgehold.policies.downloads import HubItem, decide_digest, decide_download, decide_size, hub_of
from bridgehold.policies.grant import resolve
from bridgehold.policies.limits_table import LIMITS, Unit
from bridgehold.policies.model import Connect, Endpoint, Grant, Machine, Needs, Policy, SecretGrant
from bridgehold.policies.narrow import narrow
from bridgehold.policies.vocabulary import VOCABULARY


def _spelt(unit: Unit, value: int) -> Any:
    """`value` as a file says it."""
    spelt = {"size": f"{value}B", "rate": f"{value}B/s", "duration": f"{value}ms", "cores": value / 1000}
    return spelt.get(unit, value)


PIN, OTHER = "a" * 64, "b" * 64
ANYTHING = Needs(
    endpoints=(
        Endpoint(provider="openai", methods=("GET", "POST"), paths=("/*", "/*/*"), remote_content=True),
        Endpoint(provider="other", methods=("GET", "POST"), remote_content=True),
        Endpoint(provider="hub"),
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
MACHINE = Machine(cgroup="v2", uids="range", cpus=64, devices=("/dev/nvidia0", "/dev/nvidia1"))
FACTS = (NO_BODY, BodyFacts(finding=Finding(place="x", why="y", exit=True)))
PATHS = ("/chat", "/chat/completions", "/files", "/files/x", "/Chat")

patterns = ["b:run*", "b:*", "b:run", "*:stop", "*", "b:*_all", "x"]
kinds_ = ["program", "*", "p*", "model", "x"]
paths = ["/chat", "/chat/*", "/*", "/files/x", "/*/completions"]
LISTS: dict[str, list[Any]] = {
    "weakenings": ["env_secret", "connect", "private_network", "inline_keys_pass", "devices", "pth"],
    "filesystem.read": ["/srv", "/srv/models", "/opt/data"],
    "filesystem.devices": ["/dev/nvidia0", "/dev/nvidia1"],
    "network.connect": [
        {"host": "a.example.com"},
        {"host": "*.example.com"},
        {"host": "10.0.0.7", "private": True},
        {"host": "10.0.0.7"},
    ],
    **{f"{table}.{verb}": patterns for table in ("operations", "tools") for verb in ("allow", "deny")},
    "resources.allow": kinds_,
    "resources.deny": kinds_,
    **{f"network.endpoints.{name}.methods": ["GET", "POST"] for name in ("openai", "other")},
    **{f"network.endpoints.{name}.paths": paths for name in ("openai", "other")},
    **{
        f"network.endpoints.{name}.fields": ["tools", "tools[].type=mcp", "*", "?a"]
        for name in ("openai", "other")
    },
    "network.endpoints.hub.repos": ["acme/tiny", "acme/*", "*/*@main"],
    "network.endpoints.hub.files": ["*.json", "*.txt", "config.json"],
    "network.endpoints.hub.digests": [PIN, OTHER],
}
"""Every list, and of what it is drawn. Said with nothing in it, it allows nothing."""
VALUES: dict[str, list[Any]] = {
    "inline_keys": ["refuse", "capture", "pass"],
    "sandbox.start": ["cold", "fork"],
    "sandbox.isolation": ["namespaces"],
    "sandbox.seccomp": ["default"],
    "sandbox.enforcement": ["strict", "weakened"],
    "network.endpoints.hub.digests": ["any"],
    "network.endpoints.hub.file_size": ["1MiB", "2GiB"],
    "network.endpoints.hub.total_size": ["1MiB", "8GiB"],
    **{f"network.endpoints.{name}.remote_content": [True, False] for name in ("openai", "other")},
    **{
        f"limits.{fact.key}": [_spelt(fact.unit, value) for value in (fact.least, fact.most)]
        for fact in LIMITS
    },
    **{
        key.path: [0, 1, 9, "any"] if key.takes_any else [1, 9]
        for key in VOCABULARY
        if key.path.startswith("rate.")
    },
}
SECRETS = {"openai": {}, "token": {"how": "env", "variable": "TOKEN"}}


def toml(value: Any) -> str:
    """`value` in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml(item)}' for name, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return f"'{value}'" if isinstance(value, str) else str(value)


FULL: dict[str, Any] = {
    **{name: items for name, items in LISTS.items() if not name.endswith(".deny")},
    **{f"secrets.{name}": table for name, table in SECRETS.items()},
}
"""A policy that grants all of it."""


Said = dict[str, Any]


def _drawn(draw: st.DrawFn, key: str) -> Any:
    """Anything that may stand there: nothing, anything, or something."""
    choices: list[st.SearchStrategy[Any]] = [st.sampled_from(VALUES[key])] if key in VALUES else []
    if key in LISTS:
        several = st.lists(st.sampled_from(LISTS[key]), max_size=3)
        choices += [st.just([]), st.just(LISTS[key]), several]
    return draw(st.one_of(choices))


def _whole(draw: st.DrawFn, said: Said) -> Said:
    """With what an endpoint must say, and with tables that may stand there empty."""
    for name in ("openai", "other", "hub"):
        most = f"network.endpoints.{name}.{'repos' if name == 'hub' else 'paths'}"
        if any(key.startswith(f"network.endpoints.{name}.") for key in said):
            said.setdefault(most, LISTS[most])
    for table in ("network.endpoints", "secrets"):
        if any(key.startswith(f"{table}.") for key in said):
            said.pop(table, None)
        elif draw(st.booleans()):
            said[table] = {}
    return said


@st.composite
def policies(draw: st.DrawFn) -> Said:
    """A policy that grants much, but for some keys of which anything may be said."""
    said = dict(FULL) if draw(st.integers(0, 3)) else {}
    for key in draw(st.lists(st.sampled_from(sorted({*LISTS, *VALUES})), unique=True, max_size=6)):
        said[key] = _drawn(draw, key)
    for name in draw(st.sets(st.sampled_from(sorted(SECRETS)))):
        said[f"secrets.{name}"] = SECRETS[name]
    return _whole(draw, said)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Said, Said]:
    """A policy and a ceiling. Of each key that the policy mentions the ceiling says nothing, allows nothing,
    allows a part, the same, or anything; and it mentions others.
    """
    policy = draw(policies())
    ceiling: Said = {}
    for key, value in policy.items():
        how = draw(st.sampled_from(["silent", "silent", "silent", "nothing", "part", "same", "drawn"]))
        if how == "same" or (how != "silent" and key not in LISTS and key not in VALUES):
            ceiling[key] = value
        elif how in ("nothing", "part") and isinstance(value, list):
            ceiling[key] = value[:1] if how == "part" else []
        elif how == "drawn":
            ceiling[key] = _drawn(draw, key)
    for key in draw(st.lists(st.sampled_from(sorted({*LISTS, *VALUES})), unique=True, max_size=2)):
        ceiling.setdefault(key, _drawn(draw, key))
    return policy, _whole(draw, ceiling)


def text_of(said: Said, draw_below: bool = False) -> str:
    """The file; half of a tenant's keys stand in its table for one bridge."""
    lines = [
        f"{'bridges.b.' if draw_below and number % 2 else ''}{key} = {toml(value)}"
        for number, (key, value) in enumerate(said.items())
    ]
    return "\n".join(lines)


def policy_of(text: str) -> Policy:
    return compose("p", lambda name: (text, "p.toml") if name == "p" else None)


def ceiling_of(text: str) -> Policy:
    return compose_tenant("t", text, "t.toml", "b", lambda _: None, known=["b"])


def grant_of(policy: Policy, ceiling: Policy | None) -> Grant | None:
    try:
        return resolve(ANYTHING, policy, ceiling, MACHINE, tenant="t", bridge="b", version="1")
    except (PolicyError, UnsupportedError):
        return None


def allowed(grant: Grant) -> set[tuple[object, ...]]:
    """Every act of a fixed set that `grant` allows."""
    found: set[tuple[object, ...]] = set()
    for operation in ("run", "run_all", "stop", "delete", "other"):
        for kinds in ((), ("program",), ("model",), ("x",), ("program", "model")):
            if decide_operation(grant, "b", operation, kinds).allowed:
                found.add(("operation", operation, kinds))
    found |= {("tool", name) for name in ("run", "b:run", "x") if decide_tool(grant, name).allowed}
    for provider in ("openai", "other", "hub"):
        for method in ("GET", "POST", "DELETE"):
            for path in PATHS:
                for facts in FACTS:
                    if decide_egress(grant, provider, method, path, facts).allowed:
                        found.add(("egress", provider, method, path, facts))
    for host in ("a.example.com", "b.example.com", "example.com", "10.0.0.7"):
        if decide_connect(grant, host, 443).allowed:
            found.add(("connect", host))
    found |= {("secret", one.name, one.how, one.provider, one.variable) for one in grant.secrets}
    found |= {("weakening", name) for name in grant.weakenings}
    found |= {("read", f) for f in ("/srv", "/srv/models", "/opt/data") if any(_in(f, r) for r in grant.read)}
    found |= {("device", name) for name in grant.devices}
    return found | _downloads(grant) | _fields(grant)


def _fields(grant: Grant) -> set[tuple[object, ...]]:
    """What requests may hold, by the gateway's own judgement of one that has it."""
    asked = {
        "?a": ParsedRequest(path="/chat/completions", query=(("a", "1"),)),
        **{
            kind: ParsedRequest(path="/responses", body={"tools": [{"type": kind}]})
            for kind in ("mcp", "web_search")
        },
        "new": ParsedRequest(path="/responses", body={"new": 1}),
    }
    return {
        ("field", endpoint.provider, name)
        for endpoint in grant.endpoints
        for name, one in asked.items()
        if not body_facts("openai", one, endpoint.fields).first
    }


def _in(folder: str, root: str) -> bool:
    return folder == root or folder.startswith(f"{root}/")


def _downloads(grant: Grant) -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    hub = hub_of(grant, "hub")
    for repo in ("acme/tiny", "acme/other", "umbra/x"):
        for file in ("config.json", "other.json", "words.txt", "weights.bin"):
            wanted = HubItem(repo=repo, revision="main", file=file)
            if hub is None or not decide_download(grant, "hub", wanted).allowed:
                continue
            pins = [pin for pin in (PIN, OTHER, "c" * 64) if decide_digest(grant, hub, pin) is None]
            sizes = [
                (size, seen)
                for size in (1, 2**21, 2**31)
                for seen in (0, 2**32)
                if decide_size(grant, hub, size, seen) is None
            ]
            found |= {("download", repo, file, pin, *size) for pin in pins for size in sizes}
    return found


def bounds(grant: Grant) -> dict[str, float]:
    """Every number, and every choice as its rank; no bound is infinite."""
    found = {field: float(getattr(grant.limits, field)) for field in grant.limits.__struct_fields__}
    for field in grant.rate.__struct_fields__:
        value = getattr(grant.rate, field)
        found[field] = float("inf") if value is None else float(value)
    found["inline_keys"] = ("refuse", "capture", "pass").index(grant.inline_keys)
    found["start"] = ("cold", "fork").index(grant.sandbox.start)
    found["enforcement"] = ("strict", "weakened").index(grant.sandbox.enforcement)
    return found


def test_every_key_of_the_vocabulary_is_generated() -> None:
    made = {
        *LISTS,
        *VALUES,
        "extends",
        "network.connect[].host",
        "network.connect[].port",
        "network.connect[].private",
    }
    made |= {f"secrets.*.{name}" for name in ("how", "provider", "variable")}
    endpoints = {key.replace(f".{name}.", ".*.") for key in made for name in ("openai", "other", "hub")}
    assert {key.path for key in VOCABULARY} <= made | endpoints


@settings(max_examples=200, deadline=None)
@given(pairs(), st.booleans())
def test_a_ceiling_never_widens(both: tuple[Said, Said], below: bool) -> None:
    policy = policy_of(text_of(both[0]))
    wide = grant_of(policy, None)
    if wide is None:
        return
    narrow = grant_of(policy, ceiling_of(text_of(both[1], below)))
    if narrow is None:
        return
    assert allowed(narrow) <= allowed(wide)
    before, after = bounds(wide), bounds(narrow)
    assert {key: value for key, value in after.items() if value > before[key]} == {}


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_a_bound_of_all_bridges_is_never_refused_as_wider_and_is_the_same_where_it_is_within(
    both: tuple[Said, Said],
) -> None:
    policy, text = policy_of(text_of(both[0])), both[1]
    try:
        every = narrow(policy, ceiling_of(text_of(text)))
    except PolicyError as error:
        assert "widens" not in error.message
        return
    assert narrow(every, ceiling_of(text_of(text))).operations.allow == every.operations.allow
    try:
        one = narrow(policy, ceiling_of(text_of({f"bridges.b.{key}": value for key, value in text.items()})))
    except PolicyError:
        return
    wide, narrower = grant_of(one, None), grant_of(every, None)
    if wide is not None and narrower is not None:
        assert (allowed(wide), bounds(wide)) == (allowed(narrower), bounds(narrower))


@settings(max_examples=100, deadline=None)
@given(policies(), st.booleans())
def test_a_policy_as_its_own_ceiling_changes_nothing(said: Said, below: bool) -> None:
    policy = policy_of(text_of(said))
    wide = grant_of(policy, None)
    if wide is None:
        return
    same = grant_of(policy, ceiling_of(text_of(said, below)))
    assert same is not None
    assert (allowed(same), bounds(same)) == (allowed(wide), bounds(wide))


@pytest.mark.parametrize("key", sorted(LISTS))
def test_nothing_said_nothing_allowed_and_something_are_three_things_in_every_list(key: str) -> None:
    """In a policy, and in a ceiling below one that allows all of it."""
    full = FULL | {"network.endpoints.hub.digests": [PIN, OTHER]}
    wide = policy_of("\n".join(f"{name} = {toml(value)}" for name, value in full.items()))
    everything = allowed(grant_of(wide, None))  # type: ignore[arg-type]  # it is a grant: the test fails otherwise
    silent, empty, some = (
        allowed(grant_of(wide, ceiling_of(text)))  # type: ignore[arg-type]  # as above
        for text in ("# nothing\n", f"{key} = []", f"{key} = {toml(LISTS[key][:1])}")
    )
    assert silent == everything
    if key.endswith(".deny"):
        assert empty == everything > some
    else:
        assert empty <= some <= everything
        assert empty < everything, "an empty list took nothing away"


def test_pins_are_any_none_or_some_and_a_ceiling_takes_no_pin_away() -> None:
    hub = "network.endpoints.hub.repos = ['acme/*']\n"
    digests = "network.endpoints.hub.digests = "

    def taken(text: str, ceiling: str) -> set[object]:
        found = grant_of(policy_of(hub + text), ceiling_of(hub + ceiling))
        assert found is not None
        return {act[3] for act in allowed(found) if act[0] == "download"}

    any_pin = {PIN, OTHER, "c" * 64}
    assert taken("", "") == taken(f"{digests}'any'", f"{digests}'any'") == any_pin
    assert taken(f"{digests}['{PIN}']", "") == {PIN}
    assert taken(f"{digests}['{PIN}']", f"{digests}[]") == taken(f"{digests}[]", "") == set()
    assert taken("", f"{digests}['{PIN}']") == {PIN}
    for wider in ("'any'", f"['{OTHER}']", f"['{PIN}', '{OTHER}']"):
        assert taken(f"{digests}['{PIN}']", f"{digests}{wider}") <= {PIN}
        with pytest.raises(PolicyError, match="widens"):
            resolve(
                ANYTHING,
                policy_of(f"{hub}{digests}['{PIN}']"),
                ceiling_of(f"bridges.b.{hub}bridges.b.{digests}{wider}"),
                MACHINE,
                tenant="t",
                bridge="b",
                version="1",
            )


def test_a_ceiling_that_bounds_what_the_endpoint_has_not_is_refused() -> None:
    policy = policy_of("network.endpoints.hub.repos = ['acme/*']\nnetwork.endpoints.openai.paths = ['/chat']")
    for text in ("hub.methods = []", "hub.paths = []", "openai.digests = []", "openai.repos = []"):
        with pytest.raises(PolicyError, match="bounds nothing of it"):
            narrow(policy, ceiling_of(f"network.endpoints.{text}"))


def test_a_manifest_that_names_no_path_is_not_one_that_says_nothing_of_them() -> None:
    policy = policy_of("network.endpoints.openai.paths = ['/chat']")
    found = [
        resolve(
            Needs(endpoints=(need,)), policy, None, MACHINE, tenant="t", bridge="b", version="1"
        ).endpoints
        for need in (Endpoint(provider="openai"), Endpoint(provider="openai", paths=()))
    ]
    assert [[one.paths for one in endpoints] for endpoints in found] == [[("/chat",)], []]


@settings(max_examples=100, deadline=None)
@given(policies())
def test_a_manifest_that_asks_for_nothing_gets_nothing(said: Said) -> None:
    try:
        grant = resolve(Needs(), policy_of(text_of(said)), None, MACHINE, tenant="t", bridge="b", version="1")
    except (PolicyError, UnsupportedError):
        return
    assert {act[0] for act in allowed(grant)} <= {"tool", "weakening", "read", "device"}


@settings(max_examples=100, deadline=None)
@given(policies())
def test_every_decision_says_which_rule_and_why(said: Said) -> None:
    grant = grant_of(policy_of(text_of(said)), None)
    if grant is None:
        return
    for decision in (
        decide_operation(grant, "b", "run"),
        decide_egress(grant, "openai", "POST", "/chat", NO_BODY),
        decide_connect(grant, "a.example.com", 443),
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
