"""Every limit at work on a real session, in both starts and for both users: a limit without a case fails.

The keys come from the loader's own vocabulary, which docs/reference/limits.md holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridgehold.errors import BridgeholdError
from bridgehold.policies.limits_table import LIMITS as FACTS
from bridgehold.policies.limits_table import Unit
from bridgehold.policies.vocabulary import VOCABULARY
from hostile.cases_limits import LIMITS
from hostile.keyed import Keyed, keyed_host
from waiting import until

pytestmark = pytest.mark.hostile

KEYS = sorted(key.path for key in VOCABULARY if key.path.startswith("limits."))
HOSTS = [("root", "cold"), ("user", "fork")] if os.getuid() == 0 else [("self", "cold"), ("self", "fork")]


@pytest.fixture(scope="module", params=HOSTS, ids="-".join)
def keyed(request: pytest.FixtureRequest) -> Iterator[Keyed]:
    with keyed_host(*request.param, keys=False) as ready:
        yield ready


@pytest.mark.parametrize("key", KEYS)
def test_a_limit_is_at_work(keyed: Keyed, key: str) -> None:
    assert key in LIMITS, "a limit without a case: show it at work"
    LIMITS[key](keyed)


def test_no_case_is_for_a_limit_that_there_is_not() -> None:
    assert set(LIMITS) <= set(KEYS)


def _spelt(unit: Unit, value: int) -> str | int | float:
    spelt = {"size": f"{value}B", "rate": f"{value}B/s", "duration": f"{value}ms", "cores": value / 1000}
    return spelt.get(unit, value)


def test_what_a_policy_takes_lets_a_session_start(keyed: Keyed) -> None:
    """The least that each limit may be: all of the sizes and numbers at once, then each that takes time."""
    least = {f"limits.{fact.key}": _spelt(fact.unit, fact.least) for fact in FACTS}
    cpu, startup = (least.pop(key) for key in ("limits.cpu", "limits.startup"))
    alone = [{"limits.startup": startup}, *([{"limits.cpu": cpu}] if keyed.start == "cold" else [])]

    def starts(changes: dict[str, Any]) -> bool:
        try:
            with keyed.session(changes):
                return True
        except BridgeholdError as error:  # a busy machine takes more than the least for a start
            assert (error.code, list(changes)) == ("timeout", ["limits.startup"]), error
            return False

    for changes in (least, *alone):
        until(partial(starts, changes))
    for fact in FACTS:
        if fact.key in ("open_files", "processes", "startup"):
            below = {f"limits.{fact.key}": _spelt(fact.unit, fact.least - 1)}
            assert keyed.fails(below) == "policy", fact.key


def test_every_limit_of_the_reference_has_a_key() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/limits.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert {f"limits.{row}" for row in rows} == {*KEYS}
