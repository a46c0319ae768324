"""What of a session is run again after a loss, and what never is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.host.cell.commands.recovery import MOST_BYTES as MOST_HELD
from bridgehold.host.cell.commands.recovery import MOST_LOST, TENANT_BYTES, TENANT_LOST, Recovery
from bridgehold.host.cell.commands.replays import MOST_STEPS, CompletedCommand, Record, Step, noted
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.shares.observe import Metrics

MANIFEST = """
name = "toy"
version = "1"
entry = "toy:Toy"
[resources.program]
recovery = "replay"
[resources.memory]
[operations.configure_lm]
summary = "c"
effect = "configure"
[operations.create_program]
summary = "c"
effect = "create"
resource = "program"
id_field = "id"
[operations.create_program.arguments]
additionalProperties = true
[operations.create_program.arguments.properties]
id = { type = "string" }
[operations.tune_program]
summary = "c"
effect = "create"
resource = "program"
id_field = "id"
replays_calls = true
[operations.tune_program.arguments.properties]
id = { type = "string" }
[operations.delete_program]
summary = "d"
effect = "delete"
resource = "program"
id_field = "id"
[operations.delete_program.arguments.properties]
id = { type = "string" }
[operations.create_memory]
summary = "c"
effect = "create"
resource = "memory"
id_field = "id"
[operations.create_memory.arguments.properties]
id = { type = "string" }
[operations.run_program]
summary = "r"
effect = "run"
"""


@pytest.fixture(scope="module")
def toy() -> Manifest:
    return parse_manifest(MANIFEST, Path("toy"))


def note(
    toy: Manifest,
    record: Record,
    operation: str,
    *,
    key: bool = False,
    out: bool = False,
    **arguments: object,
) -> Record:
    completed = CompletedCommand(
        command="c-1",
        bridge="toy",
        arguments=arguments,
        result={"id": arguments.get("id", "made")},
        had_key=key,
        called_out=out,
    )
    return noted(record, toy, toy.operations[operation], completed)


def steps(record: Record) -> list[tuple[str, str]]:
    return [(step.operation.removeprefix("toy:"), step.id) for step in record.steps]


def test_constructive_commands_are_kept_in_order_and_others_are_not(toy: Manifest) -> None:
    record = Record()
    for operation in ("configure_lm", "create_program", "run_program", "create_memory"):
        record = note(toy, record, operation, id="a")
    assert steps(record) == [("configure_lm", ""), ("create_program", "a")]


def test_what_was_deleted_is_not_made_again_unless_something_rests_on_it(toy: Manifest) -> None:
    record = note(toy, Record(), "create_program", id="a")
    record = note(toy, record, "create_program", id="b")
    assert steps(note(toy, record, "delete_program", id="a")) == [("create_program", "b")]
    record = note(toy, record, "create_program", id="c", parts=[{"of": "a"}])
    assert steps(note(toy, record, "delete_program", id="a"))[-1] == ("delete_program", "")
    assert len(note(toy, record, "delete_program", id="a").steps) == 4


def test_thousands_made_and_deleted_leave_nothing(toy: Manifest) -> None:
    record = Record()
    for number in range(3_000):
        record = note(toy, record, "create_program", id=f"p{number}")
        record = note(toy, record, "delete_program", id=f"p{number}")
    assert record == Record()


@pytest.mark.parametrize(
    ("more", "said"), [({"key": True}, "was given a key"), ({"out": True}, "called a provider or a tool")]
)
def test_what_can_t_be_repeated_spoils_the_whole(toy: Manifest, more: dict[str, bool], said: str) -> None:
    record = note(toy, note(toy, Record(), "create_program", id="a"), "create_program", id="b", **more)
    assert said in record.spoiled
    assert record.steps == ()
    assert note(toy, record, "create_program", id="c") == record


def test_a_call_is_repeated_only_where_the_manifest_says_so(toy: Manifest) -> None:
    assert steps(note(toy, Record(), "tune_program", id="a", out=True)) == [("tune_program", "a")]
    assert note(toy, Record(), "tune_program", id="a", key=True).spoiled


def test_it_is_bounded(toy: Manifest) -> None:
    record = Record()
    for number in range(MOST_STEPS):
        record = note(toy, record, "create_program", id=f"p{number}")
    assert len(record.steps) == MOST_STEPS
    assert "more than" in note(toy, record, "create_program", id="one").spoiled
    assert "more than" in note(toy, Record(), "create_program", id="a", text="x" * 1_100_000).spoiled


def test_what_one_tenant_loses_on_purpose_costs_nobody_else_what_he_lost() -> None:
    recovery = Recovery(Resources(), Metrics(), lambda _tenant, _bridge: True)

    def lost(tenant: str, number: int, size_bytes: int) -> str:
        key, name = SessionKey(tenant, "toy", f"n{number}"), f"s-{tenant}{number}"
        step = Step(command="c-1", operation="toy:create_program", arguments={}, size_bytes=size_bytes)
        recovery._records[name] = Record(steps=(step,))
        recovery._count(tenant, size_bytes)
        recovery.ended(cast("Session", SimpleNamespace(id=name, key=key, lost=True, outlook="")))
        return name

    victim = lost("victim", 0, 10)
    for number in range(MOST_LOST + 1):
        lost("evil", number, 1 << 20)
    assert recovery.key_of(lambda tenant: tenant == "victim", victim) is not None
    assert recovery.lost_before(SessionKey("victim", "toy", "n0")) == victim
    assert len(recovery.lost) == TENANT_LOST + 1
    assert recovery._bytes == {"evil": TENANT_LOST << 20, "victim": 10}


def test_what_one_tenants_live_sessions_keep_costs_nobody_else_his_recovery(toy: Manifest) -> None:
    recovery = Recovery(Resources(), Metrics(), lambda _tenant, _bridge: True)

    def made(tenant: str, number: int, size_bytes: int) -> Session:
        name = f"s-{tenant}{number}"
        session = SimpleNamespace(id=name, key=SessionKey(tenant, "toy", name), lost=True, outlook="")
        completed = CompletedCommand(
            command="c-1",
            bridge="toy",
            arguments={"id": "a", "text": "x" * size_bytes},
            result={"id": "a"},
            had_key=False,
            called_out=False,
        )
        recovery.note(cast("Session", session), toy, toy.operations["create_program"], completed)
        return cast("Session", session)

    evil = [made("evil", number, 1_000_000) for number in range(2 * MOST_HELD // 1_000_000)]
    assert 0.9 * TENANT_BYTES < recovery._bytes["evil"] <= TENANT_BYTES
    victim = made("victim", 0, 1_000_000)
    recovery.ended(victim)
    assert "resources made again" in victim.outlook
    assert recovery.lost_before(victim.key) == victim.id
    for session in evil:
        recovery.ended(session)
        recovery.drop(session.key)
    recovery.drop(victim.key)
    assert recovery._bytes == {}
