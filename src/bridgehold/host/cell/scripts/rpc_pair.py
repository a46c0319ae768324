"""Two HTTP/2 connections and the calls that pass between them, each message judged before it passes.

One side asks (the BEAM, or the worker that calls it back), the other answers. A call's stream on the one
has a stream on the other. Flow control is kept end to end: what a side doesn't read isn't taken from the
other one, stream by stream, so that a reader that doesn't read stops its writer and nobody else.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
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
from h2.settings import SettingCodes, Settings

from bridgehold.bridges.legacy import rpc
from bridgehold.bridges.legacy.rpc import Method
from bridgehold.errors import BridgeholdError, BusyError, ProtocolError, UnsupportedError

_WINDOW = 1 << 20
"""Of one stream, each way."""
_CONNECTION_WINDOW = 1 << 24
"""Of all streams of a connection together: given back at once, since streams bound themselves."""
_MOST_STREAMS = 128
_FRAME = 256 * 1024
_MOST_HEADERS = 32 * 1024
_HOP = frozenset({"te", "grpc-encoding", "grpc-accept-encoding", "content-length", "accept-encoding"})
"""Said by each side for itself: nothing that passes is compressed, since nobody here reads that."""

Headers = list[tuple[str, str]]


class Link(Protocol):
    """The transport below one of the two connections."""

    @property
    def full(self) -> bool:
        """Whether so much waits to be read at its other end that no message is to follow yet."""

    def write(self, data: bytes) -> None:
        """Send, or queue, `data`."""

    def close(self) -> None:
        """End it, after what is queued."""


class Ticket(Protocol):
    """A call that was let through and is to be told of at its end."""

    def answered(self, message: memoryview) -> None:
        """The one answer, or one of a stream."""

    def ended(self, status: int, message: str) -> None:
        """Its status came."""

    def broken(self, why: str) -> None:
        """It never came."""


class Judge(Protocol):
    """Decides on calls of one direction."""

    methods: Mapping[str, Method]

    @property
    def request_bytes(self) -> int:
        """The largest request."""

    @property
    def answer_bytes(self) -> int:
        """The largest answer."""

    def judge(self, call: Call, message: memoryview | None) -> None:
        """Decide on a call, by its one request (None: a stream of them), and tell `call`, at once or later.

        Raises `BridgeholdError` for a refusal that needs no event.
        """

    def hold(self, size: int) -> None:
        """So many bytes more are held, or fewer. Raises `LimitError` past the session's bound."""

    def odd(self, what: str) -> None:
        """The worker's side broke the wire."""


class Flow:
    """One direction of one call: messages put together, judged and passed on."""

    def __init__(self, pair: Pair, source: Peer, sink: Peer, most: int) -> None:
        self._pair = pair
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
        self._pair.judge.hold(len(data))
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
                self._pair.judge.hold(-len(piece))
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
        self._pair.judge.hold(-(self._have + sum(map(len, self._out))))
        self._parts.clear()
        self._out.clear()
        self._have, self._owed, self.over = 0, 0, True


class Call:
    """One call, between its stream of the asking side and that of the answering one."""

    def __init__(self, pair: Pair, stream: int, method: Method, headers: Headers) -> None:
        self._pair = pair
        self.method = method
        self._headers = headers
        self.stream = stream
        self.answer_stream = 0
        self.up = Flow(pair, pair.asking, pair.answering, pair.judge.request_bytes)
        self.up.source_stream = stream
        self.down = Flow(pair, pair.answering, pair.asking, pair.judge.answer_bytes)
        self.down.sink_stream = stream
        self.ticket: Ticket | None = None
        self._request: memoryview | None = None
        self.gone = False
        """It has ended, on one way or another."""
        self.begun = False
        """Whether headers of an answer were passed."""

    def requested(self, message: memoryview) -> None:
        """One message of the asking side. Raises `BridgeholdError`."""
        if self.method.streams:
            self.up.put(message)
            return
        if self.up.messages > 1:
            raise ProtocolError(f"{self.method.name} takes one message")
        self._request = message

    def request_ended(self) -> None:
        """The asking side has said all. Raises `BridgeholdError`."""
        self.up.finish()
        if not self.method.streams:
            if self._request is None:
                raise ProtocolError(f"{self.method.name} takes one message")
            self._pair.judge.judge(self, self._request[rpc.PREFIX :])

    def let_through(self, ticket: Ticket | None = None) -> None:
        """It was decided: the answering side gets it. `ticket` is told how it ends."""
        if self.gone:
            if ticket is not None:
                ticket.broken("cancelled before it ran")
            return
        self.ticket = ticket
        peer = self._pair.answering
        try:
            self.answer_stream = peer.h2.get_next_available_stream_id()
            peer.h2.send_headers(self.answer_stream, self._headers)
        except H2Error:
            self.answer_stream = 0
            self.fail(rpc.UNAVAILABLE, "no further call fits in this connection")
            return
        self._pair.by_answer[self.answer_stream] = self
        self.up.sink_stream = self.down.source_stream = self.answer_stream
        if self._request is not None:
            self.up.put(self._request)
            self._request = None
        self.up.pump()
        self._pair.flush()

    def refuse(self, error: BridgeholdError, rule: str = "") -> None:
        """It doesn't pass: the asking side reads why."""
        message = f"{error.code}: {error.message}" + (f" ({error.hint})" if error.hint else "")
        self.fail(rpc.status_of(error), message, rule=rule, event=error.event)

    def fail(self, status: int, message: str, *, rule: str = "", event: str = "") -> None:
        """End it on both sides."""
        if self.gone:
            return
        told = rpc.refusal(status, message, rule=rule, event=event)
        h2 = self._pair.asking.h2
        with contextlib.suppress(H2Error):
            h2.send_headers(self.stream, told[2:] if self.begun else told, end_stream=True)
            if not self.up.finished:
                h2.reset_stream(self.stream, ErrorCodes.NO_ERROR)
        self._cancel_answer()
        self.end(message)
        self._pair.flush()

    def cancelled(self, code: int) -> None:
        """The asking side has left."""
        self._cancel_answer()
        self.end(f"cancelled ({code})")

    def _cancel_answer(self) -> None:
        if self.answer_stream:
            with contextlib.suppress(H2Error):
                self._pair.answering.h2.reset_stream(self.answer_stream, ErrorCodes.CANCEL)

    def end(self, why: str = "") -> None:
        """Forget it. `why`: it never got its status."""
        if self.gone:
            return
        self.gone = True
        if self._request is not None:
            self._pair.judge.hold(-len(self._request))
            self._request = None
        if not self.up.over:
            self._cancel_answer()
            if self.begun and not self.up.finished:
                with contextlib.suppress(H2Error):
                    self._pair.asking.h2.reset_stream(self.stream, ErrorCodes.NO_ERROR)
        self.up.drop()
        self.down.drop()
        self._pair.forget(self)
        if self.ticket is not None and why:
            self.ticket.broken(why)

    def finish_answer(self, trailers: Headers) -> None:
        """The answering side has said all. Raises `ProtocolError`."""
        found = dict(trailers)
        self.down.finish(trailers)
        status = found.get("grpc-status", "")
        if self.ticket is not None:
            code = int(status) if status.isascii() and status.isdigit() and len(status) < 4 else 2
            self.ticket.ended(code, found.get("grpc-message", ""))
            self.ticket = None


class Peer:
    """One of the two connections: bytes in, events; frames, bytes out."""

    def __init__(self, *, client: bool) -> None:
        config = H2Configuration(client_side=client, header_encoding="utf-8")
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
                SettingCodes.MAX_FRAME_SIZE: _FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MOST_HEADERS,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self.h2.max_inbound_frame_size = _FRAME  # what the settings that go out allow
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self.link: Link | None = None

    def flush(self) -> None:
        """Send what is to be sent."""
        if self.link is not None and (data := self.h2.data_to_send()):
            self.link.write(data)


class Pair:
    """The two connections, and the calls between them. `on_end` is called once, when either has ended."""

    def __init__(self, judge: Judge, on_end: Callable[[Pair], None]) -> None:
        self.judge = judge
        self._on_end = on_end
        self.asking, self.answering = Peer(client=False), Peer(client=True)
        self.by_stream: dict[int, Call] = {}
        self.by_answer: dict[int, Call] = {}
        self.closed = False

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
        for call in list(self.by_stream.values()):
            (call.down if peer is self.asking else call.up).pump()
            if call.down.over and not call.gone:
                call.end()
        self.flush()

    def feed(self, peer: Peer, data: bytes) -> None:
        """Bytes that came from one of the two."""
        if self.closed:
            return
        try:
            events = peer.h2.receive_data(data)
        except H2Error as error:
            self._break(peer, f"{type(error).__name__}: {error}"[:200])
            return
        except (ValueError, KeyError, IndexError) as error:  # a parser's own defect ends its sender alone
            self._break(peer, f"{type(error).__name__} over a frame")
            return
        for event in events:
            if peer is self.asking:
                self._asked(event)
            else:
                self._answered(event)
            if self.closed:
                return
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
            self._begin(event.stream_id, _plain(event.headers))
        elif isinstance(event, DataReceived):
            self._credit(self.asking, event.flow_controlled_length)
            if asked := self.by_stream.get(event.stream_id):
                self._guard(asked, lambda: self._requests(asked, event))
        elif isinstance(event, StreamEnded):
            if call := self.by_stream.get(event.stream_id):
                self._guard(call, call.request_ended)
                call.up.pump()
        elif isinstance(event, StreamReset):
            if call := self.by_stream.get(event.stream_id):
                call.cancelled(int(event.error_code or 0))
        elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            self._pump(event, self.by_stream, lambda call: call.down)
        elif isinstance(event, ConnectionTerminated):
            self.close("the asking side has left")

    def _answered(self, event: Event) -> None:
        if isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            self._pump(event, self.by_answer, lambda call: call.up)
            return
        if isinstance(event, ConnectionTerminated):
            if not event.last_stream_id or event.error_code or not self.by_answer:
                self.close("the answering side has left")
            return
        if isinstance(event, DataReceived):
            self._credit(self.answering, event.flow_controlled_length)
        call = self.by_answer.get(getattr(event, "stream_id", None) or 0)
        if call is None:
            return
        if isinstance(event, ResponseReceived):
            self._guard(call, lambda: self._head(call, event))
        elif isinstance(event, DataReceived):
            self._guard(call, lambda: self._answers(call, event))
        elif isinstance(event, TrailersReceived):
            self._guard(call, lambda: call.finish_answer(_passed(_plain(event.headers))))
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
        call = Call(self, stream, method or Method(name=path[:200], session=False), _forwarded(headers))
        self.by_stream[stream] = call
        if unknown:
            self.judge.judge(call, None)
        elif len(self.by_stream) > _MOST_STREAMS:
            call.refuse(BusyError(f"{_MOST_STREAMS} calls are in flight on this connection"))
        elif found.get("grpc-encoding", "identity") != "identity":
            call.refuse(UnsupportedError("a compressed call"))
        elif call.method.streams:
            self._guard(call, lambda: self.judge.judge(call, None))

    def _requests(self, call: Call, event: DataReceived) -> None:
        for message in call.up.take(event.data, event.flow_controlled_length):
            call.requested(message)
        call.up.pump()

    def _answers(self, call: Call, event: DataReceived) -> None:
        for message in call.down.take(event.data, event.flow_controlled_length):
            if call.ticket is not None:
                call.ticket.answered(message[rpc.PREFIX :])
            call.down.put(message)
        call.down.pump()

    def _head(self, call: Call, event: ResponseReceived) -> None:
        headers = _passed(_plain(event.headers))
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

    def _pump(self, event: Event, calls: dict[int, Call], flow: Callable[[Call], Flow]) -> None:
        stream = getattr(event, "stream_id", None) or 0
        chosen = [calls[stream]] if stream in calls else [] if stream else list(calls.values())
        for call in chosen:
            flow(call).pump()
            if call.down.over and not call.gone:
                call.end()

    def _credit(self, peer: Peer, size: int) -> None:
        if size:
            with contextlib.suppress(H2Error):
                peer.h2.increment_flow_control_window(size)

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


def _plain(headers: Iterable[tuple[str | bytes, str | bytes]] | None) -> Headers:
    return [(_text(name), _text(value)) for name, value in headers or ()]


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def _forwarded(headers: Headers) -> Headers:
    """A request's, as the answering side gets them."""
    found = dict(headers)
    kept = [(name, value) for name, value in headers if not name.startswith(":") and name not in _HOP]
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", found.get(":path", "")),
        (":authority", "localhost"),
        ("te", "trailers"),
        *kept,
    ]


def _passed(headers: Headers) -> Headers:
    """An answer's, as the asking side gets them."""
    return [(name, value) for name, value in headers if name not in _HOP]
