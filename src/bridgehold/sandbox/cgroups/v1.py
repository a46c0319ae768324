"""cgroup v1: a folder of the same name in each hierarchy that carries a limit, and in it a tenant's.

The parent goes below the cgroup that this process is in, so that whatever the operator set there
still holds, or at the hierarchy's root where that can't be. An ordinary user needs a sub-tree that
root has given away (chown) in all of memory, pids, cpu and cpuacct: `remedy.given_to`, or ``v1:/NAME``.

A v1 cgroup takes a process only from a writer who is root or has the process's uid: the child
enters by itself, before its uid changes. Kernel memory, tmpfs and memfd pages are charged to
``memory.limit_in_bytes`` with the rest; ``memsw`` at the same value leaves no swap. What TCP and UDP
hold has a count of its own, which the kernel keeps only for a cgroup that limits it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from bridgehold.errors import UnsupportedError
from bridgehold.policies.model import MIB
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups import files, owned, tenants
from bridgehold.sandbox.cgroups.admission import Capacity, machine_capacity
from bridgehold.sandbox.cgroups.leaves import Leaves
from bridgehold.sandbox.cgroups.places import Hierarchy, hierarchies, own_cgroups
from bridgehold.sandbox.cgroups.remedy import V1 as CONTROLLERS
from bridgehold.sandbox.cgroups.remedy import given_to, own_account
from bridgehold.sandbox.values import Resources, TenantShare, Usage

_PERIOD_US = 100_000
_TCP_MEM = Path("/proc/sys/net/ipv4/tcp_mem")
_SOCKET_PART, _LEAST_SOCKETS, _MOST_SOCKETS = 8, 4 * MIB, 32 * MIB
_UNTOLD_PART = 32
"""A kernel lets TCP have 3/32 of the memory; half of that would be the share."""
_TENANT_SOCKETS = 2
"""One tenant may have this part of what all have, and no more: a second finds as much."""


def open_parent(base: str, *, reserve_bytes: int, instance: str) -> Parent:
    """Make the instance's folder in each hierarchy, below `base` (relative to each) or where it may."""
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    own = own_cgroups(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
    mounted = {name: h for h in hierarchies(mountinfo, "v1") for name in h.controllers}
    missing = [name for name in CONTROLLERS if name not in mounted]
    if missing:
        raise UnsupportedError(f"no v1 hierarchy for {', '.join(missing)}")
    name = owned.folder_name(instance)
    made: dict[str, Path] = {}
    locks: list[int] = []
    try:
        for controller in CONTROLLERS:
            hierarchy = mounted[controller]
            shared = next((other for other in made if controller in mounted[other].controllers), None)
            if shared is not None:
                made[controller] = made[shared]
                continue
            places = candidates(hierarchy, own.get(controller, "/"), base, own_account())
            made[controller], lock = _make(places, name)
            locks.append(lock)
        return Parent(made, mounted, locks=locks, reserve_bytes=reserve_bytes)
    except BaseException:
        for folder in reversed(dict.fromkeys(made.values())):
            files.remove(folder)
        for lock in locks:
            os.close(lock)
        raise


def candidates(hierarchy: Hierarchy, own: str, base: str, uid: int) -> list[Path]:
    """Where the parent may go, best first (pure)."""
    if base:
        return [hierarchy.mount / base.lstrip("/")]
    below_own = hierarchy.folder(own)
    given = hierarchy.mount / given_to(uid)
    return list(dict.fromkeys(([below_own] if below_own is not None else []) + [given, hierarchy.mount]))


def _make(places: list[Path], name: str) -> tuple[Path, int]:
    reasons = []
    for place in places:
        try:
            return place / name, owned.claim(place / name)
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
    raise UnsupportedError(f"no folder can be made: {'; '.join(reasons)}", where=str(places[0]))


_SESSIONS_SHARES, _EQUAL_SHARES = 256, 1024
"""All sessions together against 1024 for each process beside them: the host answers under load."""


class Parent(Leaves["Leaf"]):
    """What all sessions of this instance share."""

    version: Literal["v1"] = "v1"
    weighs_io = False
    """What is written later than it was said is charged to nobody there."""

    def __init__(
        self, folders: dict[str, Path], mounted: dict[str, Hierarchy], *, locks: list[int], reserve_bytes: int
    ) -> None:
        self._folders = folders
        self._mounted = mounted
        self._locks = owned.Locks(locks)
        super().__init__(folders.values())
        memory, pids = folders["memory"], folders["pids"]
        self.capacity: Capacity = machine_capacity(
            reserve_bytes=reserve_bytes,
            memory_ceiling=files.lowest(memory.parent, mounted["memory"].mount, "memory.limit_in_bytes"),
            process_ceiling=files.lowest(pids.parent, mounted["pids"].mount, "pids.max"),
        )
        self.capacity_bytes = self.capacity.memory_bytes
        if files.number(memory / "memory.use_hierarchy") != 1:
            files.limit(memory / "memory.use_hierarchy", 1)
        _limit_memory(memory, self.capacity_bytes)
        self._sockets = min(self.capacity_bytes, _machines_sockets())
        _limit_sockets(memory, self._sockets)
        files.limit(pids / "pids.max", self.capacity.processes)
        files.limit(folders["cpu"] / "cpu.shares", _SESSIONS_SHARES)

    def sweep(self) -> list[str]:
        """What instances that are gone left in any hierarchy, ended and removed."""
        roots = dict.fromkeys(self._mounted[c].mount for c in CONTROLLERS)
        return owned.sweep([self._mounted["memory"].mount], roots, self._folders["memory"].name)

    def carry_cells(self) -> None:
        """As `CgroupParent.carry_cells`."""
        files.limit(self._folders["cpu"] / "cpu.shares", _EQUAL_SHARES)

    def _leaf(self, tenant: str, name: str) -> Leaf:
        folders = {controller: folder / tenant / name for controller, folder in self._folders.items()}
        return Leaf(folders, {c: self._mounted[c].name(folder) for c, folder in folders.items()}, self._locks)

    def _limit_tenant(self, name: str, tenant: str, share: TenantShare) -> None:
        folders = {controller: folder / name for controller, folder in self._folders.items()}
        wanted, memory = tenants.limits(share, self.capacity), folders["memory"]
        tenants.check_room(int(procfs.read(memory / "memory.usage_in_bytes")), wanted, tenant)
        _limit_memory(memory, wanted.memory_bytes)
        _limit_sockets(memory, min(wanted.memory_bytes, self._sockets // _TENANT_SOCKETS))
        files.limit(folders["pids"] / "pids.max", wanted.processes)
        files.limit(folders["cpu"] / "cpu.shares", wanted.cpu_shares)


def _limit_memory(folder: Path, count: int) -> None:
    """Memory and memory with swap at one value. The order matters: the second is never below the first."""
    names = ["memory.limit_in_bytes"]
    if (folder / "memory.memsw.limit_in_bytes").exists():
        raised = int(procfs.read(folder / "memory.memsw.limit_in_bytes")) < files.pages(count)
        names.insert(0 if raised else 1, "memory.memsw.limit_in_bytes")
    for name in names:
        files.limit(folder / name, files.pages(count))


def _limit_sockets(folder: Path, count: int) -> None:
    files.limit(folder / "memory.kmem.tcp.limit_in_bytes", files.pages(count))


def socket_bytes(memory_bytes: int) -> int:
    """What a session's TCP and UDP sockets may hold, beside its memory (pure)."""
    return min(max(memory_bytes // _SOCKET_PART, _LEAST_SOCKETS), _MOST_SOCKETS)


def socket_share(tcp_mem: tuple[int, ...]) -> int:
    """What those of all sessions may hold: half of where the machine would refuse everybody's (pure).

    `tcp_mem`: the sysctl's three numbers of pages.
    """
    return tcp_mem[2] * files.PAGE // 2


def _machines_sockets() -> int:
    """`socket_share`; a container's network has no such sysctl: what a kernel starts with, rounded down."""
    try:
        return socket_share(files.numbers(_TCP_MEM))
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") // _UNTOLD_PART * files.PAGE


class Leaf:
    """One session: a folder in each hierarchy."""

    def __init__(self, folders: dict[str, Path], names: dict[str, str], locks: owned.Locks) -> None:
        self._locks = locks
        self._folders = folders
        self._names = names
        self._oom: int | None = None
        self._made: list[Path] = []
        self._removing = False
        self.path = str(folders["memory"])
        self.tenant = folders["memory"].parent.name
        """The name of its tenant's folder."""

    @property
    def gone(self) -> bool:
        """Whether it was removed and none of its folders is left."""
        return self._removing and not any(folder.exists() for folder in self._made)

    @property
    def left_over(self) -> bool:
        """Whether it was to be removed and a folder is still there."""
        return self._removing and not self.gone

    def make(self, resources: Resources) -> None:
        """Make its folder in each hierarchy, with the limits of `resources`. Raises `OSError`."""
        for folder in dict.fromkeys(self._folders.values()):
            folder.mkdir(mode=0o700)
            self._made.append(folder)
        memory, cpu = self._folders["memory"], self._folders["cpu"]
        _limit_memory(memory, resources.memory_bytes)
        _limit_sockets(memory, socket_bytes(resources.memory_bytes))
        if not (memory / "memory.memsw.limit_in_bytes").exists():
            files.limit(memory / "memory.swappiness", 0)
        if files.table(memory / "memory.oom_control").get("oom_kill_disable"):
            files.write(memory / "memory.oom_control", "0")
        files.limit(self._folders["pids"] / "pids.max", resources.processes)
        files.limit(cpu / "cpu.cfs_period_us", _PERIOD_US)
        files.limit(cpu / "cpu.cfs_quota_us", resources.cpu_millis * _PERIOD_US // 1000)
        self._oom = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(memory / "cgroup.event_control", f"{self._oom} {control}")
        except OSError:  # a kernel without v1 memory events: the owner looks at `usage` alone
            os.close(self._oom)
            self._oom = None
        finally:
            os.close(control)

    def enter(self) -> None:
        """By ``tasks``, for the caller's only thread: for a whole process the kernel stops every fork of
        the machine first, and waits for a grace period that takes some ten milliseconds."""
        self._locks.drop_in_child()
        for folder in dict.fromkeys(self._folders.values()):
            files.write(folder / "tasks", "0")

    def take(self, pid: int) -> None:
        """As `SessionCgroup.take`, in each hierarchy."""
        for folder in dict.fromkeys(self._folders.values()):
            files.write(folder / "cgroup.procs", str(pid))

    def entries(self, uid: int) -> list[int]:
        """As `SessionCgroup.entries`: one descriptor for each hierarchy."""
        with contextlib.ExitStack() as stack:
            found = []
            for folder in dict.fromkeys(self._folders.values()):
                found.append(owned.open_for(folder / "tasks", uid))
                stack.callback(os.close, found[-1])
            stack.pop_all()
            return found

    def weigh(self, times: int) -> None:
        """As `SessionCgroup.weigh`."""
        files.limit(self._folders["cpu"] / "cpu.shares", times * _EQUAL_SHARES)

    def limit_processes(self, count: int) -> None:
        """As `SessionCgroup.limit_processes`."""
        files.limit(self._folders["pids"] / "pids.max", count)

    def holds(self, pid: int) -> bool:
        """As `SessionCgroup.holds`: in each hierarchy."""
        try:
            seen = own_cgroups(procfs.read(f"/proc/{pid}/cgroup"))
        except (FileNotFoundError, ProcessLookupError):
            return False
        return all(seen.get(controller) == name for controller, name in self._names.items())

    def oom_fd(self) -> int | None:
        """An eventfd that is readable after the kernel has killed for want of memory."""
        return self._oom

    def usage(self) -> Usage:
        """As `SessionCgroup.usage`."""
        memory, pids = self._folders["memory"], self._folders["pids"]
        return Usage(
            cpu_us=files.number(self._folders["cpuacct"] / "cpuacct.usage") // 1000,
            memory_bytes=files.number(memory / "memory.usage_in_bytes"),
            memory_peak_bytes=files.number(memory / "memory.max_usage_in_bytes"),
            processes=files.number(pids / "pids.current"),
            oom_kills=files.table(memory / "memory.oom_control").get("oom_kill", 0),
            throttled_us=files.table(self._folders["cpu"] / "cpu.stat").get("throttled_time", 0) // 1000,
            pids_denied=files.table(pids / "pids.events").get("max", 0),
        )

    def account(self) -> list[int]:
        """As `SessionCgroup.account`."""
        memory = self._folders["memory"]
        return files.open_all(
            self._folders["cpuacct"] / "cpuacct.usage",
            memory / "memory.max_usage_in_bytes",
            memory / "memory.oom_control",
        )

    def lift(self) -> None:
        """As `SessionCgroup.lift`."""
        with contextlib.suppress(OSError):
            files.write(self._folders["cpu"] / "cpu.cfs_quota_us", "-1")

    def kill(self, *, most: int | None = files.AT_ONCE) -> None:
        """As `SessionCgroup.kill`: v1 has no file for it, so each process is killed, `most` by one call."""
        for folder in dict.fromkeys(self._folders.values()):
            owned.let_die(folder)
        procs = dict.fromkeys(folder / "cgroup.procs" for folder in self._folders.values())
        files.kill_all(procs, most=most)

    def processes(self) -> list[int]:
        """As `SessionCgroup.processes`."""
        found: set[int] = set()
        for folder in dict.fromkeys(self._folders.values()):
            found.update(files.pids(folder / "cgroup.procs"))
        return sorted(found)

    def remove(self, seconds: float = 0.0) -> None:
        """What is still busy after `seconds` is tried again by the next call, or by the parent."""
        self._removing = True
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None
        for folder in self._made:
            files.remove(folder, seconds)
