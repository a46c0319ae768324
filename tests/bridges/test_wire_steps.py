"""A large frame to a guest is written in turns: the same bytes, the same refusals, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings

from bridgehold import strict
from bridgehold.bridges import wire, wire_steps
from bridgehold.bridges.frames import CallFrame
from bridgehold.bridges.wire import encode
from bridgehold.errors import UsageError
from bridgehold.host.cell.workers.calls import GuestCalls
from bridgehold.steps import finished
from bridges.test_wire import json_values
from host.test_parts import Guest


@contextlib.contextmanager
def small() -> Iterator[None]:
    """What is large is small."""
    with (
        mock.patch.object(wire_steps, "PIECE", 3),
        mock.patch.object(strict, "TEXT", 3),
        mock.patch.object(wire, "AT_ONCE", 3),
    ):
        yield


@settings(max_examples=40, deadline=None)
@given(json_values)
def test_what_is_written_in_pieces_is_what_is_written_at_once(value: Any) -> None:
    for one in (value, {"k" * 9: value, 1: [value, (value, 2)], None: "long enough" * 3}):
        text = json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode()
        with small():
            assert finished(wire_steps.steps(one)) == text
        assert finished(wire_steps.steps(one)) == text


def test_what_can_not_be_sent_is_refused_in_pieces_too() -> None:
    deep: Any = []
    for _ in range(70):
        deep = [deep, 1, 2]
    with small():
        bad = [
            float("nan"),
            float("inf"),
            b"x",
            {1, 2},
            "\ud800",
            2**64,
            -(2**63) - 1,
            deep,
            object(),
            {b"": 1},
        ]
        for value in bad:
            for one in (value, [1] * 9 + [value], {"a": [[1] * 9], "b": {"c": value, "d": "e" * 9}}):
                with pytest.raises(UsageError, match="can't be sent"):
                    encode(CallFrame(id=1, command="a:b", args={"x": one}))
    for way in (small, contextlib.nullcontext):  # a value more than a guest reads, however it is written
        with mock.patch.object(strict, "MAX_VALUES", 20_000), way():
            body: dict[str, object] = {"x": [[]] * 9_990, "y": ["a,b[{"] * 2}
            text = finished(wire_steps.steps(body))
            exact = text.replace(b"a,b[{", b"")
            assert sum(map(exact.count, (b"[", b"{", b","))) + 1 == 19_985
            for more in (15, 16):
                body["y"] = ["a,b[{"] * (2 + more)
                refused = more == 16
                try:
                    finished(wire_steps.steps(body))
                except strict.StrictError as error:
                    assert (refused, error.reason) == (True, "values")
                else:
                    assert not refused


def test_nobody_waits_for_a_large_frame_and_who_leaves_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[] for _ in range(100_000)]
    longest = 0
    write = wire_steps._json

    def measured(value: object) -> str:
        nonlocal longest
        text = write(value)
        longest = max(longest, len(text))
        return text

    monkeypatch.setattr(wire_steps, "_json", measured)

    async def act() -> None:
        guest, calls, turns = Guest(monkeypatch), GuestCalls(lambda _: None), 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        guest.pipes.reader.forget(1)  # as it is there for others
        beside = asyncio.create_task(other())
        call = calls.call(guest.pipes, "a:b", {"rows": rows}, deadline_ms=0, stream=None)
        leaving = asyncio.create_task(call)
        while turns < 10:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert calls.in_flight == 0
        os.set_blocking(guest.others[0], False)
        with pytest.raises(BlockingIOError):
            os.read(guest.others[0], 1)
        turns = 0
        call = calls.call(guest.pipes, "a:b", {"rows": rows}, deadline_ms=0, stream=None)
        asked, got = asyncio.create_task(call), b""
        while len(got) < 300_000:
            with contextlib.suppress(BlockingIOError):
                got += os.read(guest.others[0], 1 << 20)
            await asyncio.sleep(0)
        assert calls.in_flight == 1
        assert guest.pipes.reader.expects(2)
        asked.cancel()
        assert turns > 20
        assert longest < 40_000
        beside.cancel()
        guest.close()

    asyncio.run(act())
