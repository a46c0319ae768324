"""What a session holds that no cgroup counts and no filter can refuse: locks of files, TCP connections.

Programs need both (SQLite, local servers), so neither is refused; but the kernel charges the locks to
nobody, nor a connection that waits to be accepted. So the launcher looks four times a second at the
kernel's own lists. While nothing grows that is two short reads for the whole machine. Where the locks are
many, a child of it looks whose they are: how long that takes is a session's to say. A session that holds
more than its bound is ended, as one that reached its memory cap is.

Nobody is ended for what others hold. A lock counts for a session by a fact that is that session's alone:
a living process of its cgroup took it (`fcntl`), its file system is nobody else's, or a descriptor of its
has it (`flock`). What is left is nobody's: a lock by `flock` that a mapping alone keeps, or a message on
its way. Each of these keeps an open file of its own, which the kernel charges to the session: with what
holds it, twice as much as the lock takes.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from bridgehold.errors import InternalError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.aside import Aside
from bridgehold.sandbox.attest.observe import parse_status
from bridgehold.sandbox.cgroups.none import Leaf as WatchedTree
from bridgehold.sandbox.launch.mounts import parse_mounts
from bridgehold.sandbox.launcher.worker import Worker

MOST_LOCKS = 1024
MOST_CONNECTIONS = 2048
_LOOK_SECONDS = 0.25
_SHORT_LIST = 1 << 17
"""Bytes of the list of locks, about 2,000: more than `MOST_LOCKS` of them."""
_LONG_LIST = 1 << 20
"""As far as the child reads it: about 16,000 locks. Reading costs the more the longer it is."""
_FEW_LOCKS = MOST_LOCKS // 4
"""With no more of them by `flock` on the machine, nobody's are looked for."""
_LATE_SECONDS = 60.0
"""A child that has not answered by then is given up: a process that it looks at may keep it for ever."""
_WALK_SECONDS = 2.0
"""Of the child's, for each session's descriptors: what there is no time for is seen at another look."""
MAX_FDINFO = 1 << 17
"""Bytes of one descriptor's: its locks come first, and what an epoll watches is long."""
MOST_LONG = 64
"""Descriptors of a session with more than that to say of them: each takes the kernel up to a second."""
_GROWTH = MOST_CONNECTIONS // 4
"""Of the machine's connections: with less since the last look at each, no session has passed its bound."""


Flock = tuple[str, str]
"""Who took it, who may be gone by now, and on which inode: as the kernel writes both."""
Owned = tuple[str, ...]
"""Kind, whether it binds, for what, pid, inode and range."""


class Locks(NamedTuple):
    """What the kernel lists, waiters too."""

    owned: set[Owned]
    """Locks by `fcntl`: they end with the process that took them, whose pid is the fourth word."""
    flocks: Counter[Flock]
    """Locks by `flock`: they stay while anybody has the file open, whoever took them."""

    @property
    def total(self) -> int:
        """Of both kinds."""
        return len(self.owned) + self.flocks.total()


def parse_locks(text: str) -> Locks:
    """/proc/locks, or the same lines of a descriptor's fdinfo (pure).

    The list is no snapshot: what others take while it is read shifts lines into view again. Two locks by
    `fcntl` of one process differ in their ranges, so a line that is there twice is one. (By `flock` not.)
    """
    found = Locks(set(), Counter())
    for line in procfs.lines(text):
        fields = line.removeprefix("lock:").split()
        if len(fields) > 5 and fields[1] == "->":
            del fields[1]
        if len(fields) > 5 and fields[4].isdigit():
            if fields[1] == "FLOCK":
                found.flocks[fields[4], fields[5]] += 1
            else:
                found.owned.add(tuple(fields[1:]))
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
        self.left: set[int] = set()
        """Children of ours that have nothing more to do, for the launcher to reap."""
        self._least = 0
        """The fewest connections of the machine since each session was looked at."""
        self._looking: Aside | None = None
        self._begun = self._rest = 0.0

    def over(self, workers: Iterable[Worker], now: float) -> list[tuple[Worker, str]]:
        """Those that hold more than they may, and what. Raises `OSError` where the machine is short."""
        self.due = now + _LOOK_SECONDS
        running = [worker for worker in workers if worker.running]
        return [*self._by_locks(running), *self._by_connections(running)]

    @property
    def children(self) -> set[int]:
        """Of ours, that look."""
        return {self._looking.child} if self._looking is not None else set()

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self.left.add(self._looking.close())
            self._looking = None

    def _by_locks(self, running: list[Worker]) -> list[tuple[Worker, str]]:
        if self._looking is None:
            now = time.monotonic()
            if now < self._rest:
                return []
            if parse_locks(procfs.read("/proc/locks", most=_SHORT_LIST)).total > MOST_LOCKS:
                self._begun = now
                trees = (worker.cgroup for worker in running)
                keep = [tree.entered for tree in trees if isinstance(tree, WatchedTree)]
                self._looking = Aside(lambda: _look(running), keep=keep)
            return []
        try:
            answer = self._looking.advance()
        except InternalError:  # it was killed, or had no memory: another will look
            answer = b"{}"
        if answer is None and time.monotonic() < self._begun + _LATE_SECONDS:
            return []
        answer = answer or b"{}"  # late: another will look
        self.close()
        self._rest = 2 * time.monotonic() - self._begun  # half of the time, where that is much
        found = msgspec.json.decode(answer, type=dict[str, str])
        return [(worker, found[worker.name]) for worker in running if worker.name in found]

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
            count += tcp_sockets(text, "inuse") if _still(worker) else 0
    return count


def _still(worker: Worker) -> bool:
    """Whether what was read under its init's number was read of it. Raises `OSError` where it is gone."""
    return procfs.start_time(worker.start.running.init) == worker.start.running.init_start


def _look(running: list[Worker]) -> bytes:
    """In the child: name → what it holds, of who holds too much at two looks. (What is taken and let go
    meanwhile is listed twice, now and then.)"""
    os.nice(10)
    found = _over(running)
    if found:
        again = _over(running)
        found = {worker: what for worker, what in again.items() if worker in found}
    return msgspec.json.encode({worker.name: what for worker, what in found.items()})


def _over(running: list[Worker]) -> dict[Worker, str]:
    text = procfs.read("/proc/locks", most=_LONG_LIST)
    locks, whole = parse_locks(text), len(text) < _LONG_LIST
    held = _takers(locks, running)
    found: dict[Worker, str] = {}
    if locks.flocks.total() > _FEW_LOCKS or not whole:
        owners = _owners(running)
        walks = {worker: _walk(worker) for worker in running}
        for worker, walk in walks.items():
            held[worker] = max(held[worker], len(walk.owned))  # whatever the list has no room for
            if walk.long > MOST_LONG:
                found[worker] = f"{walk.long} descriptors that nobody can look through"
        for (taker, inode), count in locks.flocks.items():
            owner = owners.get(inode.rpartition(":")[0])
            for worker, walk in walks.items() if owner is None else ():
                # The taker's number may be another's by now: no more than it has descriptors of them.
                held[worker] += min(count, walk.flocks[taker, inode])
            held.update({owner: count} if owner else {})
    return found | {worker: f"{count} locks of files" for worker, count in held.items() if count > MOST_LOCKS}


def _takers(locks: Locks, running: list[Worker]) -> Counter[Worker]:
    """Locks by `fcntl`, by the cgroup of the process."""
    held: Counter[Worker] = Counter()
    for pid, count in Counter(int(fields[3]) for fields in locks.owned).items():
        with contextlib.suppress(OSError):
            uid = int(parse_status(procfs.read(f"/proc/{pid}/status"))["Uid"].split()[0])
            candidates = [worker for worker in running if worker.uid == uid]
            held.update({worker: count for worker in candidates if worker.cgroup.holds(pid)})
    return held


def _owners(running: list[Worker]) -> dict[str, Worker]:
    """Device, as the list of locks writes it → the one sandbox that has it; nobody else does."""
    shown: dict[Worker, frozenset[str]] = {}
    for worker in running:
        try:
            shown[worker] = _devices(worker.start.running.init)
            shown[worker] = shown[worker] if _still(worker) else frozenset()
        except OSError:  # it has ended: what others have of it is not known to be theirs alone
            return {}
    shared = Counter(_devices("self"))
    for devices in shown.values():
        shared.update(devices)
    return {device: one for one, devices in shown.items() for device in devices if shared[device] == 1}


def _devices(pid: int | str) -> frozenset[str]:
    shown = parse_mounts(procfs.read(f"/proc/{pid}/mountinfo")).values()
    numbers = (map(int, seen.identity.device.split(":")) for seen in shown)
    return frozenset(f"{major:02x}:{minor:02x}" for major, minor in numbers)


class _Walk:
    """What the descriptors of one session's threads say of locks."""

    def __init__(self) -> None:
        self.owned: set[Owned] = set()
        self.flocks: Counter[Flock] = Counter()
        self.long = 0
        """Descriptors of which there is more to say than is read."""


def _walk(worker: Worker) -> _Walk:
    walk, until = _Walk(), time.monotonic() + _WALK_SECONDS
    with contextlib.suppress(OSError):
        for path in _descriptors(worker):
            with contextlib.suppress(OSError):
                text = procfs.read(path, most=MAX_FDINFO)
                seen = parse_locks(text)
                walk.long += len(text) >= MAX_FDINFO
                walk.flocks.update(seen.flocks)
                walk.owned |= seen.owned
            if walk.long > MOST_LONG or len(walk.owned) > MOST_LOCKS or time.monotonic() > until:
                break
    return walk


def _descriptors(worker: Worker) -> Iterator[str]:
    """The fdinfo of each, in no order that a session could choose: there may not be time for all."""
    tables: list[tuple[int, str]] = []
    for pid in worker.cgroup.processes():
        with contextlib.suppress(OSError):
            tables += ((pid, task) for task in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - names alone
    random.shuffle(tables)  # each thread may have a table of its own
    for pid, task in tables:
        with contextlib.suppress(OSError):
            folder = os.open(f"/proc/{pid}/task/{task}/fdinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if worker.cgroup.holds(pid):  # by a descriptor: its number may be another's in a moment
                    yield from (f"/proc/self/fd/{folder}/{name}" for name in os.listdir(folder))  # noqa: PTH208 - as above
            finally:
                os.close(folder)
