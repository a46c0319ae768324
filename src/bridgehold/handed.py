"""Descriptors that come in beside a message: closed by every `exec`, and waited for only where that is meant.

The standard library's `socket.recv_fds` takes flags and drops them (Python 3.11 and before).
"""

from __future__ import annotations

import array
import socket

NOW = socket.MSG_DONTWAIT
"""Raise `BlockingIOError` where nothing has come."""


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int], int]:
    """A message of at most `size` bytes, at most `most` descriptors, the caller's from now on, and the flags.

    Raises `OSError`.
    """
    found = array.array("i")
    room = socket.CMSG_LEN(most * found.itemsize)  # with `CMSG_SPACE` another one may fit in
    data, beside, said, _ = sock.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, given in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(given[: len(given) - len(given) % found.itemsize])
    return data, list(found), said
