"""A text of very many values is read in turns, whoever sent it: no decode of it keeps the loop that all share."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

from bridgehold import strict
from bridgehold.bridges.legacy.messages import request_steps
from bridgehold.errors import UsageError
from bridgehold.host.cell.tools.process import _Process
from bridgehold.protocol import parts
from bridgehold.protocol.frames import CommandRequest, read_params
from bridgehold.protocol.plain import loads_steps
from bridgehold.steps import in_turns
from host.test_parts import READY, Guest
from waiting import eventually

COUNT = 100_000
MANY = b"[" + b",".join(b'{"name":[%d,"a,b"]}' % number for number in range(COUNT)) + b"]"
AT_ONCE = 64 * 1024
"""A piece, with what is said again around it."""


@functools.cache
def made() -> list[dict[str, object]]:
    """What `MANY` says; no worker that only collects this file has it."""
    return [{"name": [number, "a,b"]} for number in range(COUNT)]


@pytest.fixture(autouse=True)
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of each text that is read at once, and whether any was all of it."""
    sizes: list[int] = []
    decode = strict.decode

    def measured(data: bytes) -> object:
        sizes.append(len(data))
        return decode(data)

    monkeypatch.setattr(strict, "decode", measured)
    yield sizes
    assert sum(sizes) > len(MANY) > AT_ONCE > max(sizes)


def others_run(work: Callable[[], Awaitable[Any]]) -> Any:
    """What comes of `work`, in the midst of which others had their turns."""

    async def act() -> Any:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        try:
            return await work()
        finally:
            beside.cancel()
            assert turns > len(MANY) / AT_ONCE

    return asyncio.run(act())


def test_a_guests_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more of its guest's is read meanwhile; what it says after it comes after it."""
    reply = b'{"id":1,"success":true,"result":%b}' % MANY
    frames = [
        READY,
        b'{"type":"progress","id":1,"done":1,"total":2}',
        reply,
        b'{"type":"progress","id":1,"done":2,"total":2}',
    ]

    async def work() -> None:
        guest = Guest(monkeypatch)
        sent = b"".join(len(one).to_bytes(4, "big") + one for one in frames)
        writer = threading.Thread(target=lambda: os.write(guest.frames, sent), daemon=True)
        writer.start()
        await eventually(lambda: len(guest.found) == 4)
        writer.join()
        assert guest.found[2].result == made()
        assert [type(one).__name__ for one in guest.found[1:]] == [
            "ProgressFrame",
            "ResultFrame",
            "StrayFrame",
        ]
        assert not guest.ended
        guest.close()

    others_run(work)


def test_a_guest_that_is_ended_in_the_midst_of_its_frame(
    monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    reply = b'{"id":1,"success":true,"result":%b}' % MANY

    async def act() -> None:
        guest = Guest(monkeypatch)
        sent = b"".join(len(one).to_bytes(4, "big") + one for one in (READY, reply))
        writer = threading.Thread(target=lambda: os.write(guest.frames, sent), daemon=True)
        writer.start()
        await eventually(lambda: len(decoded) > 5)
        writer.join()
        guest.close()
        seen = len(decoded)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(decoded) == seen
        assert len(guest.found) == 1
        assert not guest.ended
        decoded.extend([AT_ONCE - 1] * (len(MANY) // AT_ONCE + 2))  # it was not read to its end

    asyncio.run(act())


def test_what_a_caller_sends() -> None:
    raw = msgspec.Raw(b'{"operation":"a:b","arguments":{"rows":%b}}' % MANY)
    asked = others_run(lambda: read_params("run", raw, CommandRequest))
    assert asked.arguments == {"rows": made()}


def test_what_a_caller_sends_beside_bytes(decoded: list[int]) -> None:
    raw = msgspec.Raw(b'{"arguments":{"rows":%b}}' % MANY)
    merged = others_run(lambda: parts.merged(raw, "arguments.base64", b"bytes"))
    assert msgspec.json.decode(merged)["arguments"]["rows"] == made()


def test_where_a_fault_lies_in_what_a_caller_sends() -> None:
    raw = msgspec.Raw(b'{"operation":"a:b","arguments":{"rows":%b}}' % (MANY[:-1] + b',{"a":1,"a":2}]'))
    with pytest.raises(UsageError, match=rf"^arguments\.rows\[{COUNT}\]: two keys are both spelled 'a'"):
        others_run(lambda: read_params("run", raw, CommandRequest))


def test_a_body() -> None:
    assert others_run(lambda: in_turns(loads_steps(MANY, above=1))) == made()


def test_a_foreign_callers_frame_also_where_only_python_reads_it() -> None:
    for last in (b"1", b"NaN"):
        body = b'{"id":1,"command":"x","args":{"rows":%b,"last":%b}}' % (MANY, last)
        asked = others_run(lambda body=body: in_turns(request_steps(body)))
        assert asked.args == {"rows": made(), "last": None if last == b"NaN" else 1}


def test_a_tools_result() -> None:
    async def work() -> object:
        process = _Process.__new__(_Process)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        process._waiting = {1: future}
        await process._deliver(1, b'{"result":%b}' % MANY)
        return await future

    assert others_run(work) == made()
