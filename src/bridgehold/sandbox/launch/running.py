"""A sandbox from its fork on, and the descriptors of one launch."""

from __future__ import annotations

import os
import socket

import msgspec

from bridgehold.sandbox.launch.hold import Reaper, Traced


class Running(msgspec.Struct, kw_only=True):
    """A sandbox from its fork on. `monitor` is our child (outer bwrap; of a fork that was given up, what was
    making its namespaces), `init` is pid 1 inside."""

    monitor: int
    monitor_fd: int
    init: int = 0
    init_fd: int = -1
    init_start: int = 0
    """Start time of `init`, so that its number can't be mistaken for a later process's."""
    net: int = 0
    """Inode of the sandbox's network namespace, in which the listener was made."""
    host_ends: tuple[int, ...] = ()
    """Frames to the guest (write), frames from it (read), log (read), standard output (read) where it has
    `two_outputs`, listener if any."""
    phases_us: dict[str, int] = {}
    worker: int = 0
    """Of a fork: the worker itself; `monitor_fd` is its pidfd then, and nobody of ours its parent."""
    first_fd: int = -1
    """Of a fork: a pidfd of its first process, until that is gone."""
    death_watch: int = -1
    """Of a fork: its init ends when this is closed."""
    fork_socket: socket.socket | None = None
    """Of a zygote: where it is asked to fork."""
    hold: Traced | None = None
    """Of a zygote that was attested: what keeps it still. Of a fork: what lets it join."""
    reaper: Reaper | None = None
    """Of a zygote, and of its forks, where the kernel tells nobody how a fork ended: what sees it."""
    reaped_as: int = 0
    """Of a fork: the worker's number in the zygote's namespace, where `reaper` sees it."""
    given: frozenset[str] = frozenset()
    """Of a zygote: its descriptors, as links of /proc show them."""


class Descriptors:
    """Descriptors of one launch: whatever was not kept is closed at the end."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def pipe(self) -> tuple[int, int]:
        """A new pipe's ends: (read, write)."""
        ends = os.pipe()  # close-on-exec
        self._open.update(ends)
        return ends

    def file(self, name: str, content: bytes) -> int:
        """A file in memory that holds `content`, positioned at its start."""
        descriptor = os.memfd_create(name)
        self._open.add(descriptor)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def add(self, descriptor: int) -> int:
        """Have `descriptor` closed with the others."""
        self._open.add(descriptor)
        return descriptor

    def close(self, *descriptors: int) -> None:
        """Close those of `descriptors` that are still open here."""
        for descriptor in descriptors:
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)

    def keep(self, *descriptors: int) -> None:
        """Leave these open: they are somebody else's now."""
        self._open.difference_update(descriptors)

    def close_all(self) -> None:
        """Close everything that was not kept."""
        self.close(*self._open.copy())
