"""The few kernel calls that Python lacks, typed; each raises `OSError` with what was tried."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08

_OPENAT2 = 437  # one number on every architecture
_CLOSE_RANGE = 436

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), f"setns {kind:#x}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    """A descriptor of `path`, resolved as `resolve` says (such as RESOLVE_BENEATH of `folder`)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    result = _libc.syscall(
        _OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    return _check(int(result), f"open {path}")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor above 2 that `keep` does not hold, whatever the limit of open files is."""
    low = 3
    for descriptor in [*sorted(number for number in keep if number > 2), 1 << 31]:
        if descriptor > low:
            last = ctypes.c_uint(descriptor - 1)
            _check(int(_libc.syscall(_CLOSE_RANGE, ctypes.c_uint(low), last, 0)), "close_range")
        low = descriptor + 1
