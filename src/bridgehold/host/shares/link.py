"""Front and cell: questions both ways over one stream socket, each with any number of events and one answer.

A frame is a length (4 bytes, big-endian) and JSON. Whatever breaks the rules ends the link, and with it the
cell. Events wait for whoever asked: what it has not taken is counted at the end that sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.error_texts import at_border
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CancelledError,
    CellEndedError,
    InternalError,
    LimitError,
    from_info,
)
from bridgehold.policies.buckets import TokenBucket
from bridgehold.protocol.frames import HEADER, MAX_FRAME
from bridgehold.tasks import begin_task

MOST = MAX_FRAME + 64 * 1024
"""Bytes of a frame: what a caller may send, and what stands beside it."""
UNREAD_AT_EASE = 64 * 1024
UNREAD_EVENTS = 16 * 1024 * 1024
"""Of one question's events that were not taken, past which it ends."""
_LOOK_SECONDS = 0.02
MOST_ASKED = 16_384
"""Questions of the other end's that may be under way: no sound one has more."""
_UNREAD_BYTES = 1024 * 1024
"""Of what is told and not asked; an end that leaves more of it unread is not sound."""
_STUCK_SECONDS = 30.0
"""In so long the other end takes what waits for it, or it is not sound."""
_FRAME_BYTES = 16 * 1024
"""A frame of so many bytes more is paced as one more."""
_BESIDE = 256
"""Bytes of a question's frame beside its parameters, at the most."""
_TURN = 64
"""Frames that are taken before others of the loop have their turn."""
_NOTHING = msgspec.Raw(b"null")


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of either end's. `id` is the asking end's number."""

    kind: Literal["ask", "cancel", "taken", "event", "result", "error"]
    id: int
    method: str = ""
    body: msgspec.Raw = _NOTHING
    """Of a question its parameters; of an event or a result what it is."""
    size: int = 0
    """``taken``: bytes of events that wait no more."""
    error: ErrorInfo | None = None


class Told(Protocol):
    """Takes one event of a question, as JSON."""

    def __call__(self, event: msgspec.Raw, /) -> None:
        """Take `event`."""

    def full(self, most: int = ...) -> bool:
        """Whether more than `most` bytes wait at whoever asked."""


class Waiting:
    """The events of one question at the end that sends them."""

    def __init__(self, send: Callable[[msgspec.Raw], None], end: Callable[[], object]) -> None:
        self._send = send
        self._end = end
        self.unread = 0

    def __call__(self, event: object, /) -> None:
        """Send `event`; a question whose asker takes nothing ends."""
        raw = event if isinstance(event, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(event))
        if self.unread > UNREAD_EVENTS:
            self._end()
            return
        self.unread += len(memoryview(raw))
        self._send(raw)

    def full(self, most: int = UNREAD_AT_EASE) -> bool:
        """Whether more than `most` bytes of events were not taken."""
        return self.unread > most


Answers = Callable[[str, msgspec.Raw, Waiting], Awaitable[object]]
"""(method, parameters, events) → what is answered. Raises typed errors."""


Tells = Callable[[str, msgspec.Raw], bool]
"""(method, parameters) → whether that was all there is to do: it was told, and nothing is answered."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an end takes of the other one."""

    asked: int = MOST_ASKED
    """Questions under way."""
    question_bytes: int = MOST
    frames_per_second: float = 0.0
    """0: as many as come."""


OF_CELL = Bounds(asked=1_024, question_bytes=64 * 1024, frames_per_second=4_000)
"""What one cell may have of the front, which all share: the front takes no more, the cell asks no more."""


class Link:
    """One end. `run` until the other end is gone, or breaks the rules."""

    def __init__(
        self,
        answers: Answers,
        bounds: Bounds | None = None,
        tells: Tells = lambda _method, _body: False,
        theirs: Bounds | None = None,
    ) -> None:
        """`theirs`: what the other end takes of this one; a question beyond it is refused here."""
        bounds = bounds or Bounds()
        self._theirs = theirs or Bounds()
        self._answers = answers
        self._tells = tells
        self._bounds = bounds
        rate = bounds.frames_per_second
        self._pace = TokenBucket(rate, 2 * rate) if rate else None
        self._turn = asyncio.Lock()
        self._frames = 0
        self._untold: dict[int, int] = {}
        """Bytes of a question's events that its asker has not read, though they were handed on."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._next = 0
        self._asked: dict[int, tuple[asyncio.Future[msgspec.Raw], Told | None]] = {}
        self._answering: dict[int, tuple[asyncio.Task[None], Waiting]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()
        """Set once nothing comes and nothing goes any more."""

    async def connect(self, sock: socket.socket) -> None:
        """Take over `sock`, a connected stream socket."""
        sock.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=UNREAD_AT_EASE)

    async def run(self) -> None:
        """Never raises; all that is asked ends with it, both ways."""
        try:
            with contextlib.suppress(
                OSError, EOFError, msgspec.MsgspecError, RecursionError, BridgeholdError
            ):
                while True:
                    frame, size = await self._receive()
                    self._take(frame)
                    await self._give_way(size)
        finally:
            self.close()
            answering = [task for task, _ in self._answering.values()]
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)

    def cut(self) -> None:
        """End it, and throw away what the other end has not read."""
        if self._writer is not None:
            self._writer.transport.abort()
        self.close()

    def close(self) -> None:
        """End it: whoever waits for an answer gets `CellEndedError`."""
        if self._writer is not None:
            self._writer.close()
        self.gone.set()
        for future, _ in self._asked.values():
            if not future.done():
                future.set_exception(_gone())

    async def ask(self, method: str, params: object, told: Told | None = None) -> msgspec.Raw:
        """What the other end answers, as JSON. Raises its typed error; cancelled, that end gives up too.

        `LimitError` for a question that the other end doesn't take, which would end the link.
        """
        if self.gone.is_set():
            raise _gone()
        body, most = _raw(params), self._theirs.question_bytes - _BESIDE
        if len(memoryview(body)) > most:
            raise LimitError(f"{len(memoryview(body))} bytes of parameters; {most} are taken here")
        self._next += 1
        number = self._next
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._asked[number] = future, told
        try:
            async with self._turn:  # nothing waits in our memory for an end that doesn't read
                await self._drain()
                self._send(Frame(kind="ask", id=number, method=method, body=body))
            return await future
        except asyncio.CancelledError:
            self._send(Frame(kind="cancel", id=number))
            raise
        finally:
            del self._asked[number]
            future.cancel()

    def tell(self, method: str, params: object) -> None:
        """Say it, and wait for no answer."""
        self._next += 1
        self._send(Frame(kind="ask", id=self._next, method=method, body=_raw(params)))
        if self._writer is not None and self._writer.transport.get_write_buffer_size() > MOST + _UNREAD_BYTES:
            self.cut()

    async def _give_way(self, size: int) -> None:
        """However fast the other end is, others of this loop have their turn."""
        self._frames += 1
        wait = self._pace.take(1 + size / _FRAME_BYTES, time.monotonic()) if self._pace is not None else 0.0
        if wait or not self._frames % _TURN:
            await asyncio.sleep(wait)

    async def _receive(self) -> tuple[Frame, int]:
        if self._reader is None:
            raise EOFError
        length = int.from_bytes(await self._reader.readexactly(HEADER.size), "big")
        if length > (MOST if self._asked else self._bounds.question_bytes):
            raise EOFError
        frame = msgspec.json.decode(await self._reader.readexactly(length), type=Frame)
        if frame.kind == "ask" and length > self._bounds.question_bytes:
            raise EOFError
        return frame, length

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case "ask":
                if self._tells(frame.method, frame.body):
                    return
                if frame.id in self._answering:
                    raise EOFError
                if (
                    len(self._answering) >= self._bounds.asked
                ):  # callers of a sound end may well have asked it
                    self._refuse(frame.id)
                    return
                waiting = Waiting(
                    lambda raw: self._send(Frame(kind="event", id=frame.id, body=raw)),
                    lambda: self._leave(frame.id),
                )
                task = asyncio.create_task(self._answer(frame, waiting))
                self._answering[frame.id] = task, waiting
                task.add_done_callback(lambda _: self._answering.pop(frame.id, None))
            case "cancel":
                self._leave(frame.id)
            case "taken":
                if (known := self._answering.get(frame.id)) is not None:
                    known[1].unread = max(0, known[1].unread - max(0, frame.size))
            case "event":
                self._event(frame)
            case _:
                self._answered(frame)

    def _refuse(self, number: int) -> None:
        """Answered by this at once; an end that doesn't read such answers is not sound. Raises `EOFError`."""
        if self._writer is None or self._writer.transport.get_write_buffer_size() > MOST + _UNREAD_BYTES:
            raise EOFError
        error = BusyError(f"{self._bounds.asked} questions of this tenant's are under way", retry="later")
        self._send(Frame(kind="error", id=number, error=error.info()))

    def _leave(self, number: int) -> None:
        if (known := self._answering.get(number)) is not None:
            known[0].cancel()

    def _event(self, frame: Frame) -> None:
        _, told = self._asked.get(frame.id, (None, None))
        if told is None:
            return
        told(frame.body)
        size = len(memoryview(frame.body))
        if not told.full():
            self._send(Frame(kind="taken", id=frame.id, size=size))
            return
        waiting = frame.id in self._untold
        self._untold[frame.id] = self._untold.get(frame.id, 0) + size
        if waiting:
            return
        begin_task(self._tell_taken(frame.id, told), self._telling)

    async def _tell_taken(self, number: int, told: Told) -> None:
        """Once whoever is told has read what waits for it."""
        while told.full() and number in self._asked:  # noqa: ASYNC110 - a caller's reading sets no event here
            await asyncio.sleep(_LOOK_SECONDS)
        self._send(Frame(kind="taken", id=number, size=self._untold.pop(number)))

    def _answered(self, frame: Frame) -> None:
        future, _ = self._asked.get(frame.id, (None, None))
        if future is None or future.done():
            return
        if frame.kind == "error":
            future.set_exception(from_info(frame.error) if frame.error is not None else _gone())
        else:
            future.set_result(frame.body)

    async def _answer(self, frame: Frame, waiting: Waiting) -> None:
        try:
            answer = await self._answers(frame.method, frame.body, waiting)
            said = Frame(kind="result", id=frame.id, body=_raw(answer))
        except asyncio.CancelledError:
            if self.gone.is_set():
                raise
            late = waiting.full(UNREAD_EVENTS)
            error = LimitError("its events were not read") if late else CancelledError("it was cancelled")
            said = Frame(kind="error", id=frame.id, error=error.info())
        except BridgeholdError as error:
            said = Frame(kind="error", id=frame.id, error=error.info())
        except Exception as error:  # noqa: BLE001 - a defect of ours ends one question
            defect = at_border(error, f"a defect in Bridgehold: {type(error).__name__}")
            said = Frame(kind="error", id=frame.id, error=defect.info())
        self._send(said)
        with contextlib.suppress(CellEndedError):
            await self._drain()

    def _send(self, frame: Frame) -> None:
        if self._writer is None or self.gone.is_set():
            return
        body = msgspec.json.encode(frame)
        self._writer.write(HEADER.pack(len(body)) + body)

    async def _drain(self) -> None:
        if self._writer is not None:
            try:
                async with asyncio.timeout(_STUCK_SECONDS):
                    await self._writer.drain()
            except (OSError, TimeoutError) as error:
                self.cut()
                raise _gone() from error


def decoded(raw: msgspec.Raw, kind: type[Any]) -> Any:
    """An answer as `kind`. Raises `InternalError` where the other end says something else."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InternalError("the other end of a link answered another question") from error


def _raw(value: object) -> msgspec.Raw:
    return value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))


def _gone() -> CellEndedError:
    return CellEndedError("the tenant's cell has ended")
