"""What a check may cost: hostile arguments against hostile schemas, on a loop that others use as well."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges import schema, schema_form
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.errors import LimitError, ManifestError, UsageError
from bridgehold.host.cell.tools.values import ToolSpec, check_tools
from bridgehold.ids import nearest
from costs import as_in_a_host  # noqa: F401 - a fixture of all tests here

TURN_S = 0.25
"""Of this thread's processor, which no load changes; 5 ms were measured, and 20 ms for wording what is shown."""
ALIKE = [("ab" * 20)[: i % 20] + "b" + ("ab" * 20)[i % 20 : 38] + chr(99 + i // 25) for i in range(490)]
LONG = ["y" * 20_000 + f"{i:03d}" for i in range(200)]


def deep(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(levels):
        made = {"anyOf": [{"type": "string"}, made]}
    return made


def forms(names: list[str]) -> dict[str, Any]:
    return {"anyOf": [{"properties": {name: {} for name in names[at : at + 28]}} for at in range(0, 448, 28)]}


HOSTILE: dict[str, tuple[dict[str, Any], Any]] = {
    "near misses of many forms": ({"items": forms(ALIKE)}, [{"ab" * 20: 1}] * 400),
    "near misses of long names": (
        {"items": {"properties": {"a" * 79 + chr(98 + i % 20) + str(i): {} for i in range(490)}}},
        [{"a" * 80: 1}] * 100,
    ),
    "forms in forms": ({"items": deep(23)}, list(range(50_000))),
    "the last of many forms": ({"items": {"anyOf": [*([deep(1)] * 15), {}]}}, list(range(100_000))),
    "long texts in a list": ({"items": {"enum": LONG}}, LONG[::-1] * 20),
    "lists in a list": (
        {"items": {"enum": [[*range(24), i] for i in range(190)]}},
        [[*range(24), 189]] * 5_000,
    ),
    "a large constant": (
        {"items": {"anyOf": [{"const": {str(i): 1 for i in range(4_900)}}, {}]}},
        [{str(i): int(i < 4_899) for i in range(4_900)}] * 30,
    ),
    "required by many": (
        {"items": {"anyOf": [{"required": ["a"] * 4_900}, {}]}},
        [{"a": 1}] * 50_000,
    ),
    "any name": (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {str(i): i for i in range(50_000)},
    ),
    "no name": ({"type": "object"}, {str(i): i for i in range(50_000)}),
    "deep places": (
        {"items": {"properties": {"n" * 200: {"properties": {"m" * 200: {"type": "null"}}}}}},
        [{"n" * 200: {"m" * 200: 1}}] * 50_000,
    ),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_check_gives_way_and_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_STEPS", 30_000)
    part, value = HOSTILE[name]
    assert schema_form.schema_problems(part, "s") == []
    longest, ended = 0.0, False

    async def others() -> None:
        nonlocal longest
        while not ended:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    async def check() -> None:
        nonlocal ended
        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        try:
            found, _ = await schema.problems_in_turns(part, value)
            assert found == schema.problems(part, value)
            assert all(len(text) < 1_000 for text in found)
        except LimitError as error:
            assert error.code == "limit"
            with pytest.raises(LimitError, match="30000 steps"):
                schema.problems(part, value)
        finally:
            ended = True
            await beside

    asyncio.run(check())
    assert longest < TURN_S


WIDE: dict[str, Any] = {
    "many tables": [dict.fromkeys("abc", i) for i in range(60_000)],
    "one table": {str(i): i for i in range(250_000)},
    "one list": list(range(250_000)),
}


@pytest.mark.parametrize("name", list(WIDE))
def test_the_look_for_ids_gives_way_and_finds_each_kind(name: str) -> None:
    names = {"frame_id": "frame", "frame_ids": "frame", "model_id": "model", "run_id": "run"}
    longest, turns = 0.0, 0

    async def act() -> None:
        nonlocal longest, turns
        value = {"x": WIDE[name], "deep": [[{"model_id": 1, "frame_ids": [{"run_id": 2}]}]], "frame_id": 3}
        looking = asyncio.ensure_future(schema.names_within(value, names, "own"))
        while not looking.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            longest, turns = max(longest, time.thread_time() - before), turns + 1
        kinds, gave_way = looking.result()
        assert (kinds[0], set(kinds[1:]), gave_way) == ("own", {"frame", "model", "run"}, True)
        assert len(kinds) == 4
        assert await schema.names_within({"frame_id": WIDE}, {}, "own") == (("own",), False)
        assert await schema.names_within({"a": [{"run_id": 1}]}, names) == (("run",), False)

    asyncio.run(act())
    assert turns > 100
    assert longest < TURN_S


def test_every_request_that_fits_a_frame_can_be_checked() -> None:
    rows = [{"a": 1.5, "b": "x", "c": True}] * 50
    part = {"items": {"required": ["a"], "properties": {"a": {"type": "number"}, "b": {}, "c": {}}}}
    asked = sum(1 for _ in schema._problems(part, rows, "rows", [0]))  # one None for each step
    assert asked * 1_000_000 / (4 * len(rows)) < schema.MAX_STEPS


def test_equality_is_jsons_at_any_depth() -> None:
    part: dict[str, object] = {"enum": [[1, {"a": [True]}], "x"]}
    assert schema.problems(part, [1, {"a": [True]}]) == []
    for other in ([True, {"a": [True]}], [1, {"a": [1]}], [1, {"a": [True], "b": 1}], [1], True, "y"):
        assert schema.problems(part, other), other


def test_a_hostile_schema_costs_little_and_is_told_briefly() -> None:
    hostile: list[Any] = [
        {f"k{i}": 1 for i in range(100_000)},
        {"properties": {"p" * 1_000_000: {}}},
        {"enum": [["x"] * 100_000]},
        {"const": {"a": list(range(100_000))}},
        {"required": ["x"] * 100_000},
        {"type": ["string"] * 100_000},
        {"anyOf": [{}] * 100_000},
        {"properties": {f"p{i}": {"enum": ["x"] * 200} for i in range(100)}},
    ]
    for one in hostile:
        before = time.thread_time()
        found = schema_form.schema_problems(one, "s")
        assert time.thread_time() - before < TURN_S
        assert 1 <= len(found) <= schema_form.MAX_PROBLEMS
        assert all(len(text) < 1_000 for text in found)
    before = time.thread_time()
    for word in ("ab" * 40, "a" * 100, "b" * 39):
        nearest(word, [*ALIKE, *("a" * 40 + str(i) + "b" * 39 for i in range(490))])
    assert time.thread_time() - before < TURN_S
    with pytest.raises(ManifestError, match="50 or more") as told:
        parse_manifest("".join(f"k{i} = 1\n" for i in range(5_000)), Path("/x"))
    assert len(str(told.value)) < 10_000


def test_the_schemas_of_one_commands_tools_are_bounded_together() -> None:
    wide: dict[str, object] = {"properties": {f"p{i}": {"type": "string"} for i in range(400)}}
    tools = tuple(ToolSpec(name=f"t{i}", description="", parameters=wide, result={}) for i in range(60))
    check_tools(tools[:8])
    with pytest.raises(UsageError, match="together"):
        check_tools(tools)
