"""Calls in flight on one worker: ids out, typed frames back, each to its own caller only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from bridgehold.bridges.frames import (
    CallFrame,
    CancelFrame,
    ChunkFrame,
    FaultFrame,
    GuestFrame,
    ProgressFrame,
    ReadyFrame,
    ResultFrame,
    StrayFrame,
    ToolCallFrame,
    ToolFact,
    WarmedFrame,
)
from bridgehold.bridges.wire import BOOT_ID
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, BusyError, from_info
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.cell.workers.translate import fault_error
from bridgehold.host.shares.logs import OutputPiece
from bridgehold.protocol.values import QUEUE_BOUND

T = TypeVar("T")


class Stream(Protocol):
    """Who gets a call's chunks and progress."""

    def __call__(self, frame: ChunkFrame | ProgressFrame, /) -> None:
        """Take one."""

    def behind(self) -> bool:
        """Whether so much waits there that its guest's next frames had better wait inside."""


class Watcher(Protocol):
    """Who is shown what a command says while it runs."""

    def __call__(self, item: ChunkFrame | ProgressFrame | OutputPiece, /) -> None:
        """Take one piece."""

    def full(self) -> bool:
        """Whether it has not taken in what it was shown: output is left out then, and counted."""

    def behind(self) -> bool:
        """As of a `Stream`."""


class ToolHandler(Protocol):
    """Who answers the tool calls of one command."""

    facts: tuple[ToolFact, ...]
    """The tools that the command may call."""

    def accept(self, frame: ToolCallFrame, pipes: GuestPipes) -> str:
        """Begin one. What was wrong with it; empty where nothing."""


class GuestCalls:
    """Calls in flight on one worker: ids out, typed frames back, each to its own caller only."""

    def __init__(self, on_violation: Callable[[str], None]) -> None:
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[ResultFrame | FaultFrame]] = {}
        self._streams: dict[int, Stream] = {}
        self._aside: set[int] = set()
        self._tools: dict[int, tuple[ToolHandler, GuestPipes]] = {}
        self._on_violation = on_violation
        self.ready: asyncio.Future[ReadyFrame] = asyncio.get_running_loop().create_future()
        self._failure: ErrorInfo | None = None

    def deliver(self, frame: GuestFrame | StrayFrame) -> None:
        """Give `frame` to whoever waits for it; a stray one is dropped and reported."""
        if isinstance(frame, StrayFrame):
            self._on_violation(f"a {frame.kind} for call {frame.id}, which nobody waits for ({frame.reason})")
        elif isinstance(frame, ReadyFrame):
            self.ready.set_result(frame)
        elif isinstance(frame, WarmedFrame):
            self._on_violation("a zygote's frame")
        elif isinstance(frame, ToolCallFrame):
            self._call_tool(frame)
        elif isinstance(frame, ProgressFrame | ChunkFrame):
            stream = self._streams.get(frame.id)
            if stream is not None:
                stream(frame)
        elif frame.id == BOOT_ID and isinstance(frame, FaultFrame):
            self.ready.set_exception(fault_error(frame, where="start-up"))
        else:
            future = self._waiting.pop(frame.id, None)
            self._aside.discard(frame.id)
            if future is not None and not future.done():
                future.set_result(frame)

    def _call_tool(self, frame: ToolCallFrame) -> None:
        handler, pipes = self._tools.get(frame.id, (None, None))
        wrong = "a tool call of a command without tools"
        if handler is not None and pipes is not None:
            wrong = handler.accept(frame, pipes)
        if wrong:
            self._on_violation(wrong)

    def fail(self, error: BridgeholdError) -> None:
        """End every call in flight, and every later one, with `error`."""
        fact = error.fact()
        self._failure = self._failure or fact
        _fail(self.ready, fact)
        for future in self._waiting.values():
            _fail(future, fact)
        self._waiting.clear()
        self._aside.clear()

    async def wait_quiet(self, seconds: float) -> None:
        """Wait until no call is in flight, at most `seconds`."""
        waiting = [future for number, future in self._waiting.items() if number not in self._aside]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)

    @property
    def in_flight(self) -> int:
        """Calls that are a session's work."""
        return len(self._waiting.keys() - self._aside)

    @property
    def asides(self) -> int:
        """Calls beside the session's work that the guest has not answered, waited for or not."""
        return len(self._aside)

    async def call(  # noqa: PLR0912 - each further call is one more in every command
        self,
        pipes: GuestPipes,
        command: str,
        args: dict[str, object],
        *,
        deadline_ms: int,
        stream: Stream | None,
        tools: ToolHandler | None = None,
        aside: bool = False,
        stop: asyncio.Future[None] | None = None,
    ) -> ResultFrame | FaultFrame:
        """Send one call and wait for its reply. Cancelled, or once `stop` is done: the guest is asked to
        stop; in the second case its reply is waited for all the same.

        `aside`: it runs beside the session's work, and nobody waits for the session to be done with it.
        Raises `BusyError` where `QUEUE_BOUND` of these are unanswered.
        """
        if self._failure is not None:
            raise from_info(self._failure)
        if aside and self.asides >= QUEUE_BOUND:
            raise BusyError(f"{QUEUE_BOUND} requests already wait for this session's answer")
        call_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[ResultFrame | FaultFrame] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = future
        if aside:
            self._aside.add(call_id)
        if stream is not None:
            self._streams[call_id] = stream
            pipes.wait_while(stream.behind)
        if tools is not None:
            self._tools[call_id] = (tools, pipes)
        facts = tools.facts if tools is not None else ()
        try:
            await pipes.send(
                CallFrame(id=call_id, command=command, args=args, deadline_ms=deadline_ms, tools=facts)
            )
            if stop is not None:
                await asyncio.wait((future, stop), return_when=asyncio.FIRST_COMPLETED)
                if not future.done():
                    pipes.wait_while(None)
                    await pipes.send(CancelFrame(id=call_id))
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            pipes.wait_while(None)
            if not pipes.reader.expects(call_id):
                self._forget(call_id)  # it was not sent yet
                raise
            with contextlib.suppress(BridgeholdError, TimeoutError):
                await asyncio.wait_for(pipes.send(CancelFrame(id=call_id)), 1.0)
            raise
        except Exception:
            self._forget(call_id)  # it was never sent: nobody will answer it
            raise
        finally:
            if self._streams.pop(call_id, None) is not None:
                pipes.wait_while(None)
            self._tools.pop(call_id, None)
            if future.done() and call_id in self._waiting:
                self._forget(call_id)

    def _forget(self, call_id: int) -> None:
        self._waiting.pop(call_id, None)
        self._aside.discard(call_id)


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which runs to its end. Whoever is cancelled meanwhile, however often, waits
    for that, and only then is."""
    task, gone = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            gone = True
    if gone:
        task.cancelled() or task.exception()  # nobody is left to be told
        raise asyncio.CancelledError
    return task.result()


def _fail(future: asyncio.Future[Any], fact: ErrorInfo) -> None:
    if not future.done():
        future.set_exception(from_info(fact))  # each caller adds to its own
        future.exception()  # a call nobody awaits any more is no defect
