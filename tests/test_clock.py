"""Which time it is: it goes on, whatever is done to the machine's clock, also from one process to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridgehold import clock
from bridgehold.audit.recovery import newest
from bridgehold.audit.segments import folder_name
from bridgehold.config.layout import find_layout
from bridgehold.policies.tables import format_time, parse_time
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import clock_probe


class Machine:
    def __init__(self, wall: float, count: float = 100.0) -> None:
        self.wall, self.count = wall, count

    def pass_by(self, seconds: float, stepped: float = 0.0) -> None:
        """`stepped`: what was done to the clock meanwhile."""
        self.count += seconds
        self.wall += seconds + stepped

    def clock(self, told: str = "0") -> clock.Clock:
        floor, _, at = told.partition(" ")
        return clock.Clock(float(floor), float(at) if at else None, lambda: self.wall, lambda: self.count)


def test_it_goes_on_when_the_machine_s_clock_is_set_back() -> None:
    machine = Machine(1_000.0)
    one = machine.clock()
    assert one.now() == 1_000.0
    machine.pass_by(10, stepped=-500)
    assert (one.now(), one.behind()) == (1_010.0, 500.0)
    machine.pass_by(10)
    assert one.now() == 1_020.0
    machine.pass_by(0, stepped=600)
    assert (one.now(), one.behind()) == (machine.wall, 0.0)
    machine.pass_by(5, stepped=1e9)  # by mistake, and put right
    assert one.now() == machine.wall
    machine.pass_by(5, stepped=-1e9)
    assert one.now() == machine.wall + 1e9


def test_what_was_seen_before_holds_and_goes_with_a_process_that_is_begun() -> None:
    machine = Machine(1_000.0)
    one = machine.clock()
    one.saw(5_000.0)
    told = one.told()
    machine.pass_by(60)
    assert one.now() == machine.clock(told).now() == 5_060.0
    one.saw(10.0)
    assert one.now() == 5_060.0, "less is nothing new"


@pytest.mark.parametrize("told", ["", "x", "1", "1 x", "nan nan"])
def test_what_a_process_is_told_that_is_no_time_leaves_the_machine_s(told: str) -> None:
    assert clock.begun(told).now() > 1.7e9


def line(time: object) -> bytes:
    return json.dumps({"seq": 1, "time": time}).encode() + b"\n"


def test_the_audit_s_last_event_says_how_late_it_was(tmp_path: Path) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    assert newest(layout.audit) == 0.0
    first = layout.audit / folder_name(1, "i-000000000001")
    first.mkdir(parents=True)
    assert newest(layout.audit) == 0.0
    (first / "00000001.jsonl").write_bytes(line("2026-11-30T12:00:00.500Z"))
    (first / "00000002.jsonl").write_bytes(b"")
    (layout.audit / folder_name(2, "i-000000000002")).mkdir()  # a start that died early
    noon = parse_time("2026-11-30T12:00:00Z")
    assert newest(layout.audit) == noon + 0.5
    torn = (
        line("2026-11-30T13:00:00.000Z")
        + line("later")
        + line(7)
        + b"\xff\n"
        + line("2999-01-01T00:00:00Z")[:-1]
    )
    (first / "00000002.jsonl").write_bytes(torn)
    assert newest(layout.audit) == noon + 3_600
    row = clock_probe(layout).run(Context())
    assert row.status == "PASS", row
    (first / "00000002.jsonl").write_bytes(line("2999-01-01T00:00:00.000Z"))
    row = clock_probe(layout).run(Context())
    assert (row.status, format_time(newest(layout.audit)) in row.detail) == ("CAUTION", True)
