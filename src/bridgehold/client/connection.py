"""A client's connection to a host's socket, and the opening of it: awaited, or entered as a block."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import msgspec

from bridgehold.client.once import BEGUN
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import (
    BridgeholdError,
    HostLeavingError,
    HostUnavailableError,
    InternalError,
    NotFoundError,
    SessionEndedError,
    from_info,
)
from bridgehold.protocol import parts
from bridgehold.protocol.frames import WHOLE_CONNECTION, AnswerFrame, RequestFrame, pack, put, read_frame
from bridgehold.protocol.parts import Moved

Progress = Callable[[dict[str, Any]], None]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class Connection:
    """Requests and their answers over one stream. It is over once `failure` is set."""

    ahead = 1 << 20
    """Bytes that are read of an answer at once: fewer turns for a file's part."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = parts.Sending(writer)
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[tuple[Any, str, bytes]]] = {}
        self._events: dict[int, Progress] = {}
        self._raw: set[int] = set()
        self.failure: ErrorInfo | None = None
        self.leaving = False
        """Its host begins nothing more; what it has begun is still answered here."""
        self._asking: asyncio.Task[None] | None = None
        self._takes_parts: bool | None = None
        """Whether this host takes frames with parts; None: it wasn't asked."""
        self._task = asyncio.create_task(self._read())

    @property
    def over(self) -> bool:
        """Nothing new is to be asked here."""
        return self.leaving or self.failure is not None or self._reader.at_eof()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Raises `HostUnavailableError` where nobody listens at `path`."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(path), limit=cls.ahead)
        except OSError as error:
            raise HostUnavailableError(
                f"no host answers: {error.strerror or error}",
                where=str(path),
                hint="Start one with `bridgehold serve`, or let a command start a private one.",
            ) from error
        return cls(reader, writer)

    async def aclose(self) -> None:
        """End the connection; requests that still wait get `HostUnavailableError`."""
        self._task.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._sending.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def request(
        self,
        method: str,
        params: bytes,
        on_event: Callable[[Any], None] | None,
        moved: Moved | None = None,
        *,
        raw: bool = False,
    ) -> Any:
        """One request; `params` is JSON. Cancelling it cancels it at the host. Raises the typed error.

        `moved`: bytes that go, or may come, beside the frames where this host takes them so. `raw`: what
        comes stays JSON (`msgspec.Raw`), events and result.
        """
        if moved is not None and not self._takes_parts:
            if self._takes_parts is None:
                await self._ask_for_parts()
            if not self._takes_parts:
                params, moved = moved.as_text(params), None
        if self.failure is not None:
            raise from_info(self.failure)
        request_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[tuple[Any, str, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        if on_event is not None:
            self._events[request_id] = on_event
        if raw:
            self._raw.add(request_id)
        try:
            for piece in parts.packed(request_id, method, params, moved):
                self._sending.write(piece)
            await self._sending.drain()
            result, part, data = await future
            return result if raw else _joined(result, part, data)
        except HostLeavingError:
            self.leaving = True
            raise
        except asyncio.CancelledError:
            self._cancel(request_id)
            raise
        except ConnectionError as error:
            raise HostUnavailableError(f"the host went away: {error}") from error
        finally:
            self._waiting.pop(request_id, None)
            self._events.pop(request_id, None)
            self._raw.discard(request_id)

    def say_takes_parts(self) -> None:
        """It needs not be asked: its host has said so by something else."""
        self._takes_parts = True

    async def _ask_for_parts(self) -> None:
        """Once, whoever waits for the answer."""
        if self._asking is None:

            async def ask() -> None:
                self._takes_parts = (await self.request("ping", b"{}", None)).get("parts") is True

            self._asking = asyncio.create_task(ask())
        try:
            await asyncio.shield(self._asking)
        except BridgeholdError:
            self._asking = None  # what kept it from being answered may be over
            raise

    async def _read(self) -> None:
        beside: list[bytes] = []
        failure: BridgeholdError = HostUnavailableError("the host closed the connection")
        try:
            while (body := await self._frame(beside)) is not None:
                answer = msgspec.json.decode(body, type=AnswerFrame)
                self._deliver(answer, beside.pop() if beside else b"")
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
            self.failure = failure.info()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_lost(failure))
            if not isinstance(failure, HostUnavailableError):
                self._writer.close()

    async def _frame(self, beside: list[bytes]) -> bytes | None:
        """As `read_frame`."""
        return await read_frame(self._reader, beside=beside)

    def _deliver(self, answer: AnswerFrame, data: bytes) -> None:
        if answer.id == WHOLE_CONNECTION and answer.error is not None:
            raise from_info(answer.error)
        if answer.event is not msgspec.UNSET:
            self._tell(answer.id, answer.event, answer.part, data)
            return
        future = self._waiting.get(answer.id)
        if future is None or future.done():
            return
        if answer.error is not None:
            future.set_exception(from_info(answer.error))
        else:
            future.set_result((answer.result, answer.part, data))

    def _tell(self, request_id: int, event: msgspec.Raw, part: str, data: bytes) -> None:
        """What the caller's function raises ends its own request, at the host too, and no other."""
        on_event = self._events.get(request_id)
        future = self._waiting.get(request_id)
        if on_event is None or future is None or future.done():
            return
        try:
            on_event(event if request_id in self._raw else _joined(event, part, data))  # type: ignore[arg-type]  # who asked for it so
        except BaseException as error:  # noqa: BLE001 - the caller's own code; it is raised where the caller waits
            unset = isinstance(error, StopIteration)  # no future takes one
            future.set_exception(RuntimeError("on_event raised StopIteration") if unset else error)
            self._cancel(request_id)

    def _cancel(self, request_id: int) -> None:
        params = msgspec.Raw(msgspec.json.encode({"id": request_id}))
        self._sending.write(pack(RequestFrame(id=request_id, method="cancel", params=params)))


def _joined(raw: msgspec.Raw | msgspec.UnsetType, part: str, data: bytes) -> Any:
    value = msgspec.json.decode(raw) if raw is not msgspec.UNSET else None
    if part:
        put(value, part, data)
    return value


def _lost(failure: BridgeholdError) -> BridgeholdError:
    """For a request that was sent, its own: only a host that takes its leave says that it was not begun."""
    if not isinstance(failure, HostUnavailableError) or isinstance(failure, HostLeavingError):
        again = failure.again()
        again.__cause__ = failure.__cause__
        return again
    return HostUnavailableError(
        f"{failure.message}; the request may have been begun", hint=failure.hint or BEGUN, retry="same"
    )


class Reach:
    """A host, through whichever connection there is to it, and to the one that takes its place."""

    def __init__(
        self, connection: Connection, reopen: Callable[[], Awaitable[Connection]] | None, patience_s: float
    ) -> None:
        """`reopen`: makes another connection, tried for `patience_s` seconds; None: there is only one."""
        self._connection = connection
        self._reopen = reopen
        self._patience = patience_s
        self._turn = asyncio.Lock()
        self._left: list[Connection] = []
        """To a host that leaves: what it has begun is still answered there."""
        self._calling: dict[str, Connection] = {}
        """Commands that call tools here, and the connection over which each runs."""
        self._opened: dict[str, Connection] = {}
        """Sessions that are open here, and the connection over which each was last known to be there."""

    @property
    def alive(self) -> bool:
        """Whether the newest connection is open. An older one may still finish its requests."""
        return not self._connection.over

    async def aclose(self) -> None:
        """Close every connection, and open none again."""
        self._reopen = None
        for connection in (*self._left, self._connection):
            await connection.aclose()

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        sent: bytes,
        on_event: Progress | None,
        moved: Moved | None = None,
    ) -> Any:
        """One request, of which `sent` is `params` as JSON. A host that has not begun with it is left for the
        next one. `moved`: as of `Connection.request`.
        """
        connection = self._beside(params) or await self._reached()
        while True:
            try:
                answer = await self._ask(connection, method, params, sent, on_event, moved)
                break
            except HostLeavingError:
                if self._reopen is None:
                    raise
                connection = await self._reached()
        if method == "session.open":
            self._opened[answer["id"]] = connection
        elif method == "session.close":
            self._opened.pop(params["session"], None)
        return answer

    def _beside(self, params: dict[str, Any]) -> Connection | None:
        """Of the command or session that a request is for: a host that leaves still has it."""
        found = self._calling.get(params.get("command") or params.get("parent") or "")
        session = params.get("session")
        if found is None and isinstance(session, str):
            found = self._opened.get(session)
        return found if found is not None and found.failure is None else None

    async def _ask(
        self,
        connection: Connection,
        method: str,
        params: dict[str, Any],
        sent: bytes,
        on_event: Progress | None,
        moved: Moved | None,
    ) -> Any:
        session = params.get("session")
        if isinstance(session, str) and self._opened.get(session, connection) is not connection:
            await self._look_for(session, connection)
        if method != "run" or on_event is None:
            return await connection.request(method, sent, on_event, moved)
        called: set[str] = set()

        def handle_event(event: dict[str, Any]) -> None:
            if event.get("type") == "tool_call":
                called.add(event["command"])
                self._calling[event["command"]] = connection
            on_event(event)

        try:
            return await connection.request(method, sent, handle_event, moved)
        finally:
            for command in called:
                del self._calling[command]

    async def _reached(self) -> Connection:
        """The connection as it stands, or a new one to the host that listens now."""
        if self._reopen is not None and self._connection.over:
            async with self._turn:
                if self._reopen is not None and self._connection.over:
                    made = await _reopened(self._reopen, self._patience)
                    self._left.append(self._connection)
                    self._connection = made
                    for gone in [one for one in self._left if one.failure is not None]:
                        self._left.remove(gone)
                        await gone.aclose()
        return self._connection

    async def _look_for(self, session: str, connection: Connection) -> None:
        """Raise `SessionEndedError` unless the host of this connection has the session too."""
        try:
            await connection.request("session.find", msgspec.json.encode({"session": session}), None)
        except NotFoundError:
            raise SessionEndedError(
                "the host that had this session is gone",
                where=session,
            ) from None
        self._opened[session] = connection


async def _reopened(open_one: Callable[[], Awaitable[Connection]], seconds: float) -> Connection:
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


def sorted_out(on_build: Progress, on_event: Progress | None) -> Progress:
    """What tells `on_build` of builds, and `on_event` of all else."""

    def handle_event(event: dict[str, Any]) -> None:
        if event.get("type") == "building":
            on_build(event)
        elif on_event is not None:
            on_event(event)

    return handle_event
