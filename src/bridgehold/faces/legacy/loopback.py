"""Whose a port or a connection of this machine's loopback is, by the kernel's word: any user may dial one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bridgehold.sandbox import procfs

_ESTABLISHED, _LISTENS = "01", "0A"
_PLACES = frozenset({"0100007F", "00000000", "0" * 32, "0" * 16 + "FFFF00000100007F"})
"""Where somebody listens that 127.0.0.1 leads to, in the kernel's spelling."""


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
    """The uid behind `port`, whose connection leads to `own` (pure).

    None where nobody holds it any more: an end that is closed is shown as root's.
    """
    local, remote = (f"0100007F:{number:04X}" for number in (port, own))
    for row in rows(text):
        if (row.local, row.remote, row.state) == (local, remote, _ESTABLISHED) and row.inode != "0":
            return row.uid
    return None


def listeners(text: str, port: int) -> set[int]:
    """The uids that listen at `port` of 127.0.0.1, in one table (pure)."""
    wanted = {f"{place}:{port:04X}" for place in _PLACES}
    return {row.uid for row in rows(text) if row.state == _LISTENS and row.local in wanted}


def is_ours(port: int, own: int) -> bool:
    """Whether the connection from `port` to our `own` is held by a process of this user."""
    return dialled_by(_table("tcp"), port, own) == os.geteuid()


def leads_to_us(port: int) -> bool:
    """Whether this user listens at `port` of 127.0.0.1, and nobody else."""
    return listeners(_table("tcp"), port) | listeners(_table("tcp6"), port) == {os.geteuid()}


def _table(name: str) -> str:
    """Of our own network; empty where it can't be read, and then nobody is one of us."""
    with contextlib.suppress(OSError):
        return procfs.read(f"/proc/self/net/{name}")
    return ""
