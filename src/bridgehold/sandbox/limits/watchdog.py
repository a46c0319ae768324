"""The watchdog: what stands in for a cgroup where there is none (weakening ``no_cgroup``).

It finds a session's processes, adds up what they use, and says when that is over a cap. Ending the session
is the caller's part. It samples, so it can be outrun: see `cgroups.none`. How long a sample takes is a
session's to say (its processes, their mappings and descriptors), so a child of the launcher's takes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

from bridgehold.sandbox import procfs
from bridgehold.sandbox.values import Resources, Usage

_KILL_PASSES = 50
_MAX_DESCRIPTORS = 4096
_MEMFD = "/memfd:"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a look found, and what is to be remembered of it."""

    usage: Usage
    known: dict[int, int]
    """pid → start time, in ticks, of the processes that live."""
    cpu: dict[int, int]
    """pid → its microseconds of processor time, those of processes that have ended since too."""


class Tree:
    """The processes of one session: those added, their descendants, and descendants that lost their parent.

    A process is known by pid and start time, so a recycled number is not taken for it. Inside a pid
    namespace orphans fall to its init and stay descendants; outside one, an orphan is known if any
    look saw it before its parent ended.
    """

    def __init__(self) -> None:
        self.known: dict[int, int] = {}

    def add(self, pid: int) -> None:
        """A process that belongs to the tree by birth; one that has ended is no error."""
        with contextlib.suppress(OSError):
            self.known[pid] = procfs.start_time(pid)

    def pids(self) -> list[int]:
        """Those that live, by number. Takes as long as the session has processes and threads."""
        self.known = {pid: start for pid, start in self.known.items() if _lives(pid, start)}
        waiting = list(self.known)
        while waiting:
            with contextlib.suppress(OSError):
                for pid in procfs.children(waiting.pop()):
                    if pid not in self.known:
                        self.add(pid)
                        waiting.append(pid)
        self.known = {pid: start for pid, start in self.known.items() if _lives(pid, start)}
        return sorted(self.known)

    def kill(self) -> None:
        """Stop, then SIGKILL, until no pass finds a process that is new."""
        done: set[int] = set()
        for _ in range(_KILL_PASSES):
            found = [pid for pid in self.pids() if pid not in done]
            if not found:
                break
            for pid in found:  # what is stopped can't fork away from the next pass
                self._send(pid, signal.SIGSTOP)
            done.update(found)
        for pid in self.pids():
            self._send(pid, signal.SIGKILL)

    def _send(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            start = self.known[pid]
            descriptor = procfs.open_process(pid, lambda: _lives(pid, start))
            try:
                signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


class Watchdog:
    """Samples of one session against its caps. Counts what a cgroup would have counted."""

    def __init__(self, tree: Tree, resources: Resources) -> None:
        self.tree = tree
        self._resources = resources
        self._cpu: dict[int, int] = {}
        self.last = Usage(
            cpu_us=0, memory_bytes=0, memory_peak_bytes=0, processes=0, oom_kills=0, pids_denied=0
        )
        """The last sample, with what is remembered of the earlier ones."""

    @property
    def over(self) -> bool:
        """True from the first sample that was over a cap on."""
        return bool(self.last.oom_kills or self.last.pids_denied)

    def sample(self) -> Seen:
        """Look now. Takes as long as the session's processes make it take."""
        pids = self.tree.pids()
        memory, threads = _sample(pids, self._resources.memory_bytes, self._cpu)
        self.last = Usage(
            cpu_us=sum(self._cpu.values()),
            memory_bytes=memory,
            memory_peak_bytes=max(self.last.memory_peak_bytes, memory),
            processes=threads,
            oom_kills=int(self.last.oom_kills or memory > self._resources.memory_bytes),
            pids_denied=int(self.last.pids_denied or threads > self._resources.processes),
        )
        return Seen(usage=self.last, known=self.tree.known, cpu=self._cpu)

    def learn(self, seen: Seen) -> None:
        """Take over what a look of a child of ours has found."""
        self.last, self._cpu = seen.usage, seen.cpu
        for pid, start in seen.known.items():
            self.tree.known.setdefault(pid, start)


def _sample(pids: list[int], cap: int, cpu: dict[int, int]) -> tuple[int, int]:
    """(bytes, threads). Resident memory summed; where that is over `cap`, with shared pages counted once.

    The first sum is cheap and too high (forks share pages); the second reads every mapping. Pages of
    memory files that a process holds open are added: nobody needs to map them. `cpu` remembers the
    cpu time of processes that have ended since.
    """
    memory = threads = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = procfs.stat(pid)
            threads += int(fields[17])
            memory += int(fields[21]) * _PAGE
            cpu[pid] = (int(fields[11]) + int(fields[12])) * _TICK_US
    files = _memory_files(pids)
    if memory + files > cap:
        memory = sum(map(_proportional, pids))
    return memory + files, threads


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        try:
            text = procfs.read(f"/proc/{pid}/smaps_rollup")
        except PermissionError:  # the sum that is too high is the safe one
            return int(procfs.stat(pid)[21]) * _PAGE
        line = next((line for line in procfs.lines(text) if line.startswith("Pss:")), "Pss: 0")
        return int(line.split()[1]) * 1024
    return 0


def _memory_files(pids: list[int]) -> int:
    """Bytes in the memory files (memfd) that these processes hold open, each file once."""
    found: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in sorted(Path(f"/proc/{pid}/fd").iterdir())[:_MAX_DESCRIPTORS]:
                with contextlib.suppress(OSError):
                    if procfs.leads_to(entry).startswith(_MEMFD):
                        seen = entry.stat()
                        found[seen.st_ino] = seen.st_blocks * 512
    return sum(found.values())


def _lives(pid: int, start: int) -> bool:
    try:
        fields = procfs.stat(pid)
    except OSError:
        return False
    return int(fields[19]) == start and fields[0] not in "ZX"
