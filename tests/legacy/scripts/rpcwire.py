"""gRPC over HTTP/2 on blocking sockets and threads: the least that a worker, and a BEAM, of these tests speak."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

STREAMED = "StreamTelemetry"
"""The call whose requests are a stream: `serve` gets an iterator of them."""
SERVICE = "/snakepit.bridge.BridgeService/"


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """One field: an integer, text, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def pair(number, key, value):
    """An entry of a map."""
    return field(number, field(1, key) + field(2, value))


def parse(data):
    """[(number, value)]."""
    found, place = [], 0

    def number():
        nonlocal place
        shift = value = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        tag = number()
        if tag & 7 == 0:
            found.append((tag >> 3, number()))
        else:
            size = number()
            found.append((tag >> 3, bytes(data[place : place + size])))
            place += size
    return found


def framed(message):
    return b"\0" + len(message).to_bytes(4, "big") + message


class Reply:
    """What came of one call."""

    def __init__(self):
        self.data = bytearray()
        self.headers = {}
        self.done = threading.Event()

    @property
    def status(self):
        return int(self.headers.get("grpc-status", -1))

    @property
    def messages(self):
        found, data = [], memoryview(bytes(self.data))
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append(bytes(data[5 : 5 + size]))
            data = data[5 + size :]
        return found


class Connection:
    """Either end of one connection; `serve(path, message)` yields the answers, and returns (status, text)."""

    def __init__(self, sock, *, client, serve=None):
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.room = threading.Condition()
        self.replies = {}
        self.serve = serve
        self.reading = True
        self.asked = {}
        self.feeds = {}
        self.closed = False
        self.gone = set()
        self.h2.initiate_connection()
        self.flush()
        threading.Thread(target=self.run, daemon=True).start()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def run(self):
        with contextlib.suppress(OSError):
            while data := self.sock.recv(65536):
                with self.room:
                    for event in self.h2.receive_data(data):
                        self.take(event)
                    self.flush()
                    self.room.notify_all()
        with self.room:
            self.closed = True
            self.room.notify_all()
        for reply in self.replies.values():
            reply.done.set()

    def take(self, event):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, RequestReceived):
            if dict(event.headers)[":path"] == SERVICE + STREAMED:
                self.feeds[stream] = [b"", queue.Queue()]
                arguments = (stream, STREAMED, iter(self.feeds[stream][1].get, None))
                threading.Thread(target=self.answer, args=arguments, daemon=True).start()
            else:
                self.asked[stream] = [dict(event.headers), bytearray()]
        elif isinstance(event, DataReceived):
            if stream in self.feeds:
                self.feed(self.feeds[stream], event.data)
            elif stream in self.asked:
                self.asked[stream][1] += event.data
            elif stream in self.replies:
                self.replies[stream].data += event.data
            if self.reading:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            self.replies[stream].headers.update(dict(event.headers))
        elif isinstance(event, StreamReset):
            self.asked.pop(stream, None)
            if stream in self.feeds:
                self.feeds.pop(stream)[1].put(None)
            self.gone.add(stream)
            if stream in self.replies:
                self.replies[stream].done.set()
        elif isinstance(event, ConnectionTerminated):
            self.closed = True
        elif isinstance(event, StreamEnded):
            if stream in self.feeds:
                self.feeds.pop(stream)[1].put(None)
            elif stream in self.asked:
                headers, data = self.asked.pop(stream)
                arguments = (stream, headers[":path"].removeprefix(SERVICE), bytes(data[5:]))
                threading.Thread(target=self.answer, args=arguments, daemon=True).start()
            elif stream in self.replies:
                self.gone.add(stream)  # what it answers before it was asked whole, it refuses
                self.replies[stream].done.set()

    def feed(self, feed, data):
        feed[0] += data
        while len(feed[0]) >= 5 and len(feed[0]) >= (size := 5 + int.from_bytes(feed[0][1:5], "big")):
            feed[1].put(feed[0][5:size])
            feed[0] = feed[0][size:]

    def answer(self, stream, name, message):
        with self.room:
            try:
                self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
                self.flush()
            except OSError:  # whoever asked has left
                return
        status, text = "0", ""
        try:
            for one in self.serve(name, message):
                self.send(stream, framed(one))
        except Exception as error:
            status, text = "2", f"{type(error).__name__}: {error}"
        with self.room, contextlib.suppress(Exception):
            self.h2.send_headers(stream, [("grpc-status", status), ("grpc-message", text)], end_stream=True)
            self.flush()

    def send(self, stream, data, *, end=False):
        data = memoryview(data)
        while data and stream not in self.gone:
            with self.room:
                if stream in self.gone:
                    return
                while not (size := min(self.h2.local_flow_control_window(stream), 16384, len(data))):
                    if self.closed or not self.room.wait(30):
                        raise OSError("no room")
                    if stream in self.gone:
                        return
                self.h2.send_data(stream, bytes(data[:size]), end_stream=end and size == len(data))
                self.flush()
            data = data[size:]

    def begin(self, name, *messages, path=None, end=True):
        """(stream, reply) of a call."""
        with self.room:
            stream = self.h2.get_next_available_stream_id()
            reply = self.replies[stream] = Reply()
            headers = [(":method", "POST"), (":scheme", "http"), (":path", path or SERVICE + name)]
            headers += [(":authority", "x"), ("te", "trailers"), ("content-type", "application/grpc")]
            self.h2.send_headers(stream, headers)
            self.flush()
        self.send(stream, b"".join(map(framed, messages)), end=end)
        return stream, reply

    def call(self, name, message=b"", seconds=30, **more):
        """The reply of a call, whole."""
        _, reply = self.begin(name, message, **more)
        if not reply.done.wait(seconds):
            raise TimeoutError(name)
        return reply

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def dial(port, serve=None):
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.settimeout(None)  # the bound is for the dialling: a connection may well be idle
    return Connection(sock, client=True, serve=serve)


LISTENERS = {}
"""By port."""


def listen(serve):
    """(port, the connections that come)."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = []

    def run():
        with contextlib.suppress(OSError):  # until it leaves
            while True:
                found.append(Connection(listener.accept()[0], client=False, serve=serve))

    threading.Thread(target=run, daemon=True).start()
    port = listener.getsockname()[1]
    LISTENERS[port] = listener
    return port, found


def leave(port, connections):
    """Nobody is there any more, as after the end of the process."""
    listener = LISTENERS.pop(port)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for one in connections:
        one.close()
