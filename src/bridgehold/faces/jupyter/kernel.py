"""The kernel: a front end's requests, answered by one session of the host's.

A cell is a command of the session's, so that an interrupt is its cancel, which keeps the state. The two
channels of requests are served side by side: an interrupt comes through while a cell runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections import deque
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import msgspec
import psutil

from bridgehold.client.session import ClientSession
from bridgehold.client.tools import Tool
from bridgehold.error_texts import defect_of
from bridgehold.errors import BridgeholdError, LimitError
from bridgehold.faces.jupyter import requests
from bridgehold.faces.jupyter.cell import INTERRUPTED, Cell, told
from bridgehold.faces.jupyter.forms import visible
from bridgehold.faces.jupyter.place import LOST, Place
from bridgehold.faces.jupyter.wire import Channel, Message, Wire

_LOOK_MS = 5_000
"""For completion and inspection: who types waits for them."""
_KEPT = 1_000
"""Inputs that a front end's history has."""
_MOST_MATCHES = 1_000
_MOST_ID = 200
_PARENT_SECONDS = 1.0
MOST_MEMORY, _MEMORY_SECONDS = 1 << 30, 0.1
"""Of this process; how often that is looked at."""

Handler = Callable[[Message], Awaitable[dict[str, Any]]]


class Kernel:
    """Serves until a front end shuts it down, or has gone."""

    def __init__(self, wire: Wire, place: Place, *, trusted: bool) -> None:
        self._wire = wire
        self._place = place
        self._trusted = trusted
        self._count = 0
        self._inputs: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self._running: asyncio.Task[Any] | None = None
        self._behind: list[Message] = []
        """What had come when a cell failed: cells of it are not run."""
        self._over = asyncio.Event()
        self._handlers: dict[str, Handler] = {
            "kernel_info_request": self._info,
            "execute_request": self._execute,
            "complete_request": self._complete,
            "inspect_request": self._inspect,
            "is_complete_request": self._is_complete,
            "history_request": self._history,
            "comm_info_request": self._comms,
            "interrupt_request": self._interrupt,
            "shutdown_request": self._shut_down,
        }

    async def serve(self) -> None:
        """Until `stop`, a shutdown, or the end of the process that started this one."""
        self._wire.publish("status", {"execution_state": "starting"}, None)
        works = (
            self._serve("shell"),
            self._serve("control"),
            self._wire.beat(),
            self._orphaned(),
            self._modest(),
        )
        tasks = [asyncio.create_task(work) for work in (*works, self._over.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def stop(self) -> None:
        """End in order."""
        self._over.set()

    def interrupt(self) -> None:
        """Cancel the cell that runs."""
        if self._running is not None:
            self._running.cancel()

    async def _orphaned(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent or not os.environ.get("JPY_PARENT_PID"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(_PARENT_SECONDS)

    async def _modest(self) -> None:
        """A stranger of this machine may begin a message of any number of parts, and what a front end leaves
        unread waits: past its bound the kernel ends, and not the machine."""
        mine = psutil.Process()
        while mine.memory_info().rss <= MOST_MEMORY:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(_MEMORY_SECONDS)
        raise LimitError(f"the kernel would hold more than {MOST_MEMORY >> 20} MiB", hint="Start it again.")

    async def _serve(self, channel: Channel) -> None:
        while True:
            await self._answer(await self._wire.receive(channel))
            if channel == "shell":
                await self._abort()

    async def _answer(self, asked: Message) -> None:
        handler = self._handlers.get(asked.kind)
        self._wire.publish("status", {"execution_state": "busy"}, asked)
        if asked.kind == "comm_open":
            self._refuse_comm(asked)
        if handler is not None:
            try:
                content = await handler(asked)
            except msgspec.ValidationError as error:
                said = str(error)
                content = {"status": "error", "ename": "UsageError", "evalue": said, "traceback": [said]}
            except BridgeholdError as error:
                content = {"status": "error", **told(error)}
            except Exception as error:  # noqa: BLE001 - who asked waits for a reply, and the kernel serves on
                content = {"status": "error", **told(defect_of(error, asked.kind))}
            self._wire.reply(asked, content)
        self._wire.publish("status", {"execution_state": "idle"}, asked)

    async def _info(self, _: Message) -> dict[str, Any]:
        language = {
            "name": "python",
            "version": platform.python_version(),
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "pygments_lexer": "python3",
            "codemirror_mode": {"name": "python", "version": 3},
            "nbconvert_exporter": "python",
        }
        return {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "bridgehold",
            "implementation_version": version("bridgehold"),
            "language_info": language,
            "banner": "Python in a sandbox, by Bridgehold",
            "help_links": [],
            "debugger": False,
        }

    async def _execute(self, asked: Message) -> dict[str, Any]:
        request = msgspec.convert(asked.content, type=requests.Execute)
        quiet = request.silent
        counted = request.store_history and not quiet and bool(request.code.strip())
        number = self._count + 1
        if counted:
            self._count = number
            self._inputs.append((number, request.code))
        if not quiet:
            shown = {"code": request.code, "execution_count": number}
            self._wire.publish("execute_input", shown, asked)

        def publish(kind: str, content: dict[str, Any]) -> None:
            if not quiet:
                self._wire.publish(kind, content, asked)

        cell = Cell(publish, trusted=self._trusted)
        content = await self._interruptible(self._cell(asked, request, cell, publish, number))
        if content["status"] == "error":
            publish("error", {key: content[key] for key in ("ename", "evalue", "traceback")})
            if request.stop_on_error:
                self._behind = await self._wire.waiting("shell")
        return {"execution_count": number, **content}

    async def _interruptible(self, work: Any) -> dict[str, Any]:
        self._running = asyncio.create_task(work)
        try:
            await asyncio.wait([self._running])
            found: dict[str, Any] = self._running.result()
            return found
        except asyncio.CancelledError:
            if not self._running.done():  # this task itself was
                self._running.cancel()
                raise
            return {"status": "error", **INTERRUPTED}
        finally:
            self._running = None

    async def _cell(
        self,
        asked: Message,
        request: requests.Execute,
        cell: Cell,
        publish: Callable[[str, dict[str, Any]], None],
        number: int,
    ) -> dict[str, Any]:
        expressions: dict[str, Any] = {}
        try:
            if request.code.strip():
                session = await self._place.session()
                tools = (self._input(asked, cell),) if request.allow_stdin else ()
                said = await session.call("execute", {"code": request.code}, on_event=cell.event, tools=tools)
                if data := cell.result(said.value):
                    shown = {"execution_count": number, "data": data, "metadata": {}}
                    publish("execute_result", shown)
            for name, code in request.user_expressions.items():
                expressions[name] = await self._expression(await self._place.session(), cell, code)
        except BridgeholdError as error:
            if error.code in LOST:
                await self._place.aclose()
                cell.note("[the sandbox is gone, with all that cells had made in it; the next has a new one]")
            return {"status": "error", **told(error)}
        return {"status": "ok", "payload": [], "user_expressions": expressions}

    async def _expression(self, session: ClientSession, cell: Cell, code: str) -> dict[str, Any]:
        try:
            data = cell.result((await session.call("execute", {"code": code})).value)
        except BridgeholdError as error:
            if error.code in LOST:
                raise
            return {"status": "error", **told(error)}
        return {"status": "ok", "data": data or {"text/plain": "None"}, "metadata": {}}

    def _input(self, asked: Message, cell: Cell) -> Tool:
        """The tool that gives a cell its input: a line of the front end's."""

        async def stdin(prompt: str = "") -> dict[str, Any]:
            return {"text": f"{await self._wire.ask(asked, cell.asked(visible(prompt)))}\n"}

        return Tool.of(stdin)

    async def _abort(self) -> None:
        """Cells that were sent before one before them failed are not run; other requests are answered."""
        behind, self._behind = self._behind, []
        for asked in behind:
            if asked.kind != "execute_request":
                await self._answer(asked)
                continue
            self._wire.publish("status", {"execution_state": "busy"}, asked)
            self._wire.reply(asked, {"status": "aborted", "execution_count": self._count})
            self._wire.publish("status", {"execution_state": "idle"}, asked)

    async def _complete(self, asked: Message) -> dict[str, Any]:
        at = msgspec.convert(asked.content, type=requests.At)
        found, start, end = [], at.cursor_pos, at.cursor_pos
        with contextlib.suppress(BridgeholdError):
            session = await self._place.session()
            arguments = {"code": at.code, "cursor": at.cursor_pos}
            said = await session.run("complete", arguments, deadline_ms=_LOOK_MS)
            if isinstance(said, dict) and isinstance(said.get("matches"), list):
                found = [visible(one) for one in said["matches"][:_MOST_MATCHES] if isinstance(one, str)]
                start, end = _within(said.get("start"), at), _within(said.get("end"), at)
        places = {"cursor_start": min(start, end), "cursor_end": end}
        return {"status": "ok", "matches": found, **places, "metadata": {}}

    async def _inspect(self, asked: Message) -> dict[str, Any]:
        at = msgspec.convert(asked.content, type=requests.At)
        session = await self._place.session()
        arguments = {"code": at.code, "cursor": at.cursor_pos}
        said = await session.run("inspect", arguments, deadline_ms=_LOOK_MS)
        if not isinstance(said, dict) or said.get("found") is not True:
            return {"status": "ok", "found": False, "data": {}, "metadata": {}}
        one = {key: visible(said.get(key)) for key in ("name", "signature", "type", "repr", "documentation")}
        head = f"{one['name']}{one['signature']}"
        rows = [head, f"type: {one['type']}", f"value: {one['repr']}", "", one["documentation"]]
        return {"status": "ok", "found": True, "data": {"text/plain": "\n".join(rows)}, "metadata": {}}

    async def _is_complete(self, asked: Message) -> dict[str, Any]:
        return dict(requests.completeness(msgspec.convert(asked.content, type=requests.IsComplete).code))

    async def _history(self, asked: Message) -> dict[str, Any]:
        wanted = msgspec.convert(asked.content, type=requests.History)
        return {"status": "ok", "history": requests.remembered(wanted, self._inputs)}

    async def _comms(self, _: Message) -> dict[str, Any]:
        return {"status": "ok", "comms": {}}

    def _refuse_comm(self, asked: Message) -> None:
        """A widget's channel: no code of a cell's is at its other end, and a front end is told so."""
        name = asked.content.get("comm_id") if isinstance(asked.content, dict) else None
        if isinstance(name, str) and 0 < len(name) <= _MOST_ID:
            self._wire.publish("comm_close", {"comm_id": name, "data": {}}, asked)

    async def _interrupt(self, _: Message) -> dict[str, Any]:
        self.interrupt()
        return {"status": "ok"}

    async def _shut_down(self, asked: Message) -> dict[str, Any]:
        request = msgspec.convert(asked.content, type=requests.Shutdown)
        self.stop()
        return {"status": "ok", "restart": request.restart}


def _within(place: object, at: requests.At) -> int:
    """A place in the code; the cursor, where a sandbox says none."""
    return place if isinstance(place, int) and 0 <= place <= len(at.code) else at.cursor_pos
