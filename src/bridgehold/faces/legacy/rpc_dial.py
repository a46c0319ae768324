"""The least of gRPC between a starter and its worker: calls of one message each way, small and bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast
from urllib.parse import unquote

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from bridgehold.bridges.legacy import rpc
from bridgehold.errors import ProtocolError

_MOST = 1 << 20
"""Bytes of one message."""
_MOST_CALLS = 100
"""Of one side, at once."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to."""

    status: int
    message: bytes = b""
    said: str = ""
    """Beside a status that isn't 0."""


class _Stream:
    def __init__(self, path: str, done: asyncio.Future[Reply] | None = None) -> None:
        self.path = path
        self.data = bytearray()
        self.headers: dict[str, str] = {}
        self.done = done


class Side(asyncio.Protocol):
    """One side of a connection. `serve` answers a call's name and message, where it is asked."""

    def __init__(self, serve: Callable[[str, bytes], bytes] | None = None) -> None:
        self._serve = serve
        self._h2 = H2Connection(H2Configuration(client_side=serve is None, header_encoding="utf-8"))
        self._streams: dict[int, _Stream] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """HTTP/2 begins."""
        self._transport = cast("asyncio.Transport", transport)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """Whoever waits is told."""
        self._transport = None
        for one in self._streams.values():
            self._end(one, "the connection has ended")
        self._streams.clear()

    def data_received(self, data: bytes) -> None:
        """Bytes of the other side's; broken ones end the connection."""
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
        except (H2Error, ProtocolError, ValueError, KeyError, IndexError):
            self.close()

    async def call(self, name: str, message: bytes) -> Reply:
        """One call. Raises `ProtocolError` where there is no connection."""
        if self._transport is None:
            raise ProtocolError("there is no connection")
        stream = self._h2.get_next_available_stream_id()
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._streams[stream] = _Stream(name, done)
        headers = [(":method", "POST"), (":scheme", "http"), (":path", rpc.SERVICE + name)]
        headers += [(":authority", "localhost"), ("te", "trailers"), ("content-type", "application/grpc")]
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, _framed(message), end_stream=True)
        self._flush()
        return await done

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(self._h2.data_to_send())

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            if len(self._streams) >= _MOST_CALLS:
                raise ProtocolError(f"more than {_MOST_CALLS} calls at once")
            self._streams[event.stream_id] = _Stream(_text(event.headers).get(":path", ""))
        elif isinstance(event, ConnectionTerminated):
            self.close()
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, (ResponseReceived, TrailersReceived)):
            stream.headers |= _text(event.headers)
        elif isinstance(event, DataReceived):
            stream.data += event.data
            if len(stream.data) > _MOST:
                raise ProtocolError(f"a message of more than {_MOST} bytes")
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            del self._streams[event.stream_id]
            if self._serve is None:
                self._end(stream)
            else:
                self._answer(event.stream_id, self._serve(_name(stream.path), _message(stream.data)))
        elif isinstance(event, StreamReset):
            del self._streams[event.stream_id]
            self._end(stream, "the call was given up")

    def _answer(self, number: int, message: bytes) -> None:
        with contextlib.suppress(H2Error):  # whoever asked may have left
            self._h2.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
            self._h2.send_data(number, _framed(message))
            self._h2.send_headers(number, [("grpc-status", "0")], end_stream=True)

    def _end(self, stream: _Stream, why: str = "") -> None:
        if stream.done is None or stream.done.done():
            return
        status = stream.headers.get("grpc-status", "")
        if why or not (status.isascii() and status.isdigit()):
            stream.done.set_result(Reply(status=rpc.UNAVAILABLE, said=why or "an answer without a status"))
            return
        said = unquote(stream.headers.get("grpc-message", ""))
        message = _message(stream.data) if stream.data else b""
        stream.done.set_result(Reply(status=int(status), message=message, said=said))


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(rpc.PREFIX - 1, "big") + message


def _message(data: bytearray) -> bytes:
    """The one message. Raises `ProtocolError`, `LimitError`."""
    if len(data) < rpc.PREFIX or rpc.head(bytes(data[: rpc.PREFIX]), _MOST) != len(data) - rpc.PREFIX:
        raise ProtocolError("not one message")
    return bytes(data[rpc.PREFIX :])


def _name(path: str) -> str:
    return path.removeprefix(rpc.SERVICE)


def _text(headers: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in cast("list[tuple[str, str]]", headers or [])}
