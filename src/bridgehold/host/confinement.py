"""What a cell gives up before it reads a byte of its tenant's: the host's uid, capabilities, kernel calls.

It keeps what it has open. Files that it goes on to open it opens as the host's own uid does (its *file* uid,
which is for nothing else): so whose a file is doesn't depend on which cell has written it. Who may signal
and trace whom is judged by the other uids, which are its own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import landlock, syscalls
from bridgehold.sandbox.launch.seccomp import compile_filter
from bridgehold.sandbox.launch.seccomp_rules import JOIN, SURFACE, Argument, Rule

_PR_SET_KEEPCAPS = 8
_HOST = 0
"""The host's uid, as the namespace of cells shows it."""
_ASK = 0xFFFFFFFF
_CLONE_THREAD = 0x10000
RULES: tuple[Rule, ...] = (
    *SURFACE,
    JOIN,
    Rule(calls=("execve", "execveat"), why="a cell runs what it was forked with", answer=errno.EACCES),
    Rule(calls=("fork", "vfork"), why="a cell is one process"),
    Rule(
        calls=("clone",),
        why="a cell is one process: threads alone",
        when=(Argument(0, "masked_eq", 0, _CLONE_THREAD),),
    ),
    Rule(
        calls=("socket", "bind", "connect", "listen"),
        why="a cell's sockets are handed to it",
        answer=errno.EACCES,
    ),
    Rule(
        calls=("kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal", "pidfd_open"),
        why="a cell signals nobody",
    ),
    Rule(calls=("inotify_init", "inotify_init1"), why="counted for an account", answer=errno.ENOSYS),
    Rule(
        calls=("io_setup", "io_submit", "memfd_secret", "seccomp", "mq_open", "semget", "shmget", "msgget"),
        why="what a cell has no use for, and no cgroup counts",
        answer=errno.ENOSYS,
    ),
)
"""The filter of cells. Default: allow; what is named is refused. It is for good, and for each thread."""

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def prepared() -> bytes:
    """The filter, compiled once, in whoever forks cells."""
    return compile_filter(RULES)


def confine(uid: int, namespace: int, files: Iterable[tuple[Path, int]]) -> None:
    """From now on be `uid` of the user namespace (a descriptor, closed here; -1 each: stay as one is), have
    no privilege, open what `files` says (`landlock.restrict`) and nothing else, and make none of the calls of
    `RULES`.

    This process has one thread. Raises `UnsupportedError`, and then it must end.
    """
    try:
        if namespace >= 0:
            _become(uid, namespace)
        syscalls.drop_capabilities()
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if landlock.version():
            landlock.restrict(files)
        syscalls.load_filter(prepared())
    except OSError as error:
        raise UnsupportedError(f"a cell can't be confined: {error}") from error


def _become(uid: int, namespace: int) -> None:
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    syscalls.prctl(_PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    syscalls.raise_capabilities()
    _libc.setfsuid(ctypes.c_uint(_HOST))
    if _libc.setfsuid(ctypes.c_uint(_ASK)) != _HOST:
        raise UnsupportedError("a cell can't open files as the host does")
