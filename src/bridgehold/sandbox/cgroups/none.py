"""No cgroup (weakening ``no_cgroup``): rlimits, and a watchdog that adds up the session's processes.

Weaker, and the audit says so: memory is sampled and not charged, so a session may be over its cap
for as long as one sample takes; there is no cpu quota; a fork bomb is bounded by RLIMIT_NPROC and
by the next sample. What holds all the same: a session over its caps dies, and nothing of it stays.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from bridgehold.errors import InternalError, UnsupportedError
from bridgehold.sandbox.aside import Aside
from bridgehold.sandbox.cgroups import owned
from bridgehold.sandbox.cgroups.admission import Capacity, machine_capacity
from bridgehold.sandbox.limits.watchdog import Seen, Tree, Watchdog
from bridgehold.sandbox.values import Resources, TenantShare, Usage

_LOOK_SECONDS, _LATE_SECONDS = 0.1, 2.0
"""Between looks; and after which a child that looks is given up, with what it has said."""


class Parent:
    """Nothing is made on the machine; only admission holds sessions together back."""

    version: Literal["none"] = "none"
    weighs_io = False

    def __init__(self, *, reserve_bytes: int) -> None:
        self.capacity: Capacity = machine_capacity(
            reserve_bytes=reserve_bytes, memory_ceiling=None, process_ceiling=None
        )
        self.capacity_bytes = self.capacity.memory_bytes
        self._leaves: list[Leaf] = []
        self._looking: Aside | None = None
        self._due = 0.0
        self.left: set[int] = set()
        """Children of ours that have nothing more to do, for the launcher to reap."""

    @property
    def looking(self) -> set[int]:
        """The child that takes samples, while there is one."""
        return {self._looking.child} if self._looking is not None else set()

    def look(self) -> None:
        """Take over what a child has seen of every session, and have one look again. Never waits.

        Raises `OSError` where there can be no child now.
        """
        leaves = {leaf.path: leaf for leaf in self._leaves if not leaf.removed}
        now = time.monotonic()
        if self._looking is not None:
            try:
                if self._looking.advance() is None and now < self._due + _LATE_SECONDS:
                    return
            except InternalError:  # it was killed, or had no memory: another looks
                pass
            whole, _, _ = self._looking.so_far().rpartition(b"\n")
            self.left.add(self._looking.close())
            self._looking = None
            for line in whole.splitlines():
                path, seen = msgspec.json.decode(line, type=tuple[str, Seen])
                if path in leaves:
                    leaves[path].learn(seen)
        if leaves and now >= self._due:
            self._due = now + _LOOK_SECONDS
            for leaf in leaves.values():
                leaf.meet()
            self._looking = Aside(lambda: _samples(leaves))

    def create(
        self, name: str, resources: Resources, *, tenant: str, share: TenantShare | None = None
    ) -> Leaf:
        """A leaf without a cgroup: its processes are found and counted by a watchdog. `tenant` and `share`
        are admission's alone: nothing here adds up what a tenant's sessions use."""
        self._leaves = [leaf for leaf in self._leaves if not leaf.removed]
        leaf = Leaf(owned.leaf_name(name), resources)
        self._leaves.append(leaf)
        return leaf

    def share_out(self, tenant: str, share: TenantShare) -> None:
        """As `create` says."""

    def carry_cells(self) -> None:
        """Nothing weighs anything here."""

    def tidy(self) -> None:
        """Nothing is made, so nothing stays."""

    def sweep(self) -> list[str]:
        """Nothing outlives its launcher here but processes, which die with their parent."""
        return []

    def close(self) -> None:
        """Let go of every leaf."""
        if self._looking is not None:
            self.left.add(self._looking.close())
            self._looking = None
        for leaf in self._leaves:
            if not leaf.removed:
                leaf.kill()
                leaf.remove()


class Leaf:
    """One session's processes: the child that entered, and everything that descends from it."""

    def __init__(self, name: str, resources: Resources) -> None:
        self.path = f"none:{name}"
        self.removed = self.left_over = False
        self._watchdog = Watchdog(Tree(), resources)
        self.entered, self._entry = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """Where the child that entered says so, until it was heard."""

    def enter(self) -> None:
        """In the forked child: say which process this session begins with."""
        os.write(self._entry, f"{os.getpid()}\n".encode())

    def entries(self, uid: int) -> list[int]:
        """None: there is no cgroup to enter."""
        return []

    def take(self, pid: int) -> None:
        """Always raises `UnsupportedError`."""
        raise UnsupportedError("without a cgroup nothing can be forked from a zygote")

    def weigh(self, times: int) -> None:
        """Always raises `UnsupportedError`."""
        raise UnsupportedError("without a cgroup nothing weighs more than another")

    def limit_processes(self, count: int) -> None:
        """Always raises `UnsupportedError`."""
        raise UnsupportedError("without a cgroup no zygote can be watched")

    def holds(self, pid: int) -> bool:
        """Whether the watchdog sees `pid` in the session's tree."""
        return pid in self.processes()

    def oom_fd(self) -> int | None:
        """There is nothing to poll: the owner calls `over` a few times a second."""
        return None

    def over(self) -> bool:
        """Whether a sample so far was over a cap, and the session must be ended now."""
        return self._watchdog.over

    def sample(self) -> Seen:
        """Take one. It takes as long as the session makes it take: for a child, see `Parent.look`."""
        return self._watchdog.sample()

    def learn(self, seen: Seen) -> None:
        """A child has taken one."""
        self._watchdog.learn(seen)

    def account(self) -> list[int]:
        """None: the kernel counts nothing here."""
        return []

    def usage(self) -> Usage:
        """As `SessionCgroup.usage`, by the watchdog's last sample."""
        return self._watchdog.last

    def lift(self) -> None:
        """No quota to lift."""

    def kill(self) -> None:
        """As `SessionCgroup.kill`, process by process."""
        self.meet()
        self._watchdog.tree.kill()

    def processes(self) -> list[int]:
        """The pids that the watchdog sees now."""
        self.meet()
        return self._watchdog.tree.pids()

    def remove(self) -> None:
        """Stop watching."""
        if not self.removed:
            self.removed = True
            os.close(self.entered)
            os.close(self._entry)

    def meet(self) -> None:
        """Take note of the child that entered. It writes its own pid, and only before it runs on."""
        if self.removed:
            return
        with contextlib.suppress(BlockingIOError):
            text = os.read(self.entered, 64)
            if text.count(b"\n") != 1:
                raise UnsupportedError("more than one process entered a session without a cgroup")
            self._watchdog.tree.add(int(text))


def _samples(leaves: Mapping[str, Leaf]) -> Iterator[bytes]:
    """In the child: what each uses, a line for each, in another order each time: one may keep it for ever."""
    for path, leaf in random.sample(list(leaves.items()), len(leaves)):
        with contextlib.suppress(OSError, UnsupportedError):
            yield msgspec.json.encode((path, leaf.sample())) + b"\n"
