"""cgroup v1: one folder of the same name in each needed hierarchy."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups import files
from bridgehold.sandbox.values import Resources, Usage

ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("memory", "pids", "cpu")
_OPTIONAL = ("cpuacct", "freezer")
_PERIOD_US = 100_000
PREFIX = "bridgehold-"


def open_parent(base: str, *, reserve_bytes: int, instance: str) -> Parent:
    """Make ``BASE/bridgehold-INSTANCE`` in each hierarchy. `base` is relative to every hierarchy."""
    bases: dict[str, Path] = {}
    own = files.own_paths(Path("/proc/self/cgroup").read_text())
    for controller in (*_NEEDED, *_OPTIONAL):
        mount = ROOT / controller
        if not (mount / "cgroup.procs").exists():
            if controller in _NEEDED:
                raise UnsupportedError(f"no v1 hierarchy for {controller}")
            continue
        candidates = (
            [mount / base.lstrip("/")] if base else [mount, mount / own.get(controller, "/").lstrip("/")]
        )
        chosen = next(
            (c for c in candidates if os.access(c, os.W_OK) and (c / "cgroup.procs").exists()), None
        )
        if chosen is None:
            if controller in _NEEDED:
                raise UnsupportedError(f"no writable {controller} cgroup at {candidates[0]}")
            continue
        bases[controller] = chosen
    return Parent(bases, reserve_bytes=reserve_bytes, instance=instance)


class Parent:
    version: Literal["v1"] = "v1"

    def __init__(self, bases: dict[str, Path], *, reserve_bytes: int, instance: str) -> None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.capacity_bytes = total - reserve_bytes
        if self.capacity_bytes <= 0:
            raise UnsupportedError(f"the reserve of {reserve_bytes} bytes leaves sessions nothing of {total}")
        self._bases = bases
        self._folders = {controller: base / f"{PREFIX}{instance}" for controller, base in bases.items()}
        for folder in self._folders.values():
            folder.mkdir(exist_ok=True)
        memory = self._folders["memory"]
        if files.number(memory / "memory.use_hierarchy") != 1:
            files.write(memory / "memory.use_hierarchy", "1")
        files.limit(memory / "memory.limit_in_bytes", self.capacity_bytes)

    def create(self, name: str, resources: Resources) -> Leaf:
        leaf = Leaf({controller: folder / name for controller, folder in self._folders.items()})
        try:
            leaf.make(resources)
        except BaseException:
            leaf.remove()
            raise
        return leaf

    def sweep(self) -> list[str]:
        """Remove what hosts of this base that are gone left behind: empty or killable leaves."""
        swept = []
        for folder in {f for base in self._bases.values() for f in base.glob(f"{PREFIX}*")}:
            if folder in self._folders.values() or _owner_alive(folder.name):
                continue
            for leaf in [*(d for d in folder.iterdir() if d.is_dir()), folder]:
                files.kill_each(files.pids(leaf / "cgroup.procs"))
                with contextlib.suppress(OSError):
                    files.remove(leaf)
            swept.append(str(folder))
        return swept

    def close(self) -> None:
        for folder in self._folders.values():
            with contextlib.suppress(OSError):
                files.remove(folder)


def _owner_alive(name: str) -> bool:
    """``bridgehold-PID-START``: whether that very process still lives."""
    pid, _, start = name.removeprefix(PREFIX).partition("-")
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return False
    return stat[stat.rindex(")") + 2 :].split()[19] == start


class Leaf:
    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self.path = str(folders["memory"])
        self._oom: int | None = None

    def make(self, resources: Resources) -> None:
        for folder in self._folders.values():
            folder.mkdir()
        memory = self._folders["memory"]
        files.limit(memory / "memory.limit_in_bytes", resources.memory_bytes)
        with contextlib.suppress(OSError):
            files.write(memory / "memory.swappiness", "0")
        if (memory / "memory.memsw.limit_in_bytes").exists():
            files.limit(memory / "memory.memsw.limit_in_bytes", resources.memory_bytes)
        files.limit(self._folders["pids"] / "pids.max", resources.processes)
        files.write(self._folders["cpu"] / "cpu.cfs_period_us", str(_PERIOD_US))
        files.limit(self._folders["cpu"] / "cpu.cfs_quota_us", resources.cpu_millis * _PERIOD_US // 1000)
        self._oom = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(memory / "cgroup.event_control", f"{self._oom} {control}")
        finally:
            os.close(control)

    def enter(self) -> None:
        for folder in self._folders.values():
            files.write(folder / "cgroup.procs", "0")

    def holds(self, pid: int) -> bool:
        return all(pid in files.pids(folder / "cgroup.procs") for folder in self._folders.values())

    def oom_fd(self) -> int | None:
        return self._oom

    def usage(self) -> Usage:
        memory, cpu = self._folders["memory"], self._folders["cpu"]
        cpuacct = self._folders.get("cpuacct")
        return Usage(
            cpu_us=files.number(cpuacct / "cpuacct.usage") // 1000 if cpuacct else 0,
            memory_bytes=files.number(memory / "memory.usage_in_bytes"),
            memory_peak_bytes=files.number(memory / "memory.max_usage_in_bytes"),
            processes=files.number(self._folders["pids"] / "pids.current"),
            oom_kills=files.table(memory / "memory.oom_control").get("oom_kill", 0),
            throttled_us=files.table(cpu / "cpu.stat").get("throttled_time", 0) // 1000,
            pids_denied=files.table(self._folders["pids"] / "pids.events").get("max", 0),
        )

    def lift(self) -> None:
        with contextlib.suppress(OSError):
            files.write(self._folders["cpu"] / "cpu.cfs_quota_us", "-1")
        if "freezer" in self._folders:
            with contextlib.suppress(OSError):
                files.write(self._folders["freezer"] / "freezer.state", "THAWED")

    def kill(self) -> None:
        files.kill_each(self.processes())

    def processes(self) -> list[int]:
        return sorted(
            {pid for folder in self._folders.values() for pid in files.pids(folder / "cgroup.procs")}
        )

    def remove(self) -> None:
        for folder in self._folders.values():
            files.remove(folder)
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None
