"""The host's unix socket: peer uid or token → principal, then requests, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from bridgehold.bridges.frames import ChunkFrame, ProgressFrame
from bridgehold.errors import (
    BridgeholdError,
    DeniedError,
    InternalError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from bridgehold.host.faces.protocol import (
    AnswerFrame,
    CancelParams,
    HelloParams,
    RequestFrame,
    pack,
    read_frame,
)
from bridgehold.host.principals import Principals
from bridgehold.host.refusals import Refusals
from bridgehold.host.values import Principal

_CREDENTIALS = struct.Struct("3i")
BACKLOG = 1_024
"""Connections that wait to be taken."""
_MAX_REQUESTS = 256
"""Requests in flight on one connection; the connection is not read beyond that."""

T = TypeVar("T", bound=msgspec.Struct)
Emit = Callable[[object], None]
Handler = Callable[[Principal, Any, Emit], Awaitable[object]]


class Method(msgspec.Struct, frozen=True):
    """One method of the protocol: its parameters' type and its handler."""

    params: type[msgspec.Struct]
    handler: Handler
    operator: bool = False
    decides: bool = False
    """It decides by itself for which tenant it is asked, and writes its own refusals."""


class SocketServer:
    """Serves `methods` on a listening socket until `close`."""

    def __init__(
        self,
        listener: socket.socket,
        principals: Principals,
        methods: dict[str, Method],
        refusals: Refusals,
        *,
        tokens_only: bool = False,
    ) -> None:
        """`tokens_only`: whose process connects says nothing; only a token makes a principal."""
        self._tokens_only = tokens_only
        self._listener = listener
        self._principals = principals
        self._methods = methods
        self.refusals = refusals
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._live: set[_Connection] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, sock=self._listener, backlog=BACKLOG)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        connection = _Connection(self, reader, writer)
        self._live.add(connection)
        try:
            await connection.serve()
        except BridgeholdError:
            pass  # the client broke off or broke the protocol: its connection ends, nothing else
        finally:
            self._live.discard(connection)
            writer.close()

    async def look_up_again(self) -> None:
        """The principals have changed: who is another one now, or nobody, loses the connection."""
        for connection in list(self._live):
            await connection.look_up_again()

    async def principal_of(self, uid: int, token: str) -> Principal:
        """Raises `DeniedError` after writing the refusal."""
        try:
            if token or self._tokens_only:
                return self._principals.by_token(token)
            return self._principals.by_uid(uid)
        except DeniedError as error:
            await self.refusals.stranger(uid, error.message)
            raise

    def method(self, name: str) -> Method:
        method = self._methods.get(name)
        if method is None:
            raise UsageError(f"no method {name[:80]!r}", hint="docs/reference/host-protocol.md lists them.")
        return method


class _Connection:
    def __init__(
        self, server: SocketServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_MAX_REQUESTS)
        self._token = ""
        self._uid = _peer_uid(writer)
        self._principal: Principal | None = None

    async def serve(self) -> None:
        try:
            while True:
                await self._room.acquire()
                body = await read_frame(self._reader)
                if body is None:
                    return
                self._dispatch(body)
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def look_up_again(self) -> None:
        before = self._principal
        if before is None:
            return
        try:
            self._principal = await self._server.principal_of(self._uid, self._token)
        except DeniedError:
            self._principal = None
        if self._principal != before:
            self._writer.transport.abort()

    def _dispatch(self, body: bytes) -> None:
        try:
            request = msgspec.json.decode(body, type=RequestFrame)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"not a request frame: {error}") from error
        if request.method == "cancel":
            self._room.release()
            target = msgspec.json.decode(request.params, type=CancelParams).id
            if target in self._tasks:
                self._tasks[target].cancel()
            return
        if request.id in self._tasks:
            raise ProtocolError(f"id {request.id} is already in use on this connection")
        task = asyncio.create_task(self._answer(request))
        self._tasks[request.id] = task

    async def _answer(self, request: RequestFrame) -> None:
        try:
            result = await self._handle(request)
            answer = AnswerFrame(id=request.id, result=_raw(result))
        except BridgeholdError as error:
            answer = AnswerFrame(id=request.id, error=error.info())
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last border: a defect must not end the host
            defect = InternalError(f"{type(error).__name__} in {request.method}")
            sys.stderr.write(
                f"bridgehold: {defect.message}\n{''.join(traceback.format_tb(error.__traceback__))}"
            )
            answer = AnswerFrame(id=request.id, error=defect.info())
        finally:
            self._tasks.pop(request.id, None)
            self._room.release()
        self._writer.write(pack(answer))
        with contextlib.suppress(ConnectionError):  # who asked is gone
            await self._writer.drain()

    async def _handle(self, request: RequestFrame) -> object:
        if request.method == "hello":
            self._token = _decode(request, HelloParams).token
            self._principal = None
        if self._principal is None:
            self._principal = await self._server.principal_of(self._uid, self._token)
        if request.method == "hello":
            return {"principal": self._principal.name, "tenants": self._principal.tenants}
        method = self._server.method(request.method)
        principal, params = self._principal, _decode(request, method.params)
        try:
            _check(principal, request.method, method, params)
            return await method.handler(principal, params, lambda event: self._emit(request.id, event))
        except (DeniedError, NotFoundError) as error:
            if not error.event:
                written = await self._server.refusals.caller(principal, request.method, params, error)
                # What is not there and what is another's look alike, to the last letter.
                error.event = written if isinstance(error, DeniedError) else ""
            raise

    def _emit(self, request_id: int, event: object) -> None:
        """Send one event. A client that doesn't read loses its connection, never our memory."""
        if self._writer.transport.get_write_buffer_size() > 16 * 1024 * 1024:
            self._writer.transport.abort()
            return
        self._writer.write(pack(AnswerFrame(id=request_id, event=_raw(event))))


def _check(principal: Principal, name: str, method: Method, params: msgspec.Struct) -> None:
    """Whether `principal` may ask this at all, for the tenant that it names. Raises `DeniedError`."""
    if method.operator and not principal.operator:
        raise DeniedError(
            f"{name} is for operators",
            hint="An operator can set `operator = true` for your principal in config.toml.",
        )
    tenant = getattr(params, "tenant", None)
    if tenant is not None and not method.decides and not principal.may_act_for(tenant):
        raise DeniedError(
            f"{principal.name} may not act for tenant {tenant[:64]!r}",
            hint="An operator can add the tenant to your principal in config.toml.",
        )


def _decode(request: RequestFrame, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.params, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"parameters of {request.method}: {error}") from error


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def stream_event(frame: ChunkFrame | ProgressFrame) -> dict[str, object]:
    """A chunk or a progress report, as clients see it."""
    if isinstance(frame, ChunkFrame):
        return {"type": "chunk", "seq": frame.seq, "data": frame.data}
    return {"type": "progress", "done": frame.done, "total": frame.total, "note": frame.note}
