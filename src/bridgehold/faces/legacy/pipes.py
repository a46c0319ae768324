"""Standard input and output as a peer's two pipes, whatever they are: pipe, socket, file or terminal.

The descriptors may be shared with other processes, so they stay blocking. Where the kernel can say that
a call won't block, it is made at once, on the loop; for all else there is a thread for each direction,
because a file can't be polled, and a peer that doesn't read must not keep the loop from seeing a signal.
Both threads are daemons: the process ends without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import select
import stat
import threading

_READ_BYTES = 65_536
_FIRST_FREE = 10
_PIECES = 4
_HELD_BYTES = 64 * 1024 * 1024
"""What is held for a peer that doesn't read."""
_SLICE = 64 * 1024
"""Of one write: how far a peer has read is known so exactly."""
_SLOWEST = 64 * 1024
"""Bytes a second that a peer has to read, of what waits for it."""
UNREAD_SECONDS = 30.0
"""In so long all has to be read that waits, or that much, as of any other caller of the host's."""
PAGED_SECONDS = 600.0
"""The same for plain output, which a person may page through."""


def take_standard() -> tuple[int, int]:
    """(in, out): 0 and 1 moved away, so that nothing that prints or reads here can touch the frames."""
    taken = tuple(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for number in (0, 1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return taken[0], taken[1]


def can_be_polled(descriptor: int) -> bool:
    """Whether readiness means that one call won't block: pipes and sockets."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class PipeIn:
    """Bytes from a descriptor. At most a few pieces are held; the peer waits beyond that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_PIECES)
        self._polled = can_be_polled(descriptor)
        if self._polled:
            self._loop.add_reader(descriptor, self._ready)
        else:
            threading.Thread(target=self._run, daemon=True, name="stdin").start()

    async def read(self) -> bytes:
        """The next piece; empty at the end, once."""
        full = self._pieces.full()
        data = await self._pieces.get()
        if full and self._polled and data:
            self._loop.add_reader(self._descriptor, self._ready)
        return data

    def _ready(self) -> None:
        data = _read(self._descriptor)
        self._pieces.put_nowait(data)
        if not data or self._pieces.full():
            self._loop.remove_reader(self._descriptor)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            while True:
                data = _read(self._descriptor)
                asyncio.run_coroutine_threadsafe(self._pieces.put(data), self._loop).result()
                if not data:
                    return


class PipeOut:
    """Bytes to a descriptor, whole pieces in order. `broken` once the peer has gone, or counts as gone."""

    def __init__(self, descriptor: int, *, patience_s: float = UNREAD_SECONDS) -> None:
        """`patience_s`: in so long a good part has to be read of what waits, or all of it."""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._patience_s = patience_s
        self._held = self._read = 0
        self._quiet = asyncio.Event()
        """Nothing waits."""
        self._watching: asyncio.Task[None] | None = None
        self.fault = ""
        """What the peer did, where it is there and counts as gone."""
        self._done = asyncio.Event()
        self.broken = asyncio.Event()
        self._poll = select.poll()
        if can_be_polled(descriptor):
            self._poll.register(descriptor, select.POLLOUT)
        threading.Thread(target=self._run, daemon=True, name="stdout").start()

    def put(self, data: bytes) -> None:
        """Write or queue `data`. A peer that is too far behind counts as gone; what is for it is dropped."""
        if self._held > _HELD_BYTES:
            self._give_up(f"more than {_HELD_BYTES >> 20} MiB of answers are left unread")
        if self.broken.is_set():
            return
        if not self._held and len(data) <= select.PIPE_BUF and self._has_room():
            if not _write(self._descriptor, data):
                self.broken.set()
            return
        self._held += len(data)
        self._quiet.clear()
        self._pieces.put(data)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def close(self, seconds: float) -> None:
        """Wait until all is written, at most `seconds`."""
        self._pieces.put(None)
        if self._watching is not None:
            self._watching.cancel()
        if self.fault:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), seconds)

    def _has_room(self) -> bool:
        """Of a pipe this promises as much as is written whole: a write of that won't block."""
        return any(events == select.POLLOUT for _, events in self._poll.poll(0))

    def _written(self, size: int) -> None:
        self._held -= size
        self._read += size
        if not self._held:
            self._quiet.set()

    async def _watch(self) -> None:
        """Until nothing waits."""
        while self._held:
            before, waiting = self._read, self._held
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self._patience_s)
            if self._held and self._read - before < min(waiting, _SLOWEST * self._patience_s):
                self._give_up(f"the answers are left unread for {self._patience_s:g} s")
                break
        self._watching = None

    def _give_up(self, fault: str) -> None:
        if not self.broken.is_set():
            self.fault = fault
            self.broken.set()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):
            while (data := self._pieces.get()) is not None:
                for start in range(0, len(data), _SLICE):
                    piece = data[start : start + _SLICE]
                    if not _write(self._descriptor, piece):
                        self._loop.call_soon_threadsafe(self.broken.set)
                    self._loop.call_soon_threadsafe(self._written, len(piece))
            self._loop.call_soon_threadsafe(self._done.set)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return b""


def _write(descriptor: int, data: bytes) -> bool:
    """Whether all of it went out."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True
