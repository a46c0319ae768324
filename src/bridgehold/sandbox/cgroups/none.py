"""No cgroup (weakening ``no_cgroup``): rlimits, and a watchdog that adds up a process tree with psutil.

Weaker, and the audit says so: memory is sampled, not charged, and a process that forks faster than
the samples is only bounded by RLIMIT_NPROC.
"""

from __future__ import annotations

import contextlib
import os
from typing import Literal

import psutil

from bridgehold.sandbox.cgroups import files
from bridgehold.sandbox.values import Resources, Usage


class Parent:
    version: Literal["none"] = "none"

    def __init__(self) -> None:
        self.capacity_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def create(self, name: str, resources: Resources) -> Leaf:
        return Leaf(name, resources)

    def sweep(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing was made."""


class Leaf:
    """The process tree below one bubblewrap, found by its monitor's pid."""

    def __init__(self, name: str, resources: Resources) -> None:
        self.path = f"none:{name}"
        self._resources = resources
        self._root: int | None = None
        self._peak = 0
        self._cpu_us = 0
        self._over = 0

    def enter(self) -> None:
        """Nothing to enter."""

    def holds(self, pid: int) -> bool:
        if self._root is None:
            self._root = pid
        return pid in self.processes()

    def oom_fd(self) -> int | None:
        return None

    def over(self) -> bool:
        """Sample, and say whether the tree is over its memory cap (the watchdog's question)."""
        usage = self.usage()
        if usage.memory_bytes > self._resources.memory_bytes:
            self._over += 1
        return self._over > 0

    def usage(self) -> Usage:
        total, cpu, count = 0, 0.0, 0
        for pid in self.processes():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                total += process.memory_info().rss
                times = process.cpu_times()
                cpu += times.user + times.system
                count += 1
        self._peak = max(self._peak, total)
        self._cpu_us = max(self._cpu_us, int(cpu * 1_000_000))
        return Usage(
            cpu_us=self._cpu_us,
            memory_bytes=total,
            memory_peak_bytes=self._peak,
            processes=count,
            oom_kills=self._over,
        )

    def lift(self) -> None:
        """No quota to lift."""

    def kill(self) -> None:
        files.kill_each(self.processes())

    def processes(self) -> list[int]:
        if self._root is None:
            return []
        try:
            root = psutil.Process(self._root)
            if root.status() == psutil.STATUS_ZOMBIE:
                return []
            return sorted({self._root, *(child.pid for child in root.children(recursive=True))})
        except psutil.Error:
            return []

    def remove(self) -> None:
        """Nothing was made."""
