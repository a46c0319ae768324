"""One direction of one call between two HTTP/2 connections.

What its sink doesn't take isn't taken from its source, which gets its window back once all was passed on.
What is kept costs about as many bytes as are counted, however small the pieces are that it came in.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from h2.exceptions import H2Error

from bridgehold.bridges.legacy import rpc
from bridgehold.errors import ProtocolError
from bridgehold.host.cell.scripts.rpc_peer import WINDOW, Headers, Peer, cost

_SMALL, _FULL = 4 * 1024, 64 * 1024
"""Pieces below the first are put together, up to the second."""
_UPDATE = WINDOW // 4
"""Of a window that is to be given back: less than this waits, so that not every frame has an answer."""


class Bytes:
    """Bytes in their order. What it takes of memory is at most about twice their number."""

    def __init__(self) -> None:
        self._parts: deque[bytes | bytearray | memoryview] = deque()
        self.size = 0

    def put(self, piece: bytes) -> None:
        """Add `piece` at the end."""
        if not piece:
            return
        self.size += len(piece)
        last = self._parts[-1] if self._parts else None
        if len(piece) >= _SMALL:
            self._parts.append(piece)
        elif isinstance(last, bytearray) and len(last) < _FULL:
            last += piece
        else:
            self._parts.append(bytearray(piece))

    def take(self, most: int) -> bytes:
        """The first `most`, or all there are."""
        need = min(most, self.size)
        self.size -= need
        pieces: list[bytes | bytearray | memoryview] = []
        while need:
            first = self._parts.popleft()
            if len(first) > need:
                first, rest = _cut(first, need)
                self._parts.appendleft(rest)
            need -= len(first)
            pieces.append(first)
        if len(pieces) == 1 and isinstance(pieces[0], bytes):
            return pieces[0]
        return b"".join(pieces)

    def clear(self) -> None:
        """None of them."""
        self._parts.clear()
        self.size = 0


def _cut(
    part: bytes | bytearray | memoryview, size: int
) -> tuple[bytes | bytearray | memoryview, bytes | bytearray | memoryview]:
    if isinstance(part, bytearray):
        first = part[:size]
        del part[:size]
        return first, part
    view = memoryview(part)
    rest = view[size:]
    whole = view.nbytes if isinstance(part, bytes) else memoryview(part.obj).nbytes
    return view[:size], rest if 2 * len(rest) > whole else bytes(rest)


class Flow:
    """One direction of one call: messages put together, judged and passed on."""

    def __init__(self, hold: Callable[[int], None], source: Peer, sink: Peer, most: int) -> None:
        self._hold = hold
        self._source = source
        self._sink = sink
        self._most = most
        self.source_stream = self.sink_stream = 0
        self._in = Bytes()
        """Of messages that aren't whole yet."""
        self._need = -1
        """Length of the message that is being put together; -1: not known yet."""
        self._out = Bytes()
        self._counted = 0
        """Bytes that are held for it."""
        self._owed = 0
        """Bytes of the source's window that aren't given back yet."""
        self.finished = False
        self._trailers: Headers | None = None
        self.over = False
        """All was passed on, its end too."""
        self.messages = 0

    def take(self, data: bytes, charged: int) -> Iterator[bytes]:
        """The whole messages that `data` completes, without their prefix. Raises `BridgeholdError`."""
        self._owed += charged
        self._count(len(data))
        self._in.put(data)
        while True:
            if self._need < 0:
                if self._in.size < rpc.PREFIX:
                    return
                self._need = rpc.head(self._in.take(rpc.PREFIX), self._most)
            if self._in.size < self._need:
                return
            message, self._need = self._in.take(self._need), -1
            self.messages += 1
            yield message

    def _count(self, size: int) -> None:
        self._counted += size
        self._hold(size)

    def finish(self, trailers: Headers | None = None) -> None:
        """The source has said all. Raises `ProtocolError` in the middle of a message, `LimitError`."""
        if self._in.size or self._need >= 0:
            raise ProtocolError("a call ends in the middle of a message")
        self.finished, self._trailers = True, trailers
        self._count(cost(trailers or []))

    def put(self, message: bytes) -> None:
        """Pass `message` on, as the sink takes it."""
        self._out.put(b"\0" + len(message).to_bytes(rpc.PREFIX - 1, "big"))
        self._out.put(message)

    def pump(self) -> None:
        """Send what the sink's windows take; then give the source its own back."""
        h2, stream = self._sink.h2, self.sink_stream
        if not stream or self.over:
            self.give_back()
            return
        try:
            while self._out.size:
                if self._sink.link is None or self._sink.link.full:
                    return
                room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
                if room <= 0:
                    return
                piece = self._out.take(room)
                last = self.finished and not self._out.size and self._trailers is None
                self._count(-len(piece))
                h2.send_data(stream, piece, end_stream=last)
                self.over = last
            if self.finished and not self.over:
                if self._trailers is not None:
                    h2.send_headers(stream, self._trailers, end_stream=True)
                    self._trailers = []
                else:
                    h2.end_stream(stream)
                self.over = True
                self._count(-self._counted)
        except H2Error:  # the sink has closed that stream: nobody waits for the rest
            self.drop()
        self.give_back()

    def give_back(self) -> None:
        """More may come of this stream, unless what came isn't passed on yet."""
        if self._owed >= _UPDATE and not self._out.size and self.source_stream:
            owed, self._owed = self._owed, 0
            if not self.finished:
                with contextlib.suppress(H2Error, KeyError):  # that stream is closed, and forgotten
                    self._source.h2.increment_flow_control_window(owed, self.source_stream)

    def drop(self) -> None:
        """Nothing more of it."""
        self._count(-self._counted)
        self._in.clear()
        self._out.clear()
        self._need, self._owed, self.over = -1, 0, True
