"""Admission (pure): what sessions may be promised together, and whether one more fits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bridgehold.errors import BusyError, UnsupportedError
from bridgehold.policies.units import format_size
from bridgehold.sandbox.values import Resources

_PROCESS_RESERVE = 8
"""One eighth of the machine's processes is never given to sessions."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions may use together. The parent cgroup enforces both numbers."""

    memory_bytes: int
    processes: int
    """Processes and threads."""


def capacity(
    *,
    total_bytes: int,
    memory_ceiling: int | None,
    reserve_bytes: int,
    total_processes: int,
    process_ceiling: int | None,
) -> Capacity:
    """What is left after the reserve of the smaller of machine and ceiling (pure).

    `memory_ceiling` and `process_ceiling`: what the cgroups above the parent allow; None: no limit.
    Raises `UnsupportedError` where the reserve leaves sessions nothing.
    """
    memory = min(total_bytes, memory_ceiling or total_bytes)
    processes = min(total_processes, process_ceiling or total_processes)
    if memory <= reserve_bytes:
        raise UnsupportedError(
            f"the reserve of {format_size(reserve_bytes)} leaves sessions nothing of the "
            f"{format_size(memory)} that this process may use",
            hint="Lower `[host] memory_reserve`, or give the service more memory (MemoryMax=).",
        )
    left = memory - reserve_bytes
    page = os.sysconf("SC_PAGE_SIZE")
    return Capacity(
        memory_bytes=left // page * page, processes=max(1, processes - processes // _PROCESS_RESERVE)
    )


def machine_capacity(
    *, reserve_bytes: int, memory_ceiling: int | None, process_ceiling: int | None
) -> Capacity:
    """`capacity` with this machine's own totals."""
    totals = []
    for name in ("pid_max", "threads-max"):
        try:
            totals.append(int(Path(f"/proc/sys/kernel/{name}").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return capacity(
        total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        memory_ceiling=memory_ceiling,
        reserve_bytes=reserve_bytes,
        total_processes=min(totals, default=32768),
        process_ceiling=process_ceiling,
    )


def admit(
    wanted: Resources, promised: Iterable[Resources], limits: Capacity, *, overcommit: bool = False
) -> None:
    """Nothing, or `BusyError` that names the numbers (pure).

    `overcommit` (a named weakening) admits sessions beyond the sum; the parent cgroup's cap stays,
    so the machine is safe and the sessions are not safe from each other. A session that is larger
    than the whole capacity is refused either way: its limit would be a lie.
    """
    for what, need, whole, show in (
        ("memory", wanted.memory_bytes, limits.memory_bytes, format_size),
        ("processes", wanted.processes, limits.processes, str),
    ):
        if need > whole:
            raise BusyError(
                f"a session of {show(need)} {what} never fits: all sessions together have {show(whole)}",
                hint=f"Lower `[limits] {what}` in the policy, or give the machine more.",
                retry="no",
            )
    if overcommit:
        return
    held = list(promised)
    memory = sum(one.memory_bytes for one in held)
    if memory + wanted.memory_bytes > limits.memory_bytes:
        raise BusyError(
            f"{format_size(wanted.memory_bytes)} of memory does not fit: {len(held)} sessions are promised "
            f"{format_size(memory)} of {format_size(limits.memory_bytes)}",
            hint="End sessions, lower `[limits] memory` or `[host] memory_reserve`, or name the weakening "
            "`overcommit` in the policy, with `[host] overcommit = true`.",
        )
    processes = sum(one.processes for one in held)
    if processes + wanted.processes > limits.processes:
        raise BusyError(
            f"{wanted.processes} processes do not fit: {len(held)} sessions are promised {processes} of "
            f"{limits.processes}",
            hint="End sessions, lower `[limits] processes`, raise the sysctl kernel.pid_max or the service's "
            "TasksMax=, or name the weakening `overcommit` in the policy, with `[host] overcommit = true`.",
        )
