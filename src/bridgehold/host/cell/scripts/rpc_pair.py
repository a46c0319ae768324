"""Two HTTP/2 connections and the calls that pass between them, each message judged before it passes.

One side asks (the BEAM, or the worker that calls it back), the other answers. A call's stream on the one
has a stream on the other. Flow control is kept end to end: what a side doesn't read isn't taken from the
other one, stream by stream, so that a reader that doesn't read stops its writer and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, StreamClosedError

from bridgehold.bridges.legacy import rpc
from bridgehold.bridges.legacy.rpc import Method
from bridgehold.errors import BridgeholdError, BusyError, UnsupportedError
from bridgehold.host.cell.scripts.rpc_call import Call, Judge
from bridgehold.host.cell.scripts.rpc_peer import MOST_STREAMS, Headers, Link, Peer, forwarded, passed, plain


class Pair:
    """The two connections, and the calls between them. `on_end` is called once, when either has ended."""

    def __init__(self, judge: Judge, on_end: Callable[[Pair], None]) -> None:
        self.judge = judge
        self._on_end = on_end
        self.asking, self.answering = Peer(client=False), Peer(client=True)
        self.by_stream: dict[int, Call] = {}
        self.by_answer: dict[int, Call] = {}
        self.closed = False
        self.turn = asyncio.Lock()
        """Of whoever feeds it in several steps: bytes keep their order."""

    def flush(self) -> None:
        """Both sides' frames go out."""
        self.asking.flush()
        self.answering.flush()

    def forget(self, call: Call) -> None:
        """It has ended."""
        self.by_stream.pop(call.stream, None)
        self.by_answer.pop(call.answer_stream, None)

    def connect(self, peer: Peer, link: Link) -> None:
        """One of the two has its transport."""
        peer.link = link
        self.resume(peer)

    def resume(self, peer: Peer) -> None:
        """There is room again towards `peer`."""
        self._pump(peer, {0})
        self.flush()

    def feed(self, peer: Peer, data: bytes) -> None:
        """Bytes that came from one of the two."""
        if self.closed:
            return
        try:
            events = peer.receive(data)
        except H2Error as error:
            self._break(peer, f"{type(error).__name__}: {error}"[:200])
            return
        except (ValueError, KeyError, IndexError) as error:  # a parser's own defect ends its sender alone
            self._break(peer, f"{type(error).__name__} over a frame")
            return
        widened: set[int] = set()
        """Streams that have room again, which are looked at once however often it was said. 0: all."""
        for event in events:
            if isinstance(event, WindowUpdated):
                widened.add(event.stream_id or 0)
            elif isinstance(event, RemoteSettingsChanged):
                widened.add(0)
                if not peer.settle(event.changed_settings):
                    self._break(peer, "its table of headers changes its size for ever")
            elif peer is self.asking:
                self._asked(event)
            else:
                self._answered(event)
            if self.closed:
                return
        if widened:
            self._pump(peer, widened)
        self.flush()

    def _break(self, peer: Peer, what: str) -> None:
        self.judge.odd(f"{'asking' if peer is self.asking else 'answering'} side: {what}")
        self.flush()  # its GOAWAY
        self.close("the connection's HTTP/2 is broken")

    def close(self, why: str) -> None:
        """End both, and every call between them."""
        if self.closed:
            return
        for call in list(self.by_stream.values()):
            call.fail(rpc.UNAVAILABLE, why)
        self.closed = True
        for peer in (self.asking, self.answering):
            with contextlib.suppress(H2Error):
                peer.h2.close_connection()
            peer.flush()
            if peer.link is not None:
                peer.link.close()
        self._on_end(self)

    def _asked(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event.stream_id, plain(event.headers))
        elif isinstance(event, DataReceived):
            self.asking.credit(event.flow_controlled_length)
            if asked := self.by_stream.get(event.stream_id):
                self._guard(asked, lambda: self._requests(asked, event))
        elif isinstance(event, StreamEnded):
            if call := self.by_stream.get(event.stream_id):
                self._guard(call, call.request_ended)
                call.up.pump()
        elif isinstance(event, StreamReset):
            if call := self.by_stream.get(event.stream_id):
                call.cancelled(int(event.error_code or 0))
        elif isinstance(event, ConnectionTerminated):
            self.close("the asking side has left")

    def _answered(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            if not event.last_stream_id or event.error_code or not self.by_answer:
                self.close("the answering side has left")
            return
        if isinstance(event, DataReceived):
            self.answering.credit(event.flow_controlled_length)
        call = self.by_answer.get(getattr(event, "stream_id", None) or 0)
        if call is None:
            return
        if isinstance(event, ResponseReceived):
            self._guard(call, lambda: self._head(call, event))
        elif isinstance(event, DataReceived):
            self._guard(call, lambda: self._answers(call, event))
        elif isinstance(event, TrailersReceived):
            self._guard(call, lambda: call.finish_answer(passed(plain(event.headers))))
            self._settle(call)
        elif isinstance(event, StreamEnded):
            if not call.gone and not call.down.finished:
                call.fail(rpc.INTERNAL, "an answer without a status")
        elif isinstance(event, StreamReset):
            self._reset(call, int(event.error_code or 0))

    def _begin(self, stream: int, headers: Headers) -> None:
        found = dict(headers)
        path = found.get(":path", "")
        method = rpc.method_of(path, self.judge.methods)
        unknown = method is None
        call = Call(self, stream, method or Method(name=path[:200], session=False), forwarded(headers))
        self.by_stream[stream] = call
        if unknown:
            self._guard(call, lambda: self.judge.judge(call, None))
        elif len(self.by_stream) > MOST_STREAMS:
            call.refuse(BusyError(f"{MOST_STREAMS} calls are in flight on this connection"))
        elif found.get("grpc-encoding", "identity") != "identity":
            call.refuse(UnsupportedError("a compressed call"))
        else:
            self._guard(call, call.count_headers)
            if call.method.streams:
                self._guard(call, lambda: self.judge.judge(call, None))

    def _requests(self, call: Call, event: DataReceived) -> None:
        for message in call.up.take(event.data, event.flow_controlled_length):
            call.requested(message)
        call.up.pump()

    def _answers(self, call: Call, event: DataReceived) -> None:
        for message in call.down.take(event.data, event.flow_controlled_length):
            if call.ticket is not None:
                call.ticket.answered(message)
            call.down.put(message)
        call.down.pump()

    def _head(self, call: Call, event: ResponseReceived) -> None:
        headers = passed(plain(event.headers))
        if event.stream_ended is not None:  # a status, and nothing else
            call.finish_answer([one for one in headers if call.begun is False or one[0] != ":status"])
            self._settle(call)
            return
        call.begun = True
        self.asking.h2.send_headers(call.stream, headers)

    def _settle(self, call: Call) -> None:
        """Its answer is whole; it is over once the asking side has taken it."""
        call.down.pump()
        if call.down.over:
            call.end()

    def _reset(self, call: Call, code: int) -> None:
        if call.down.finished:
            return
        call.fail(rpc.UNAVAILABLE, f"the answering side gave the call up ({code})")

    def _pump(self, peer: Peer, streams: set[int]) -> None:
        """There is room again towards `peer`, in some of its streams or (0) in all."""
        calls = self.by_stream if peer is self.asking else self.by_answer
        for call in list(calls.values()) if 0 in streams else [calls[one] for one in streams if one in calls]:
            (call.down if peer is self.asking else call.up).pump()
            if call.down.over and not call.gone:
                call.end()

    def _guard(self, call: Call, act: Callable[[], object]) -> None:
        if call.gone:
            return
        try:
            act()
        except BridgeholdError as error:
            call.refuse(error)
        except StreamClosedError:
            call.cancelled(0)
        except H2Error as error:
            call.fail(rpc.INTERNAL, f"{type(error).__name__}")
