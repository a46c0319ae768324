"""Runs a worker on this process's standard streams and signals, up to its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable
from typing import Any, Protocol

from bridgehold.bridges.legacy.frames import Splitter
from bridgehold.errors import LimitError, ProtocolError
from bridgehold.faces.legacy.pipes import PipeIn, PipeOut
from bridgehold.faces.legacy.values import Outcome

MAX_FRAME = 32 * 1024 * 1024
"""What one request of the host's own protocol can carry; the policy bounds requests further."""
DRAIN_SECONDS = 5.0
"""What commands that run when the input ends get to finish; and what the last writes get."""


class Taker(Protocol):
    """A worker: takes frames, and may end by itself."""

    ended: asyncio.Future[Outcome]

    @property
    def last_words_seconds(self) -> float:
        """How long requests are still taken, and answered, after it ended by itself."""

    async def take(self, body: bytes) -> None:
        """Take one frame of the caller's; it may wait until there is room."""

    async def finish(self, seconds: float) -> None:
        """The caller's input has ended: wait up to `seconds` for what is under way."""

    def stop(self, number: int) -> None:
        """End, for the signal `number` that came."""


class Reader(Protocol):
    """Cuts the input into what a `Taker` takes."""

    def feed(self, data: bytes) -> list[bytes]:
        """The whole frames that `data` completes. Raises `ProtocolError`."""

    def finish(self) -> None:
        """The input has ended. Raises `ProtocolError` in the middle of a frame."""


class AsItComes:
    """A `Reader` of input that has no frames."""

    def feed(self, data: bytes) -> list[bytes]:
        """`data` itself, as one piece."""
        return [data]

    def finish(self) -> None:
        """Nothing can be missing."""
        return


def frames() -> Reader:
    """A reader of frames with a length in front, up to the wire's bound."""
    return Splitter(MAX_FRAME, "the most that one of a caller's may have, whatever `limits.request` says")


async def serve(worker: Taker, source: PipeIn, sink: PipeOut, reader: Reader) -> Outcome:
    """Read until the input, a signal, the session or the host ends it; then let `worker` finish."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop, number)
    reading = asyncio.create_task(_read(worker, source, reader))
    gone = asyncio.create_task(sink.broken.wait())
    ends: list[asyncio.Future[Any]] = [reading, gone, worker.ended]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if worker.ended.done():
        outcome, seconds = worker.ended.result(), 0.0
        if outcome.status and worker.last_words_seconds:
            await asyncio.wait({reading}, timeout=worker.last_words_seconds)
    elif reading.done():
        outcome, seconds = reading.result(), DRAIN_SECONDS
    else:
        status = LimitError.exit_status if sink.fault else 0
        outcome, seconds = Outcome(status=status, message=sink.fault), 0.0
    reading.cancel()
    gone.cancel()
    await _hurried(worker, worker.finish(seconds))
    await sink.close(DRAIN_SECONDS)
    return outcome if outcome.status or not worker.ended.done() else worker.ended.result()


async def _hurried(worker: Taker, finishing: Awaitable[None]) -> None:
    """A signal that comes while the last answers are waited for ends the waiting."""
    work = asyncio.ensure_future(finishing)
    if not worker.ended.done():
        waiting: list[asyncio.Future[Any]] = [work, worker.ended]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await worker.finish(0.0)
    await work


async def _read(worker: Taker, source: PipeIn, reader: Reader) -> Outcome:
    """Until the end of the input. What can't be read on ends it with a message."""
    try:
        while data := await source.read():
            for body in reader.feed(data):
                await worker.take(body)
        reader.finish()
    except ProtocolError as error:
        return Outcome(status=error.exit_status, message=error.message)
    return Outcome()


def say(message: str, *, name: str = "bridgehold") -> None:
    """One line on stderr; a reader that is gone is no reason to fail."""
    with contextlib.suppress(OSError):
        os.write(2, f"{name}: {message}\n".encode(errors="replace"))
