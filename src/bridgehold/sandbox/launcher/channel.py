"""The launcher's end of the control socket: one datagram a request, answers queued and never waited for."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections import deque

import msgspec

from bridgehold import handed
from bridgehold.errors import DeniedError, UsageError
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.limits.shortage import shortage
from bridgehold.sandbox.values import SandboxSpec, TenantShare

_PAUSE_SECONDS = 0.001
_FROM = 2
"""``SCM_CREDENTIALS``."""
_CREDENTIALS = struct.Struct("3i")
_FULL = 64
"""Answers not taken yet, from which on no further request is read."""


class ChannelClosedError(Exception):
    """Its peer is gone, or sends what is no request: nobody is left to answer."""


class Channel:
    """Non-blocking. Descriptors handed to `send` are closed here, sent or not."""

    def __init__(self, sock: socket.socket, *, tenant: str = "") -> None:
        """`tenant`: of a cell's channel, whom all that it starts is for; empty: the host's own."""
        sock.setblocking(False)
        self._socket = sock
        self.tenant = tenant
        self.share: TenantShare | None = None
        """Of a cell's tenant, as the host said it last."""
        self._allowed: dict[str, tuple[requests.Way, ...]] = {}
        """By bridge."""
        self._given: list[int] = []
        self.sender = 0
        """The process that a cell's last request came from."""
        self.leaf: SessionCgroup | None = None
        """Where a cell's process is, once it has asked for that."""
        self.uid = -1
        """Of a cell: its own; none where it shares the host's."""
        self.again_at = 0.0
        """Monotonic time from which a worker of its that was attested may be looked at once more."""
        self.process = -1
        """A pidfd of a cell's process, once it has asked to enter."""
        if tenant:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._socket.fileno() < 0

    @property
    def connected(self) -> bool:
        """Whether its peer's end is open: of a cell, which alone has that, whether its process lives."""
        poller = select.poll()
        poller.register(self._socket, 0)
        return not poller.poll(0)

    @property
    def whole(self) -> bool:
        """Whether it is the host's own, which may ask for everything."""
        return not self.tenant

    def allow(self, bridge: str, ways: tuple[requests.Way, ...], share: TenantShare | None) -> None:
        """This cell may start these sandboxes for `bridge`, and nothing else."""
        self.share = share if share is not None else self.share
        self._allowed.pop(bridge, None)
        if ways:
            self._allowed[bridge] = ways

    def demand(self, spec: SandboxSpec) -> None:
        """Raise `DeniedError` where `spec` is not what the host has allowed here."""
        if self.whole:
            return
        allowed = self._allowed.get(spec.bridge, ())
        # At which port of its own loopback its worker calls back is its worker's matter.
        order = requests.way_of(msgspec.structs.replace(spec, callback_port=0))
        if spec.tenant != self.tenant or not any(
            order.digest == way.digest
            and 0 < order.memory_bytes <= way.memory_bytes
            and 0 < order.cpu_millis <= way.cpu_millis
            for way in allowed
        ):
            raise DeniedError(
                f"the launcher has no order of the host's for this sandbox of a cell of {self.tenant[:64]!r}",
                hint="A cell that asks for what was not granted to it is not sound; end it.",
            )

    def take_descriptor(self) -> int:
        """The one that came with the last request. Raises `UsageError` where there is none."""
        if not self._given:
            raise UsageError("a channel's descriptor is missing")
        return self._given.pop()

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
        _close(self._given)
        self._given = []
        try:
            data = self._receive()
        except BlockingIOError:
            return None
        except OSError as error:
            if shortage(error):  # it is asked for again; the peer has done nothing
                time.sleep(_PAUSE_SECONDS)
                return None
            raise ChannelClosedError from error
        if not data:
            raise ChannelClosedError
        kinds = requests.Request if self.whole else requests.OfCell
        try:
            request: requests.Request = msgspec.json.decode(data, type=kinds)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            who = "the host" if self.whole else f"a cell of {self.tenant[:64]!r}"
            sys.stderr.write(f"launcher: a request that is none; {who} is not sound\n")
            raise ChannelClosedError from error
        return request

    def _receive(self) -> bytes:
        """A datagram. Descriptors are taken of the host alone: a cell's are dropped by the kernel."""
        if not self.whole:
            room = socket.CMSG_SPACE(_CREDENTIALS.size)
            data, beside, _, _ = self._socket.recvmsg(requests.MAX_DATAGRAM, room)
            self.sender = sum(_CREDENTIALS.unpack(said)[0] for _, kind, said in beside if kind == _FROM)
            return data
        data, self._given, _ = handed.receive(self._socket, requests.MAX_DATAGRAM, 1)
        return data

    def send(self, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        """Queue, and send what goes; nothing, once it is closed. Raises `ChannelClosedError`."""
        if self.closed:
            _close(descriptors or [])
            return
        try:
            said = encode(answer)
        except BaseException:
            _close(descriptors or [])
            raise
        self._queue.append((said, descriptors or []))
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
        _close(self._given)
        self._given = []
        self._socket.close()


def encode(said: msgspec.Struct) -> bytes:
    """As JSON, whatever its texts are made of: one that can't be said as it is must not end the launcher."""
    try:
        return msgspec.json.encode(said)
    except UnicodeEncodeError:
        return msgspec.json.encode(_sayable(msgspec.to_builtins(said)))


def _sayable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
