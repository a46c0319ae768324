"""No test waits for a time where it could wait for what it needs; and `waiting` tells what it saw."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from waiting import eventually, until

TESTS = Path(__file__).parent
A_VICTIM = 20
"""Seconds from which on a sleep is what somebody is ended in, not a pause of the test."""
ELSEWHERE = {"scripts", "doubles", "heart", "programs"}
"""Folders of what runs inside a sandbox, and of what runs by a clock that is made up: it sleeps no time at all."""
PAUSES = {
    "audit/test_journal.py": {
        "test_a_client_that_reads_nothing_bounds_itself": "a pipe that takes nothing more is asked again and again",
        "test_cancelled_callers_do_not_shift_the_answers": "the moment of the cancelling, by chance",
        "test_sigkill_in_mid_write_again_and_again": "the moment of the kill, by chance",
        "test_sigterm_writes_what_is_under_way_and_closes": "a signal has come, and nothing shows that it has",
    },
    "envs/host_side.py": {"attest": "the pace of looks at a process of the launcher's"},
    "envs/test_build.py": {
        "test_a_build_that_ends_while_it_scans_holds_up_nobody": "the loop goes round while threads work"
    },
    "gateway/test_http.py": {
        "test_pipelined_refusals_and_slow_heads_do_not_keep_another_tenant_waiting": "the pace of attackers, and how long they are there"
    },
    "gateway/test_outside.py": {
        "test_an_honest_tunnel_works_and_is_accounted": "two halves that arrive apart"
    },
    "host/test_given_back.py": {
        "test_a_resumable_command_that_is_cancelled_before_it_reached_the_host_never_does": "a step that takes time"
    },
    "host/test_manners.py": {
        "test_an_interrupt_at_any_moment_of_the_start_is_no_traceback": "the moments are the act"
    },
    "host/test_pure_parts.py": {
        "test_what_is_back_before_a_reload_ends_is_missed_when_it_goes_again": "the clock of the file system goes on"
    },
    "hostile/test_every_event.py": {"tampered": "the pace of looks at processes that come and go"},
    "hostile/test_fork_life.py": {
        "test_one_that_crashes_again_and_again_is_given_up_and_sessions_start_cold": "delays that must not begin anew"
    },
    "hostile/test_forks.py": {
        "test_a_changed_secret_drains_what_was_parked_for_its_tenant_and_others_are_parked": "looks that nobody sees",
        "test_a_shortage_of_the_machine_is_waited_out_and_ends_nothing": "how long the shortage lasts",
        "test_an_open_that_meets_a_zygote_which_is_gone_starts_all_the_same": "a request that lies before a stopped launcher",
    },
    "hostile/test_gone_callers.py": {"given_up": "the moment of giving up is the act"},
    "hostile/test_tools.py": {
        "test_a_bridge_calls_its_callers_functions": "a tool that takes time",
        "test_nobody_else_answers_a_call": "a tool that takes time",
    },
    "http_face/test_http_hostile.py": {
        "test_a_slow_body_and_a_slow_head_end": "the pace of an attacker",
    },
    "keeper/test_channel.py": {
        "test_an_ask_that_is_cancelled_at_once_keeps_no_stream": "requests come in waves",
        "test_a_redaction_that_is_given_up_leaves_nothing_at_the_keeper": "the moment of giving up is the act",
    },
    "kit/test_chaos.py": {
        "test_what_is_untyped_stuck_or_other_than_it_may_be_fails": "a command that takes time"
    },
    "kit/test_fake_host.py": {
        "test_any_order_takes_what_is_there_and_nothing_else": "one of two callers is later"
    },
    "legacy/test_pipes.py": {
        "drip": "the pace of who reads slowly",
        "pipe": "a thread meets the end of its pipe",
        "test_who_reads_slowly_and_on_loses_nothing": "the pace of who reads slowly, and longer than patience",
    },
    "legacy/test_shim.py": {
        "test_rules_that_change_hold_for_the_next_frame_of_a_script_that_runs": "a bucket fills with time"
    },
    "legacy/test_stdio.py": {
        "test_a_caller_that_reads_nothing_does_not_hold_a_signal_up": "how long nobody reads"
    },
    "sandbox/dawdling_launcher.py": {"install": "a helper that is kept"},
    "sandbox/test_fork_hostile.py": {
        "test_a_dawdler_costs_its_own_tenant_and_the_launcher_answers_others": "the pace of looks at a launcher",
        "test_a_zygote_that_is_held_does_not_wake_itself": "how long nothing may happen",
    },
    "sandbox/test_launch_gate.py": {
        "test_without_the_byte_it_waits_and_never_runs_on": "how long nothing may happen"
    },
    "sandbox/test_launcher.py": {"test_a_caller_that_goes_away_leaves_no_worker": "the moments are the act"},
    "sandbox/test_shortage.py": {"open": "a spare is made ahead, and nothing shows that it is there"},
    "sandbox/test_watchdog.py": {
        "_reap": "the pace of looks at children",
        "test_a_kill_catches_a_session_that_forks_all_the_time": "the pace of a child",
    },
    "waiting.py": {"eventually": "the helper itself", "until": "the helper itself"},
}
"""By file and function: where the time itself is meant, and why."""


def pauses(path: Path) -> dict[str, int]:
    """By the outermost function that they stand in: calls of `sleep` for a time that is neither none nor a victim's."""
    found: dict[str, int] = {}

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = function or node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep":
            seconds = node.args[0] if node.args else None
            known = isinstance(seconds, ast.Constant) and isinstance(seconds.value, int | float)
            if not known or 0 < seconds.value < A_VICTIM:  # type: ignore[union-attr,operator]  # it is a constant
                found[function] = found.get(function, 0) + 1
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_no_test_sleeps_but_where_the_time_itself_is_meant() -> None:
    """What runs inside sandboxes is text to this look, and may sleep."""
    found = {
        str(path.relative_to(TESTS)): set(by)
        for path in sorted(TESTS.rglob("*.py"))
        if (by := pauses(path)) and path.parent.name not in ELSEWHERE
    }
    assert found == {file: set(reasons) for file, reasons in PAUSES.items()}
    assert all(len(reason) > 10 for reasons in PAUSES.values() for reason in reasons.values())


def test_the_look_sees_sleeps_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "import asyncio, time\nfrom time import sleep\n"
        "def one():\n    sleep(0.1)\n    time.sleep(60)\n"
        "async def two(n):\n    await asyncio.sleep(0)\n    await asyncio.sleep(n)\n"
        "def three():\n    time.sleep(30)\n    'time.sleep(1)'\n"
    )
    assert pauses(tmp_path / "x.py") == {"one": 1, "two": 1}


def test_what_never_comes_is_told_with_what_was_there_instead() -> None:
    seen = iter(range(10_000))
    assert until(lambda: next(seen) == 3)
    with pytest.raises(pytest.fail.Exception, match=r'not within 0 s: .*seen == "gone".*\nseen last: False'):
        until(lambda: seen == "gone", 0)

    async def empty() -> list[int]:
        return []

    async def act() -> None:
        assert await eventually(lambda: next(seen) > 6)
        with pytest.raises(pytest.fail.Exception, match=r"(?s)async def empty.*seen last: \[\]"):
            await eventually(empty, 0)

    asyncio.run(act())
