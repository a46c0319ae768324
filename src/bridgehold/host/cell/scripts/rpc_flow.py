"""One direction of one call between two HTTP/2 connections.

What its sink doesn't take isn't taken from its source, which gets its window back once all was passed on.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable

from h2.exceptions import H2Error

from bridgehold.bridges.legacy import rpc
from bridgehold.errors import ProtocolError
from bridgehold.host.cell.scripts.rpc_peer import Headers, Peer


class Flow:
    """One direction of one call: messages put together, judged and passed on."""

    def __init__(self, hold: Callable[[int], None], source: Peer, sink: Peer, most: int) -> None:
        self._hold = hold
        self._source = source
        self._sink = sink
        self._most = most
        self.source_stream = self.sink_stream = 0
        self._parts: deque[bytes] = deque()
        """Of messages that aren't whole yet."""
        self._have = 0
        self._need = -1
        """Length of the message that is being put together, its prefix included; -1: not known yet."""
        self._out: deque[memoryview] = deque()
        self._owed = 0
        """Bytes of the source's window that aren't given back yet."""
        self.finished = False
        self._trailers: Headers | None = None
        self.over = False
        """All was passed on, its end too."""
        self.messages = 0

    def take(self, data: bytes, charged: int) -> Iterable[memoryview]:
        """The whole messages that `data` completes, prefix and all. Raises `BridgeholdError`."""
        self._owed += charged
        self._hold(len(data))
        self._have += len(data)
        self._parts.append(data)
        found = []
        while True:
            if self._need < 0:
                if self._have < rpc.PREFIX:
                    break
                self._gather(rpc.PREFIX)
                self._need = rpc.PREFIX + rpc.head(self._parts[0][: rpc.PREFIX], self._most)
            if self._have < self._need:
                break
            found.append(self._cut())
        self.give_back()
        return found

    def _gather(self, size: int) -> None:
        if len(self._parts[0]) < size:
            whole = b"".join(self._parts)
            self._parts = deque([whole])

    def _cut(self) -> memoryview:
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        size, self._need = self._need, -1
        message, rest = memoryview(whole)[:size], whole[size:]
        self._parts = deque([rest]) if rest else deque()
        self._have -= size
        self.messages += 1
        return message

    def finish(self, trailers: Headers | None = None) -> None:
        """The source has said all. Raises `ProtocolError` in the middle of a message."""
        if self._have:
            raise ProtocolError("a call ends in the middle of a message")
        self.finished, self._trailers = True, trailers

    def put(self, message: memoryview) -> None:
        """Pass `message` on, as the sink takes it."""
        self._out.append(message)

    def pump(self) -> None:
        """Send what the sink's windows take; then give the source its own back."""
        h2, stream = self._sink.h2, self.sink_stream
        if not stream or self.over:
            return
        try:
            while self._out:
                if self._sink.link is None or self._sink.link.full:
                    return
                room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
                if room <= 0:
                    return
                piece = self._out.popleft()
                if len(piece) > room:
                    self._out.appendleft(piece[room:])
                    piece = piece[:room]
                last = self.finished and not self._out and self._trailers is None
                h2.send_data(stream, bytes(piece), end_stream=last)
                self._hold(-len(piece))
                self.over = self.over or last
            if self.finished and not self.over:
                if self._trailers is not None:
                    h2.send_headers(stream, self._trailers, end_stream=True)
                else:
                    h2.end_stream(stream)
                self.over = True
        except H2Error:  # the sink has closed that stream: nobody waits for the rest
            self.drop()
        self.give_back()

    def give_back(self) -> None:
        """More may come of this stream, unless what came isn't passed on yet."""
        if self._owed and not self._out and self.source_stream:
            owed, self._owed = self._owed, 0
            if not self.finished:
                with contextlib.suppress(H2Error, KeyError):  # that stream is closed, and forgotten
                    self._source.h2.increment_flow_control_window(owed, self.source_stream)

    def drop(self) -> None:
        """Nothing more of it."""
        self._hold(-(self._have + sum(map(len, self._out))))
        self._parts.clear()
        self._out.clear()
        self._have, self._owed, self.over = 0, 0, True
