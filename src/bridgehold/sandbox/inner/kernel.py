"""The kernel calls that both sides of a sandbox's border need and Python lacks.

The launcher uses them too (`bridgehold.sandbox.syscalls` passes them on), so that there is one copy.
Each raises `OSError` with what was tried.
"""

from __future__ import annotations

import ctypes
import os
import struct

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION = 0x20080522
_CAPABILITIES = 64
"""More than any kernel has: dropping one that there isn't fails, and that ends the loop."""
_CLOSE_RANGE = 436
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_PATH_BENEATH = 1
_LANDLOCK_MAKE_BLOCK, _LANDLOCK_REFER = 1 << 11, 1 << 13

_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)
"""The same, without letting go of the interpreter's lock."""


def check(result: int, what: str) -> int:
    """`result`, or `OSError` with the C library's error number where it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int) -> None:
    """prctl(2). Raises `OSError`."""
    check(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace behind `descriptor`. Raises `OSError`."""
    check(_libc.setns(descriptor, kind), f"setns {kind:#x}")


def bare_fork() -> int:
    """fork(2) without the interpreter's hooks: for a process with one thread, whose child lives for a moment.

    They cost a child of a large process the most of its time. What that child forks in turn by
    `os.fork` has them all.
    """
    return check(int(_python.fork()), "fork")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor above 2 that `keep` does not hold, whatever the limit of open files is."""
    low = 3
    for descriptor in [*sorted(number for number in keep if number > 2), 1 << 31]:
        if descriptor > low:
            last = ctypes.c_uint(descriptor - 1)
            check(int(_libc.syscall(_CLOSE_RANGE, ctypes.c_uint(low), last, 0)), "close_range")
        low = descriptor + 1


class CapabilityHead(ctypes.Structure):
    """The kernel's ``__user_cap_header_struct``."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    @classmethod
    def own(cls) -> CapabilityHead:
        """Of the calling process."""
        return cls(_CAPABILITY_VERSION, 0)


class CapabilityWord(ctypes.Structure):
    """The kernel's ``__user_cap_data_struct``."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_capabilities() -> None:
    """All of them, the bounding set first (that needs one), the ambient ones with the permitted."""
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    head, words = CapabilityHead.own(), (CapabilityWord * 2)()
    check(_libc.capset(ctypes.byref(head), words), "capset")


def enter_own_domain() -> None:
    """A Landlock domain of this process's own: what is outside of it can't be traced, nor its memory opened.

    It handles what a sandbox can't do anyway (block devices), and gives back what every domain takes
    (renames from one folder to another). Raises `OSError` where the kernel has no Landlock of
    version 2 (Linux 5.19).
    """
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if check(int(version), "landlock") < 2:
        raise OSError(f"landlock: version 2 is needed, this kernel has {version}")
    handled = struct.pack("=Q", _LANDLOCK_MAKE_BLOCK | _LANDLOCK_REFER)
    ruleset = check(
        int(_libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)), "landlock"
    )
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", _LANDLOCK_REFER, top)
        check(int(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)), "landlock")
        check(int(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)), "landlock")
    finally:
        os.close(top)
        os.close(ruleset)
