"""What /proc says of a process, read with as few calls as it takes: a start reads a hundred such files."""

from __future__ import annotations

import os

_PIECE = 1 << 16


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
