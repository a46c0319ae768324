"""Many streams over one socket, with a window for each; the same code on both ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

import msgspec

from bridgehold.errors import BridgeholdError, ErrorInfo, HostUnavailableError, ProtocolError, from_info
from bridgehold.host.keeper.protocol import (
    CANCEL,
    CHUNK_BYTES,
    DATA,
    END,
    ERROR,
    HEAD,
    HEADER,
    OPEN,
    WINDOW,
    WINDOW_BYTES,
    Frame,
    decode_header,
    encode,
)

_TEXT_BOUND = 4_000
_FRAMES_BOUND = WINDOW_BYTES // 8


class Stream:
    """One request and its answer. Not shared between tasks: one sends, one receives."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.number = number
        self.on_cancel: Callable[[], None] | None = None
        """Called once when the peer cancels the stream or the connection ends."""
        self._channel = channel
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._credit = WINDOW_BYTES
        self._credit_grown = asyncio.Event()
        self._held = 0
        """DATA bytes that came and were not received yet, plus what is not granted back yet."""
        self._owed = 0
        self._failure: BridgeholdError | None = None
        self.closed = False

    async def send_head(self, payload: bytes) -> None:
        await self._channel.send(HEAD, self.number, payload)

    async def send(self, data: bytes) -> None:
        """Send body bytes, as the peer's window allows."""
        view = memoryview(data)
        while view:
            while self._credit <= 0:
                self._check()
                self._credit_grown.clear()
                await self._credit_grown.wait()
            self._check()
            part = view[: min(CHUNK_BYTES, self._credit)]
            self._credit -= len(part)
            view = view[len(part) :]
            await self._channel.send(DATA, self.number, bytes(part))

    async def end(self, payload: bytes = b"") -> None:
        await self._channel.send(END, self.number, payload)

    async def fail(self, error: BridgeholdError) -> None:
        """Tell the peer why it ends. Never raises for a connection that is gone already."""
        info = error.info()
        bounded = msgspec.structs.replace(
            info, message=info.message[:_TEXT_BOUND], hint=info.hint[:_TEXT_BOUND]
        )
        with contextlib.suppress(BridgeholdError):
            await self._channel.send(ERROR, self.number, msgspec.json.encode(bounded))

    async def cancel(self) -> None:
        with contextlib.suppress(BridgeholdError):
            await self._channel.send(CANCEL, self.number)

    async def receive(self) -> Frame:
        """The next HEAD, DATA or END. Raises the peer's error, or that the connection ended."""
        while not self._frames:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        if frame.kind == ERROR:
            raise _decode_error(frame.payload)
        if frame.kind == DATA:
            self._owed += len(frame.payload)
            if self._owed >= WINDOW_BYTES // 2:
                owed, self._owed = self._owed, 0
                self._held -= owed
                await self._channel.send(WINDOW, self.number, owed.to_bytes(4, "big"))
        return frame

    def close(self) -> None:
        """Forget the stream; frames that still come for it are dropped."""
        self.closed = True
        self._frames.clear()
        self._channel.forget(self)

    def deliver(self, frame: Frame) -> None:
        """From the channel's reader."""
        if frame.kind == WINDOW:
            grown = int.from_bytes(frame.payload[:4], "big")
            if not 0 < grown <= WINDOW_BYTES or self._credit + grown > WINDOW_BYTES:
                raise ProtocolError("a window grew beyond its bound")
            self._credit += grown
            self._credit_grown.set()
        elif frame.kind == CANCEL:
            self.stop(ProtocolError("the request was cancelled", hint=""))
        else:
            if frame.kind == DATA:
                self._held += len(frame.payload)
            if (
                self._held > WINDOW_BYTES
                or len(self._frames) > _FRAMES_BOUND
                or frame == Frame(DATA, self.number, b"")
            ):
                raise ProtocolError("more came on a stream than its window allows")
            self._frames.append(frame)
            self._arrived.set()

    def stop(self, failure: BridgeholdError) -> None:
        if self._failure is None:
            self._failure = failure
            self._arrived.set()
            self._credit_grown.set()
            if self.on_cancel is not None:
                self.on_cancel()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class Channel:
    """The socket's two directions. `opened` is called for each stream the peer opens."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opened: Callable[[Stream, bytes], None] | None = None,
        *,
        bound: int = 4_096,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._opened = opened
        self._bound = bound
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._unsent: list[bytes] = []
        self._gone: BridgeholdError | None = None

    @classmethod
    async def connect(
        cls, sock: socket.socket, opened: Callable[[Stream, bytes], None] | None = None, *, bound: int = 4_096
    ) -> Channel:
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=256 * 1024)
        return cls(reader, writer, opened, bound=bound)

    def __len__(self) -> int:
        return len(self._streams)

    async def open(self, payload: bytes) -> Stream:
        if len(self._streams) >= self._bound:
            raise HostUnavailableError("too many requests wait for the keeper", hint="Try again in a moment.")
        self._last = self._last + 1 if self._last < 0xFFFF_FFFF else 1
        stream = self._streams[self._last] = Stream(self, self._last)
        await self.send(OPEN, stream.number, payload)
        return stream

    async def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        if self._gone is not None:
            raise self._gone
        if not self._unsent:  # what is sent within one turn of the loop goes out in one piece
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(encode(kind, stream, payload))
        try:
            await self._writer.drain()
        except OSError as error:
            raise self._end(f"{type(error).__name__}") from None

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if not self._writer.is_closing():
            self._writer.write(data)

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)

    def close(self) -> None:
        """End the connection from our side; `run` returns."""
        self._writer.close()

    async def run(self) -> None:
        """Read frames until the peer closes (returns) or breaks a bound (raises `ProtocolError`)."""
        reason = "its end of the socket closed"
        try:
            while True:
                length, kind, number = decode_header(await self._reader.readexactly(HEADER.size))
                payload = await self._reader.readexactly(length) if length else b""
                self._take(Frame(kind, number, payload))
        except (asyncio.IncompleteReadError, OSError):
            return
        except ProtocolError as error:
            reason = error.message
            raise
        finally:
            self._end(reason)
            self._writer.close()

    def _take(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if frame.kind == OPEN:
            if self._opened is None or stream is not None or len(self._streams) >= self._bound:
                raise ProtocolError("a stream was opened that may not be")
            stream = self._streams[frame.stream] = Stream(self, frame.stream)
            self._opened(stream, frame.payload)
        elif stream is not None:
            stream.deliver(frame)

    def _end(self, reason: str) -> BridgeholdError:
        if self._gone is None:
            self._gone = HostUnavailableError(
                f"host and keeper are apart: {reason}", hint="Restart the host.", where="keeper"
            )
            for stream in list(self._streams.values()):
                stream.stop(self._gone)
        return self._gone


def _decode_error(payload: bytes) -> BridgeholdError:
    try:
        return from_info(msgspec.json.decode(payload, type=ErrorInfo))
    except (msgspec.DecodeError, ValueError):
        return ProtocolError("an error between host and keeper can't be read")
