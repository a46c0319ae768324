"""The watchdog: what stands in for a cgroup where there is none (weakening ``no_cgroup``).

It finds a session's processes with psutil, adds up what they use, and says when that is over a cap.
Ending the session is the caller's part. It samples, so it can be outrun: see `cgroups.none`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import psutil

from bridgehold.sandbox.values import Resources, Usage

_KILL_PASSES = 50
_MAX_DESCRIPTORS = 4096
_MEMFD = "/memfd:"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What a session used at one moment."""

    memory_bytes: int = 0
    processes: int = 0
    """Processes and threads, as the pids controller would count them."""
    cpu_us: int = 0


class Tree:
    """The processes of one session: those added, their descendants, and descendants that lost their parent.

    A process is known by pid and start time, so a recycled number is not taken for it. Inside a pid
    namespace orphans fall to its init and stay descendants; outside one, an orphan is known if any
    look saw it before its parent ended.
    """

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def add(self, pid: int) -> None:
        """A process that belongs to the tree by birth; one that has ended is no error."""
        with contextlib.suppress(psutil.Error):
            self._known[pid] = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """Those that live, by pid."""
        self._known = {pid: one for pid, one in self._known.items() if _lives(one)}
        for one in list(self._known.values()):
            with contextlib.suppress(psutil.Error):
                for child in one.children(recursive=True):
                    if child.pid not in self._known and _lives(child):
                        self._known[child.pid] = child
        return [self._known[pid] for pid in sorted(self._known)]

    def pids(self) -> list[int]:
        """The pids of the tree now."""
        return [one.pid for one in self.processes()]

    def kill(self) -> None:
        """Stop, then SIGKILL, until no pass finds a process that is new."""
        done: set[int] = set()
        for _ in range(_KILL_PASSES):
            found = [one for one in self.processes() if one.pid not in done]
            if not found:
                break
            for one in found:  # what is stopped can't fork away from the next pass
                _send(one, signal.SIGSTOP)
            done.update(one.pid for one in found)
        for one in self.processes():
            _send(one, signal.SIGKILL)


class Watchdog:
    """Samples of one session against its caps. Counts what a cgroup would have counted."""

    def __init__(self, tree: Tree, resources: Resources) -> None:
        self.tree = tree
        self._resources = resources
        self._peak = 0
        self._cpu: dict[int, int] = {}
        self._over_memory = 0
        self._over_processes = 0

    def over(self) -> bool:
        """Sample; true from the first sample that is over a cap on."""
        usage = self.usage()
        if usage.memory_bytes > self._resources.memory_bytes:
            self._over_memory = 1
        if usage.processes > self._resources.processes:
            self._over_processes = 1
        return bool(self._over_memory or self._over_processes)

    def usage(self) -> Usage:
        """A sample, with what is remembered of the earlier ones."""
        living = self.tree.processes()
        sample = _sample(living, self._resources.memory_bytes, self._cpu)
        self._peak = max(self._peak, sample.memory_bytes)
        return Usage(
            cpu_us=sample.cpu_us,
            memory_bytes=sample.memory_bytes,
            memory_peak_bytes=self._peak,
            processes=sample.processes,
            oom_kills=self._over_memory,
            pids_denied=self._over_processes,
        )


def _sample(living: list[psutil.Process], cap: int, cpu: dict[int, int]) -> Sample:
    """Resident memory summed; where that is over `cap`, again with shared pages counted once.

    The first sum is cheap and too high (forks share pages); the second reads every mapping. Pages of
    memory files that a process holds open are added: nobody needs to map them. `cpu` remembers the
    cpu time of processes that have ended since.
    """
    memory = threads = 0
    for one in living:
        with contextlib.suppress(psutil.Error):
            with one.oneshot():
                memory += one.memory_info().rss
                threads += one.num_threads()
                times = one.cpu_times()
            cpu[one.pid] = int((times.user + times.system) * 1_000_000)
    files = _memory_files(living)
    if memory + files > cap:
        memory = sum(_proportional(one) for one in living)
    return Sample(memory_bytes=memory + files, processes=threads, cpu_us=sum(cpu.values()))


def _proportional(one: psutil.Process) -> int:
    try:
        return int(one.memory_full_info().pss)
    except psutil.AccessDenied:  # the sum that is too high is the safe one
        with contextlib.suppress(psutil.Error):
            return int(one.memory_info().rss)
    except psutil.Error:
        pass
    return 0


def _memory_files(living: list[psutil.Process]) -> int:
    """Bytes in the memory files (memfd) that these processes hold open, each file once."""
    found: dict[int, int] = {}
    for one in living:
        with contextlib.suppress(OSError):
            for entry in sorted(Path(f"/proc/{one.pid}/fd").iterdir())[:_MAX_DESCRIPTORS]:
                with contextlib.suppress(OSError):
                    if str(entry.readlink()).startswith(_MEMFD):
                        seen = entry.stat()
                        found[seen.st_ino] = seen.st_blocks * 512
    return sum(found.values())


def _lives(one: psutil.Process) -> bool:
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _send(one: psutil.Process, number: signal.Signals) -> None:
    """A signal by pidfd, after a look that the number still means this process."""
    with contextlib.suppress(OSError, psutil.Error):
        descriptor = os.pidfd_open(one.pid)
        try:
            if one.is_running():
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
