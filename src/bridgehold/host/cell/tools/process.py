"""Tools that are the operator's own functions, in processes of their own: never in the host's.

One for each tool and tenant, started at its first call; it serves several at once, on threads, and leaves
when it is not used. A call that is late, or whose command has ended, takes its process with it: a thread
can't be stopped. So what one tenant does to a tool reaches no other tenant's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.errors import ApplicationError, CrashError, LimitError, NotFoundError
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.host.cell.tools.worker import MOST_BYTES
from bridgehold.host.shares.tool_starts import Running, Start
from bridgehold.steps import in_turns
from bridgehold.tasks import begin_task

_HEAD = 64
_IDLE_SECONDS = 60.0
_LAST_SECONDS = 0.5
"""Between the end of a worker and the end of what it wrote, whichever comes first."""
_Key = tuple[str, str, str]
"""A tool's name, its ``module:function``, and the tenant: another function is another process."""


class _Answer(msgspec.Struct, frozen=True):
    result: object = None
    error: str = ""
    changed: bool = False
    """The function's code is not what the process has: the call was not run."""


class _ChangedError(Exception):
    pass


class _Process:
    """One running worker of one tool, and all that it started and left in its process group."""

    def __init__(self, process: Running) -> None:
        """It is the worker's end that tells of its end, and not that of the pipe of its answers: what a
        function forked may hold that one open.
        """
        self._process = process
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._made = 0
        self.retired = False
        """No new call comes; it ends with its last."""
        self._why = ""
        self._used = time.monotonic()
        self._exited = asyncio.Event()
        self._over = False
        self._watching = asyncio.create_task(self._watch())

    @property
    def alive(self) -> bool:
        return not self._over

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def call(self, request: dict[str, object]) -> object:
        self._made += 1
        self._used = time.monotonic()
        number = self._made
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_watch` says why
                self._process.requests.write(msgspec.json.encode({"call": number, **request}) + b"\n")
                await self._process.requests.drain()
            return await future
        finally:
            del self._waiting[number]
            self._used = time.monotonic()

    def unused_for(self, seconds: float) -> bool:
        return time.monotonic() - self._used >= seconds * 0.9  # timers may be early by a tick

    async def end(self, why: str) -> None:
        """`why`: what calls that are under way are told."""
        self._why = self._why or why
        self._process.kill()
        await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        """Until the worker has ended, or what it says can't be read any more; then all of it is ended."""
        loop = asyncio.get_running_loop()
        pid_fd = self._process.pidfd
        if pid_fd >= 0:
            loop.add_reader(pid_fd, self._exited.set)
        else:
            self._exited.set()
        reading, leaving = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._exited.wait())
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            if leaving.done():
                self._process.kill()  # the rest of its group, while its number is nobody else's
            await asyncio.wait({reading, leaving}, timeout=_LAST_SECONDS)  # the other one is about to follow
        finally:
            if not leaving.done():
                self._process.kill()
            if pid_fd >= 0:
                await self._exited.wait()
                loop.remove_reader(pid_fd)
                os.close(pid_fd)
            reading.cancel()
            leaving.cancel()
            await asyncio.wait({reading, leaving})
            self._process.requests.close()
            status = await self._process.status()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(CrashError(self._why or _ended(status), retry="same"))

    async def _read(self) -> None:
        reader = asyncio.StreamReader(limit=MOST_BYTES + _HEAD)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._process.answers, "rb", 0)
        )
        try:
            while line := await reader.readline():
                number, _, body = line.partition(b" ")
                await self._deliver(int(number), body)
        except (ValueError, OSError):
            self._why = self._why or "the tool's process wrote what is no answer"
        finally:
            transport.close()

    async def _deliver(self, number: int, body: bytes) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        try:
            answer = msgspec.convert(await in_turns(strict_turns.steps(body)), type=_Answer)
            error = answer.error[:2_000]
        except strict.StrictError as fault:
            answer, error = _Answer(), f"the tool's result: {fault}"
        except msgspec.ValidationError:
            answer, error = _Answer(), "the tool's process wrote what is no answer"
        if future.done():  # whoever waited has gone meanwhile
            return
        if answer.changed:
            future.set_exception(_ChangedError())
        elif error:
            future.set_exception(ApplicationError(error))
        else:
            future.set_result(answer.result)


def _ended(status: int) -> str:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"the tool's process ended ({how})"


class ProcessTools:
    """Calls functions, in processes that `begin` begins."""

    def __init__(self, begin: Start, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._begin = begin
        self._entries: Mapping[str, str] = {}
        self._idle_seconds = idle_seconds
        self._processes: dict[_Key, asyncio.Task[_Process]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def call(
        self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext, _means: object
    ) -> object:
        """Run the operator's function in its process. Raises `LimitError` for too large arguments."""
        request = {"arguments": arguments, "context": msgspec.to_builtins(context)}
        if len(msgspec.json.encode(request)) > MOST_BYTES:
            raise LimitError(f"the arguments of {tool.name} take more than {MOST_BYTES} bytes")
        entry = self._entries.get(tool.name)
        if entry is None:
            raise NotFoundError(f"the tool {tool.name} is not offered any more")
        key = (tool.name, entry, context.tenant)
        process = await self._running(key)
        try:
            return await process.call(request)
        except _ChangedError:
            process.retired = True
            if self._is_current(key, process):
                del self._processes[key]
            return await self.call(tool, arguments, context, _means)
        except asyncio.CancelledError:
            if self._is_current(key, process):
                del self._processes[key]
            await asyncio.shield(self._end(process, "another call of this tool was late, or given up"))
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
                await (await task).end("the host is stopping")
        if self._ending:
            await asyncio.wait(self._ending)

    def _end_if_idle(self, process: _Process) -> None:
        if process.idle:
            self._end(process, "")

    def _end(self, process: _Process, why: str) -> asyncio.Task[None]:
        return begin_task(process.end(why), self._ending)

    def _leave(self, key: _Key, process: _Process) -> None:
        """Some time after a call: end the process where no other call has come since."""
        if self._is_current(key, process) and process.idle and process.unused_for(self._idle_seconds):
            del self._processes[key]
            self._end(process, "")

    def _is_current(self, key: _Key, process: _Process) -> bool:
        task = self._processes.get(key)
        return task is not None and task.done() and not task.exception() and task.result() is process

    async def _running(self, key: _Key) -> _Process:
        task = self._processes.get(key)
        if task is None or (task.done() and (task.exception() or not task.result().alive)):
            task = asyncio.create_task(self._start(*key[:2]))
            self._processes[key] = task
        return await asyncio.shield(task)

    async def _start(self, name: str, entry: str) -> _Process:
        return _Process(await self._begin(name, entry))
