"""Grants from TOML texts, as the host makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridgehold.policies import shipped
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import GIB, Connect, Endpoint, Grant, Machine, Needs, Policy, SecretGrant

NEEDS = Needs(
    endpoints=(Endpoint(provider="openai", paths=("/chat/completions", "/responses", "/embeddings")),),
    connects=(Connect(host="*.example.com"), Connect(host="10.0.0.7", private=True)),
    secrets=(
        SecretGrant(name="openai", provider="openai"),
        SecretGrant(name="token", how="env", variable="HUB_TOKEN"),
    ),
    operations=("dspy:create_program", "dspy:execute_program", "dspy:delete_program"),
    resources=("program",),
)
BRIDGES = ("dspy", "python")
MACHINE = Machine(cgroup="v2", uids="range", memory_bytes=24 * GIB, cpus=4)


@pytest.fixture
def needs() -> Needs:
    return NEEDS


@pytest.fixture
def machine() -> Machine:
    return MACHINE


@pytest.fixture
def policy_of() -> Callable[[str], Policy]:
    """A policy ``dspy.toml`` from its text; it may extend shipped ones."""

    def make(text: str) -> Policy:
        return compose("own", lambda name: (text, "own.toml") if name == "own" else shipped.read(name))

    return make


@pytest.fixture
def ceiling_of() -> Callable[[str], Policy]:
    """A tenant's ceiling for the bridge dspy from its text."""

    def make(text: str) -> Policy:
        return compose_tenant("acme", text, "acme.toml", "dspy", shipped.read, known=BRIDGES)

    return make


@pytest.fixture
def grant_of(policy_of: Callable[[str], Policy], ceiling_of: Callable[[str], Policy]) -> Callable[..., Grant]:
    """The grant of a policy's text, and of a ceiling's."""

    def make(
        text: str, ceiling: str | None = None, *, needs: Needs = NEEDS, machine: Machine = MACHINE
    ) -> Grant:
        bound = None if ceiling is None else ceiling_of(ceiling)
        return resolve(needs, policy_of(text), bound, machine, tenant="acme", bridge="dspy", version="1.0")

    return make
