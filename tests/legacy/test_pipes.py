"""A worker's own pipes: who leaves its answers unread counts as gone, and who reads them slowly does not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from bridgehold.errors import LimitError
from bridgehold.faces.legacy.pipes import PipeIn, PipeOut
from bridgehold.faces.legacy.run import frames, serve
from bridgehold.faces.legacy.values import Outcome

PATIENCE = 0.4
MIB = 1 << 20


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)  # a thread that still writes gets its EPIPE
    time.sleep(0.05)
    os.close(writing)


class Talker:
    """A `Taker` that answers whether it is asked or not."""

    last_words_seconds = 0.0

    def __init__(self, sink: PipeOut, size: int) -> None:
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.finished: list[float] = []
        sink.put(b"x" * size)

    async def take(self, body: bytes) -> None:
        raise AssertionError(body)

    async def finish(self, seconds: float) -> None:
        self.finished.append(seconds)

    def stop(self, number: int) -> None:
        raise AssertionError(number)


async def drip(reading: int) -> None:
    while True:
        os.read(reading, 1)
        await asyncio.sleep(0.02)


async def nothing(_: int) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("peer", [nothing, drip])
def test_who_leaves_its_answers_unread_counts_as_gone_and_the_worker_ends(
    pipe: tuple[int, int], peer: Callable[[int], Awaitable[None]]
) -> None:
    """Also one that takes a byte now and then."""

    async def act() -> tuple[Outcome, list[float]]:
        source, ours = os.pipe()
        reading = asyncio.ensure_future(peer(pipe[0]))
        sink = PipeOut(pipe[1], patience_s=PATIENCE)
        worker = Talker(sink, MIB)
        outcome = await asyncio.wait_for(serve(worker, PipeIn(source), sink, frames()), 30)
        reading.cancel()
        os.close(ours)
        return outcome, worker.finished

    outcome, finished = asyncio.run(act())
    assert outcome == Outcome(
        status=LimitError.exit_status, message=f"the answers are left unread for {PATIENCE:g} s"
    )
    assert finished == [0.0], "nothing is waited for"


def test_a_held_up_answer_past_its_bound_ends_it_with_a_word(pipe: tuple[int, int]) -> None:
    async def act() -> str:
        sink = PipeOut(pipe[1], patience_s=60)
        for _ in range(66):
            sink.put(b"x" * MIB)
        assert sink.broken.is_set()
        return sink.fault

    assert "64 MiB" in asyncio.run(act())


def test_who_reads_slowly_and_on_loses_nothing(pipe: tuple[int, int]) -> None:
    async def act() -> int:
        sink = PipeOut(pipe[1], patience_s=PATIENCE)
        for _ in range(4):
            sink.put(b"x" * (MIB // 4))
        found = 0
        while found < MIB:
            found += len(os.read(pipe[0], 128 * 1024))
            await asyncio.sleep(0.1)
            assert not sink.broken.is_set(), found
        await sink.close(5)
        sink = PipeOut(pipe[1], patience_s=PATIENCE)
        sink.put(b"y" * 8192)  # fits into the pipe: nothing waits, for however long it lies there
        await asyncio.sleep(2 * PATIENCE)
        assert not sink.broken.is_set()
        await sink.close(5)
        return found

    assert asyncio.run(act()) == MIB
