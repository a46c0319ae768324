"""Reading and writing control files: small helpers that both versions share."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from bridgehold.errors import UnsupportedError


def write(path: Path, value: str) -> None:
    """One write of a control file. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def limit(path: Path, value: int) -> None:
    """Write a limit and read it back: a limit that doesn't hold is no limit."""
    try:
        write(path, str(value))
        seen = path.read_text().split()[0]
    except OSError as error:
        raise UnsupportedError(f"{path}: {error.strerror}", where=str(path)) from error
    # The kernel rounds memory down to whole pages.
    if not seen.isdigit() or not value - 4096 <= int(seen) <= value:
        raise UnsupportedError(f"{path} reads {seen} after {value} was written", where=str(path))


def number(path: Path) -> int:
    try:
        text = path.read_text().split()
        return int(text[0]) if text and text[0].lstrip("-").isdigit() else 0
    except OSError:
        return 0


def table(path: Path) -> dict[str, int]:
    """A file of ``key value`` lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}


def pids(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text().split()]
    except OSError:
        return []


def kill_each(found: list[int]) -> None:
    """SIGKILL by pidfd, so that a recycled number is never hit after its process was read."""
    for pid in found:
        with contextlib.suppress(ProcessLookupError, OSError):
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


def remove(path: Path, seconds: float = 2.0) -> None:
    """rmdir, retried while the kernel still lets go of dead processes."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def own_paths(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller (or ``""`` for v2) to path (pure)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found
