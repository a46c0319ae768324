"""Chains of policies, and tenants that may only narrow (ABUSE 32)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from bridgehold.errors import PolicyError
from bridgehold.policies import globs, shipped
from bridgehold.policies.compose import compose, narrow
from bridgehold.policies.model import MIB, Policy, Source
from bridgehold.policies.narrow import source_of

WIDE = """\
weakenings = ["env_secret", "connect"]
inline_keys = "capture"
[limits]
memory = "1GiB"
[filesystem]
read = ["/srv/models"]
[network.endpoints.openai]
methods = ["POST", "GET"]
paths = ["/chat/*", "/embeddings"]
[[network.connect]]
host = "*.example.com"
[secrets.openai]
[secrets.token]
how = "env"
variable = "HUB_TOKEN"
[operations]
allow = ["dspy:*"]
deny = ["dspy:reset"]
[rate]
concurrency = 4
provider_requests_total = "any"
"""


def files(**texts: str) -> Callable[[str], tuple[str, str] | None]:
    return lambda name: (texts[name], f"{name}.toml") if name in texts else None


def for_dspy(text: str) -> str:
    """What a tenant's file says of all bridges, said of one: on the same lines."""
    text = re.sub(r"^(\[+)", r"\1bridges.dspy.", text, flags=re.MULTILINE)
    return text if text.startswith("[") else f"bridges.dspy.{text}"


def test_tables_merge_lists_replace_and_deny_adds() -> None:
    policy = compose(
        "top",
        files(
            top='extends = "base"\n[limits]\ncpu = 2\n[operations]\nallow = ["a:*"]\ndeny = ["a:x"]\n',
            base='[limits]\nmemory = "64MiB"\ncpu = 1\n[operations]\nallow = ["b:*"]\ndeny = ["a:y"]\n',
        ),
    )
    assert (policy.limits.memory_bytes, policy.limits.cpu_millis) == (64 * MIB, 2000)
    assert policy.operations.allow == ("a:*",)
    assert policy.operations.deny == ("a:y", "a:x")
    assert policy.sources["operations.deny[0]"] == Source("base.toml", 6)
    assert policy.sources["operations.deny[1]"] == Source("top.toml", 6)
    assert policy.sources["limits.cpu"] == Source("top.toml", 3)
    assert [str(lost.source) for lost in policy.overruled["limits.cpu"]] == ["base.toml:3"]


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        ({"own": 'extends = "own"'}, "own.toml:1: extends: 'own' is this file itself, and no policy of"),
        ({"own": 'extends = "pyton"'}, "there is no policy 'pyton' (nearest: 'python')"),
        ({"own": '\nextends = "b"', "b": 'extends = "own"'}, "b.toml:1: extends: a circle: own → b → own"),
        ({"own": '\nextends = "gone"'}, "own.toml:2: extends: there is no policy 'gone'"),
        (
            {"own": 'extends = "p0"', **{f"p{n}": f'extends = "p{n + 1}"' for n in range(20)}},
            "more than 8 policies in a chain",
        ),
        ({"own": 'extends = "b"\n', "b": "[limit]\n"}, "b.toml:1: limit: unknown key (nearest: 'limits')"),
        ({"own": 'extends = "../../etc/passwd"'}, "is not a name"),
    ],
)
def test_chains_that_are_refused(texts: dict[str, str], part: str) -> None:
    with pytest.raises(PolicyError) as caught:
        compose("own", files(**texts))
    assert part in caught.value.message


def test_a_file_that_extends_its_own_name_starts_from_the_shipped_one() -> None:
    own = 'extends = "dspy"\n[limits]\nmemory = "64MiB"\n'
    policy = compose("dspy", lambda name: (own, "dspy.toml") if name == "dspy" else shipped.read(name))
    whole = compose("dspy", shipped.read)
    assert policy.limits.memory_bytes == 64 * MIB
    assert str(policy.overruled["limits.memory"][0].source).startswith("shipped:dspy.toml:")
    assert (policy.operations, policy.endpoints) == (whole.operations, whole.endpoints)


def test_an_unknown_policy_is_a_typed_refusal() -> None:
    with pytest.raises(PolicyError, match="there is no policy 'gone'"):
        compose("gone", files())


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_policies_compose(name: str) -> None:
    policy = compose(name, shipped.read)
    assert policy.sandbox.enforcement == "strict"
    assert policy.weakenings == ()
    assert policy.inline_keys == "capture"


@pytest.mark.parametrize(
    ("ceiling", "part"),
    [
        (
            '[limits]\nmemory = "2GiB"',
            "acme.toml:2: limits.memory: 2 GiB widens the policy's 1 GiB (own.toml:4)",
        ),
        ("[limits]\ncpu = 2", "acme.toml:2: limits.cpu: 2 cores widens the policy's 1 core (default)"),
        (
            "[network.endpoints.other]\npaths = ['/x']",
            "acme.toml:1: network.endpoints.other: widens the policy",
        ),
        (
            "[network.endpoints.openai]\nmethods = ['DELETE']",
            "acme.toml:2: network.endpoints.openai.methods: DELETE",
        ),
        (
            "[network.endpoints.openai]\npaths = ['/*/*']",
            "acme.toml:2: network.endpoints.openai.paths: /*/* widens",
        ),
        (
            "[network.endpoints.openai]\nremote_content = true",
            "acme.toml:2: network.endpoints.openai.remote_content",
        ),
        (
            "[[network.connect]]\nhost = 'evilexample.com'",
            "acme.toml:1: network.connect: evilexample.com:443 widens",
        ),
        ("[[network.connect]]\nhost = 'a.example.com'\nport = 22", "acme.toml:1: network.connect"),
        ("[[network.connect]]\nhost = 'a.example.com'\nprivate = true", "acme.toml:1: network.connect"),
        ("[secrets.other]", "acme.toml:1: secrets.other: widens the policy"),
        ("[secrets.openai]\nhow = 'env'\nvariable = 'KEY'", "acme.toml:2: secrets.openai.how: env widens"),
        ("[secrets.token]\nvariable = 'OTHER'", "acme.toml:2: secrets.token.variable: OTHER widens"),
        (
            "[operations]\nallow = [\n 'dspy:run',\n 'python:*']",
            "acme.toml:4: operations.allow: python:* widens",
        ),
        ("[operations]\nallow = ['*']", "acme.toml:2: operations.allow: * widens"),
        (
            "[tools]\nallow = ['x']",
            "acme.toml:2: tools.allow: x widens the policy, which has nothing (default)",
        ),
        ("[filesystem]\nread = ['/srv/models2']", "acme.toml:2: filesystem.read: /srv/models2 widens"),
        ("[rate]\nconcurrency = 5", "acme.toml:2: rate.concurrency: 5 widens the policy's 4 (own.toml:20)"),
        ("inline_keys = 'pass'", "acme.toml:1: inline_keys: pass widens the policy's capture (own.toml:2)"),
        ("weakenings = ['no_cgroup']", "acme.toml:1: weakenings: no_cgroup widens"),
        ("[sandbox]\nenforcement = 'weakened'", "acme.toml:2: sandbox.enforcement: weakened widens"),
        ("[sandbox]\nstart = 'fork'", "acme.toml:2: sandbox.start: fork widens"),
    ],
)
def test_a_bound_of_one_bridge_that_widens_is_refused_with_both_lines(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy], ceiling: str, part: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        narrow(policy_of(WIDE), ceiling_of(for_dspy(ceiling)))
    assert part in caught.value.message
    assert "own.toml" in caught.value.message or "(default)" in caught.value.message


def test_every_widening_is_named_at_once(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy]
) -> None:
    with pytest.raises(PolicyError) as caught:
        narrow(
            policy_of(WIDE),
            ceiling_of(for_dspy("[limits]\nmemory='2GiB'\nprocesses=9000\n[tools]\nallow=['x']")),
        )
    assert len(caught.value.message.splitlines()) == 3


@pytest.mark.parametrize(
    ("ceiling", "field", "holds", "source"),
    [
        ("[limits]\nmemory = '2GiB'\ncpu = 4", "limits.memory_bytes", 1024 * MIB, "limits.memory own.toml:4"),
        ("[rate]\nconcurrency = 5", "rate.concurrency", 4, "rate.concurrency own.toml:20"),
        ("inline_keys = 'pass'", "inline_keys", "capture", "inline_keys own.toml:2"),
        ("[operations]\nallow = ['*']", "operations.allow", ("dspy:*",), "operations.allow own.toml:17"),
        (
            "[operations]\nallow = ['python:*', '*:run', 'x']",
            "operations.allow",
            globs.meet("dspy:*", "*:run"),
            "operations.allow[0] acme.toml:2",
        ),
        ("[operations]\nallow = ['python:*']", "operations.allow", (), "operations.allow acme.toml:2"),
        ("[tools]\nallow = ['x']", "tools.allow", (), "tools.allow default"),
        ("[filesystem]\nread = ['/srv', '/opt']", "read", ("/srv/models",), "filesystem.read own.toml:6"),
        (
            "[filesystem]\nread = ['/srv/models/a', '/opt']",
            "read",
            ("/srv/models/a",),
            "filesystem.read[0] acme.toml:2",
        ),
        ("weakenings = ['env_secret', 'no_cgroup']", "weakenings", ("env_secret",), "weakenings acme.toml:1"),
        ("[secrets.token]\nhow = 'gateway'\n[secrets.other]", "secrets", (), "secrets acme.toml:1"),
        ("[network.endpoints.other]\npaths = ['/x']", "endpoints", (), "network.endpoints acme.toml:1"),
    ],
)
def test_a_bound_of_all_bridges_may_be_above_one_of_them_and_what_both_allow_holds(
    policy_of: Callable[[str], Policy],
    ceiling_of: Callable[[str], Policy],
    ceiling: str,
    field: str,
    holds: object,
    source: str,
) -> None:
    narrowed = narrow(policy_of(WIDE), ceiling_of(ceiling))
    found: object = narrowed
    for part in field.split("."):
        found = getattr(found, part)
    assert found == holds
    key, place = source.split()
    assert str(source_of(narrowed.sources, key)) == place


def test_an_endpoint_of_all_bridges_meets_the_policys(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy]
) -> None:
    ceiling = ceiling_of(
        "[network.endpoints.openai]\nmethods = ['POST', 'DELETE']\npaths = ['/*/completions', '/files']\n"
        "remote_content = true\n[network.endpoints.other]\npaths = ['/x']\n"
        "[[network.connect]]\nhost = 'a.example.com'\nprivate = true\n[[network.connect]]\nhost = 'evil.org'\n"
    )
    narrowed = narrow(policy_of(WIDE), ceiling)
    (endpoint,) = narrowed.endpoints
    assert (endpoint.methods, endpoint.paths) == (("POST",), ("/chat/completions",))
    assert not endpoint.remote_content
    assert [(one.host, one.private) for one in narrowed.connects] == [("a.example.com", False)]


def test_a_ceiling_bounds_what_it_mentions_and_nothing_else(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy]
) -> None:
    policy = policy_of(WIDE)
    ceiling = ceiling_of(
        "weakenings = []\n[limits]\nmemory = '256MiB'\n[network.endpoints.openai]\npaths = ['/chat/completions']\n"
        "[operations]\ndeny = ['dspy:delete_*']\n[rate]\nprovider_requests_total = 10\n"
    )
    narrowed = narrow(policy, ceiling)
    assert narrowed.limits.memory_bytes == 256 * MIB
    assert narrowed.limits.cpu_millis == policy.limits.cpu_millis
    assert narrowed.endpoints[0].paths == ("/chat/completions",)
    assert narrowed.endpoints[0].methods == ("POST", "GET")
    assert narrowed.operations.allow == ("dspy:*",)
    assert narrowed.operations.deny == ("dspy:reset", "dspy:delete_*")
    assert narrowed.sources["operations.deny[1]"] == Source("acme.toml", 7)
    assert narrowed.rate.provider_requests_total == 10
    assert narrowed.weakenings == ()
    assert narrowed.connects == policy.connects
    assert narrowed.sources["limits.memory"] == Source("acme.toml", 3)
    assert [str(lost.source) for lost in narrowed.overruled["limits.memory"]] == ["own.toml:4"]


def test_a_tenants_table_for_another_bridge_is_checked_and_not_applied(
    ceiling_of: Callable[[str], Policy],
) -> None:
    other = ceiling_of("[bridges.python.limits]\nmemory = '32MiB'\n[limits]\ncpu = 0.5\n")
    assert "limits.memory" not in other.sources
    assert other.limits.cpu_millis == 500
    with pytest.raises(PolicyError, match=r"acme.toml:2: limits.memry: unknown key"):
        ceiling_of("[bridges.python.limits]\nmemry = '32MiB'\n")


def test_an_empty_table_takes_everything_away(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy]
) -> None:
    narrowed = narrow(policy_of(WIDE), ceiling_of("[network.endpoints]\n[secrets]\n"))
    assert narrowed.endpoints == ()
    assert narrowed.secrets == ()
