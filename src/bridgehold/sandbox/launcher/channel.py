"""The launcher's end of the control socket: one datagram a request, answers queued and never waited for."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque

import msgspec

from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.limits.shortage import shortage

_PAUSE_SECONDS = 0.001
_FULL = 64
"""Answers not taken yet, from which on no further request is read."""


class ChannelClosedError(Exception):
    """The host is gone, or sends what is no request: nobody is left to answer."""


class Channel:
    """Non-blocking. Descriptors handed to `send` are closed here, sent or not."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether so much waits that the peer's requests are left unread."""
        return len(self._queue) >= _FULL

    def receive(self) -> requests.Request | None:
        """The next request; None where there is none now. Raises `ChannelClosedError`."""
        try:
            data = self._socket.recv(requests.MAX_DATAGRAM)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosedError from error
        if not data:
            raise ChannelClosedError
        try:
            request: requests.Request = msgspec.json.decode(data, type=requests.Request)
        except (msgspec.MsgspecError, ValueError) as error:
            sys.stderr.write("launcher: a request that is none; the host is not sound\n")
            raise ChannelClosedError from error
        return request

    def send(self, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        """Queue, and send what goes. Raises `ChannelClosedError`."""
        self._queue.append((_encode(answer), descriptors or []))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises `ChannelClosedError`."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                return
            except OSError as error:
                if shortage(error):  # the kernel has no memory for it now; the socket may well be writable
                    time.sleep(_PAUSE_SECONDS)
                    return
                raise ChannelClosedError from error
            self._queue.popleft()
            _close(descriptors)

    def close(self) -> None:
        """Close the socket, and the descriptors that were not sent."""
        while self._queue:
            _close(self._queue.popleft()[1])
        self._socket.close()


def _encode(answer: requests.Answer) -> bytes:
    """Whatever its texts are made of: one that can't be said as it is must not end the launcher."""
    try:
        return msgspec.json.encode(answer)
    except UnicodeEncodeError:
        return msgspec.json.encode(_sayable(msgspec.to_builtins(answer)))


def _sayable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
