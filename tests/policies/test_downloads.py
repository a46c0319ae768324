"""Hubs in a policy: what its patterns mean, what a tenant may narrow, what no policy lets in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import DeniedError, PolicyError
from bridgehold.policies.compose import narrow
from bridgehold.policies.downloads import decide_download, normalise_repo_pattern, parse_hub_item
from bridgehold.policies.model import GIB, MIB, Grant, Policy

HUB = """
[network.endpoints.openai]
repos = ["acme/*", "gpt2@main"]
files = ["*.json", "*.safetensors", "*.bin", "*.py"]
file_size = "100MiB"
"""
Make = Callable[..., Grant]
PolicyOf = Callable[[str], Policy]


def test_the_patterns_mean_repos_and_revisions(grant_of: Make) -> None:
    grant = grant_of(HUB)
    assert grant.endpoints[0].repos == ("/acme/*@*", "/gpt2@main")
    assert (grant.endpoints[0].file_bytes, grant.endpoints[0].total_bytes) == (100 * MIB, 4 * GIB)
    allowed = {
        "/acme/tiny/resolve/main/config.json": "repos[0]",
        "/acme/tiny/resolve/v1.0/model.safetensors": "repos[0]",
        "/gpt2/resolve/main/config.json": "repos[1]",
        "/api/models/gpt2": "repos[1]",
    }
    for path, rule in allowed.items():
        decision = decide_download(grant, "openai", parse_hub_item(path))
        assert (decision.allowed, decision.rule) == (True, f"network.endpoints.openai.{rule}"), path
        assert decision.source == "own.toml:3"
    for path in (
        "/gpt2/resolve/v2/config.json",
        "/acme/resolve/main/config.json",
        "/x/tiny/resolve/main/a.json",
    ):
        decision = decide_download(grant, "openai", parse_hub_item(path))
        assert (decision.allowed, decision.rule) == (False, "default-deny"), path
    assert decide_download(grant, "other", parse_hub_item("/gpt2/resolve/main/a.json")).allowed is False


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "modeling.py", "x.pt", "x.pkl", "x.ckpt", "x.npy", "x.h5"]
)
def test_no_policy_lets_in_what_runs_code(grant_of: Make, file: str) -> None:
    decision = decide_download(grant_of(HUB), "openai", parse_hub_item(f"/acme/tiny/resolve/main/{file}"))
    assert (decision.allowed, decision.rule) == (False, "hub.kind")


@given(st.text(alphabet="/.%2feE5c\\@ab-resolvapimdn", max_size=40))
def test_any_path_is_a_wanted_file_or_refused(path: str) -> None:
    try:
        wanted = parse_hub_item(path)
    except DeniedError:
        return
    for part in (*wanted.repo.split("/"), wanted.revision, *wanted.file.split("/")):
        assert part not in (".", "..")
        assert not set(part) & {"%", "\\"}
    assert wanted.repo.split("/")[0] != "api"


@pytest.mark.parametrize(
    "text", ["", "@main", "acme/tiny@", "a/b/c", "../x", "a/b@m@n", "/acme//tiny", "a b/c"]
)
def test_what_is_no_repo_is_refused(text: str) -> None:
    with pytest.raises(DeniedError):
        normalise_repo_pattern(text)


def test_a_tenant_narrows_a_hub(policy_of: PolicyOf, ceiling_of: PolicyOf) -> None:
    pin = "a" * 64
    ceiling = ceiling_of(
        f"[network.endpoints.openai]\nrepos = ['acme/tiny@main']\nfiles = ['*.json']\ndigests = ['{pin}']\n"
        "file_size = '1MiB'\ntotal_size = '2MiB'\n"
    )
    hub = narrow(policy_of(HUB), ceiling).endpoints[0]
    assert (hub.repos, hub.files, hub.digests) == (("/acme/tiny@main",), ("/*.json",), (pin,))
    assert (hub.file_bytes, hub.total_bytes) == (MIB, 2 * MIB)


@pytest.mark.parametrize(
    ("ceiling", "part"),
    [
        ("repos = ['acme/*', 'umbra/*']", "/umbra/*@* widens the policy"),
        ("repos = ['*/*']", "/*/*@* widens the policy"),
        ("repos = ['acme/*']\nfiles = ['*.txt']", "/*.txt widens the policy"),
        ("repos = ['acme/*']\nfile_size = '101MiB'", "file_size: 101 MiB widens the policy's 100 MiB"),
        ("repos = ['acme/*']\ntotal_size = '5GiB'", "total_size: 5 GiB widens the policy's 4 GiB"),
        ("repos = ['acme/*']\ndigests = ['" + "b" * 64 + "']", "widens the policy"),
    ],
)
def test_a_tenant_that_widens_a_hub_is_refused(
    policy_of: PolicyOf, ceiling_of: PolicyOf, ceiling: str, part: str
) -> None:
    policy = policy_of(HUB + f"digests = ['{'a' * 64}']\n")
    with pytest.raises(PolicyError) as caught:
        narrow(policy, ceiling_of(f"[bridges.dspy.network.endpoints.openai]\n{ceiling}\n"))
    assert part in caught.value.message


def test_paths_do_not_become_a_hub(policy_of: PolicyOf, ceiling_of: PolicyOf) -> None:
    plain = policy_of("[network.endpoints.openai]\npaths = ['/chat']\n")
    with pytest.raises(PolicyError, match=r"openai\.repos"):
        narrow(plain, ceiling_of("[network.endpoints.openai]\nrepos = ['acme/*']\n"))


def test_a_hub_with_paths_is_a_mistake(grant_of: Make) -> None:
    with pytest.raises(PolicyError, match="a hub has `repos` and `files`, and no paths"):
        grant_of("[network.endpoints.openai]\nrepos = ['acme/*']\npaths = ['/x']\n")
