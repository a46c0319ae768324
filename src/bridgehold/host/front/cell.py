"""One cell, as the front knows it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from bridgehold.errors import CellEndedError
from bridgehold.host.front.opens import Opens
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.link import Link
from bridgehold.host.shares.memory import in_memory
from bridgehold.ids import random_id
from bridgehold.keeper.spending import Used
from bridgehold.sandbox import procfs
from bridgehold.sandbox.values import SandboxSpec

_ORDERS = 8


class HandedOver(Protocol):
    """A connection that a cell has."""

    over: asyncio.Event

    def relay(self, method: str, params: msgspec.Raw, emit: Emit, /) -> Awaitable[object]:
        """What the front answers its caller."""

    def lose(self) -> None:
        """Its cell has ended."""


class Cell:
    """One that runs, or has ended."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.name = random_id("c", 12)
        self.folders: dict[Path, tuple[int, int] | None] = {}
        """That it may open, as they were when it began: another one of that name is closed to it."""
        self.link: Link | None = None
        self.opens: Opens | None = None
        """What it may have opened."""
        self.pidfd = -1
        self.calls: Counter[int] = Counter()
        """Requests under way, by the connection that made them."""
        self.principals: Counter[str] = Counter()
        """The same, by who made them: in whose name alone it may ask."""
        self.handed: dict[int, HandedOver] = {}
        """Connections that it has itself, by number."""
        self.entrance: socket.socket | None = None
        """Where it gets them."""
        self.bridges: set[str] = set()
        """Those that it may start something for."""
        self.asked: set[str] = set()
        """Those that it had an order for: what is opened for it is judged by their grants as they are."""
        self.ways: dict[str, tuple[SandboxSpec, ...]] = {}
        """What it may start for each."""
        self.tried: dict[str, tuple[SandboxSpec, ...]] = {}
        """The same, of submitted bridges that it tries now."""
        self.environments: set[str] = set()
        """Digests of those that it had an order for."""
        self.used = Used()
        self.metrics = ""
        """As it said last."""
        self.begun = self.idle_since = time.monotonic()
        self.gone = asyncio.Event()
        """Its process has ended."""
        self.ended = asyncio.Event()
        """Nothing is its any more."""
        self.reason = ""
        """What it is ended for, if it is."""
        self.orders = asyncio.Semaphore(_ORDERS)
        """So many of one cell's are made at once."""

    async def ask(self, method: str, params: object, emit: Emit | None = None) -> msgspec.Raw:
        """Raises its typed error, `CellEndedError` where it has none to give any more."""
        if self.link is None or self.ended.is_set():
            raise CellEndedError("the tenant's cell has ended")
        return await self.link.ask(method, params, emit)

    def tell(self, method: str, params: object) -> None:
        """Say it; one that is gone hears nothing."""
        if self.link is not None and not self.link.gone.is_set():
            self.link.tell(method, params)

    def hand(self, said: bytes, sock: socket.socket, ahead: bytes) -> bool:
        """Give it a connection, with the bytes that were read `ahead`; false where it doesn't take any."""
        if self.entrance is None:
            return False
        descriptor = in_memory(ahead)
        try:
            socket.send_fds(self.entrance, [said], [sock.fileno(), descriptor])
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def watch(self, pidfd: int) -> None:
        """From now on `gone` tells of the process's end."""
        self.pidfd = pidfd
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(pidfd)
            self.gone.set()

        loop.add_reader(pidfd, ended)

    @property
    def blind(self) -> bool:
        """Whether there is a folder meanwhile that it is to see and may not open."""
        return any(now is not None and now != was for was, now in self._seen())

    def _seen(self) -> Iterator[tuple[tuple[int, int] | None, tuple[int, int] | None]]:
        return ((was, facts_of(path)) for path, was in self.folders.items())

    @property
    def pid(self) -> int:
        """Of its process; -1 where that has ended."""
        facts = procfs.lines(procfs.read(f"/proc/self/fdinfo/{self.pidfd}"))
        return next((int(line.split()[1]) for line in facts if line.startswith("Pid:")), -1)

    def kill(self, reason: str = "") -> None:
        """End it now, for `reason` or what was said before: its process, and what it has of us."""
        self.reason = self.reason or reason
        if self.pidfd >= 0 and not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.link is not None:
            self.link.cut()
        if self.opens is not None:
            self.opens.close()

    def lose(self) -> None:
        """The connections that it had: it has ended."""
        for handed in self.handed.values():
            handed.lose()

    def let_go(self) -> None:
        """Of its process: it has ended, or can't be waited for."""
        self.lose()
        if self.entrance is not None:
            self.entrance.close()
            self.entrance = None
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1


def facts_of(folder: Path) -> tuple[int, int] | None:
    """Which folder it is: another one of that name has others. None: there is none."""
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
