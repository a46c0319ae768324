"""Callers' retries: when, how often, how long apart."""

from __future__ import annotations

import asyncio

import pytest

from bridgehold.client import retry
from bridgehold.errors import BridgeholdError, BusyError, CrashError, UsageError


def attempts(errors: list[BridgeholdError], retries: int, *, repeatable: bool = False) -> tuple[int, str]:
    """(calls made, code of what was raised)."""
    made = 0

    async def call() -> str:
        nonlocal made
        made += 1
        if errors:
            raise errors.pop(0)
        return ""

    try:
        said = asyncio.run(retry.with_retries(call, retries, repeatable=repeatable))
    except BridgeholdError as error:
        said = error.code
    return made, said


def test_later_is_tried_again_same_only_where_it_may_run_twice_and_no_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.001)
    assert attempts([BusyError("x", retry="later")] * 2, 2)[0] == 3
    assert attempts([BusyError("x", retry="later")] * 3, 2) == (3, "busy")
    assert attempts([CrashError("x", retry="same")], 2) == (1, "crash")
    assert attempts([CrashError("x", retry="same")], 2, repeatable=True)[0] == 2
    assert attempts([UsageError("x")], 5, repeatable=True) == (1, "usage")
    assert attempts([BusyError("x", retry="later")], 0) == (1, "busy")


def test_pauses_double_up_to_a_bound_and_half_of_each_is_chance() -> None:
    assert [retry.pause(number, 1.0) for number in (1, 2, 5)] == [0.1, 0.2, 1.6]
    assert retry.pause(3, 0.0) == 0.2
    assert retry.pause(40, 1.0) == retry.LONGEST_SECONDS
