"""What a program says wrongly: a tenant's name, which opens nothing, and a tool that is none."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from bridgehold.client.tools import named
from bridgehold.config.layout import Layout
from bridgehold.errors import NotFoundError, UsageError
from bridgehold.host.front.slips import demand_no_slip, is_slip
from bridgehold.policies import tokens


@pytest.mark.parametrize("name", ["acmee", "acne", "amce", "locla", "lcal", "globx"])
def test_one_typing_error_away_from_a_declared_tenant_is_refused(tmp_path: Path, name: str) -> None:
    layout = _layout(tmp_path)
    with pytest.raises(NotFoundError, match=r"there is no tenant '.*' \(nearest: '(acme|local|globex)'\)"):
        demand_no_slip(layout, name, {"globex"})


@pytest.mark.parametrize(
    "name",
    ["acm", "acme", "globex", "local", "newcomer", "acme2", "acme-b", "team-b", "team", "acmetwo", "showed"],
)
def test_any_other_needs_no_file(tmp_path: Path, name: str) -> None:
    layout = _layout(tmp_path)
    (layout.tenants / "team-a.toml").write_text("[tenant]\n")
    (layout.tenants / "shower.toml").write_text("[tenant]\n")
    scope = tokens.Scope(tenants=("showed",))
    token = tokens.Token(name="app", digest="sha256:" + "1" * 64, scope=scope)
    (layout.tokens / "app.toml").write_text(tokens.render(token))
    demand_no_slip(layout, name, {"globex"})


def test_a_slip_goes_both_ways_and_no_name_is_its_own() -> None:
    for one, other in (("acme", "acmee"), ("globex", "glboex"), ("shop-eu", "shop-au")):
        assert is_slip(one, other)
        assert is_slip(other, one)
        assert not is_slip(one, one)
    for one, other in (("acme1", "acme2"), ("team-a", "team-b"), ("abc", "abcd"), ("acme", "abme-x")):
        assert not is_slip(one, other)
        assert not is_slip(other, one)


def _of_unknown(x: Nope) -> None:  # type: ignore[name-defined]  # noqa: F821 - as a caller may have written it
    """Its annotation names nothing."""


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"look": print}, "a str is no function with a name"),
        ([None], "a NoneType is no function with a name"),
        ([functools.partial(int, base=2)], "a partial is no function with a name"),
        ([_of_unknown], "_of_unknown: what it takes can't be read: NameError"),
        ([max], "max: "),
        ([iter], "iter: "),
    ],
)
def test_a_tool_that_is_none_is_refused_with_what_to_give(tools: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        named(tools)
    assert said in caught.value.message
    assert "Describe it yourself" in caught.value.hint


def _layout(folder: Path) -> Layout:
    layout = Layout(config=folder / "config", state=folder / "state", run=folder / "run")
    for place in (layout.tenants, layout.tokens):
        place.mkdir(parents=True)
    (layout.tenants / "acme.toml").write_text("[tenant]\n")
    return layout
