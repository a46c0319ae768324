"""cgroup v2: below a cgroup that was delegated to us, one parent for all sessions, one leaf for each.

BASE                      delegated (Delegate=yes), or the machine's root
├── host                  our own processes
└── bridgehold-….sessions memory.max = what there is, less the reserve; the owner's lock
    └── tenant-NAME       memory.max, pids.max, cpu.weight, io.weight: of all that a tenant has
        └── WORKER        memory.max, swap 0, oom.group, pids.max, cpu.max
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups import delegation, files, inotify, owned, tenants
from bridgehold.sandbox.cgroups.admission import Capacity, machine_capacity
from bridgehold.sandbox.cgroups.leaves import Leaves
from bridgehold.sandbox.cgroups.places import Hierarchy, hierarchies, own_cgroups
from bridgehold.sandbox.values import Resources, TenantShare, Usage

_PERIOD_US = 100_000
_SESSIONS_WEIGHT, _EQUAL_WEIGHT = 25, 100
"""All sessions together against 100 for the host's own leaf: the host answers under load."""


def open_parent(base: str, *, reserve_bytes: int, instance: str) -> Parent:
    """Divide `base` (relative to the mount, or absolute below it), or the cgroup this process is in."""
    mounts = hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), "v2")
    if not mounts:
        raise UnsupportedError("cgroup2 is not mounted")
    hierarchy = mounts[0]
    if base:
        folder = named(base, hierarchy.mount)
    else:
        own_path = own_cgroups(Path("/proc/self/cgroup").read_text(encoding="utf-8")).get("", "/")
        own = hierarchy.folder(own_path)
        if own is None:
            raise UnsupportedError(f"the cgroup {own_path} is not seen at {hierarchy.mount}")
        folder = delegation.choose(own, hierarchy.mount, real_root=delegation.initial_root())
    delegation.divide(folder)
    return Parent(folder, hierarchy, reserve_bytes=reserve_bytes, instance=instance)


def named(base: str, mount: Path) -> Path:
    """The folder that the configuration names (pure)."""
    path = Path(base)
    if ".." in path.parts:
        raise UnsupportedError(f"{base} is not a plain path", where=base)
    return path if path.is_relative_to(mount) else mount / base.lstrip("/")


class Parent(Leaves["Leaf"]):
    """What all sessions of this instance share."""

    version: Literal["v2"] = "v2"

    def __init__(self, base: Path, hierarchy: Hierarchy, *, reserve_bytes: int, instance: str) -> None:
        self.capacity: Capacity = machine_capacity(
            reserve_bytes=reserve_bytes,
            memory_ceiling=files.lowest(base, hierarchy.mount, "memory.max"),
            process_ceiling=files.lowest(base, hierarchy.mount, "pids.max"),
        )
        self.capacity_bytes = self.capacity.memory_bytes
        self._hierarchy = hierarchy
        self._folder = base / owned.folder_name(instance)
        super().__init__([self._folder])
        try:
            self._locks = owned.Locks([owned.claim(self._folder)])
        except OSError as error:
            raise UnsupportedError(f"{self._folder} can't be made: {error.strerror}") from error
        try:
            _limit_memory(self._folder, self.capacity_bytes)
            files.limit(self._folder / "pids.max", self.capacity.processes)
            files.limit(self._folder / "cpu.weight", _SESSIONS_WEIGHT)
            delegation.enable(self._folder)
        except BaseException:
            self.close()
            raise

    def _leaf(self, tenant: str, name: str) -> Leaf:
        folder = self._folder / tenant / name
        return Leaf(folder, self._hierarchy.name(folder), self._locks)

    def _limit_tenant(self, name: str, tenant: str, share: TenantShare) -> None:
        folder, wanted = self._folder / name, tenants.limits(share, self.capacity)
        tenants.check_room(int(procfs.read(folder / "memory.current")), wanted, tenant)
        _limit_memory(folder, wanted.memory_bytes)
        files.limit(folder / "pids.max", wanted.processes)
        files.limit(folder / "cpu.weight", wanted.cpu_weight)
        if (folder / "io.weight").exists():  # where the io controller was delegated, and weighs
            files.write(folder / "io.weight", f"default {wanted.io_weight}")
        delegation.enable(folder)

    def sweep(self) -> list[str]:
        """What instances that are gone left anywhere below the mount, ended and removed."""
        roots = [self._hierarchy.mount]
        return owned.sweep(roots, roots, self._folder.name)

    @property
    def weighs_io(self) -> bool:
        """Whether the kernel shares out disk time here."""
        return (self._folder / "io.weight").exists()

    def carry_cells(self) -> None:
        """As `CgroupParent.carry_cells`."""
        files.limit(self._folder / "cpu.weight", _EQUAL_WEIGHT)


def _limit_memory(folder: Path, count: int) -> None:
    files.limit(folder / "memory.max", files.pages(count))
    if (folder / "memory.swap.max").exists():  # absent where the kernel has no swap accounting
        files.limit(folder / "memory.swap.max", 0)


class Leaf:
    """One session's folder."""

    def __init__(self, folder: Path, name: str, locks: owned.Locks) -> None:
        self._locks = locks
        self._folder = folder
        self._name = name
        self._watch: int | None = None
        self._made = False
        self._removing = False
        self.path = str(folder)
        self.tenant = folder.parent.name
        """The name of its tenant's folder."""

    @property
    def gone(self) -> bool:
        """Whether it was removed and its folder is not there any more."""
        return self._removing and not (self._made and self._folder.exists())

    @property
    def left_over(self) -> bool:
        """Whether it was to be removed and its folder is still there."""
        return self._removing and not self.gone

    def make(self, resources: Resources) -> None:
        """Make its folder, with the limits of `resources`. Raises `OSError`."""
        folder = self._folder
        folder.mkdir(mode=0o700)
        self._made = True
        _limit_memory(folder, resources.memory_bytes)
        files.limit(folder / "memory.oom.group", 1)
        files.limit(folder / "pids.max", resources.processes)
        files.limit(folder / "cpu.max", f"{resources.cpu_millis * _PERIOD_US // 1000} {_PERIOD_US}")
        self._watch = inotify.watch(folder / "memory.events")

    def enter(self) -> None:
        """As `SessionCgroup.enter`."""
        self._locks.drop_in_child()
        files.write(self._folder / "cgroup.procs", "0")

    def entries(self, uid: int) -> list[int]:
        """None: on v2 only whole processes are moved, and who opened it could move any."""
        return []

    def take(self, pid: int) -> None:
        """As `SessionCgroup.take`."""
        files.write(self._folder / "cgroup.procs", str(pid))

    def weigh(self, times: int) -> None:
        """As `SessionCgroup.weigh`."""
        files.limit(self._folder / "cpu.weight", times * _EQUAL_WEIGHT)

    def limit_processes(self, count: int) -> None:
        """As `SessionCgroup.limit_processes`."""
        files.limit(self._folder / "pids.max", count)

    def holds(self, pid: int) -> bool:
        """As `SessionCgroup.holds`."""
        try:
            seen = own_cgroups(procfs.read(f"/proc/{pid}/cgroup"))
        except (FileNotFoundError, ProcessLookupError):
            return False
        return seen.get("") == self._name

    def oom_fd(self) -> int | None:
        """A descriptor that is readable when ``memory.events`` changes."""
        return self._watch

    def usage(self) -> Usage:
        """As `SessionCgroup.usage`."""
        folder = self._folder
        cpu = files.table(folder / "cpu.stat")
        current = files.number(folder / "memory.current")
        return Usage(
            cpu_us=cpu.get("usage_usec", 0),
            memory_bytes=current,
            # memory.peak is there from kernel 5.19 on
            memory_peak_bytes=files.number(folder / "memory.peak") or current,
            processes=files.number(folder / "pids.current"),
            oom_kills=files.table(folder / "memory.events").get("oom_kill", 0),
            throttled_us=cpu.get("throttled_usec", 0),
            pids_denied=files.table(folder / "pids.events").get("max", 0),
        )

    def account(self) -> list[int]:
        """As `SessionCgroup.account`; before kernel 5.19 there is no peak."""
        killed = self._folder / "memory.events"
        return files.open_all(
            self._folder / "cpu.stat", self._folder / "memory.peak", killed
        ) or files.open_all(killed)

    def lift(self) -> None:
        """As `SessionCgroup.lift`: it is thawed too."""
        for name, value in (("cpu.max", "max"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                files.write(self._folder / name, value)

    def kill(self, *, most: int | None = files.AT_ONCE) -> None:
        """As `SessionCgroup.kill`, by ``cgroup.kill`` where the kernel has it."""
        owned.let_die(self._folder)
        try:
            files.write(self._folder / "cgroup.kill", "1")
        except OSError:  # before kernel 5.14
            files.kill_all([self._folder / "cgroup.procs"], most=most)

    def processes(self) -> list[int]:
        """As `SessionCgroup.processes`."""
        return files.pids(self._folder / "cgroup.procs")

    def remove(self, seconds: float = 0.0) -> None:
        """What is still busy after `seconds` is tried again by the next call, or by the parent."""
        self._removing = True
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None
        if self._made:
            files.remove(self._folder, seconds)
