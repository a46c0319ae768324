"""Runs a command under a filter that refuses calls of the kernel's, as an older one or a runtime would.

    without.py landlock|namespaces COMMAND ...

As root, so that nothing else changes: without privileges a filter needs `no_new_privs`, a restriction of its
own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

CLONE_NEWUSER = 0x10000000
CALLS = {
    "x86_64": {"clone": 56, "unshare": 272, "clone3": 435, "landlock": 444},
    "aarch64": {"clone": 220, "unshare": 97, "clone3": 435, "landlock": 444},
}[platform.machine()]
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
NUMBER, FIRST_ARGUMENT = 0, 16


def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction of a classic BPF program."""
    return struct.pack("=HBBI", code, yes, no, value)


def refuse(call: int, error: int) -> bytes:
    """`call` ends with `error`."""
    return step(LOAD, NUMBER) + step(JUMP_EQUAL, call, 0, 1) + step(RETURN, REFUSE | error)


def refuse_flag(call: int, flag: int, error: int) -> bytes:
    """`call` with `flag` in its first argument ends with `error`."""
    of_call = step(LOAD, NUMBER) + step(JUMP_EQUAL, call, 0, 3)
    return of_call + step(LOAD, FIRST_ARGUMENT) + step(JUMP_SET, flag, 0, 1) + step(RETURN, REFUSE | error)


def program(what: str) -> bytes:
    """The filter that takes `what` away (pure)."""
    if what == "landlock":
        parts = [refuse(CALLS["landlock"] + one, errno.ENOSYS) for one in range(3)]
    elif what == "namespaces":
        parts = [
            refuse(CALLS["clone3"], errno.ENOSYS),  # its flags lie in memory, where no filter reads
            refuse_flag(CALLS["clone"], CLONE_NEWUSER, errno.EPERM),
            refuse_flag(CALLS["unshare"], CLONE_NEWUSER, errno.EPERM),
        ]
    else:
        raise SystemExit(f"without: {what!r} is neither landlock nor namespaces")
    return b"".join(parts) + step(RETURN, ALLOW)


def main(what: str, command: list[str]) -> None:
    """Load, and become the command."""
    text = program(what)
    held = ctypes.create_string_buffer(text)
    fprog = struct.pack("=HxxxxxxQ", len(text) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(fprog)) != 0:
        raise SystemExit(f"without: the filter could not be loaded: {os.strerror(ctypes.get_errno())}")
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
