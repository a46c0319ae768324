"""What a session holds that no cgroup counts and no filter can refuse: locks of files, TCP connections.

Programs need both (SQLite, local servers), so neither is refused; but the kernel charges the locks to
nobody, nor a connection that waits to be accepted. So the launcher looks four times a second at the
kernel's own lists. While nothing grows that is two short reads for the whole machine. A session that
holds more than its bound is ended, as one that reached its memory cap is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest import parse_status
from bridgehold.sandbox.worker import Worker

MOST_LOCKS = 1024
MOST_CONNECTIONS = 2048
_LOOK_SECONDS = 0.25
_MAX_LOCKS_BYTES = 1 << 20
"""Of the list of locks: about 16,000. Reading costs the more the longer it is."""
_GROWTH = MOST_CONNECTIONS // 4
"""Of the machine's connections: with less since the last look at each, no session has passed its bound."""


def lock_owners(text: str) -> Counter[int]:
    """/proc/locks as the number of locks of each pid (pure). Waiters count too."""
    found: Counter[int] = Counter()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "->":
            del fields[1]
        if len(fields) > 5 and fields[4].isdigit():
            found[int(fields[4])] += 1
    return found


def tcp_sockets(text: str, name: str) -> int:
    """A number of sockstat's line on TCP (pure): ``inuse`` of the namespace, ``alloc`` of the machine."""
    for line in text.splitlines():
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

    def over(self, workers: Iterable[Worker], now: float) -> list[tuple[Worker, str]]:
        """Those that hold more than they may, and what."""
        self.due = now + _LOOK_SECONDS
        running = [worker for worker in workers if worker.running]
        return [*_by_locks(running), *self._by_connections(running)]

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


def _by_locks(running: list[Worker]) -> list[tuple[Worker, str]]:
    text = procfs.read("/proc/locks", most=_MAX_LOCKS_BYTES)
    owners = lock_owners(text)
    if owners.total() <= MOST_LOCKS:
        return []
    held: Counter[Worker] = Counter()
    for pid, count in owners.items():
        with contextlib.suppress(OSError):
            uid = int(parse_status(procfs.read(f"/proc/{pid}/status"))["Uid"].split()[0])
            candidates = [worker for worker in running if worker.uid == uid]
            held.update({worker: count for worker in candidates if worker.cgroup.holds(pid)})
    over = [worker for worker, count in held.items() if count > MOST_LOCKS]
    if not over and len(text) >= _MAX_LOCKS_BYTES:  # the rest can't be seen: whoever has the most makes room
        over = [worker for worker, _ in held.most_common(1)]
    return [(worker, f"{held[worker]} locks of files") for worker in over]
