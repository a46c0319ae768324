"""What several checks do: act in a child, become a session's user, start a bare bubblewrap."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence

from bridgehold.sandbox.doctor.model import Context
from bridgehold.sandbox.launch import userns
from bridgehold.sandbox.launch.bwrap import find_bwrap

_BARE = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    *("--unshare-cgroup", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108 - inside
)
_SECONDS = 10


def in_child(act: Callable[[], int]) -> int:
    """`act`'s small number, or the errno of what it raised, from a forked child (-N: ended by signal N)."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(act())
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(254)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become(uid: int) -> None:
    """`uid` and nothing else: no groups, no way back."""
    if os.getuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def session_uid(context: Context) -> tuple[int, str]:
    """A uid that a session could have, and how it came about; may enter a user namespace.

    Call it in a check's own child only. Raises `UnsupportedError` where sessions would share a uid.
    """
    if os.getuid() == 0:
        return context.uid_first, f"reserved uid {context.uid_first}"
    ranges = userns.own_ranges()
    count = userns.enter(ranges)
    return 1, f"subordinate uid {ranges[0][0]} of {count}"


def bare_bwrap(
    command: Sequence[str], *, uid: int | None = None, options: Sequence[str] = (), keep: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """`command` (absolute path first) in all namespaces, the whole file system read-only, as `uid`."""
    other = uid is not None and uid != os.getuid()
    return subprocess.run(
        [find_bwrap(), *_BARE, *options, "--", *command],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        pass_fds=tuple(keep),
        user=uid if other else None,
        group=uid if other else None,
        extra_groups=[] if other else None,
    )


def syscall(number: int, *arguments: object) -> int:
    """A raw system call; raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def read(path: str) -> str:
    """The text of a small file of /proc or /sys; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - one short read
            return file.read(65536).strip()
    except OSError:
        return ""
