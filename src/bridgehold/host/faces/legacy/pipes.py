"""Standard input and output as a peer's two pipes, whatever they are: pipe, socket, file or terminal.

Each has a thread of its own, because a file can't be polled and a peer that doesn't read must not
keep the loop from seeing a signal. Both are daemons: the process ends without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import threading

_READ_BYTES = 65_536
_FIRST_FREE = 10
_HELD_BYTES = 64 * 1024 * 1024
"""What is held for a peer that doesn't read."""


def take_standard() -> tuple[int, int]:
    """(in, out): 0 and 1 moved away, so that nothing that prints or reads here can touch the frames."""
    taken = tuple(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for number in (0, 1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return taken[0], taken[1]


class PipeIn:
    """Bytes from a descriptor. At most a few pieces are held; the peer waits beyond that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(4)
        threading.Thread(target=self._run, daemon=True, name="stdin").start()

    async def read(self) -> bytes:
        """The next piece; empty at the end, once."""
        return await self._pieces.get()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            while True:
                try:
                    data = os.read(self._descriptor, _READ_BYTES)
                except OSError:
                    data = b""
                asyncio.run_coroutine_threadsafe(self._pieces.put(data), self._loop).result()
                if not data:
                    return


class PipeOut:
    """Bytes to a descriptor, whole pieces in order. `broken` once the peer has gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._held = 0
        self._done = asyncio.Event()
        self.broken = asyncio.Event()
        threading.Thread(target=self._run, daemon=True, name="stdout").start()

    def put(self, data: bytes) -> None:
        """Queue `data`. A peer that is too far behind counts as gone; what is for it then is dropped."""
        if self._held > _HELD_BYTES:
            self.broken.set()
        if not self.broken.is_set():
            self._held += len(data)
            self._pieces.put(data)

    async def close(self, seconds: float) -> None:
        """Wait until all is written, at most `seconds`."""
        self._pieces.put(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), seconds)

    def _written(self, size: int) -> None:
        self._held -= size

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):
            while (data := self._pieces.get()) is not None:
                size = len(data)
                try:
                    while data:
                        data = data[os.write(self._descriptor, data) :]
                except OSError:
                    self._loop.call_soon_threadsafe(self.broken.set)
                self._loop.call_soon_threadsafe(self._written, size)
            self._loop.call_soon_threadsafe(self._done.set)
