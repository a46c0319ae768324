"""One accepted connection: read only when something is wanted, written with a deadline.

Nothing is read ahead of need, so that what a guest sends too fast stays in its own kernel buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import h11

from bridgehold.host.cell.gateway.parse import BadRequest, brief
from bridgehold.host.cell.gateway.values import GatewayLimits

_CHUNK = 64 * 1024
_HEAD_CHUNK = 4 * 1024
_CHARGED_EVENTS = 16
"""Pieces of a body that are parsed for the price of one read: a chunk of one byte is as dear as any."""
_SILENCE_SECONDS = 2.0
_LINGER_READS = 8
_LINGER_SECONDS = 0.5


class GuestGone(Exception):  # noqa: N818 - the end of a connection is no error of ours
    """The guest closed, reset or starved its connection."""


class Wire:
    """A non-blocking socket and what was read of it and is not used yet (at most 64 KiB)."""

    def __init__(
        self, sock: socket.socket, limits: GatewayLimits, pace: Callable[[], Awaitable[None]]
    ) -> None:
        sock.setblocking(False)
        # Head, chunk and end are small writes: held back for an acknowledgement they cost 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.limits = limits
        self.pace = pace
        """Waits before each read as the session's bucket of reads requires."""
        self.buffer = bytearray()
        self.received = 0
        self._loop = asyncio.get_running_loop()

    async def receive(self, deadline_s: float, most: int = _CHUNK) -> bytes:
        """Some bytes; empty at the end of the stream. Raises `GuestGone`."""
        await self.pace()
        try:
            data = await asyncio.wait_for(self._loop.sock_recv(self.sock, most), deadline_s)
        except TimeoutError:
            raise GuestGone("nothing came in time") from None
        except OSError as error:
            raise GuestGone(type(error).__name__) from None
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        """All of `data`. Raises `GuestGone` for a guest that does not read."""
        if not data:
            return
        try:
            sent = self.sock.send(data) if len(data) <= _CHUNK else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            raise GuestGone(type(error).__name__) from None
        if sent == len(data):
            return
        try:
            await asyncio.wait_for(
                self._loop.sock_sendall(self.sock, data[sent:]), self.limits.write_ms / 1000
            )
        except TimeoutError:
            raise GuestGone("it does not read") from None
        except OSError as error:
            raise GuestGone(type(error).__name__) from None

    async def begun(self) -> bool:
        """Wait for a request's first bytes; False when the guest is done."""
        if not self.buffer:
            self.buffer += await self.receive(self.limits.idle_ms / 1000, _HEAD_CHUNK)
        return bool(self.buffer)

    async def read_head(self) -> bytes | None:
        """The begun request's head with its empty line; None where the guest ends within it.

        Raises `BadRequest` past the bound, and `GuestGone` past the deadline.
        """
        deadline = self._loop.time() + self.limits.head_ms / 1000
        while True:
            skip = len(self.buffer) - len(self.buffer.lstrip(b"\r\n"))
            if 0 < skip <= 4:  # an empty line before a request line is allowed
                del self.buffer[:skip]
            end = self.buffer.find(b"\r\n\r\n")
            if 0 <= end <= self.limits.head_bytes:
                head = bytes(self.buffer[: end + 4])
                del self.buffer[: end + 4]
                return head
            if len(self.buffer) > self.limits.head_bytes:
                raise BadRequest(
                    "http.head", f"a head of more than {self.limits.head_bytes} bytes", status=431
                )
            if b"\n\n" in self.buffer or b"\n\r\n" in self.buffer.replace(b"\r\n\r\n", b""):
                raise BadRequest("http.bytes", "a bare line feed in the head")
            left = deadline - self._loop.time()
            if left <= 0:
                raise GuestGone("its head did not come in time")
            data = await self.receive(left, _HEAD_CHUNK)
            if not data:
                return None
            self.buffer += data

    async def read_body(self, connection: h11.Connection, most: int) -> bytes | None:
        """The request's body; None where it has more than `most` bytes, and the rest of it is not parsed.

        Raises `BadRequest` for broken framing, `GuestGone`.
        """
        found = bytearray()
        async for piece in self._pieces(connection):
            if len(found) + len(piece) > most:
                return None
            found += piece
        return bytes(found)

    async def _pieces(self, connection: h11.Connection) -> AsyncIterator[bytes]:
        deadline = self._loop.time() + self.limits.body_ms / 1000
        parsed = 0
        if self.buffer:
            connection.receive_data(bytes(self.buffer))
            self.buffer.clear()
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                raise BadRequest("http.body", brief(error)) from None
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    await self.send(
                        connection.send(
                            h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                        )
                        or b""
                    )
                data = await self.receive(deadline - self._loop.time())
                try:
                    connection.receive_data(data)
                except h11.RemoteProtocolError as error:
                    raise BadRequest("http.body", brief(error)) from None
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
                parsed += 1
                await self.parsed(parsed)
            elif isinstance(event, h11.EndOfMessage):
                if list(event.headers):
                    raise BadRequest("http.trailers", "headers after the body")
                self.buffer += connection.trailing_data[0]
                return
            else:
                raise GuestGone("it closed within a request")

    async def parsed(self, count: int) -> None:
        """After each piece that was parsed for the guest, the `count`th: it pays, and others go on."""
        if count % _CHARGED_EVENTS == 0:
            await self.pace()
            await asyncio.sleep(0)

    async def drop_body(self, most: int) -> None:
        """After a last answer: take what comes of the body all the same, at most that, unparsed."""
        deadline = self._loop.time() + self.limits.body_ms / 1000
        with contextlib.suppress(GuestGone, OSError):
            self.sock.shutdown(socket.SHUT_WR)
            while most > 0:
                data = await self.receive(min(_SILENCE_SECONDS, deadline - self._loop.time()))
                if not data:
                    return
                most -= len(data)
        await self.linger()

    async def linger(self) -> None:
        """End our side and read on for a moment: closing over unread bytes would reset the answer away."""
        with contextlib.suppress(GuestGone, OSError):
            self.sock.shutdown(socket.SHUT_WR)
            for _ in range(_LINGER_READS):
                if not await self.receive(_LINGER_SECONDS):
                    return

    def watch_end(self, gone: asyncio.Event) -> contextlib.AbstractContextManager[None]:
        """While an answer is on its way: `gone` is set as soon as the guest closes its end."""
        return _watching(self._loop, self.sock, gone)

    def close(self) -> None:
        """Close the guest's connection."""
        with contextlib.suppress(OSError):
            self.sock.close()


@contextlib.contextmanager
def _watching(loop: asyncio.AbstractEventLoop, sock: socket.socket, gone: asyncio.Event) -> Iterator[None]:
    descriptor = sock.fileno()

    def look() -> None:
        try:
            data = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        loop.remove_reader(descriptor)  # a pipelined request waits in the kernel until its turn
        if not data:
            gone.set()

    loop.add_reader(descriptor, look)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
