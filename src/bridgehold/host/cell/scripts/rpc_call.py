"""One call between its streams of the asking and of the answering connection, and who decides on it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from bridgehold.bridges.legacy import rpc
from bridgehold.bridges.legacy.rpc import Method
from bridgehold.errors import BridgeholdError, ProtocolError
from bridgehold.host.cell.scripts.rpc_flow import Flow
from bridgehold.host.cell.scripts.rpc_peer import Headers, Peer, cost


class Ticket(Protocol):
    """A call that was let through and is to be told of at its end."""

    def answered(self, message: bytes) -> None:
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


class Between(Protocol):
    """The two connections that a call passes between."""

    judge: Judge
    asking: Peer
    answering: Peer
    by_answer: dict[int, Call]

    def flush(self) -> None:
        """Both sides' frames go out."""

    def forget(self, call: Call) -> None:
        """It has ended."""


class Call:
    """One call, between its stream of the asking side and that of the answering one."""

    def __init__(self, pair: Between, stream: int, method: Method, headers: Headers) -> None:
        self._pair = pair
        self.method = method
        self._headers = headers
        self._held = 0
        """Bytes that are counted for them, until they are passed on."""
        self.stream = stream
        self.answer_stream = 0
        self.up = Flow(
            pair.judge.hold, pair.asking, pair.answering, min(method.most, pair.judge.request_bytes)
        )
        self.up.source_stream = stream
        self.down = Flow(
            pair.judge.hold, pair.answering, pair.asking, min(method.most, pair.judge.answer_bytes)
        )
        self.down.sink_stream = stream
        self.ticket: Ticket | None = None
        self._request: bytes | None = None
        self.gone = False
        """It has ended, on one way or another."""
        self.begun = False
        """Whether headers of an answer were passed."""

    def count_headers(self) -> None:
        """They wait for the decision as its message does. Raises `LimitError`."""
        self._held = cost(self._headers)
        self._pair.judge.hold(self._held)

    def _let_go(self) -> None:
        self._headers = []
        held, self._held = self._held, 0
        self._pair.judge.hold(-held)

    def requested(self, message: bytes) -> None:
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
            self._pair.judge.judge(self, memoryview(self._request))

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
        self._let_go()
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
        self._request = None
        self._let_go()
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
