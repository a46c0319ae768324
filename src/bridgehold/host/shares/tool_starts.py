"""How a process of an operator's tool begins: ``module:function``, run by `cell.tools.worker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from bridgehold.errors import CrashError
from bridgehold.host.shares.openings import Openings

_WORKER = "bridgehold.host.cell.tools.worker"
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")


class Running(Protocol):
    """One process, whoever is its parent."""

    requests: asyncio.StreamWriter
    answers: int
    """A descriptor: whoever reads it closes it."""
    pidfd: int
    """Readable once it has ended, and its reader's to close; -1: it has, and was reaped."""

    def kill(self) -> None:
        """It, and all that it has left in its group."""

    async def status(self) -> int:
        """Its exit status, once it has one; below 0: the signal that ended it."""


Start = Callable[[str, str], Awaitable[Running]]
"""(a tool's name, its entry) → a process of it. Raises `CrashError`."""


class _Child:
    """Of this process."""

    def __init__(self, process: Process, answers: int) -> None:
        assert process.stdin is not None  # noqa: S101 - it was made with one
        self.requests = process.stdin
        self.answers = answers
        self.pidfd = pidfd_of(process)
        self._process = process

    def kill(self) -> None:
        kill(self._process)

    async def status(self) -> int:
        return await self._process.wait()


def as_child(folder: Path) -> Start:
    """As children of this process, importable from `folder`."""

    async def start(_name: str, entry: str) -> Running:
        return _Child(*await spawn(folder, entry, asyncio.subprocess.PIPE))

    return start


class _Handed:
    """The front's child, and this process's to talk to."""

    def __init__(
        self, openings: Openings, number: int, requests: asyncio.StreamWriter, answers: int, pidfd: int
    ) -> None:
        self.requests = requests
        self.answers = answers
        self.pidfd = pidfd
        self._openings = openings
        self._number = number

    def kill(self) -> None:
        self._openings.end_tool(self._number)

    async def status(self) -> int:
        return await self._openings.tool_status(self._number)


def by_front(openings: Openings) -> Start:
    """As children of the front, which knows what each tool's entry is."""

    async def start(name: str, _entry: str) -> Running:
        number, (requests, answers, pidfd) = await openings.tool(name)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(requests, "wb", 0)
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        return _Handed(openings, number, writer, answers, pidfd)

    return start


async def spawn(folder: Path, entry: str, stdin: int) -> tuple[Process, int]:
    """A child that runs `entry`, and the descriptor of its answers. Raises `CrashError`."""
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
    answers = writes = -1
    try:
        answers, writes = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", _WORKER, str(folder), entry, str(os.getpid())),
            stdin=stdin,
            stdout=writes,
            stderr=None,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        if answers >= 0:
            os.close(answers)
        raise CrashError(f"the tool's process can't start: {error.strerror}", retry="later") from error
    finally:
        if writes >= 0:
            os.close(writes)
    return process, answers


def kill(process: Process) -> None:
    """It, and all that it has left in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def pidfd_of(process: Process) -> int:
    """-1: it has ended, and was reaped."""
    try:
        return os.pidfd_open(process.pid)
    except ProcessLookupError:
        return -1
