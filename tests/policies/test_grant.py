"""Needs ∩ policy ∩ ceiling ∩ machine."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.errors import ManifestError, PolicyError, UnsupportedError
from bridgehold.policies import grant as grants
from bridgehold.policies import shipped
from bridgehold.policies.compose import compose
from bridgehold.policies.content import NO_BODY
from bridgehold.policies.decide import decide_connect, decide_egress, decide_operation, secret_of
from bridgehold.policies.model import (
    GIB,
    MIB,
    Ceilings,
    Connect,
    Endpoint,
    Grant,
    Machine,
    Needs,
    Overruled,
    Policy,
    Source,
)

FULL = """\
weakenings = ["env_secret", "connect", "private_network", "pth", "no_cgroup", "shared_uid", "no_seccomp"]
[network.endpoints.openai]
methods = ["POST", "GET"]
paths = ["/chat/*", "/embeddings", "/files"]
[network.endpoints.unasked]
paths = ["/x"]
[[network.connect]]
host = "*.example.com"
[[network.connect]]
host = "10.0.0.7"
private = true
[secrets.openai]
[secrets.unasked]
provider = "unasked"
[secrets.token]
how = "env"
variable = "HUB_TOKEN"
[operations]
allow = ["dspy:*"]
deny = ["dspy:delete_*"]
[resources]
allow = ["*"]
"""

Make = Callable[..., Grant]


def test_a_grant_is_what_all_sides_agree_on(grant_of: Make) -> None:
    grant = grant_of(FULL)
    assert [endpoint.provider for endpoint in grant.endpoints] == ["openai"]
    assert grant.endpoints[0].methods == ("POST",)
    assert grant.endpoints[0].paths == ("/chat/completions", "/embeddings")
    assert grant.connects == (Connect(host="*.example.com"), Connect(host="10.0.0.7", private=True))
    assert [secret.name for secret in grant.secrets] == ["openai", "token"]
    assert grant.operations.allow == ("dspy:create_program", "dspy:execute_program")
    assert grant.resources.allow == ("program",)
    assert grant.weakenings == ("env_secret", "connect", "private_network", "pth")
    assert "endpoint openai: path /responses" in grant.withheld
    assert "operation dspy:delete_program: deny[0]" in grant.withheld


def test_sources_follow_the_items_that_were_kept(grant_of: Make) -> None:
    sources = grant_of(FULL).sources
    assert sources["network.endpoints.openai.paths[0]"] == Source("own.toml", 4)
    assert sources["network.connect[1]"] == Source("own.toml", 9)
    assert sources["operations.allow[1]"] == Source("own.toml", 19)


def test_nothing_is_granted_by_an_empty_policy(grant_of: Make) -> None:
    grant = grant_of("")
    assert (grant.endpoints, grant.connects, grant.secrets, grant.weakenings, grant.read) == (
        (),
        (),
        (),
        (),
        (),
    )
    assert not decide_egress(grant, "openai", "POST", "/chat/completions", NO_BODY).allowed
    assert not decide_connect(grant, "api.openai.com", 443).allowed
    assert secret_of(grant, "openai") is None
    assert not decide_operation(grant, "dspy", "create_program").allowed
    assert len(grant.withheld) == 9


def test_nothing_is_granted_that_the_manifest_does_not_ask_for(grant_of: Make) -> None:
    grant = grant_of(FULL, needs=Needs())
    assert (grant.endpoints, grant.connects, grant.secrets, grant.operations.allow) == ((), (), (), ())
    assert grant.weakenings == ("pth",)


def test_a_manifest_without_paths_takes_what_the_policy_grants(grant_of: Make) -> None:
    grant = grant_of(FULL, needs=Needs(endpoints=(Endpoint(provider="openai"),)))
    assert grant.endpoints[0].paths == ("/chat/*", "/embeddings", "/files")


def test_remote_content_takes_both_sides(grant_of: Make) -> None:
    text = FULL.replace("[network.endpoints.unasked]", "remote_content = true\n[network.endpoints.unasked]")
    plain = Endpoint(provider="openai", paths=("/chat/completions",))
    asked = msgspec.structs.replace(plain, remote_content=True)
    assert not grant_of(text, needs=Needs(endpoints=(plain,))).endpoints[0].remote_content
    assert not grant_of(FULL, needs=Needs(endpoints=(asked,))).endpoints[0].remote_content
    assert grant_of(text, needs=Needs(endpoints=(asked,))).endpoints[0].remote_content


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[secrets.t]\nhow = 'env'\nvariable = 'X'", 'own.toml:2: secrets.t.how: a key inside of the sandbox demands the weakening "env_secret"'),
        ("[[network.connect]]\nhost = 'a.com'", 'own.toml:1: network.connect[0]: a tunnel demands the weakening "connect"'),
        (
            "weakenings = ['connect']\n[[network.connect]]\nhost = 'a.com'\nprivate = true",
            'own.toml:2: network.connect[0]: a private address demands the weakening "private_network"',
        ),
        ("inline_keys = 'pass'", 'own.toml:1: inline_keys: passing keys through demands the weakening "inline_keys_pass"'),
        ("[network.endpoints.a]", "own.toml:1: network.endpoints.a: no `paths`"),
        ("[secrets.a]", "own.toml:1: secrets.a: it is bound to 'a', which is none of"),
        ("weakenings=['env_secret']\n[secrets.a]\nhow='env'", "own.toml:2: secrets.a: `how = \"env\"` needs `variable`"),
    ],
)  # fmt: skip
def test_rules_that_can_not_work_are_refused(grant_of: Make, text: str, part: str) -> None:
    with pytest.raises(PolicyError) as caught:
        grant_of(text)
    assert part in caught.value.message


def test_minimum_limits_that_are_not_met_are_all_named(grant_of: Make) -> None:
    needs = Needs(limits={"memory_bytes": 2 * GIB, "cpu_millis": 1500, "processes": 8})
    with pytest.raises(PolicyError) as caught:
        grant_of("[limits]\nmemory = '1GiB'\n", needs=needs)
    assert caught.value.message.splitlines() == [
        "default: limits.cpu: 1 core is less than the 1.5 cores that the bridge 'dspy' needs",
        "own.toml:2: limits.memory: 1 GiB is less than the 2 GiB that the bridge 'dspy' needs",
    ]
    with pytest.raises(ManifestError, match="memory_bites"):
        grant_of("", needs=Needs(limits={"memory_bites": 1}))


@pytest.mark.parametrize(
    ("machine", "weakening", "remedy"),
    [
        (Machine(cgroup="none", uids="range"), "no_cgroup", "Delegate=yes"),
        (Machine(cgroup="v2", uids="shared"), "shared_uid", "/etc/subuid"),
        (Machine(cgroup="v2", uids="range", seccomp=False), "no_seccomp", "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_a_barrier_that_the_machine_can_not_give_is_refused(
    grant_of: Make, machine: Machine, weakening: str, remedy: str
) -> None:
    texts = [
        "",
        f"weakenings = ['{weakening}']",
        "[sandbox]\nenforcement = 'weakened'",
    ]
    for text in texts:
        with pytest.raises(UnsupportedError) as caught:
            grant_of(text, machine=machine)
        assert remedy in caught.value.hint
        assert f'"{weakening}"' in caught.value.hint
    named = f"weakenings = ['{weakening}', 'env_secret']\n[sandbox]\nenforcement = 'weakened'"
    assert grant_of(named, machine=machine).weakenings == (weakening,)
    assert grant_of(named).weakenings == ()


def test_a_weakening_that_a_tenant_takes_away_withholds_what_rests_on_it(grant_of: Make) -> None:
    grant = grant_of(FULL, "weakenings = ['connect']")
    assert [secret.name for secret in grant.secrets] == ["openai"]
    assert grant.connects == (Connect(host="*.example.com"), Connect(host="10.0.0.7"))
    assert grant.weakenings == ("connect",)
    passing = grant_of("inline_keys = 'pass'\nweakenings = ['inline_keys_pass']", "weakenings = []")
    assert passing.inline_keys == "capture"


def test_tunnels_go_with_their_weakening(grant_of: Make) -> None:
    assert grant_of(FULL, "weakenings = []").connects == ()


def test_private_takes_both_sides(grant_of: Make) -> None:
    needs = Needs(connects=(Connect(host="a.example.com", private=True), Connect(host="10.0.0.7")))
    connects = grant_of(FULL, needs=needs).connects
    assert connects == (Connect(host="a.example.com"), Connect(host="10.0.0.7"))


def test_a_secret_goes_with_its_endpoint(grant_of: Make, needs: Needs) -> None:
    grant = grant_of(FULL, needs=msgspec.structs.replace(needs, endpoints=()))
    assert [secret.name for secret in grant.secrets] == ["token"]
    assert "secret openai: its endpoint 'openai' isn't granted" in grant.withheld


def test_a_minimum_that_is_just_met_is_met(grant_of: Make) -> None:
    assert grant_of("", needs=Needs(limits={"memory_bytes": 512 * MIB})).limits.memory_bytes == 512 * MIB


def test_the_machine_bounds_memory_and_cores(grant_of: Make) -> None:
    small = Machine(cgroup="v1", uids="range", memory_bytes=128 * MIB, cpus=2)
    grant = grant_of("[limits]\ncpu = 8\n", machine=small)
    assert (grant.limits.memory_bytes, grant.limits.cpu_millis) == (128 * MIB, 2000)
    assert str(grant.sources["limits.cpu"]) == "machine"
    assert grant.overruled["limits.cpu"] == (Overruled("8 cores", Source("own.toml", 2)),)
    assert grant_of("weakenings = ['overcommit']", machine=small).limits.memory_bytes == 128 * MIB


def test_a_provider_at_a_private_address_demands_its_weakening(
    policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy], needs: Needs, machine: Machine
) -> None:
    values = {"tenant": "acme", "bridge": "dspy", "version": "1", "private_providers": ["openai"]}
    with pytest.raises(
        PolicyError, match=r"network.endpoints.openai: a private provider demands the weakening"
    ):
        grants.resolve(needs, compose("dspy", shipped.read), None, machine, **values)
    named = policy_of("extends = 'dspy'\nweakenings = ['private_network']\n")
    assert grants.resolve(needs, named, None, machine, **values).weakenings == ("private_network",)
    without = grants.resolve(needs, named, ceiling_of("weakenings = []"), machine, **values)
    assert (without.endpoints, without.weakenings) == ((), ())
    assert "endpoint openai: private_network was taken away" in without.withheld
    values["private_providers"] = ["other"]
    assert grants.resolve(needs, named, None, machine, **values).weakenings == ()


def test_the_digest_covers_what_is_granted_and_not_why(grant_of: Make) -> None:
    grant = grant_of(FULL)
    assert grant.digest == grants.digest(grant)
    assert grant_of("\n\n" + FULL).digest == grant.digest
    assert grant_of("\n\n" + FULL).sources != grant.sources
    seen = {grant.digest}
    for field in grant.__struct_fields__:
        value = getattr(grant, field)
        if field in ("sources", "overruled", "ceilings", "until", "then", "digest"):
            continue
        changed = (*value, "x") if isinstance(value, tuple) else f"{value}x"
        seen.add(grants.digest(msgspec.structs.replace(grant, **{field: changed})))
    assert len(seen) == len(grant.__struct_fields__) - 6 + 1
    assert grants.digest(msgspec.structs.replace(grant, ceilings=Ceilings(sessions=1))) == grant.digest


@pytest.mark.parametrize("bridge", ["dspy", "langchain", "python", "custom", "pandas", "transformers"])
def test_shipped_bridges_get_all_that_they_ask_for(bridge: str, machine: Machine) -> None:
    from pathlib import Path

    import bridgehold.bridges as room

    manifest = load_manifest(Path(room.__path__[0]) / "shipped" / bridge)
    grant = grants.resolve(
        manifest.needs,
        compose(bridge, shipped.read),
        None,
        machine,
        tenant="local",
        bridge=bridge,
        version="1",
    )
    hub = ("endpoint hub: not granted by the policy", "secret hub: not granted by the policy")
    assert grant.withheld == (
        hub if bridge == "transformers" else ()
    )  # which repos is for the operator to say
    assert grant.weakenings == ()
    assert grant.connects == ()
    three = ["openai", "anthropic", "gemini"]
    providers = {"dspy": three, "langchain": three}
    assert [endpoint.provider for endpoint in grant.endpoints] == providers.get(bridge, [])
    assert all(not endpoint.remote_content for endpoint in grant.endpoints)
