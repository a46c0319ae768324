"""A shim for a worker that speaks gRPC: a port of this machine's loopback before a worker in a sandbox.

Bytes pass between sockets here and the host, which reads them; nothing is decided here. The BEAM dials our
listener, whose port is written into its ready file; what the worker calls back is dialled here. Another user
of this machine may dial that port, or listen at the other one, and is let in at neither: to the host all of
it is this user's word.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridgehold import reads, writes
from bridgehold.audit.key_shapes import find_shape
from bridgehold.bridges.legacy.rpc_start import READY_FILE, callback_port, kept_back, passing
from bridgehold.client.client import Client
from bridgehold.error_texts import defect_of
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.legacy import loopback
from bridgehold.faces.legacy.bound import BoundSession, End
from bridgehold.faces.legacy.python_argv import Invocation
from bridgehold.faces.legacy.run import say
from bridgehold.faces.legacy.values import Outcome, ShimFile
from bridgehold.protocol.parts import Moved, bytes_of

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 5.0
_MOST_UNREAD = 256 << 20
"""Bytes that wait for a BEAM which offers large windows and doesn't read: past them its connection ends."""


class RpcShim:
    """One worker, until it has ended."""

    def __init__(
        self,
        client: Client,
        given: ShimFile,
        invocation: Invocation,
        environment: Mapping[str, str],
        path: tuple[str, ...],
    ) -> None:
        self._client = client
        self._back = callback_port(invocation.args, environment)
        if not self._back:
            raise UsageError(
                "a worker that speaks gRPC needs --elixir-address 127.0.0.1:PORT",
                hint="Its sandbox reaches its starter alone, on this machine's loopback.",
            )
        self._ready_file = environment.get(READY_FILE, "")
        self._port = 0
        self._conns: dict[int, _Conn] = {}
        self._next = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = False
        self._stopped = 0
        self._told = False
        """That somebody else was at one of the two ports, which is said once."""
        params = {
            "bridge": given.profile,
            "tenant": given.tenant,
            "kind": invocation.kind,
            "text": invocation.text,
            "args": invocation.args,
            "path": path,
            "callback": self._back,
            "environment": passing(environment, find_shape),
            "kept_back": kept_back(environment, find_shape),
        }
        self._held = BoundSession(client, "foreign.open", params, self._on_event)

    async def run(self) -> Outcome:
        """Until the worker has ended, by itself or by a signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            end = await asyncio.shield(self._held.ended)
        finally:
            if self._server is not None:
                self._server.close()
                self._withdraw()
            await self._held.close()
            for conn in list(self._conns.values()):
                conn.close()
        return self._outcome(end)

    def _stop(self, number: int) -> None:
        """The first signal asks the worker to end; another one doesn't wait for it."""
        first, self._stopped = not self._stopped, number
        self._spawn(self._ask_to_end() if first and self._held.opened else self._held.close())

    async def _ask_to_end(self) -> None:
        with contextlib.suppress(BridgeholdError):
            await self._client.request("foreign.eof", {"session": await self._held.id()})

    def _outcome(self, end: End) -> Outcome:
        if end.cause == "exited" and end.exit >= 0:
            return Outcome(status=end.exit)
        if self._stopped:
            return Outcome(status=128 + self._stopped)
        if end.cause == "signal":
            return Outcome(status=128 + end.exit, message=end.reason)
        return Outcome(status=end.status or 1, message=f"{end.code}: {end.reason}")

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "ready" and not self._ready:
            self._ready = True
            self._spawn(self._listen())
        elif kind == "err":
            with contextlib.suppress(OSError):
                os.write(2, bytes_of(event["data"]))
        elif kind == "wire":
            self._came(int(event["conn"]), bytes_of(event.get("data", b"")), end=bool(event.get("end")))

    async def _listen(self) -> None:
        """On a port of ours, which the ready file then names."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=_CHUNK)
        self._port = self._server.sockets[0].getsockname()[1]
        if self._ready_file:
            try:
                writes.replace(Path(self._ready_file), str(self._port))
            except OSError as error:
                say(f"the ready file can't be written: {error.strerror}")
                await self._held.close()

    def _withdraw(self) -> None:
        """Nobody is at the port any more: who still looks into the ready file isn't sent there."""
        if self._ready_file:
            with contextlib.suppress(OSError, UsageError):
                path = Path(self._ready_file)
                if reads.read_text(path, UsageError, or_none=True) == str(self._port):
                    path.unlink()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1]
        if not await asyncio.to_thread(loopback.is_ours, *ports):
            writer.transport.abort()
            self._tell("a connection that is not this user's was closed")
            return
        self._next += 1
        conn = self._conns[self._next] = _Conn(self._next)
        conn.writer = writer
        await self._pass(conn, reader)

    def _came(self, number: int, data: bytes, *, end: bool) -> None:
        conn = self._conns.get(number)
        if conn is None:
            if number >= 0 or end:
                return
            conn = self._conns[number] = _Conn(number)
            self._spawn(self._dial(conn))
        conn.put(data)
        if end:
            del self._conns[number]
            conn.close()

    async def _dial(self, conn: _Conn) -> None:
        """The worker calls its starter back."""
        try:
            if not await asyncio.to_thread(loopback.leads_to_us, self._back):
                self._tell(
                    f"this user does not listen at 127.0.0.1:{self._back}: nothing is called back there"
                )
                raise ConnectionRefusedError
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._back, limit=_CHUNK)
        except OSError:
            await self._say_end(conn)
            return
        conn.take(writer)
        await self._pass(conn, reader)

    async def _pass(self, conn: _Conn, reader: asyncio.StreamReader) -> None:
        """To the host, each piece once the one before it is taken."""
        if conn.writer is not None:
            sock = conn.writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            session = await self._held.id()
            while data := await reader.read(_CHUNK):
                told = {"session": session, "conn": conn.number}
                await self._client.request("foreign.wire", told, moved=Moved("data", data))
        except (BridgeholdError, OSError):
            pass
        finally:  # also of a defect: the other end waits
            await self._say_end(conn)

    async def _say_end(self, conn: _Conn) -> None:
        if self._conns.pop(conn.number, None) is not None:
            with contextlib.suppress(BridgeholdError):
                told = {"session": await self._held.id(), "conn": conn.number, "end": True}
                await self._client.request("foreign.wire", told)
        conn.close()

    def _tell(self, message: str) -> None:
        if not self._told:
            self._told = True
            say(message)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            defect_of(error, "a connection of the worker's")


class _Conn:
    """One connection of the BEAM's, or to it. What is for it waits until it is there; HTTP/2 bounds it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.writer: asyncio.StreamWriter | None = None
        self._early: list[bytes] = []
        self._closed = False

    def put(self, data: bytes) -> None:
        """Send, or keep, `data`."""
        if self.writer is None:
            self._early.append(data)
        elif data:
            self.writer.write(data)
            if self.writer.transport.get_write_buffer_size() > _MOST_UNREAD:
                self.writer.transport.abort()

    def take(self, writer: asyncio.StreamWriter) -> None:
        """It is there."""
        self.writer = writer
        for data in self._early:
            writer.write(data)
        self._early.clear()
        if self._closed:
            writer.close()

    def close(self) -> None:
        """End it, after what is written."""
        self._closed = True
        if self.writer is not None:
            self.writer.close()
