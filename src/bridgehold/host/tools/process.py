"""Tools that are the operator's own functions, in processes of their own: never in the host's.

One for each tool and tenant, started at its first call; it serves several at once, on threads, and leaves
when it is not used. A call that is late, or whose command has ended, takes its process with it: a thread
can't be stopped. So what one tenant does to a tool reaches no other tenant's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridgehold.errors import ApplicationError, CrashError, LimitError
from bridgehold.host.tools.values import ToolContext, ToolSpec

MOST_BYTES = 4 * 1024 * 1024
"""Of one answer."""
_IDLE_SECONDS = 60.0
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")


class _Answer(msgspec.Struct, frozen=True):
    call: int
    result: object = None
    error: str = ""


class _Process:
    """One running worker of one tool."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._made = 0
        self.retired = False
        """No new call comes; it ends with its last."""
        self._used = time.monotonic()
        self._reading = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        return not self._reading.done()

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def call(self, request: dict[str, object]) -> object:
        self._made += 1
        self._used = time.monotonic()
        number = self._made
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        assert self._process.stdin is not None  # noqa: S101 - it was made with one
        try:
            self._process.stdin.write(msgspec.json.encode({"call": number, **request}) + b"\n")
            await self._process.stdin.drain()
            return await future
        except (BrokenPipeError, ConnectionResetError):
            raise CrashError("the tool's process ended", retry="same") from None
        finally:
            del self._waiting[number]
            self._used = time.monotonic()

    def unused_for(self, seconds: float) -> bool:
        return time.monotonic() - self._used >= seconds * 0.9  # timers may be early by a tick

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was made with one
        reason = "the tool's process ended"
        try:
            while line := await self._process.stdout.readline():
                self._deliver(msgspec.json.decode(line, type=_Answer))
        except OSError:
            pass
        except (ValueError, msgspec.MsgspecError, RecursionError):
            reason = f"the tool's process wrote what is no answer, or more than {MOST_BYTES} bytes"
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # one that is not heard any more does nothing any more
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(CrashError(reason, retry="same"))

    def _deliver(self, answer: _Answer) -> None:
        future = self._waiting.get(answer.call)
        if future is None or future.done():
            return
        if answer.error:
            future.set_exception(ApplicationError(answer.error[:2_000]))
        else:
            future.set_result(answer.result)


class ProcessTools:
    """Calls functions, importable from `folder`."""

    def __init__(self, folder: Path, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._folder = folder
        self._entries: Mapping[str, str] = {}
        self._idle_seconds = idle_seconds
        self._processes: dict[tuple[str, str], asyncio.Task[_Process]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def call(self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext) -> object:
        request = {"arguments": arguments, "context": msgspec.to_builtins(context)}
        if len(msgspec.json.encode(request)) > MOST_BYTES:
            raise LimitError(f"the arguments of {tool.name} take more than {MOST_BYTES} bytes")
        key = (tool.name, context.tenant)
        process = await self._running(key)
        try:
            return await process.call(request)
        except asyncio.CancelledError:
            self._processes.pop(key, None)
            await asyncio.shield(self._end(process))
            raise
        finally:
            if process.retired:
                self._end_if_idle(process)
            else:
                asyncio.get_running_loop().call_later(self._idle_seconds, self._leave, key, process)

    def replace(self, entries: Mapping[str, str]) -> None:
        """By tool, its ``module:function``; what runs ends with its calls, so that new code is seen."""
        self._entries = entries
        for task in self._processes.values():
            if task.done() and not task.exception():
                task.result().retired = True
                self._end_if_idle(task.result())
        self._processes = {key: task for key, task in self._processes.items() if not task.done()}

    async def stop(self) -> None:
        """End every process."""
        tasks = list(self._processes.values())
        self._processes.clear()
        for task in tasks:
            with contextlib.suppress(OSError):
                await (await task).end()
        if self._ending:
            await asyncio.wait(self._ending)

    def _end_if_idle(self, process: _Process) -> None:
        if process.idle:
            self._end(process)

    def _end(self, process: _Process) -> asyncio.Task[None]:
        task = asyncio.create_task(process.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _leave(self, key: tuple[str, str], process: _Process) -> None:
        """Some time after a call: end the process where no other call has come since."""
        task = self._processes.get(key)
        current = task is not None and task.done() and not task.exception() and task.result() is process
        if current and process.idle and process.unused_for(self._idle_seconds):
            del self._processes[key]
            self._end(process)

    async def _running(self, key: tuple[str, str]) -> _Process:
        task = self._processes.get(key)
        if task is None or (task.done() and (task.exception() or not task.result().alive)):
            task = asyncio.create_task(self._start(key[0]))
            self._processes[key] = task
        return await asyncio.shield(task)

    async def _start(self, name: str) -> _Process:
        argv = (sys.executable, "-P", "-m", "bridgehold.host.tools.worker", str(self._folder))
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
        return _Process(
            await asyncio.create_subprocess_exec(
                *argv,
                self._entries[name],
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,
                env=environment,
                limit=MOST_BYTES,
                start_new_session=True,
            )
        )
