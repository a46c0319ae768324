"""Short turns on the processor for our own processes: they wake often, work briefly, and all sessions wait.

From Linux 6.12 on a process may ask for a slice of its own; a shorter one is served sooner when it wakes
beside processes that compute. Older kernels take the call and do nothing; nothing depends on it.
"""

from __future__ import annotations

import ctypes
import os
import platform

SLICE_NS = 100_000
"""The shortest that the kernel gives."""
_SETATTR = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK = 0x01


class _Attributes(ctypes.Structure):
    """``struct sched_attr``, its first 48 bytes."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def shorten(*, reset_on_fork: bool) -> bool:
    """Ask for the shortest slice for this process. `reset_on_fork`: what it starts gets the usual one.

    Whether the kernel took it; a refusal costs time and nothing else.
    """
    number = _SETATTR.get(platform.machine())
    if number is None:
        return False
    wanted = _Attributes(
        size=ctypes.sizeof(_Attributes),
        policy=os.SCHED_OTHER,
        flags=_RESET_ON_FORK if reset_on_fork else 0,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime=SLICE_NS,
    )
    return bool(ctypes.CDLL(None, use_errno=True).syscall(number, 0, ctypes.byref(wanted), 0) == 0)
