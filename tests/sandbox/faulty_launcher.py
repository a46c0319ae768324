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
        self.unregister, self.poll = real.unregister, real.poll


EPOLL = select.epoll
LAUNCHER = os.getpid()


def install(page: mmap.mmap) -> None:
    for (owner, name), number in STEPS.items():
        setattr(owner, name, faulty(page, name, getattr(owner, name), number))
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
