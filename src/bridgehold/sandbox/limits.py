"""rlimits: a second layer beside the cgroup, and the first where there is none (weakening ``no_cgroup``)."""

from __future__ import annotations

import resource

from bridgehold.sandbox.values import Resources

_MEMLOCK_BYTES = 64 * 1024


def rlimits(resources: Resources, *, as_limit: bool) -> dict[int, int]:
    """Resource number → value (pure). `as_limit`: address space too, which breaks V8, WASM and torch."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: resources.open_files,
        resource.RLIMIT_FSIZE: resources.file_size_bytes,
        resource.RLIMIT_MEMLOCK: _MEMLOCK_BYTES,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_NICE: 0,
    }
    if as_limit:
        limits[resource.RLIMIT_AS] = 4 * resources.memory_bytes
    # Per kernel uid: the session's own processes and bubblewrap's two.
    limits[resource.RLIMIT_NPROC] = resources.processes + 4
    return limits


def apply_rlimits(resources: Resources, *, as_limit: bool) -> None:
    """Set them hard, in a forked child before its uid changes."""
    for number, value in rlimits(resources, as_limit=as_limit).items():
        resource.setrlimit(number, (value, value))
