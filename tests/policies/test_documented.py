"""docs/reference/policy.md holds every key, weakening and default that the loader knows, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bridgehold.policies import shipped
from bridgehold.policies.complete import problems_of
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.limits_table import LIMITS
from bridgehold.policies.model import Limits, Rate
from bridgehold.policies.values import read_value
from bridgehold.policies.vocabulary import BY_PATH, VOCABULARY, WEAKENINGS

PAGE = (Path(__file__).parents[2] / "docs/reference/policy.md").read_text(encoding="utf-8")
ROWS = {match[1]: match[0] for match in re.finditer(r"^\| `([a-z_.*\[\]]+)` \|.*$", PAGE, re.MULTILINE)}
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_every_key_and_no_other() -> None:
    assert set(ROWS) - set(WEAKENINGS) == {key.path for key in VOCABULARY}


def test_the_page_has_every_weakening() -> None:
    assert set(WEAKENINGS) <= set(ROWS)


@pytest.mark.parametrize("key", [key for key in VOCABULARY if key.path.startswith(("limits.", "rate."))])
def test_the_page_has_the_true_defaults(key: object) -> None:
    path = key.path  # type: ignore[attr-defined]  # a Key
    cell = ROWS[path].split("|")[3].strip().strip("`")
    value = read_value(BY_PATH[path], tomllib.loads(f"x = {cell}")["x"])
    table, _, name = path.partition(".")
    fields = {fact.key: fact.field for fact in LIMITS}
    assert value == (getattr(Limits(), fields[name]) if table == "limits" else getattr(Rate(), name))


def test_every_limit_is_in_the_table_once() -> None:
    assert sorted(fact.field for fact in LIMITS) == sorted(Limits.__struct_fields__)
    assert {key.path.removeprefix("rate.") for key in VOCABULARY if key.path.startswith("rate.")} == set(
        Rate.__struct_fields__
    )


def test_the_examples_of_the_page_work() -> None:
    policy_text, tenant_text = EXAMPLES
    policy = compose("own", lambda name: (policy_text, "own.toml") if name == "own" else shipped.read(name))
    assert problems_of(policy) == ()
    ceiling = compose_tenant("acme", tenant_text, "acme.toml", "dspy", shipped.read, known=("dspy",))
    assert ceiling.limits.memory_bytes < policy.limits.memory_bytes


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_policies_are_package_data_and_complete(name: str) -> None:
    found = shipped.read(name)
    assert found is not None
    assert problems_of(compose(name, shipped.read)) == ()
    folder = Path(shipped.__file__).parent / "shipped"
    assert {file.stem for file in folder.glob("*.toml")} == set(shipped.names())


def test_other_names_are_not_shipped() -> None:
    assert shipped.read("../model") is None
    assert shipped.read("") is None


def test_baseline_states_the_default_of_every_limit() -> None:
    policy = compose("baseline", shipped.read)
    assert policy.limits == Limits()
    assert {f"limits.{fact.key}" for fact in LIMITS} <= set(policy.sources)
