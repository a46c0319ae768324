"""Whose a port or a connection of this machine's loopback is, by the kernel's word: any user may dial one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bridgehold.sandbox import procfs

_ESTABLISHED, _LISTENS = "01", "0A"
_OURS = ("0100007F", "0" * 16 + "FFFF00000100007F")
"""127.0.0.1 in the kernel's spelling, also as sockets of both families name it (Java's, Go's)."""
_PLACES = frozenset({*_OURS, "00000000", "0" * 32})
"""Where somebody listens that 127.0.0.1 leads to."""


class _Row:
    __slots__ = ("inode", "local", "remote", "state", "uid")

    def __init__(self, cells: list[str]) -> None:
        self.local, self.remote, self.state = cells[1], cells[2], cells[3]
        self.uid, self.inode = int(cells[7]), cells[9]


def rows(text: str) -> Iterator[_Row]:
    """What a table of /proc/net says of its sockets (pure)."""
    for line in procfs.lines(text)[1:]:
        cells = line.split()
        if len(cells) > 9 and cells[7].isdigit():
            yield _Row(cells)


def dialled_by(text: str, port: int, own: int) -> int | None:
    """The uid behind `port`, whose connection leads to `own`, in one table (pure).

    None where nobody holds it any more: an end that is closed is shown as root's.
    """
    wanted = {(f"{place}:{port:04X}", f"{place}:{own:04X}") for place in _OURS}
    for row in rows(text):
        if (row.local, row.remote) in wanted and row.state == _ESTABLISHED and row.inode != "0":
            return row.uid
    return None


def listeners(text: str, port: int) -> set[int]:
    """The uids that listen at `port` of 127.0.0.1, in one table (pure)."""
    wanted = {f"{place}:{port:04X}" for place in _PLACES}
    return {row.uid for row in rows(text) if row.state == _LISTENS and row.local in wanted}


def is_ours(port: int, own: int) -> bool:
    """Whether the connection from `port` to our `own` is held by a process of this user."""
    return any(dialled_by(_table(name), port, own) == os.geteuid() for name in ("tcp", "tcp6"))


def leads_to_us(port: int) -> bool:
    """Whether this user listens at `port` of 127.0.0.1, and nobody else."""
    return listeners(_table("tcp"), port) | listeners(_table("tcp6"), port) == {os.geteuid()}


def _table(name: str) -> str:
    """Of our own network; empty where it can't be read, and then nobody is one of us."""
    with contextlib.suppress(OSError):
        return procfs.read(f"/proc/self/net/{name}")
    return ""
