"""The few kernel calls that Python lacks, typed; each raises `OSError` with what was tried.

Those that the inside needs too are in `inner.kernel`, and passed on here.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

from bridgehold.sandbox.inner.kernel import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    CapabilityHead,
    CapabilityWord,
    check,
    close_all_but,
    drop_capabilities,
    prctl,
    setns,
)

__all__ = [
    "PR_SET_DUMPABLE",
    "PR_SET_NO_NEW_PRIVS",
    "close_all_but",
    "drop_capabilities",
    "exits_are_told",
    "known_facts",
    "load_filter",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "prctl",
    "ptrace",
    "ptrace_call",
    "ptrace_word",
    "raise_capabilities",
    "setns",
    "signalfd",
    "umount",
    "unshare",
    "wait_status",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 4096, 16384, 1 << 18, 1 << 19
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 1 << 20
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 17, 24, 0x4206, 0x4207
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 1 << 0, 1 << 7, 1 << 20
_PTRACE_PEEKDATA, _PTRACE_GET_SYSCALL_INFO = 2, 0x420E
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_CACHED = 0x08, 0x10, 0x20

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442  # one number on every architecture
_AT_STATX_DONT_SYNC, _STATX_BASIC = 0x4000, 0x7FF
_AT_EMPTY_PATH, _AT_RECURSIVE, _AT_FDCWD = 0x1000, 0x8000, -100
_OPEN_TREE_CLONE, _MOVE_MOUNT_FROM_EMPTY_PATH = 1, 4

_SIGSET_BYTES = 128
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _BPF_BYTES = 22, 2, 8
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def unshare(flags: int) -> None:
    """unshare(2). Raises `OSError`."""
    check(_libc.unshare(flags), f"unshare {flags:#x}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2). Raises `OSError`."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    check(result, f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises `OSError`."""
    check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def open_tree(descriptor: int) -> int:
    """A copy of the mounts at `descriptor`, with all below it, that stands nowhere yet."""
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE | _OPEN_TREE_CLONE | os.O_CLOEXEC
    return check(int(_libc.syscall(_OPEN_TREE, descriptor, b"", flags)), "open_tree")


def mount_setattr(tree: int, attributes: int, propagation: int, userns: int = 0) -> None:
    """Give every mount of `tree` these (all of them, or none)."""
    wanted = _MountAttributes(attributes, 0, propagation, userns)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    check(int(_libc.syscall(_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(wanted), size)), "mount_setattr")


def move_mount(tree: int, target: str) -> None:
    """Attach the detached mount `tree` at `target`. Raises `OSError`."""
    result = _libc.syscall(
        _MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_FROM_EMPTY_PATH
    )
    check(int(result), f"mount {target}")


def openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    """A descriptor of `path`, resolved as `resolve` says (such as RESOLVE_BENEATH of `folder`)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    result = _libc.syscall(
        _OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    return check(int(result), f"open {path}")


class Facts(NamedTuple):
    """What the kernel knows of a file."""

    mode: int
    uid: int
    device: int
    inode: int


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("links", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("inode", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 11),
        ("device_of", ctypes.c_uint32 * 2),
        ("device", ctypes.c_uint32 * 2),
        ("spare", ctypes.c_uint64 * 14),
    )


def known_facts(descriptor: int) -> Facts:
    """Of an open file, without a word to its file system, which may not answer."""
    seen = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    check(_libc.statx(descriptor, b"", flags, _STATX_BASIC, ctypes.byref(seen)), "statx")
    return Facts(int(seen.mode), int(seen.uid), os.makedev(*seen.device), int(seen.inode))


def raise_capabilities() -> None:
    """Put what is permitted into effect again, after a change of the effective uid took it out."""
    head, words = CapabilityHead.own(), (CapabilityWord * 2)()
    check(_libc.capget(ctypes.byref(head), words), "capget")
    for word in words:
        word.effective = word.permitted
    check(_libc.capset(ctypes.byref(head), words), "capset")


def ptrace(request: int, pid: int, data: int = 0) -> None:
    """ptrace(2) with address 0. Raises `OSError`."""
    result = _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), ctypes.c_long(0), ctypes.c_long(data))
    check(result, f"ptrace {request:#x}")


def signalfd(number: int) -> int:
    """A descriptor that is readable while the signal `number`, which is blocked, waits for this process."""
    wanted = (1 << number - 1).to_bytes(_SIGSET_BYTES, "little")  # x86-64's and arm64's order
    return check(int(_libc.signalfd(-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)), "signalfd")


class _CallInfo(ctypes.Structure):
    _fields_ = (
        ("entering_or_leaving", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number_or_result", ctypes.c_int64),
        ("arguments", ctypes.c_uint64 * 6),
    )


def ptrace_call(pid: int) -> tuple[bool, int, tuple[int, ...]]:
    """The call at which a tracee stands: whether it enters it, its number (or, as it leaves, its result), and
    its arguments (as it enters). Raises `OSError`."""
    info = _CallInfo()
    size, place = ctypes.c_long(ctypes.sizeof(info)), ctypes.byref(info)
    check(_libc.ptrace(ctypes.c_long(_PTRACE_GET_SYSCALL_INFO), ctypes.c_long(pid), size, place), "ptrace")
    return info.entering_or_leaving == 1, info.number_or_result, tuple(info.arguments)


def ptrace_word(pid: int, address: int) -> int:
    """Four bytes of a tracee's memory, as a signed number. Raises `OSError`."""
    peek = _libc.ptrace
    ctypes.set_errno(0)
    word = peek(ctypes.c_long(_PTRACE_PEEKDATA), ctypes.c_long(pid), ctypes.c_void_p(address), None)
    if ctypes.get_errno():
        check(-1, "ptrace peek")
    return int(word)  # ctypes takes of the long what C's int is


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(program: bytes) -> None:
    """Put a seccomp filter on this process, for good. It needs no-new-privs."""
    prog = _Program(len(program) // _BPF_BYTES, program)
    check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(prog), 0, 0), "seccomp")


class _PidfdInfo(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint64),
        ("cgroup", ctypes.c_uint64),
        ("numbers", ctypes.c_uint32 * 11),
        ("exit_code", ctypes.c_int32),
    )


def wait_status(pidfd: int) -> int | None:
    """The wait status of a process that ended and is somebody else's child.

    None before Linux 6.15, and until whose child it is has reaped it.
    """
    info = _PidfdInfo(mask=_PIDFD_INFO_EXIT)
    if _libc.ioctl(pidfd, ctypes.c_ulong(_PIDFD_GET_INFO), ctypes.byref(info)) < 0:
        return None
    return int(info.exit_code) if info.mask & _PIDFD_INFO_EXIT else None


def exits_are_told() -> bool:
    """Whether this kernel tells how somebody else's child ended. Raises `OSError`."""
    child = os.fork()
    if not child:
        os._exit(7)
    pidfd = -1
    try:
        pidfd = os.pidfd_open(child)
        os.waitpid(child, 0)
        return wait_status(pidfd) == 7 << 8
    finally:
        if pidfd >= 0:
            os.close(pidfd)
