"""The launcher, real in everything, whose kernel is short of something at one step: ``faulty_launcher.py FILE …``.

FILE is a shared page: the number of the step that fails (0: none), how many steps were made, how often one
failed, and the name of the one that failed last. Helpers and children of the launcher's count in it too.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridgehold.sandbox import syscalls
from bridgehold.sandbox.cgroups import files
from bridgehold.sandbox.launcher import main as launcher

HEAD = struct.Struct("=iii32s")
PAGE = 4096
DEAF, MUTE = -1, -2
"""In the place of a step's number: what is ready can't be waited for at once, or not at all; no step fails."""
STEPS: dict[tuple[Any, str], int] = {
    (os, "pipe"): errno.ENFILE,
    (os, "open"): errno.EMFILE,
    (os, "read"): errno.ENOMEM,
    (os, "write"): errno.ENOMEM,
    (os, "listdir"): errno.EMFILE,
    (os, "scandir"): errno.EMFILE,
    (os, "fork"): errno.EAGAIN,
    (os, "pidfd_open"): errno.ENFILE,
    (os, "memfd_create"): errno.ENOMEM,
    (os, "mkdir"): errno.ENOSPC,
    (os, "setresuid"): errno.EAGAIN,
    (os, "execve"): errno.ENOMEM,
    (syscalls, "mount"): errno.ENOMEM,
    (syscalls, "unshare"): errno.ENOSPC,
    (syscalls, "setns"): errno.ENOMEM,
    (syscalls, "openat2"): errno.ENFILE,
    (syscalls, "open_tree"): errno.ENOSPC,
    (syscalls, "mount_setattr"): errno.ENOMEM,
    (syscalls, "move_mount"): errno.ENOMEM,
    (syscalls, "load_filter"): 524,
    (files, "write"): errno.ENOMEM,
    (socket, "socketpair"): errno.ENFILE,
    (socket, "send_fds"): errno.ETOOMANYREFS,
    (socket.socket, "listen"): errno.ENOBUFS,
    (socket.socket, "recvmsg"): errno.ENOMEM,
    (threading.Thread, "start"): -1,
}


ONCE = ("procfs.py", "files.py")
"""Modules that open what they read or write: one step, and not two."""


class Epoll:
    """The kernel's, with steps."""

    def __init__(self, page: mmap.mmap) -> None:
        real = EPOLL()
        self.register = faulty(page, "register", real.register, errno.ENOSPC)
        self.modify = faulty(page, "modify", real.modify, errno.ENOMEM)
        self.unregister = real.unregister
        self._page, self._poll = page, real.poll

    def poll(self, timeout: float | None, most: int) -> list[tuple[int, int]]:
        if HEAD.unpack_from(self._page)[0] in (DEAF, MUTE):
            raise OSError(errno.ENOMEM, "poll")
        return self._poll(timeout, most)


class EachByItself:
    """`select.poll`, which fails too where it is `MUTE`."""

    def __init__(self, page: mmap.mmap) -> None:
        real = EACH()
        self._page, self._poll = page, real.poll
        self.register, self.unregister, self.modify = real.register, real.unregister, real.modify

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        if HEAD.unpack_from(self._page)[0] == MUTE and os.getpid() == LAUNCHER:
            raise OSError(errno.ENOMEM, "poll")
        return self._poll(timeout)


EPOLL, EACH = select.epoll, select.poll
LAUNCHER = os.getpid()


def install(page: mmap.mmap) -> None:
    for (owner, name), number in STEPS.items():
        setattr(owner, name, faulty(page, name, getattr(owner, name), number))
    select.poll = lambda: EachByItself(page)  # type: ignore[assignment,misc]  # as the next
    select.epoll = lambda: Epoll(page)  # type: ignore[assignment,misc]  # its type can't be derived from


def faulty(page: mmap.mmap, name: str, real: Callable[..., Any], number: int) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        wanted, made, failed, _ = HEAD.unpack_from(page)
        told = os.getpid() != LAUNCHER  # a helper tells what has failed by writing
        again = name in ("read", "write") and (told or sys._getframe(1).f_code.co_filename.endswith(ONCE))
        if not wanted or again:
            return real(*arguments, **named)
        made += 1
        HEAD.pack_into(
            page, 0, wanted, made, failed + (made == wanted), name.encode() if made == wanted else _
        )
        if made != wanted:
            return real(*arguments, **named)
        if number < 0:
            raise RuntimeError("can't start new thread")
        raise OSError(number, f"{name}: {os.strerror(number)}")

    return step


def main() -> int:
    with Path(sys.argv.pop(1)).open("r+b") as file:
        install(mmap.mmap(file.fileno(), PAGE))
    return launcher.main()


if __name__ == "__main__":
    raise SystemExit(main())
