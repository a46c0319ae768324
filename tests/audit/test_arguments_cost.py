"""What a look for keys may cost: a million values, on a loop that others use as well."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit import argument_search, preview, redact
from bridgehold.audit import arguments as looked
from bridgehold.audit.arguments import left_in, preview_of, split_in_turns, split_keys
from bridgehold.bridges import schema_form
from bridgehold.steps import finished
from costs import as_in_a_host  # noqa: F401 - a fixture of all tests here

TURN_S = 0.25
"""Of this thread's processor, which no load changes; 5 ms were measured, and 20 ms for the passes in C."""
KEY = "sk-proj-0123456789abcdefABCDEF"

LARGE: dict[str, Callable[[], dict[str, Any]]] = {
    "tables": lambda: {"x": [{"a": 1.5, "b": "hello", "c": True} for _ in range(20_000)]},
    "one table": lambda: {"x": {f"k{i}": i for i in range(50_000)}},
    "one list": lambda: {"x": list(range(100_000))},
    "texts": lambda: {"x": [f"hello world {i}" for i in range(30_000)]},
    "a text": lambda: {"x": "hello\nworld " * 200_000},
    "names in a list": lambda: {"x": ["n" * 500_000] * 4},
    "a name of a table": lambda: {"n" * 2_000_000: 1},
    "deep": lambda: {"x": [[[[[i, [i]]]]] for i in range(15_000)]},
    "name and value": lambda: {"x": [{"name": "a", "value": "b"} for _ in range(20_000)]},
}
LOUD: dict[str, Any] = {"": 1, "a name": {"sort_key": "by-name"}, "texts": ["see", "--token", "<unset>"]}


class Stall:
    """The longest that one turn of the loop has taken, and how many there were."""

    longest, turns = 0.0, 0

    async def of(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        while not task.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            self.longest, self.turns = max(self.longest, time.thread_time() - before), self.turns + 1
        return task.result()


@pytest.mark.parametrize("loud", list(LOUD))
@pytest.mark.parametrize("name", list(LARGE))
def test_a_look_at_a_million_values_gives_way_and_says_the_same(name: str, loud: str) -> None:
    stall, given = Stall(), {**LARGE[name](), "z": LOUD[loud]}
    found = asyncio.run(stall.of(split_in_turns(given)))
    assert (found.kept, found.keys, found.quiet) == (given, (), not loud)
    assert stall.turns > (20 if found.quiet else schema_form.size(given, 10**6) // argument_search.TURN)
    before = time.thread_time()
    digest, size, text = preview_of(left_in(given, found), 2_000)
    assert max(stall.longest, time.thread_time() - before) < TURN_S
    assert (digest, size) == preview.digest_of(given)
    assert len(text.encode()) <= 2_000
    assert text.endswith("…")


@pytest.mark.parametrize("name", list(LARGE))
def test_a_key_is_found_wherever_it_stands_and_nowhere_shown(name: str) -> None:
    large = LARGE[name]()
    given = {"note": f"it is {KEY}, say", **large, "deep": [[{"x": [{"api_key": KEY}]}]], "y": f"it is {KEY}"}
    found = asyncio.run(split_in_turns(given))
    assert [value for _, value in found.keys] == [KEY]
    assert found.kept["deep"] == [[{"x": [{}]}]]
    assert {one: found.kept[one] for one in large} == large
    for shown in (found, left_in(given, found)):
        assert KEY[3:20] not in preview_of(shown, 100_000)[2]


@settings(deadline=None, max_examples=30)
@given(
    at=st.integers(0, 14_000), cap=st.sampled_from([0, 200, 2_000]), word=st.sampled_from(["x", "é", "\n"])
)
def test_no_cut_of_a_long_text_shows_a_part_of_a_key(at: int, cap: int, word: str) -> None:
    value = "hunter2-Hunter2/" * 4  # of no shape: known by the name under which it stands elsewhere
    given = {"text": word * at + value + word * 20_000, "last": {"password": value}}
    text = preview_of(split_keys(given), cap)[2]
    assert "hunter2" not in text.lower()


ODD = "".join(map(chr, [0, 7, 8, 10, 12, 13, 34, 92, 0x130, 0x131, 0x17F, 0x212A, 0xE9]))
PARTS = st.one_of(
    st.sampled_from([*ODD, "ke", "y", "\u212aey", "sk-", "-u", "://", "AKIA", "pa", "t", "to", "ken"])
)
TEXTS = st.lists(PARTS, max_size=6).map("".join)


@settings(deadline=None)
@given(
    given=st.dictionaries(
        TEXTS, st.recursive(TEXTS | st.none() | st.integers(-9, 9), lambda one: st.lists(one, max_size=3))
    )
)
def test_what_is_quiet_by_its_text_is_quiet_by_each_value(given: dict[str, object]) -> None:
    if finished(looked._quiet_steps(given)):
        assert looked.is_quiet(given)


def test_every_letter_that_is_another_of_a_to_z_is_known() -> None:
    one = re.compile("[a-z]", re.IGNORECASE)
    for letter in map(chr, range(128, 0x110000)):
        if one.search(letter.lower()) or one.search(letter):
            assert redact.may_fold(json.dumps(letter, ensure_ascii=False).encode())
