"""rlimits: a second layer beside the cgroup, and the first where there is none (weakening ``no_cgroup``).

`docs/reference/limits.md` says what the guest experiences at each.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping

from bridgehold.errors import UnsupportedError
from bridgehold.policies.model import GIB, KIB, MIB
from bridgehold.sandbox.values import Resources

_OWN_PROCESSES = 4
"""bubblewrap's two, and room for the change from one to the other."""
NO_CORES = 1
"""RLIMIT_CORE at which nothing comes of a crash: too small for a file, and never piped."""
_NAMES = {
    resource.RLIMIT_CORE: "RLIMIT_CORE",
    resource.RLIMIT_NOFILE: "RLIMIT_NOFILE",
    resource.RLIMIT_FSIZE: "RLIMIT_FSIZE",
    resource.RLIMIT_MEMLOCK: "RLIMIT_MEMLOCK",
    resource.RLIMIT_MSGQUEUE: "RLIMIT_MSGQUEUE",
    resource.RLIMIT_SIGPENDING: "RLIMIT_SIGPENDING",
    resource.RLIMIT_STACK: "RLIMIT_STACK",
    resource.RLIMIT_RTPRIO: "RLIMIT_RTPRIO",
    resource.RLIMIT_NICE: "RLIMIT_NICE",
    resource.RLIMIT_NPROC: "RLIMIT_NPROC",
    resource.RLIMIT_AS: "RLIMIT_AS",
}

_SHOWN = {
    resource.RLIMIT_CORE: "Max core file size",
    resource.RLIMIT_NOFILE: "Max open files",
    resource.RLIMIT_FSIZE: "Max file size",
    resource.RLIMIT_MEMLOCK: "Max locked memory",
    resource.RLIMIT_MSGQUEUE: "Max msgqueue size",
    resource.RLIMIT_SIGPENDING: "Max pending signals",
    resource.RLIMIT_STACK: "Max stack size",
    resource.RLIMIT_RTPRIO: "Max realtime priority",
    resource.RLIMIT_NICE: "Max nice priority",
    resource.RLIMIT_NPROC: "Max processes",
    resource.RLIMIT_AS: "Max address space",
}


def rlimits(resources: Resources, *, as_limit: bool) -> dict[int, int]:
    """Resource number → value, soft and hard alike (pure).

    `as_limit`: address space too. It counts what is reserved and never touched, and breaks V8, WASM
    and torch; so it is twice the memory and 1 GiB, only stops what is far off, and the watchdog
    counts what is really used.
    """
    limits = {
        resource.RLIMIT_CORE: NO_CORES,
        resource.RLIMIT_NOFILE: resources.open_files,
        resource.RLIMIT_FSIZE: resources.file_size_bytes,
        resource.RLIMIT_MEMLOCK: 64 * KIB,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 1024,
        resource.RLIMIT_STACK: 8 * MIB,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_NICE: 0,
        # Counted per kernel uid: right where a session has a uid of its own, and otherwise shared.
        resource.RLIMIT_NPROC: resources.processes + _OWN_PROCESSES,
    }
    if as_limit:
        limits[resource.RLIMIT_AS] = 2 * resources.memory_bytes + GIB
    return limits


def forbid_cores() -> None:
    """No core of this process and of what it starts, whatever ``kernel.core_pattern`` says.

    The kernel starts the handler behind a pipe at every limit but 1: 0 forbids files alone. A hard
    limit of 0 that this process found can't be raised without privilege, and stays.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (NO_CORES, NO_CORES))


def core_handler(pattern: str, limit: int) -> str:
    """What a crash at this RLIMIT_CORE reaches by ``kernel.core_pattern``; empty: nothing (pure)."""
    kind, named = pattern[:1], pattern[1:].strip()
    if kind == "@":  # Linux 6.16: whatever the limit is
        return f"the socket {named}"
    return f"the program {named}" if kind == "|" and limit != NO_CORES else ""


_SHARED = (
    resource.RLIMIT_NPROC,
    resource.RLIMIT_SIGPENDING,
    resource.RLIMIT_MEMLOCK,
)
"""Counted for the owner of a user namespace too, against the limit of whoever made it: sessions that
are forked from one zygote would starve each other."""


def lift_shared_rlimits() -> None:
    """As high as this process may, before it makes a user namespace that several sessions come from."""
    for number in _SHARED:
        _, hard = resource.getrlimit(number)
        try:
            resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            resource.setrlimit(number, (hard, hard))


def shown_rlimits(limits: Mapping[int, int]) -> dict[str, int]:
    """`limits` by their names in /proc/PID/limits (pure)."""
    return {_SHOWN[number]: value for number, value in limits.items()}


def own_rlimits(resources: Resources, *, as_limit: bool, shared_uid: bool, zygote: bool) -> dict[int, int]:
    """What a sandbox's processes are limited to (pure).

    `shared_uid` leaves RLIMIT_NPROC alone: sessions that share a uid (and the user's own programs)
    would starve each other. `zygote` leaves alone what counts for its forks too: each gets its own.
    """
    left = {resource.RLIMIT_NPROC} if shared_uid else set()
    left |= set(_SHARED) if zygote else set()
    limits = rlimits(resources, as_limit=as_limit)
    return {number: value for number, value in limits.items() if number not in left}


def apply_rlimits(limits: Mapping[int, int]) -> None:
    """Set them hard, in a forked child before its uid changes. `UnsupportedError` names what failed.

    A limit that is lower already stays.
    """
    for number, wanted in limits.items():
        _, hard = resource.getrlimit(number)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(number, (value, value))
        except (OSError, ValueError) as error:
            raise UnsupportedError(
                f"{_NAMES[number]} can't be set to {value} (uid {os.getuid()}): {error}"
            ) from error
