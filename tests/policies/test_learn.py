"""A policy out of what was seen: it allows what ran, nothing that nobody saw, and never what takes a person."""

from __future__ import annotations

from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.policies import shipped
from bridgehold.policies.compose import compose
from bridgehold.policies.grant import resolve
from bridgehold.policies.learn import learn
from bridgehold.policies.lint import lint
from bridgehold.policies.model import Connect, Endpoint, Grant, Machine, Needs, SecretGrant, Weakening
from bridgehold.policies.simulate import Act, decide

METHODS, PATHS = ("GET", "POST"), ("/chat", "/chat/completions", "/files")
NEEDS = Needs(
    endpoints=tuple(
        Endpoint(provider=one, methods=METHODS, paths=PATHS) for one in ("openai", "other", "inner")
    ),
    connects=(Connect(host="a.example.com"), Connect(host="10.0.0.7", private=True)),
    secrets=(SecretGrant(name="openai", provider="openai"),),
    operations=("b:run", "b:stop", "b:delete"),
    resources=("program", "model"),
)
REF = "i-0123456789ab.{}"
NAMES: dict[str, tuple[str, ...]] = {
    "operation": ("b:run", "b:stop", "b:delete", "common:ping"),
    "tool": ("search", "write"),
    "egress": tuple(
        f"{who} {how} {path}" for who in ("openai", "other", "inner") for how in METHODS for path in PATHS
    ),
    "connect": ("a.example.com:443", "10.0.0.7:443", "169.254.169.254:80"),
}
HOSTILE = st.text(max_size=60) | st.sampled_from(
    [
        'x"]\n[secrets.openai]\nhow="env"',
        "openai POST /a\n# b",
        "*",
        "b:*",
        "openai POST /*",
        "a b c",
        "\x1b[2J",
    ]
)
KNOWN = st.one_of(
    *(
        st.builds(Act, what=st.just(what), name=st.sampled_from(names), allowed=st.booleans(),
                  kinds=st.sampled_from([(), ("program",)]) if what == "operation" else st.just(()))
        for what, names in NAMES.items()
    )
)  # fmt: skip
ODD = st.builds(Act, what=st.sampled_from(list(NAMES)), name=HOSTILE, event=HOSTILE, kinds=st.tuples(HOSTILE))


def whose(acts: list[Act]) -> list[Act]:
    import msgspec

    return [
        msgspec.structs.replace(one, tenant="acme", bridge="b", event=one.event or REF.format(number))
        for number, one in enumerate(acts, 1)
    ]


def granted(text: str) -> Grant:
    policy = compose("own", lambda name: (text, "own.toml") if name == "own" else shipped.read(name))
    machine = Machine(cgroup="v2", uids="range", cpus=4)
    return resolve(NEEDS, policy, None, machine, tenant="acme", bridge="b", version="1")


@settings(max_examples=200, deadline=None)
@given(acts=st.lists(KNOWN, max_size=20), odd=st.lists(ODD, max_size=5))
def test_it_allows_what_ran_and_nothing_that_nobody_saw(acts: list[Act], odd: list[Act]) -> None:
    found = learn("b", "acme", whose([*acts, *odd]), private_providers=("inner",))
    grant = granted(found.text)
    ran = {(one.what, one.name) for one in acts if one.allowed}
    for one in acts:
        if one.allowed and one.what != "connect" and not one.name.startswith("inner "):
            assert decide(grant, one).allowed, one
    methods: dict[str, set[str]] = {}
    paths: dict[str, set[str]] = {}
    for what, name in ran:
        if what == "egress":
            provider, method, path = name.split(" ")
            methods.setdefault(provider, set()).add(method)
            paths.setdefault(provider, set()).add(path)
    for what, names in NAMES.items():
        for name in names:
            if (what, name) in ran or name.startswith("common:"):
                continue
            known = [one for one in odd if one.allowed and (one.what, one.name) == (what, name)]
            if what == "egress" and not known:
                provider, method, path = name.split(" ")
                known = [1] if method in methods.get(provider, ()) and path in paths.get(provider, ()) else []  # type: ignore[list-item]
            assert known or not decide(grant, Act(what=what, name=name)).allowed, (what, name)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(acts=st.lists(KNOWN | ODD, max_size=20))
def test_it_never_holds_what_takes_a_person(acts: list[Act]) -> None:
    text = learn("b", "acme", whose(acts), private_providers=("inner",)).text
    grant = granted(text)
    assert (grant.secrets, grant.tool_secrets, grant.connects, grant.devices, grant.read) == (
        (),
        (),
        (),
        (),
        (),
    )
    assert (grant.weakenings, grant.inline_keys) == ((), "capture")
    assert not any(one.provider == "inner" for one in grant.endpoints)
    assert not any(f'"{name}"' in text for name in get_args(Weakening))
    assert {one.severity for one in lint(grant)} <= {"medium", "low", "info"}
    assert all(line.isprintable() for line in text.splitlines())


def test_each_line_names_the_events_that_speak_for_it() -> None:
    acts = whose([Act(what="operation", name="b:run")] * 5 + [Act(what="connect", name="169.254.169.254:80")])
    found = learn("b", "acme", acts)
    line = next(one for one in found.text.splitlines() if '"b:run"' in one)
    assert line == '  "b:run",  # i-0123456789ab.1, i-0123456789ab.2, i-0123456789ab.3 and 2 more'
    assert found.lines == {"operations.allow b:run": tuple(REF.format(number) for number in range(1, 6))}
    assert next(iter(found.left_out.values())) == (REF.format(6),)
    assert "169.254" not in found.text
