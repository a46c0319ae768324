"""What /proc says of a process, read with as few calls as it takes: a start reads a hundred such files."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Literal

_PIECE = 1 << 16
_PF_EXITING = 4


def read(path: str | os.PathLike[str], *, most: int | None = None) -> str:
    """The text of a file that the kernel makes; at most about `most` bytes. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(descriptor, _PIECE)
        while piece and (most is None or len(data) < most):
            piece = os.read(descriptor, _PIECE)
            data += piece
    finally:
        os.close(descriptor)
    return data.decode("utf-8", "replace")


def lines(text: str) -> list[str]:
    """The lines of a file that the kernel makes. It keeps line feeds out of names, and nothing else of what
    `str.splitlines` takes for an end of line."""
    return text.removesuffix("\n").split("\n") if text else []


def leads_to(path: str | os.PathLike[str]) -> str:
    """Where a link of /proc leads, as text that can be shown: a guest may have named it. Raises `OSError`."""
    text = os.readlink(os.fsencode(path)).decode("utf-8", "replace")  # noqa: PTH115 - bytes: not all are text
    return "".join(one if one.isprintable() else "?" for one in text)


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (the state) on: the name may hold anything."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rindex(")") + 2 :].split()


def start_time(pid: int) -> int:
    """Clock ticks since boot at which `pid` began. Raises `OSError` where it is gone."""
    return int(stat(pid)[19])


def children(pid: int) -> list[int]:
    """Of every thread of `pid`; what is gone has none. Raises `OSError` where they can't be read."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names are all that is wanted
            found += map(int, read(f"/proc/{pid}/task/{task}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def open_process(pid: int, still: Callable[[], bool]) -> int:
    """A pidfd of `pid`, if it is `still` the process that was meant: asked once the descriptor is open.

    A number that was read may be another process's by the time that it is used; a descriptor is one's for
    good. Raises `ProcessLookupError` where it is gone, or another's.
    """
    descriptor = os.pidfd_open(pid)
    meant = False
    try:
        meant = still()
    finally:
        if not meant:
            os.close(descriptor)
    if not meant:
        raise ProcessLookupError(errno.ESRCH, "the number is another process's by now")
    return descriptor


def ended(pidfd: int) -> bool:
    """Whether the process behind `pidfd` has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def threads(pid: int) -> int:
    """How many `pid` has; none where it is gone."""
    try:
        text = read(f"/proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line[8:]) for line in lines(text) if line.startswith("Threads:")), 0)


def ending(pid: int, start: int) -> bool:
    """Whether the process that began at `start` has ended, or has begun to: the kernel ends all that is in an
    init's namespace after the one and before the other. Raises `OSError` where it can't be told."""
    try:
        fields = stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    return int(fields[19]) != start or bool(int(fields[6]) & _PF_EXITING)


def life(pid: int) -> Literal["living", "ending", "gone"]:
    """Of the process whose number this is: ``ending`` where its first thread has ended, or has begun to, and
    others haven't yet. Raises `OSError` where it can't be told."""
    try:
        if not int(stat(pid)[6]) & _PF_EXITING:
            return "living"
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "ending" if threads(pid) > 1 else "gone"


def must_live(pidfd: int) -> None:
    """Raise `ProcessLookupError` where the process behind `pidfd` has ended."""
    if ended(pidfd):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
