"""The journal's channels: one for each recorder, and an intake by which the host adds some for tenants.

No channel is waited for, and none can hold another up: each has buffers of its own, is read no further
while these are full, and has its turn in every group, with an equal share of it. What breaks the rules of
its channel ends that channel.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bridgehold import handed
from bridgehold.audit.recorders import Recorder
from bridgehold.errors import AuditError
from bridgehold.records import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP = 512
"""Most requests of one group: as long as it takes, everybody waits."""
GROUP_BYTES = 1024 * 1024
"""Of a group's requests; each channel has one at least."""
_READ = 1024 * 1024
_UNREAD = 8 * 1024 * 1024
"""Answers a channel may leave unread before nothing more is read from it."""
_TENANT_UNREAD = 1024 * 1024
_TENANT_RATE = 8 * 1024 * 1024
"""Bytes a second that are taken from a tenant's channel, beyond one second's that it may have at once."""
_MOST_CHANNELS = 4096
_MAX_OPENING = 4096
_MOST_TENANT = 256
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ENOBUFS})
"""What says nothing of the peer: it is tried again."""


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beside one stream socket: a channel for `tenant`; empty: another one of the host's own."""

    tenant: str = ""


class Channel:
    """One stream socket; bytes in, answers out, both bounded by not reading."""

    def __init__(self, sock: socket.socket, recorder: Recorder) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.recorder = recorder
        self.outgoing = bytearray()
        self.ended = False
        self._incoming = bytearray()
        self._unread = _TENANT_UNREAD if recorder.tenant else _UNREAD
        self._allowed = float(_TENANT_RATE)
        self._seen = time.monotonic()

    def read(self) -> None:
        """What there is to read, up to a bound; its end included."""
        try:
            data = self.socket.recv(_READ)
        except OSError as error:
            if error.errno in _PASSING:
                return
            data = b""
        self._incoming += data
        self.ended = not data

    def write(self) -> None:
        """As much of the answers as the socket takes. Who hears none any more may still have said something:
        that is read to its end."""
        try:
            del self.outgoing[: self.socket.send(self.outgoing)]
        except OSError as error:
            if error.errno not in _PASSING:
                self.outgoing.clear()

    @property
    def pending(self) -> bool:
        """Whether a complete request waits."""
        return wire.is_whole(self._incoming)

    def due(self) -> bool:
        """Whether one waits and its turn has come: a tenant's channel may have had its part for now."""
        if not self.pending:
            return False
        if not self.recorder.tenant:
            return True
        now = time.monotonic()
        self._allowed = min(self._allowed + (now - self._seen) * _TENANT_RATE, _TENANT_RATE)
        self._seen = now
        return self._allowed > 0

    def take(self, most: int, most_bytes: int) -> list[wire.Request]:
        """Up to so many requests; none where the bytes are no requests, which is a breach."""
        before = len(self._incoming)
        try:
            return list(wire.take_requests(self._incoming, most, most_bytes))
        except AuditError as error:
            self.recorder.broken = error.message
            return []
        finally:
            self._allowed -= before - len(self._incoming)

    def cut(self) -> None:
        """Nothing more is taken from it; what was answered still goes out, as far as it is read."""
        sys.stderr.write(f"bridgehold journal: {self.recorder.broken}; {self.recorder.owner} is cut off\n")
        self._incoming.clear()
        self.ended = True

    def mask(self) -> int:
        """What to poll for."""
        wanted = select.POLLOUT if self.outgoing else 0
        if not self.ended and len(self.outgoing) < self._unread and len(self._incoming) < 2 * wire.MAX_FRAME:
            wanted |= select.POLLIN
        return wanted


def turns(channels: Iterable[Channel]) -> list[tuple[Channel, list[wire.Request]]]:
    """One group: of each channel that has something to say its share, in the order of `channels`."""
    due = [channel for channel in channels if channel.due()]
    share = max(1, GROUP // max(1, len(due)))
    share_bytes = GROUP_BYTES // max(1, len(due))
    return [(channel, channel.take(share, share_bytes)) for channel in due]


class Intake:
    """Where the host opens channels: SEQPACKET, one `Opening` and one descriptor each. Never answered: who
    was let in sees it on the channel. One that breaks its rules is closed, and the channels stay."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.ended = False
        self._opened = 0

    def receive(self, open_now: int) -> Channel | None:
        """The next channel, where there is one and it is let in. `open_now`: how many there are."""
        try:
            data, descriptors, flags = handed.receive(self.socket, _MAX_OPENING, 2)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data, descriptors, flags = b"", [], 0
        self.ended = not data
        try:
            return self._let_in(data, descriptors, flags, open_now) if data else None
        except OSError:
            return None  # for want of descriptors: its other end is told that it is closed
        except AuditError as error:
            sys.stderr.write(f"bridgehold journal: {error.message}; the intake is closed\n")
            self.ended = True
            return None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _let_in(self, data: bytes, descriptors: list[int], flags: int, open_now: int) -> Channel | None:
        try:
            opening = msgspec.json.decode(data, type=Opening)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise AuditError(f"no opening of a channel: {error}") from error
        if flags & socket.MSG_CTRUNC and not descriptors:
            return None  # there is no room for one here
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise AuditError("an opening of a channel that is too long")
        if len(descriptors) != 1 or len(opening.tenant) > _MOST_TENANT:
            raise AuditError("an opening of a channel has one descriptor and a tenant's name")
        if not _is_stream(descriptors[0]):
            raise AuditError("a channel that is no stream socket between two processes")
        if open_now >= _MOST_CHANNELS:
            return None  # closed again: its other end is told so
        self._opened += 1
        tenant = opening.tenant
        recorder = Recorder("tenant", tenant, self._opened) if tenant else Recorder("host")
        return Channel(socket.socket(fileno=os.dup(descriptors[0])), recorder)


def _is_stream(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
