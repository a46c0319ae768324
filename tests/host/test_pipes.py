"""A worker's pipes as the host reads them: what is defect or flood costs its writer, and no end hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bridgehold.errors import BusyError, CrashError, LimitError
from bridgehold.host.cell.workers.calls import GuestCalls
from bridgehold.host.cell.workers.live import LiveWorker, Services
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.cell.workers.raw import PlainBytes
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.logs import SessionLog
from bridgehold.policies.model import MIB, Limits, Rate
from bridgehold.protocol.values import QUEUE_BOUND
from bridgehold.sandbox.values import ExitReport, Usage
from waiting import eventually


class Ends:
    """Four pipes: the host's ends in the order that `GuestPipes` takes, and the guest's."""

    def __init__(self) -> None:
        self.input, to_guest = os.pipe()
        from_guest, self.frames = os.pipe()
        stderr, self.stderr = os.pipe()
        stdout, self.stdout = os.pipe()
        self.host = [to_guest, from_guest, stderr, stdout]

    def close(self) -> None:
        for descriptor in (self.input, self.frames, self.stderr, self.stdout):
            os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def opened(ends: Ends, log: SessionLog) -> GuestPipes:
    return GuestPipes(
        ends.host,
        limits=Limits(),
        rate=Rate(),
        log=log,
        on_frame=lambda _: None,
        on_end=lambda _: None,
        budget=FrameBudget(Shares(64 * MIB, part=0)),
    )


def broken(*_: object) -> None:
    raise ValueError("a defect of who is told")


def test_a_defect_over_the_last_bytes_keeps_no_pipe_open(ends: Ends) -> None:
    """Of a raw frame and of a log's reader, at the worker's end and at that of its calls."""

    async def act() -> None:
        log = SessionLog(1024)
        pipes = opened(ends, log)
        pipes.become_raw(PlainBytes(), broken, lambda: False)
        log.tap = broken
        os.write(ends.stderr, b"words")
        pipes.drain_output()
        for descriptor in (ends.stdout, ends.stderr, ends.frames):
            os.write(descriptor, b"last")
        pipes.close()

    asyncio.run(act())
    for descriptor in ends.host:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


class Leaving:
    """What of a host a worker meets at its end: a launcher that knows how it ended or fails, a gateway that fails."""

    def __init__(self, *, knows: bool) -> None:
        self.knows = knows

    async def exited(self, _: str) -> ExitReport:
        if self.knows:
            return ExitReport(worker="w-1", cause="exited", status=0, usage=Usage(), emptied_ms=0, uid=0)
        raise ValueError("a defect of the launcher's client")

    async def append(self, *_: object, **__: object) -> None:
        raise ValueError("a defect of the journal's client")

    async def close(self) -> None:
        raise ValueError("a defect of the gateway")


@pytest.mark.parametrize("knows", [True, False])
def test_whatever_fails_at_a_workers_end_it_has_ended_and_nothing_waits(ends: Ends, *, knows: bool) -> None:
    async def act() -> None:
        leaving: Any = Leaving(knows=knows)
        services = Services(
            launcher=leaving,
            journal=leaving,
            frames=FrameBudget(Shares(64 * MIB, part=0)),
            open_gateway=broken,  # type: ignore[arg-type]  # never opened
            on_degraded=broken,
        )
        order: Any = SimpleNamespace(
            session="s-1", grant=SimpleNamespace(tenant="local", limits=Limits(), rate=Rate())
        )
        launched: Any = SimpleNamespace(worker="w-1", zygote="")
        worker = LiveWorker(services, order, launched, SessionLog(1024))
        worker.gateway = leaving
        worker.pipes = opened(ends, worker.log)
        call = asyncio.ensure_future(worker.call("act", {}, deadline_ms=1000))
        await asyncio.wait_for(worker.ended.wait(), 30)
        with pytest.raises(CrashError):
            await asyncio.wait_for(call, 30)
        with pytest.raises(ValueError, match="a defect of"):  # nor is it hidden
            await worker._watch

    asyncio.run(act())
    for descriptor in ends.host:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_what_is_read_with_frames_counts_as_output_and_its_frames_wait_for_it(ends: Ends) -> None:
    """A frame after each 128 KiB of output: 64 MiB at once, and 32 MiB a second after that."""
    wanted, stop = 112 * MIB, threading.Event()

    def flood() -> None:
        piece = b"x" * 65_536
        with contextlib.suppress(OSError):
            while not stop.is_set():
                os.write(ends.stdout, piece)
                os.write(ends.stderr, piece)
                os.write(ends.frames, b"f")

    async def act() -> tuple[float, int]:
        frames, read, enough = 0, 0, asyncio.Event()

        def on_body(data: bytes) -> None:
            nonlocal frames
            frames += len(data)

        def on_log(_stream: str, data: bytes) -> None:
            nonlocal read
            read += len(data)
            if read >= wanted:
                enough.set()

        log = SessionLog(1024)
        log.tap = on_log
        pipes = opened(ends, log)
        pipes.become_raw(PlainBytes(), on_body, lambda: False)
        writer = threading.Thread(target=flood)
        begun = time.monotonic()
        writer.start()
        await enough.wait()
        taken = time.monotonic() - begun
        stop.set()
        await eventually(lambda: not writer.is_alive())
        pipes.close()
        return taken, frames

    taken, frames = asyncio.run(asyncio.wait_for(act(), 50))
    assert taken > 1.4, "48 MiB past what may come at once"
    assert frames > 100, "frames go on beside it"


def test_asides_that_a_guest_leaves_unanswered_are_bounded_and_unsent_ones_are_not_kept(ends: Ends) -> None:
    """Whoever asks: their callers give up, and the guest may answer all the same."""

    async def act() -> None:
        calls, pipes = GuestCalls(broken), opened(ends, SessionLog(1024))

        def ask(value: str = "") -> Coroutine[None, None, object]:
            arguments: dict[str, object] = {"value": value}
            return calls.call(pipes, "common:profile", arguments, deadline_ms=50, stream=None, aside=True)

        for _ in range(3):
            with pytest.raises(LimitError):
                await ask("x" * (Limits().request_bytes + 1))
        assert calls.asides == 0
        waiting = [asyncio.ensure_future(ask()) for _ in range(QUEUE_BOUND)]
        await asyncio.wait(waiting, timeout=0.1)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert calls.asides == QUEUE_BOUND
        with pytest.raises(BusyError):
            await ask()
        calls.fail(CrashError("gone"))
        assert calls.asides == 0
        pipes.close()

    asyncio.run(act())


def test_the_values_of_frames_that_are_read_side_by_side_are_counted() -> None:
    """Ten guests' frames of 4 MiB were a gibibyte of values at once; now who has no room waits with its frame."""
    body = b"[%b]" % b",".join([b"{}"] * 200_000)
    frame = len(body).to_bytes(4, "big") + body
    all_ends = [Ends() for _ in range(4)]
    ended: list[str] = []

    async def act() -> int:
        budget = FrameBudget(Shares(32 * MIB, part=0))
        all_pipes = [
            GuestPipes(
                ends.host,
                limits=Limits(),
                rate=Rate(),
                log=SessionLog(1024),
                on_frame=lambda _: None,
                on_end=lambda error: ended.append(str(error)),
                budget=budget,
            )
            for ends in all_ends
        ]
        for ends in all_ends:
            threading.Thread(target=os.write, args=(ends.frames, frame)).start()
        most = 0
        while len(ended) < len(all_pipes):
            await asyncio.sleep(0)
            most = max(most, sum(pipes._turning and not pipes._broken for pipes in all_pipes))
        for pipes in all_pipes:
            pipes.close()
        assert not budget.spent
        return most

    most = asyncio.run(asyncio.wait_for(act(), 100))
    for ends in all_ends:
        ends.close()
    assert most == 1, "the first one's values are all that there is room for"
    assert all("a frame is an object" in why for why in ended)
