"""What cells are forked from: a process that has imported all of a cell, and holds nothing of any tenant.

It is itself a fork of the host's process, from before that has read a tenant's byte or opened a loop. The
host asks with one datagram and seven descriptors, and gets a pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable

import msgspec

from bridgehold import handed
from bridgehold.errors import HostUnavailableError
from bridgehold.hardening import harden

FORK = b"fork"
_FORKED = b"forked"
_ENDS = 7
"""A cell's configuration, its ends of link, launcher's, keeper's and journal's channel, entrance, and what it
has opened; an eighth is a user namespace."""
_REAP_SECONDS = 5.0

RunCell = Callable[[list[int], int], int]
"""(descriptors, the template's pid) → exit status."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A template, as the host has it."""

    sock: socket.socket
    pidfd: int


def begin(run_cell: RunCell, warm: Callable[[], None], close: Iterable[int]) -> Begun:
    """Fork the template. Returns the host's end; the template itself, and its cells, never return.

    `run_cell`: given the descriptors of configuration, link, launcher, keeper, journal, entrance,
    what is opened for it, and namespace.
    `warm`: does what each cell does, for none: what that leaves in memory no cell has to itself.
    `close`: descriptors of the host's that are no cell's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host = os.getpid()
    if child := os.fork():
        theirs.close()
        return Begun(sock=ours, pidfd=os.pidfd_open(child))
    status = 1
    try:
        ours.close()
        for descriptor in close:
            if descriptor >= 0:
                os.close(descriptor)
        warm()
        gc.collect()
        gc.freeze()  # what a cell would otherwise copy by merely counting references
        status = _serve(theirs, run_cell, host)
    finally:
        os._exit(status)


def _serve(sock: socket.socket, run_cell: RunCell, host: int) -> int:
    """Until the host is gone. In a cell: its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end is the host's
    harden(parent=host, last=signal.SIGKILL)
    own = os.getpid()
    while True:
        if not select.select([sock], [], [], _REAP_SECONDS)[0]:
            _reap()
            continue
        said, given, _ = handed.receive(sock, len(FORK), _ENDS + 1)
        if not said:
            return 0
        child = -1
        try:
            child = os.fork() if said == FORK and len(given) >= _ENDS else -1
            if child == 0:
                sock.close()
                return run_cell(given, own)
            _answer(sock, child)
        except OSError as error:  # the machine's shortage: this cell is not begun, and others are
            if child > 0:
                os.kill(child, signal.SIGKILL)
            sock.send(str(error.strerror).encode())
        for descriptor in given:
            os.close(descriptor)
        _reap()


def _answer(sock: socket.socket, child: int) -> None:
    """The cell's pidfd. It is not reaped before the next turn: no other process has its number."""
    if child < 0:
        sock.send(b"too few descriptors came in")
        return
    pidfd = os.pidfd_open(child)
    try:
        socket.send_fds(sock, [_FORKED], [pidfd])
    finally:
        os.close(pidfd)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class Template:
    """The host's end."""

    def __init__(self, begun: Begun) -> None:
        begun.sock.setblocking(False)
        self._socket = begun.sock
        self._pidfd = begun.pidfd
        self._turn = asyncio.Lock()

    async def gone(self) -> None:
        """Returns once it has ended: there are no cells any more, and none can begin."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)

    async def fork(self, ends: list[int]) -> int:
        """A cell with these descriptors (closed here); its pidfd. Raises `HostUnavailableError`."""
        loop = asyncio.get_running_loop()
        try:
            async with self._turn:
                socket.send_fds(self._socket, [FORK], ends)
                while True:
                    try:
                        said, given, _ = handed.receive(self._socket, 4_096, 1)
                        break
                    except BlockingIOError:
                        readable = asyncio.Event()
                        loop.add_reader(self._socket, readable.set)
                        try:
                            await readable.wait()
                        finally:
                            loop.remove_reader(self._socket)
        except OSError as error:
            raise HostUnavailableError(f"no cell can be begun: {error.strerror}", retry="later") from error
        finally:
            for descriptor in ends:
                os.close(descriptor)
        if said == _FORKED and given:
            return given[0]
        reason = said.decode(errors="replace") or "what they are forked from is gone"
        raise HostUnavailableError(f"no cell can be begun: {reason}", retry="later")
