"""cgroup v2, delegated to us (systemd's ``Delegate=yes``): our processes in a leaf, sessions beside it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Literal

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups import files
from bridgehold.sandbox.values import Resources, Usage

_CONTROLLERS = ("cpu", "memory", "pids")
_PERIOD_US = 100_000
_IN_MODIFY = 0x2
_IN_CLOEXEC_NONBLOCK = 0o2004000
PREFIX = "bridgehold-"


def mount_point(mounts: str) -> Path | None:
    """Where cgroup2 is mounted, from the text of /proc/self/mounts (pure)."""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1])
    return None


def open_parent(base: str, *, reserve_bytes: int, instance: str) -> Parent:
    """Take over the delegated cgroup this process is in (or `base`, relative to the mount)."""
    mount = mount_point(Path("/proc/self/mounts").read_text())
    if mount is None:
        raise UnsupportedError("cgroup2 is not mounted")
    own = base or files.own_paths(Path("/proc/self/cgroup").read_text()).get("", "/")
    folder = mount / own.lstrip("/")
    if folder.name == "host":  # a supervisor of ours moved us into its leaf already
        folder = folder.parent
    available = (folder / "cgroup.controllers").read_text().split()
    missing = [controller for controller in _CONTROLLERS if controller not in available]
    if missing:
        raise UnsupportedError(
            f"{folder} has no {', '.join(missing)} controller", hint="Use a service with Delegate=yes."
        )
    return Parent(folder, reserve_bytes=reserve_bytes, instance=instance)


class Parent:
    version: Literal["v2"] = "v2"

    def __init__(self, base: Path, *, reserve_bytes: int, instance: str) -> None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        ceiling = (base / "memory.max").read_text().strip() if (base / "memory.max").exists() else "max"
        self.capacity_bytes = (min(total, int(ceiling)) if ceiling.isdigit() else total) - reserve_bytes
        if self.capacity_bytes <= 0:
            raise UnsupportedError(f"the reserve of {reserve_bytes} bytes leaves sessions nothing of {total}")
        self._base = base
        self._folder = base / f"{PREFIX}{instance}"
        _vacate(base)
        _enable(base)
        self._folder.mkdir(exist_ok=True)
        _enable(self._folder)
        files.limit(self._folder / "memory.max", self.capacity_bytes)

    def create(self, name: str, resources: Resources) -> Leaf:
        leaf = Leaf(self._folder / name)
        try:
            leaf.make(resources)
        except BaseException:
            leaf.remove()
            raise
        return leaf

    def sweep(self) -> list[str]:
        from bridgehold.sandbox.cgroups.v1 import _owner_alive

        swept = []
        for folder in self._base.glob(f"{PREFIX}*"):
            if folder == self._folder or _owner_alive(folder.name):
                continue
            with contextlib.suppress(OSError):
                files.write(folder / "cgroup.kill", "1")
            for leaf in [*(d for d in folder.iterdir() if d.is_dir()), folder]:
                files.kill_each(files.pids(leaf / "cgroup.procs"))
                with contextlib.suppress(OSError):
                    files.remove(leaf)
            swept.append(str(folder))
        return swept

    def close(self) -> None:
        with contextlib.suppress(OSError):
            files.remove(self._folder)


def _vacate(base: Path) -> None:
    """Move every process of `base` into its leaf ``host``: inner cgroups may hold none (EBUSY otherwise)."""
    host = base / "host"
    host.mkdir(exist_ok=True)
    for _ in range(10):
        found = files.pids(base / "cgroup.procs")
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, OSError):
                files.write(host / "cgroup.procs", str(pid))


def _enable(folder: Path) -> None:
    try:
        files.write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError as error:
        raise UnsupportedError(
            f"{folder}/cgroup.subtree_control: {error.strerror}", hint="Use a service with Delegate=yes."
        ) from error


class Leaf:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = str(folder)
        self._watch: int | None = None

    def make(self, resources: Resources) -> None:
        self._folder.mkdir()
        files.limit(self._folder / "memory.max", resources.memory_bytes)
        if (self._folder / "memory.swap.max").exists():
            files.limit(self._folder / "memory.swap.max", 0)
        files.write(self._folder / "memory.oom.group", "1")
        files.limit(self._folder / "pids.max", resources.processes)
        quota = resources.cpu_millis * _PERIOD_US // 1000
        files.write(self._folder / "cpu.max", f"{quota} {_PERIOD_US}")
        self._watch = _watch_file(self._folder / "memory.events")

    def enter(self) -> None:
        files.write(self._folder / "cgroup.procs", "0")

    def holds(self, pid: int) -> bool:
        return pid in files.pids(self._folder / "cgroup.procs")

    def oom_fd(self) -> int | None:
        return self._watch

    def usage(self) -> Usage:
        folder = self._folder
        cpu = files.table(folder / "cpu.stat")
        current = files.number(folder / "memory.current")
        return Usage(
            cpu_us=cpu.get("usage_usec", 0),
            memory_bytes=current,
            memory_peak_bytes=files.number(folder / "memory.peak") or current,
            processes=files.number(folder / "pids.current"),
            oom_kills=files.table(folder / "memory.events").get("oom_kill", 0),
            throttled_us=cpu.get("throttled_usec", 0),
            pids_denied=files.table(folder / "pids.events").get("max", 0),
        )

    def lift(self) -> None:
        for name, value in (("cpu.max", "max"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                files.write(self._folder / name, value)

    def kill(self) -> None:
        try:
            files.write(self._folder / "cgroup.kill", "1")
        except OSError:
            files.kill_each(self.processes())

    def processes(self) -> list[int]:
        return files.pids(self._folder / "cgroup.procs")

    def remove(self) -> None:
        files.remove(self._folder)
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None


def _watch_file(path: Path) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(_IN_CLOEXEC_NONBLOCK)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(descriptor)
        return None
    return descriptor
