"""Kernel uids for sessions: one each, locked per host, free again only after the namespace is gone."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Literal

import msgspec

from bridgehold.errors import BusyError


class UidRange(msgspec.Struct, frozen=True, kw_only=True):
    """`count` uids from `first`, as this process's user namespace numbers them."""

    mode: Literal["range", "subuid", "shared"]
    first: int
    count: int


def split(uids: UidRange, cells: int) -> tuple[UidRange, UidRange]:
    """Sessions' part of a range, and the last of it, for so many cells, or a quarter at the most (pure)."""
    cells = min(cells, uids.count // 4)
    rest = uids.count - cells
    parts = ((uids.first, rest), (uids.first + rest, cells))
    sessions, own = (UidRange(mode=uids.mode, first=first, count=count) for first, count in parts)
    return sessions, own


def uid_map(uids: UidRange, root: int) -> str:
    """The map of a zygote's user namespace (pure): every session's uid as itself, and `root` as 0.

    `root` is a uid of the range that no process ever has: something has to be 0 in the sessions.
    """
    extents = [(0, root, 1), (uids.first, uids.first, root - uids.first)]
    extents.append((root + 1, root + 1, uids.first + uids.count - root - 1))
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in extents if count > 0)


class UidPool:
    """Hands out uids of a range. The lock files keep two hosts of one machine apart."""

    def __init__(self, uids: UidRange, folder: Path) -> None:
        """`folder` is held open: the folder that it lies in may be another role's to rename."""
        self.range = uids
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held: dict[int, int] = {}
        # Hosts with lock folders of their own begin apart, and a uid comes back as late as possible.
        self._next = secrets.randbelow(uids.count)

    def take(self) -> int:
        """A uid that no session has. Raises `BusyError` where all are taken."""
        if self.range.mode == "shared":
            return self.range.first
        for _ in range(self.range.count):
            uid = self.range.first + self._next
            self._next = (self._next + 1) % self.range.count
            if uid not in self._held and self._lock(uid):
                return uid
        raise BusyError(
            f"all {self.range.count} session uids are in use",
            hint="Raise `[host] uid_count`, or end sessions.",
        )

    def give_back(self, uid: int) -> None:
        """Only after every process of the session is gone."""
        descriptor = self._held.pop(uid, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Give every uid back."""
        for uid in list(self._held):
            self.give_back(uid)
        os.close(self._folder)

    def _lock(self, uid: int) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(str(uid), flags, 0o600, dir_fd=self._folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._held[uid] = descriptor
        return True


class CellUids:
    """Uids of cells, and the user namespace in which whoever forks a cell may give it one."""

    def __init__(self, pool: UidPool, namespace: int) -> None:
        """`namespace`: a descriptor, closed with this."""
        self.pool = pool
        self.namespace = namespace

    def close(self) -> None:
        """Give every uid back."""
        self.pool.close()
        os.close(self.namespace)
