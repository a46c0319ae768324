"""What a session holds that no cgroup counts and no filter can refuse: locks of files, TCP connections.

Programs need both (SQLite, local servers), so neither is refused; but the kernel charges the locks to
nobody, nor a connection that waits to be accepted. So the launcher looks four times a second at the
kernel's own lists. While nothing grows that is two short reads for the whole machine. A session that
holds more than its bound is ended, as one that reached its memory cap is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest.observe import parse_status
from bridgehold.sandbox.launcher.worker import Worker

MOST_LOCKS = 1024
MOST_CONNECTIONS = 2048
_LOOK_SECONDS = 0.25
_MAX_LOCKS_BYTES = 1 << 20
"""Of the list of locks: about 16,000. Reading costs the more the longer it is."""
_FEW_LOCKS = MOST_LOCKS // 4
"""With no more, a session is not ended for a list that others made long, and none is looked for."""
_MOST_READS = 500
"""Of descriptors at each look: some five milliseconds."""
_MAX_FDINFO = 1 << 17
"""Of one descriptor's: its locks come first, and what an epoll watches is long."""
_GROWTH = MOST_CONNECTIONS // 4
"""Of the machine's connections: with less since the last look at each, no session has passed its bound."""


Flock = tuple[str, str]
"""Who took it, who may be gone by now, and on which inode: as the kernel writes both."""


class Locks(NamedTuple):
    """What the kernel lists, waiters too."""

    owned: Counter[int]
    """pid → locks by `fcntl`: they end with that process."""
    flocks: Counter[Flock]
    """Locks by `flock`: they stay while anybody has the file open, whoever took them."""


def parse_locks(text: str) -> Locks:
    """/proc/locks, or the same lines of a descriptor's fdinfo (pure).

    The list is no snapshot: what others take while it is read shifts lines into view again. Two locks by
    `fcntl` of one process differ in their ranges, so a line that is there twice is one. (By `flock` not.)
    """
    found = Locks(Counter(), Counter())
    owned: set[tuple[str, ...]] = set()
    for line in procfs.lines(text):
        fields = line.removeprefix("lock:").split()
        if len(fields) > 5 and fields[1] == "->":
            del fields[1]
        if len(fields) > 5 and fields[4].isdigit():
            if fields[1] == "FLOCK":
                found.flocks[fields[4], fields[5]] += 1
            else:
                owned.add(tuple(fields[1:]))
    found.owned.update(int(fields[3]) for fields in owned)
    return found


def tcp_sockets(text: str, name: str) -> int:
    """A number of sockstat's line on TCP (pure): ``inuse`` of the namespace, ``alloc`` of the machine."""
    for line in procfs.lines(text):
        words = line.split()
        if words and words[0] in ("TCP:", "TCP6:") and name in words:
            return int(words[words.index(name) + 1])
    return 0


class Watch:
    """Ask `over` when `due`."""

    def __init__(self) -> None:
        self.due = 0.0
        """Monotonic time of the next look."""
        self._least = 0
        """The fewest connections of the machine since each session was looked at."""
        self._holders = _Holders()
        self._suspects: set[Worker] = set()

    def over(self, workers: Iterable[Worker], now: float) -> list[tuple[Worker, str]]:
        """Those that hold more than they may, and what."""
        self.due = now + _LOOK_SECONDS
        running = [worker for worker in workers if worker.running]
        return [*self._by_locks(running), *self._by_connections(running)]

    def _by_locks(self, running: list[Worker]) -> list[tuple[Worker, str]]:
        text = procfs.read("/proc/locks", most=_MAX_LOCKS_BYTES)
        locks = parse_locks(text)
        if locks.owned.total() + locks.flocks.total() <= MOST_LOCKS:
            return []
        held: Counter[Worker] = Counter()
        by_flock: Counter[Worker] = Counter()
        for pid, count in locks.owned.items():
            with contextlib.suppress(OSError):
                uid = int(parse_status(procfs.read(f"/proc/{pid}/status"))["Uid"].split()[0])
                candidates = [worker for worker in running if worker.uid == uid]
                held.update({worker: count for worker in candidates if worker.cgroup.holds(pid)})
        if locks.flocks.total() > _FEW_LOCKS:
            by_flock = self._holders.of(locks.flocks, running)
        sure = {worker for worker, count in held.items() if count > MOST_LOCKS}
        held.update(by_flock)
        seen = {worker for worker, count in held.items() if count > MOST_LOCKS}
        over = sure | (seen & self._suspects)
        self._suspects = seen  # some may have been listed twice: the next look confirms it
        if not over and len(text) >= _MAX_LOCKS_BYTES:
            # The rest can't be seen: whoever has the most makes room, unless that is nobody's flood.
            over = {worker for worker, count in held.most_common(1) if count > _FEW_LOCKS}
        return [(worker, f"{held[worker]} locks of files") for worker in over]

    def _by_connections(self, running: list[Worker]) -> list[tuple[Worker, str]]:
        total = tcp_sockets(procfs.read("/proc/net/sockstat"), "alloc")
        self._least = min(self._least, total)
        if total - self._least < _GROWTH:
            return []
        self._least = total
        held = ((worker, _connections(worker)) for worker in running)
        return [(worker, f"{count} TCP connections") for worker, count in held if count > MOST_CONNECTIONS]


def _connections(worker: Worker) -> int:
    """Of its network namespace, in every state that keeps memory."""
    count = 0
    for name in ("sockstat", "sockstat6"):
        with contextlib.suppress(OSError):
            text = procfs.read(f"/proc/{worker.start.running.init}/net/{name}")
            count += tcp_sockets(text, "inuse")
    return count


class _Holders:
    """Who has the files open that are locked by `flock`: a few descriptors of the sessions' at each look."""

    def __init__(self) -> None:
        self._known: dict[Flock, Worker] = {}
        self._walk: Iterator[tuple[Worker, str]] = iter(())

    def of(self, flocks: Counter[Flock], running: list[Worker]) -> Counter[Worker]:
        """The locks of each, as far as the walk has come."""
        walked = list(itertools.islice(self._walk, _MOST_READS))
        if not walked:
            self._known = {}
            self._walk = _descriptors(running)
            walked = list(itertools.islice(self._walk, _MOST_READS))
        for worker, path in walked:
            with contextlib.suppress(OSError):
                self._known.update(
                    dict.fromkeys(parse_locks(procfs.read(path, most=_MAX_FDINFO)).flocks, worker)
                )
        held: Counter[Worker] = Counter()
        for flock, count in flocks.items():
            holder = self._known.get(flock)
            if holder is not None and holder.running:
                held[holder] += count
        return held


def _descriptors(running: list[Worker]) -> Iterator[tuple[Worker, str]]:
    """The fdinfo of each descriptor, the largest tables first. Listed bit by bit: a table may be long."""
    tables: list[tuple[int, int, Worker]] = []
    for worker in running:
        for pid in worker.cgroup.processes():
            with contextlib.suppress(OSError):
                tables.append((int(parse_status(procfs.read(f"/proc/{pid}/status"))["FDSize"]), pid, worker))
    for _, pid, worker in sorted(tables, key=lambda table: table[:2], reverse=True):
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fdinfo") as entries:
            for entry in entries:
                yield worker, entry.path
