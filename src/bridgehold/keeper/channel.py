"""Many streams over one socket, with a window for each; the same code on both ends.

What breaks a stream's bound ends that stream, at both ends, and no other: only bytes that are no frame
end the connection. Small pieces that wait are joined, so that a reader who doesn't read holds one window.
Requests, answers and bodies take turns by tenant: nobody's frame waits behind all of another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    HostUnavailableError,
    LimitError,
    ProtocolError,
    from_info,
)
from bridgehold.keeper.places import QUESTIONS, REQUESTS, Turns
from bridgehold.keeper.protocol import (
    CANCEL,
    CHUNK_BYTES,
    CONTROL_BYTES,
    DATA,
    END,
    ERROR,
    HEAD,
    HEADER,
    OPEN,
    UNREACHED,
    WINDOW,
    WINDOW_BYTES,
    Frame,
    decode_header,
    encode,
)

_TEXT_BOUND = 4_000
_CONTROLS = 4
"""HEAD, END and ERROR frames of one stream in one direction: one of each would do."""
_UNREAD_BYTES = 4 * 1024 * 1024
"""Refusals that the peer doesn't read."""


class Stream:
    """One request and its answer. Not shared between tasks: one sends, one receives."""

    def __init__(self, channel: Channel, number: int, *, ours: bool, tenant: str = "") -> None:
        """`ours`: this end opened it, so that the peer ends it when it is cancelled."""
        self.number = number
        self.ours = ours
        self.tenant = tenant
        """Whose turns its frames take."""
        self.on_cancel: Callable[[], None] | None = None
        """Called once when the peer cancels the stream or the connection ends."""
        self.on_close: Callable[[], None] | None = None
        """Called once when it is closed, or before that by `release`."""
        self._channel = channel
        self._frames: deque[tuple[int, bytearray]] = deque()
        self._controls = 0
        self._arrived = asyncio.Event()
        self._credit = WINDOW_BYTES
        self._credit_grown = asyncio.Event()
        self._held = 0
        """DATA bytes that came and were not received yet, plus what is not granted back yet."""
        self._owed = 0
        self._failure: ErrorInfo | None = None
        self.closed = False

    async def send_head(self, payload: bytes) -> None:
        """Send the first frame of an answer. Raises `HostUnavailableError` where the channel is gone."""
        await self._channel.send_in_turn(HEAD, self, payload)

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
            await self._channel.send_in_turn(DATA, self, bytes(part))

    async def end(self, payload: bytes = b"") -> None:
        """Say that nothing follows on this side; `payload` goes with it."""
        await self._channel.send_in_turn(END, self, payload)

    async def fail(self, error: BridgeholdError) -> None:
        """Tell the peer why it ends. Never raises for a connection that is gone already."""
        with contextlib.suppress(BridgeholdError):
            await self._channel.send_in_turn(ERROR, self, _encode_error(error))

    async def cancel(self) -> None:
        """Have the other side give up its work for this stream. Never raises for a channel that is gone."""
        with contextlib.suppress(BridgeholdError):
            await self._channel.send(CANCEL, self.number)

    async def receive(self) -> Frame:
        """The next HEAD, DATA or END. Raises the peer's error, or that the connection ended."""
        while not self._frames:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()
        kind, payload = self._frames.popleft()
        if kind == ERROR:
            raise _decode_error(bytes(payload))
        if kind == DATA:
            self._owed += len(payload)
            if self._owed >= WINDOW_BYTES // 2:
                owed, self._owed = self._owed, 0
                self._held -= owed
                await self._channel.send(WINDOW, self.number, owed.to_bytes(4, "big"))
        return Frame(kind, self.number, bytes(payload))

    def leave(self, *, ended: bool) -> None:
        """`close`; the peer is told where it may still be at work: it would wait for our window for ever."""
        if not ended and not self.closed:
            self._channel.post(CANCEL, self.number)
        self.close()

    def close(self) -> None:
        """Forget the stream; frames that still come for it are dropped."""
        self.closed = True
        self._frames.clear()
        self._channel.forget(self)
        self.release()

    def release(self) -> None:
        """Give back what was taken for it."""
        done, self.on_close = self.on_close, None
        if done is not None:
            done()

    def deliver(self, frame: Frame) -> str:
        """From the channel's reader. How the peer broke a bound with it; empty where it didn't."""
        if self._failure is not None:
            return ""
        if frame.kind == WINDOW:
            return self._grow(int.from_bytes(frame.payload[:4], "big"))
        if frame.kind == DATA:
            return self._keep(frame.payload)
        if frame.kind == CANCEL:
            self.stop(ProtocolError("the request was cancelled", hint=""))
            return ""
        self._controls += 1
        if frame.kind == OPEN or self._controls > _CONTROLS:
            return "more came on a stream than a request and its answer are"
        self._frames.append((frame.kind, bytearray(frame.payload)))
        self._arrived.set()
        return ""

    def _grow(self, by: int) -> str:
        if not 0 < by <= WINDOW_BYTES or self._credit + by > WINDOW_BYTES:
            return "a window grew beyond its bound"
        self._credit += by
        self._credit_grown.set()
        return ""

    def _keep(self, data: bytes) -> str:
        self._held += len(data)
        if not data or self._held > WINDOW_BYTES:
            return "more came on a stream than its window allows"
        kind, waiting = self._frames[-1] if self._frames else (HEAD, bytearray())
        if kind == DATA and len(waiting) + len(data) <= CHUNK_BYTES:
            waiting += data
        else:
            self._frames.append((DATA, bytearray(data)))
            self._arrived.set()
        return ""

    def break_off(self, reason: str) -> None:
        """The peer broke a bound: nothing more of it is taken, and both ends learn why."""
        failure = ProtocolError(reason)
        self._frames.clear()
        if self.ours:
            self._channel.post(CANCEL, self.number)
        else:
            self._channel.post(ERROR, self.number, _encode_error(failure))
        self.stop(failure)

    def stop(self, failure: BridgeholdError) -> None:
        """Fail what waits on this stream, now and later, with `failure`; a first failure stays."""
        if self._failure is None:
            self._failure = failure.fact()
            self._arrived.set()
            self._credit_grown.set()
            if self.on_cancel is not None:
                self.on_cancel()

    def _check(self) -> None:
        if self._failure is not None:
            raise from_info(self._failure)


class Channel:
    """The socket's two directions. `opened` is called for each stream the peer opens."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opened: Callable[[Stream, bytes], None] | None = None,
        *,
        bound: int = REQUESTS + QUESTIONS,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._opened = opened
        self._bound = bound
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._turns = Turns(self._drained)
        self._gone = ""
        """Why the connection ended."""

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        opened: Callable[[Stream, bytes], None] | None = None,
        *,
        bound: int = REQUESTS + QUESTIONS,
    ) -> Channel:
        """A channel over `sock`.

        `opened` gets each stream that the other side opens, and its first payload; it may refuse it by
        `BusyError` or `ProtocolError`.
        """
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=256 * 1024)
        return cls(reader, writer, opened, bound=bound)

    def __len__(self) -> int:
        return len(self._streams)

    async def open(self, payload: bytes, tenant: str = "") -> Stream:
        """A new stream whose first frame carries `payload`.

        Raises `BusyError` when `bound` streams are open; an error at `UNREACHED` has sent nothing.
        """
        if len(self._streams) >= self._bound:
            raise _too_many()
        if self._gone or len(payload) > CONTROL_BYTES:
            error = self._apart() if self._gone else _too_long()
            error.where = UNREACHED
            raise error
        self._last = next(n for n in _numbers_after(self._last) if n not in self._streams)
        stream = self._streams[self._last] = Stream(self, self._last, ours=True, tenant=tenant)
        try:
            await self.send_in_turn(OPEN, stream, payload)
        except BaseException:  # it may be under way already
            self.post(CANCEL, stream.number)
            self.forget(stream)
            raise
        return stream

    async def send_in_turn(self, kind: int, stream: Stream, payload: bytes) -> None:
        """`send`, when the socket has room and it is the turn of the stream's tenant."""
        unsent = self._writer.transport.get_write_buffer_size() + self._unsent_bytes
        if self._turns or unsent > CONTROL_BYTES:
            await self._turns.take(stream.tenant)
        await self.send(kind, stream.number, payload)

    async def _drained(self) -> None:
        with contextlib.suppress(OSError):  # whoever sends next learns it
            await self._writer.drain()

    async def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue one frame. `LimitError` for one that the peer would not take for a frame."""
        if self._gone:
            raise self._apart()
        if len(payload) > (CHUNK_BYTES if kind == DATA else CONTROL_BYTES):
            raise _too_long()
        self.post(kind, stream, payload)
        try:
            await self._writer.drain()
        except OSError as error:
            raise self._end(f"{type(error).__name__}") from None

    def post(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue one frame, whoever waits for room."""
        if not self._unsent:  # what is sent within one turn of the loop goes out in one piece
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(encode(kind, stream, payload))
        self._unsent_bytes += HEADER.size + len(payload)

    def _flush(self) -> None:
        data, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
        if not self._writer.is_closing():
            self._writer.write(data)

    def forget(self, stream: Stream) -> None:
        """Let go of a stream that has ended; frames for it that still come are dropped."""
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
            self._writer.transport.abort()
            raise
        finally:
            self._end(reason)
            self._writer.close()

    def _take(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            if frame.kind == OPEN:
                self._admit(frame)
        elif broken := stream.deliver(frame):
            stream.break_off(broken)

    def _admit(self, frame: Frame) -> None:
        """A stream that the peer opens, or its refusal. A peer that reads no refusals ends the connection."""
        if self._writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
            raise ProtocolError("the peer opens streams and reads no answer")
        if self._opened is None or len(self._streams) >= self._bound:
            self.post(ERROR, frame.stream, _encode_error(_too_many()))
            return
        stream = self._streams[frame.stream] = Stream(self, frame.stream, ours=False)
        try:
            self._opened(stream, frame.payload)
        except (BusyError, ProtocolError) as error:
            self.post(ERROR, frame.stream, _encode_error(error))
            stream.close()

    def _end(self, reason: str) -> BridgeholdError:
        if not self._gone:
            self._gone = reason
            for stream in list(self._streams.values()):
                stream.stop(self._apart())
        return self._apart()

    def _apart(self) -> BridgeholdError:
        """For one stream: an error that many raise would collect the traces of all."""
        return HostUnavailableError(
            f"host and keeper are apart: {self._gone}", hint="Restart the host.", where="keeper"
        )


def _too_many() -> BusyError:
    return BusyError("too many requests are at the keeper already", hint="Try again in a moment.")


def _too_long() -> LimitError:
    return LimitError(f"what goes between host and keeper in one piece has at most {CONTROL_BYTES} bytes")


def _numbers_after(last: int) -> Iterator[int]:
    """Numbers of streams, from the one after `last` round to itself."""
    for step in range(1, 0xFFFF_FFFF):
        yield (last + step - 1) % 0xFFFF_FFFF + 1


def _encode_error(error: BridgeholdError) -> bytes:
    info = error.info()
    texts = {
        name: text[:_TEXT_BOUND]
        for name in info.__struct_fields__
        if isinstance(text := getattr(info, name), str)
    }
    return msgspec.json.encode(msgspec.structs.replace(info, **texts))


def _decode_error(payload: bytes) -> BridgeholdError:
    try:
        return from_info(msgspec.json.decode(payload, type=ErrorInfo))
    except (msgspec.DecodeError, ValueError):
        return ProtocolError("an error between host and keeper can't be read")
