"""A private host's processes and cgroups: what it started, and what is left of it."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import psutil

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups.places import hierarchies, own_cgroups

_LOOK_SECONDS = 0.05
_CAPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_TRIES, _STEP = 20, 16 * 1024


def cgroups_of(pid: int) -> frozenset[Path]:
    """The folders of a worker's own cgroups; empty where it has none, or is gone."""
    try:
        named = own_cgroups(Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii"))
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = set()
    for version in ("v1", "v2"):
        for hierarchy in hierarchies(mounts, version):
            for controller in hierarchy.controllers or {""}:
                path = named.get(controller, "")
                folder = hierarchy.folder(path) if ".sessions/" in path else None
                if folder is not None:
                    found.add(folder)
    return frozenset(found)


def freeze(pid: int) -> None:
    """Stop every process of a worker, from outside, by its cgroup. `UnsupportedError` where it can't."""
    folders = cgroups_of(pid)
    try:
        for folder in folders:
            if (folder / "cgroup.freeze").exists():
                (folder / "cgroup.freeze").write_text("1", encoding="ascii")
                return
        stopped = sum(_stop_members(folder) for folder in sorted(folders)[:1])
    except OSError as error:
        raise UnsupportedError(f"a worker can't be frozen here: {error.strerror}") from error
    if not stopped:
        raise UnsupportedError("a worker without a cgroup of its own can't be frozen")


def squeeze(pid: int) -> None:
    """Cap a worker's memory at what it uses now. Raises `UnsupportedError` where it can't."""
    for folder in cgroups_of(pid):
        for cap, used in _CAPS:
            if (folder / cap).exists():
                _cap(folder / cap, folder / used)
                return
    raise UnsupportedError("a worker without a memory cgroup of its own can't be squeezed")


def _cap(cap: Path, used: Path) -> None:
    for tries in range(_TRIES):
        try:
            cap.write_text(str(int(used.read_text(encoding="ascii")) + tries * _STEP), encoding="ascii")
            return
        except OSError as error:
            if error.errno != errno.EBUSY:  # v1, where more is in use by now
                raise UnsupportedError(f"a worker can't be squeezed here: {error.strerror}") from error
    raise UnsupportedError("a worker can't be squeezed here: it grows too fast")


def _stop_members(folder: Path) -> int:
    """By pidfd, and only what is in the cgroup once it is held: a number may have become another's."""
    stopped = 0
    for line in (folder / "cgroup.procs").read_text(encoding="ascii").split():
        try:
            held = os.pidfd_open(int(line))
        except ProcessLookupError:
            continue
        try:
            if line in (folder / "cgroup.procs").read_text(encoding="ascii").split():
                signal.pidfd_send_signal(held, signal.SIGSTOP)
                stopped += 1
        except ProcessLookupError:
            continue
        finally:
            os.close(held)
    return stopped


class Remains:
    """Remembers all that a host's process tree was, to tell at the end what of it is still there."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._processes: set[psutil.Process] = {self._root}
        self._cgroups: set[Path] = set()

    def look(self) -> None:
        """Remember what is below the host now."""
        try:
            fresh = set(self._root.children(recursive=True)) - self._processes
        except psutil.NoSuchProcess:
            return
        self._processes |= fresh
        for process in fresh:
            found = cgroups_of(process.pid)
            self._cgroups |= found | {folder.parent for folder in found}

    @property
    def seen(self) -> tuple[int, int]:
        """How many processes and cgroups there have been."""
        return len(self._processes), len(self._cgroups)

    def left(self, seconds: float) -> tuple[list[str], list[str]]:
        """(processes, cgroups) that are still there after at most so many seconds."""
        until = time.monotonic() + seconds
        while True:
            processes = [f"{one.pid}" for one in self._processes if _lives(one)]
            cgroups = [str(folder) for folder in sorted(self._cgroups) if folder.exists()]
            if not (processes or cgroups) or time.monotonic() >= until:
                return processes, cgroups
            time.sleep(_LOOK_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
