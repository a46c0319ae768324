"""A guest: the other end of a sandbox's pipes, in this process. It speaks the real wire.

What is raised at one of its steps is its own exit.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

from bridgehold.bridges.wire import HEADER_BYTES
from bridgehold.errors import BridgeholdError
from doubles.steps import Steps

Behaviour = Callable[["Guest", str, dict[str, Any]], object]
"""(guest, command, arguments) → its result; `FAULT`, `SILENT`, or an exit by `guest.leave`."""
FAULT, SILENT = object(), object()


def obedient(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
    """Answers each call with what it was given."""
    return {"command": command, **arguments}


class Guest:
    """Boots (or warms), answers calls in order, and is gone when it is killed or leaves."""

    def __init__(
        self, steps: Steps, behaviour: Behaviour, operations: tuple[str, ...], *, outputs: int
    ) -> None:
        """`outputs`: how many pipes it has beside its frames'."""
        self._steps = steps
        self._behaviour = behaviour
        self._operations = operations
        self._input, to_guest = os.pipe()
        from_guest, self._frames = os.pipe()
        pairs = [os.pipe() for _ in range(outputs)]
        self._outputs = [write for _, write in pairs]
        self.host_ends = [to_guest, from_guest, *(read for read, _ in pairs)]
        """In the order in which a launcher hands them over; theirs who gets them."""
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self.calls: list[str] = []
        self._script = False
        """Its pipes are a user script's from its opening on; one more byte lets that run."""
        self.left: Callable[[int], None] = lambda _status: None
        """Told of its own exit."""
        self.alive = True
        os.set_blocking(self._input, False)
        self._loop.add_reader(self._input, self._read)

    def close(self) -> None:
        """Its process is gone."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._input)
        for task in self._tasks:
            task.cancel()
        for descriptor in (self._input, self._frames, *self._outputs):
            os.close(descriptor)

    def leave(self, status: int) -> object:
        """End by itself, in the middle of what it does."""
        self.left(status)
        return SILENT

    def write(self, text: bytes) -> None:
        """To its standard error."""
        os.write(self._outputs[0], text)

    def _read(self) -> None:
        try:
            data = os.read(self._input, 65_536)
        except BlockingIOError:
            return
        if not data:  # a script without input goes on until it is ended
            self._loop.remove_reader(self._input)
        self._buffer += data
        if self._script and self._buffer[:1] == b"\n":
            self._buffer = self._buffer[1:]
        while len(self._buffer) >= HEADER_BYTES:
            size = HEADER_BYTES + int.from_bytes(self._buffer[:HEADER_BYTES], "big")
            if len(self._buffer) < size:
                return
            frame, self._buffer = json.loads(self._buffer[HEADER_BYTES:size]), self._buffer[size:]
            task = self._loop.create_task(self._answer(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, frame: dict[str, Any]) -> None:
        if frame.get("type") == "cancel":
            return
        async with self._turn:
            try:
                await self._steps.take(f"guest {frame.get('type') or frame['command']}")
            except (BridgeholdError, OSError, RuntimeError):
                self.leave(1)
            if self.alive:
                self._say(self._reply(frame))

    def _reply(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        if frame.get("type") == "warm":
            return {"type": "warmed", "modules": [], "threads": 1}
        if frame.get("type") == "boot":
            said = {name: frame[name] for name in ("bridge", "version")}
            return {"type": "ready", **said, "operations": list(self._operations), "python": "3.11.2"}
        self.calls.append(frame["command"])
        self._script = self._script or "script" in frame["args"]
        result = self._behaviour(self, frame["command"], frame["args"])
        if result is SILENT:
            return None
        if result is FAULT:
            error = {"type": "ValueError", "message": "no"}
            return {"id": frame["id"], "success": False, "error": error}
        return {"id": frame["id"], "success": True, "result": result}

    def _say(self, frame: dict[str, Any] | None) -> None:
        if frame is not None and self.alive:
            body = json.dumps(frame).encode()
            os.write(self._frames, len(body).to_bytes(HEADER_BYTES, "big") + body)
