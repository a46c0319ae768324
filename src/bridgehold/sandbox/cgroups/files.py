"""Control files: reading, writing, reading back, killing by pidfd, removing. Both versions share it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import procfs

PAGE = os.sysconf("SC_PAGE_SIZE")
_KILL_PASSES = 50
_STEP_SECONDS = 0.002
AT_HAND, AT_ONCE = 64, 512
"""Processes that are open while they are killed; and that a step of somebody's loop kills."""
_NOT_THERE = (errno.ENOENT, errno.ENODEV, errno.ESRCH)


def write(path: Path, value: str) -> None:
    """One write of a control file (the kernel takes no halves). Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def open_all(*paths: Path) -> list[int]:
    """Descriptors to read them by; none at all where one is missing on this kernel."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return []
            stack.callback(os.close, descriptor)
            found.append(descriptor)
        stack.pop_all()
        return found


def pages(count: int) -> int:
    """`count` bytes as the kernel keeps a memory limit: whole pages, rounded down (pure)."""
    return count // PAGE * PAGE


def limit(path: Path, value: int | str) -> None:
    """Write a limit and read it back: a limit that doesn't hold is no limit. `UnsupportedError`."""
    try:
        write(path, str(value))
        seen = procfs.read(path).strip()
    except OSError as error:
        raise UnsupportedError(f"{path.name} can't be set: {error.strerror}", where=str(path)) from error
    if seen != str(value):
        raise UnsupportedError(f"{path.name} reads {seen!r} after {value} was written", where=str(path))


def number(path: Path) -> int:
    """The first number of `path`; 0 where there is none (a missing file, ``max``)."""
    try:
        text = procfs.read(path).split()
    except OSError:
        return 0
    return int(text[0]) if text and text[0].isdigit() else 0


def numbers(path: Path) -> tuple[int, ...]:
    """Every number of a file that holds nothing else, such as a sysctl of several."""
    return tuple(int(word) for word in procfs.read(path).split())


def table(path: Path) -> dict[str, int]:
    """A file of ``key value`` lines; empty where the file is missing."""
    try:
        lines = procfs.lines(procfs.read(path))
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}


def pids(path: Path) -> list[int]:
    """A ``cgroup.procs``; empty where the cgroup is gone. 0 (a process of no pid here) is left out.

    Raises `OSError` where it can't be read: that is not the same as empty.
    """
    try:
        return [int(line) for line in procfs.read(path).split() if line != "0"]
    except OSError as error:
        if error.errno in _NOT_THERE:
            return []
        raise


def lowest(folder: Path, top: Path, name: str) -> int | None:
    """The smallest number that `name` holds in `folder` or an ancestor up to `top`; None: no limit."""
    found = []
    while folder.is_relative_to(top):
        value = number(folder / name)
        if value:
            found.append(value)
        folder = folder.parent
    return min(found, default=None)


def kill_all(procs: Iterable[Path], *, most: int | None = None) -> None:
    """SIGKILL to every process of these ``cgroup.procs``, by pidfd, until a look finds none unkilled.

    The caller has forbidden further forks, so the number of passes is small; it is bounded anyway. A
    fork that is under way while its parent is killed may show only after the last look: callers repeat this
    until nobody is left. `most`: of those, about so many now, for who can't wait for a session of thousands.
    A pid is opened first and looked up again after that: a recycled number is never hit. `AT_HAND` are open
    at once, and fewer where there is no room for so many. Raises `OSError` where there is for none, or a
    process is not ours to kill; the others are killed by then.
    """
    files = tuple(procs)
    killed: set[int] = set()
    refused: OSError | None = None
    for _ in range(_KILL_PASSES):
        waiting = sorted(_members(files) - killed)
        if not waiting or (most is not None and len(killed) >= most):
            break
        while waiting and (most is None or len(killed) < most):
            opened, waiting = _open_some(waiting, killed)
            try:
                members = _members(files)
                for pid, descriptor in opened.items():
                    try:
                        if pid in members:
                            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                    except OSError as error:
                        refused = error
            finally:
                for descriptor in opened.values():
                    os.close(descriptor)
            killed |= opened.keys()
    if refused is not None:
        raise refused


def _members(files: Iterable[Path]) -> set[int]:
    return {pid for path in files for pid in pids(path)}


def _open_some(waiting: list[int], gone: set[int]) -> tuple[dict[int, int], list[int]]:
    """The first of them, and who is left; who has ended is added to `gone`. One descriptor stays free: a look
    takes one."""
    opened: dict[int, int] = {}
    for place, pid in enumerate(waiting):
        if len(opened) == AT_HAND:
            return opened, waiting[place:]
        try:
            opened[pid] = os.pidfd_open(pid)
        except ProcessLookupError:
            gone.add(pid)
        except OSError:
            if len(opened) < 2:
                for descriptor in opened.values():
                    os.close(descriptor)
                raise
            last, descriptor = opened.popitem()
            os.close(descriptor)
            return opened, [last, *waiting[place:]]
    return opened, []


def remove(folder: Path, seconds: float = 0.5) -> bool:
    """rmdir, retried while the kernel still lets go of dead processes; whether it is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_STEP_SECONDS)
        else:
            return True
