"""A client's connection to a host's socket, and the opening of it: awaited, or entered as a block."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import msgspec

from bridgehold.errors import BridgeholdError, HostUnavailableError, InternalError, from_info
from bridgehold.host.faces.protocol import WHOLE_CONNECTION, AnswerFrame, RequestFrame, pack, read_frame

Progress = Callable[[dict[str, Any]], None]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class Connection:
    """Requests and their answers over one stream. It is over once `failure` is set."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._events: dict[int, Progress] = {}
        self.failure: BridgeholdError | None = None
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Raises `HostUnavailableError` where nobody listens at `path`."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except OSError as error:
            raise HostUnavailableError(
                f"no host answers: {error.strerror or error}",
                where=str(path),
                hint="Start one with `bridgehold serve`, or let a command start a private one.",
            ) from error
        return cls(reader, writer)

    async def aclose(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def request(self, method: str, params: bytes, on_event: Progress | None) -> Any:
        """One request; `params` is JSON. Cancelling it cancels it at the host. Raises the typed error."""
        if self.failure is not None:
            raise self.failure
        request_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        if on_event is not None:
            self._events[request_id] = on_event
        try:
            self._writer.write(pack(RequestFrame(id=request_id, method=method, params=msgspec.Raw(params))))
            await self._writer.drain()
            return msgspec.json.decode(await future)
        except asyncio.CancelledError:
            self._cancel(request_id)
            raise
        except ConnectionError as error:
            raise HostUnavailableError(f"the host went away: {error}") from error
        finally:
            self._waiting.pop(request_id, None)
            self._events.pop(request_id, None)

    async def _read(self) -> None:
        failure: BridgeholdError = HostUnavailableError("the host closed the connection")
        try:
            while True:
                body = await read_frame(self._reader)
                if body is None:
                    break
                self._deliver(msgspec.json.decode(body, type=AnswerFrame))
        except BridgeholdError as error:
            failure = error
        except OSError as error:
            failure = HostUnavailableError(f"the host went away: {error.strerror or error}")
        except msgspec.MsgspecError as error:
            failure = HostUnavailableError(f"the host sent something unreadable: {error}")
        except Exception as error:  # noqa: BLE001 - a defect of ours is raised where an answer is waited for
            failure = InternalError(f"{type(error).__name__} in the client, reading an answer")
            failure.__cause__ = error
        finally:  # whatever it was: nobody waits for an answer that nobody reads
            self.failure = failure
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failure)
            if not isinstance(failure, HostUnavailableError):
                self._writer.close()

    def _deliver(self, answer: AnswerFrame) -> None:
        if answer.id == WHOLE_CONNECTION and answer.error is not None:
            raise from_info(answer.error)
        if answer.event is not msgspec.UNSET:
            self._tell(answer.id, answer.event)
            return
        future = self._waiting.get(answer.id)
        if future is None or future.done():
            return
        if answer.error is not None:
            future.set_exception(from_info(answer.error))
        else:
            future.set_result(answer.result if answer.result is not msgspec.UNSET else msgspec.Raw(b"null"))

    def _tell(self, request_id: int, event: msgspec.Raw) -> None:
        """What the caller's function raises ends its own request, at the host too, and no other."""
        on_event = self._events.get(request_id)
        future = self._waiting.get(request_id)
        if on_event is None or future is None or future.done():
            return
        try:
            on_event(msgspec.json.decode(event))
        except Exception as error:  # noqa: BLE001 - the caller's own code; it is raised where the caller waits
            future.set_exception(error)
            self._cancel(request_id)

    def _cancel(self, request_id: int) -> None:
        params = msgspec.Raw(msgspec.json.encode({"id": request_id}))
        self._writer.write(pack(RequestFrame(id=request_id, method="cancel", params=params)))


async def reopened(open_one: Callable[[], Awaitable[Connection]], seconds: float) -> Connection:
    """A new connection, tried again with growing pauses. Raises the last `HostUnavailableError`."""
    pause = _FIRST_PAUSE_SECONDS
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await open_one()
        except HostUnavailableError:
            if loop.time() + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class _Closes(Protocol):
    async def aclose(self) -> None: ...


C = TypeVar("C", bound=_Closes)


class Opening(Generic[C]):
    """``await Client.connect()`` gives a client to close; ``async with Client.connect() as c:`` closes it."""

    def __init__(self, make: Callable[[], Awaitable[C]]) -> None:
        self._make = make
        self._made: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._make().__await__()

    async def __aenter__(self) -> C:
        self._made = await self._make()
        return self._made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.aclose()
