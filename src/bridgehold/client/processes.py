"""A session's programs, from the caller's side: commands, and processes that go on behind them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

import msgspec

from bridgehold.client.connection import Progress
from bridgehold.client.execution import Ask, input_tool
from bridgehold.client.tools import Tool
from bridgehold.errors import LimitError, ProtocolError, UsageError
from bridgehold.protocol.values import ProcessFact, ProcessPart, Reply

_PART_BYTES = 256 * 1024
_WAIT_MS = 500
"""Of one question for more: commands of others to the session come between two."""
Size = tuple[int, int]
"""Of a terminal: rows and columns."""
T = TypeVar("T")


class Calls(Protocol):
    """What is needed of a session."""

    async def call(
        self,
        operation: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Reply:
        """Run an operation."""

    async def run(self, operation: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run an operation; its value."""


class Process:
    """A program that goes on behind the commands of its session, until it ends, or the session does."""

    def __init__(self, session: Calls, fact: ProcessFact) -> None:
        self._session = session
        self._fact = fact

    @property
    def number(self) -> int:
        """What the session calls it."""
        return self._fact.process

    @property
    def argv(self) -> list[str]:
        """Its name and arguments; a part, where they are long."""
        return self._fact.argv

    async def poll(self) -> ProcessFact:
        """How it is now."""
        return await self._wait(0)

    async def wait(self) -> ProcessFact:
        """How it has ended."""
        while (fact := await self._wait(_WAIT_MS)).running:
            pass
        return fact

    async def _wait(self, wait_ms: int) -> ProcessFact:
        said = await self._session.run("process_wait", {"process": self.number, "wait_ms": wait_ms})
        return _typed(said, ProcessFact)

    async def read(
        self, offset: int = 0, *, stream: str = "stdout", length: int = _PART_BYTES, wait_ms: int = 0
    ) -> ProcessPart:
        """What it has written from `offset` on, at most `length` bytes; `wait_ms`: waits for more."""
        asked = {
            "process": self.number,
            "stream": stream,
            "offset": offset,
            "length": length,
            "wait_ms": wait_ms,
        }
        said = await self._session.run("process_read", asked)
        if not isinstance(said, dict):
            raise ProtocolError("the session answered with no object")
        return _typed({**said, "data": _bytes(said)}, ProcessPart)

    async def output(self, *, stream: str = "stdout", offset: int = 0) -> AsyncIterator[bytes]:
        """What it writes, as it comes, until it ends. Raises `LimitError` where a part is kept no more."""
        while True:
            part = await self.read(offset, stream=stream, wait_ms=_WAIT_MS)
            if part.lost:
                raise LimitError(f"{part.lost} bytes of the process's {stream} are kept no more")
            if part.data:
                yield part.data
            offset += len(part.data)
            if part.end:
                return

    async def write(self, data: bytes | str, *, eof: bool = False) -> None:
        """Write all of `data` to its input, waiting as it reads; with `eof` it reads an end afterwards."""
        left = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        while True:
            part = left[:_PART_BYTES]
            text = base64.b64encode(part).decode("ascii")
            asked = {"process": self.number, "base64": text, "eof": eof and len(part) == len(left)}
            said = await self._session.run("process_write", asked)
            taken = said.get("written") if isinstance(said, dict) else None
            if type(taken) is not int or not 0 <= taken <= len(part):
                raise ProtocolError("the session's word on what was written is none")
            left = left[taken:]
            if not left:
                return

    async def send_signal(self, signal: int | str = "TERM") -> None:
        """Send it a signal, by number or name; and to what it has started."""
        await self._session.run("process_signal", {"process": self.number, "signal": signal})

    async def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""
        await self._session.run("process_resize", {"process": self.number, "rows": rows, "columns": columns})


class Programs:
    """Of a session: what runs programs in it, and asks of its names as a notebook does."""

    @overload
    async def command(
        self: Calls,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = ...,
        cwd: str = ...,
        env: Mapping[str, str] | None = ...,
        terminal: Size | None = ...,
        background: Literal[True],
        deadline_ms: int = ...,
        on_event: Progress | None = ...,
    ) -> Process: ...

    @overload
    async def command(
        self: Calls,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = ...,
        cwd: str = ...,
        env: Mapping[str, str] | None = ...,
        terminal: Size | None = ...,
        background: Literal[False] = ...,
        deadline_ms: int = ...,
        on_event: Progress | None = ...,
    ) -> dict[str, Any]: ...

    async def command(
        self: Calls,
        argv: Sequence[str],
        *,
        stdin: str | Ask | None = None,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        terminal: Size | None = None,
        background: bool = False,
        deadline_ms: int = 0,
        on_event: Progress | None = None,
    ) -> dict[str, Any] | Process:
        """Start a program by its name or path; its `status`, `signal`, `stdout`, `stderr` once it has ended.

        `stdin`: all of its input, or a function that gives a line, None for no more. `terminal`: rows and
        columns of one in the place of its streams. `background`: a handle of what goes on. `on_event` gets
        what it writes as it comes.
        """
        if isinstance(argv, str):
            raise UsageError(
                "argv is a list, of the program and its arguments",
                where="argv",
                hint=f"Give {argv.split()!r:.200}.",
            )
        asked: dict[str, Any] = {"argv": list(argv)}
        asked |= {"cwd": cwd} if cwd else {}
        asked |= {"env": dict(env)} if env else {}
        if terminal is not None:
            asked["terminal"] = {"rows": terminal[0], "columns": terminal[1]}
        if background:
            reply = await self.call("process_start", asked, deadline_ms=deadline_ms)
            process = Process(self, _typed(reply.value, ProcessFact))
            if isinstance(stdin, str):
                await process.write(stdin, eof=True)
            return process
        if isinstance(stdin, str):
            asked["stdin"] = stdin
        tools = (input_tool(stdin),) if callable(stdin) else ()
        reply = await self.call("command", asked, deadline_ms=deadline_ms, on_event=on_event, tools=tools)
        if not isinstance(reply.value, dict):
            raise ProtocolError("the session answered with no object")
        return reply.value

    async def processes(self: Calls) -> list[Process]:
        """Those that were started in the background, and the latest that have ended."""
        said = await self.run("process_list")
        listed = said.get("processes") if isinstance(said, dict) else None
        if not isinstance(listed, list):
            raise ProtocolError("the session's list of processes is none")
        return [Process(self, _typed(one, ProcessFact)) for one in listed]

    async def complete(self: Calls, code: str, cursor: int = -1, *, context: str = "") -> dict[str, Any]:
        """What the name before the cursor may become: `matches`, which take the place of `start` to `end`."""
        said: dict[str, Any] = await self.run("complete", _asked(code, cursor, context))
        return said

    async def inspect(self: Calls, code: str, cursor: int = -1, *, context: str = "") -> dict[str, Any]:
        """What the name at the cursor is: `found`, its `type`, `signature`, `documentation` and `repr`."""
        said: dict[str, Any] = await self.run("inspect", _asked(code, cursor, context))
        return said


def _asked(code: str, cursor: int, context: str) -> dict[str, Any]:
    return {"code": code, "cursor": cursor} | ({"context": context} if context else {})


def _typed(said: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(said, type=kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the session's word on a process is none: {error}") from None


def _bytes(said: Mapping[str, Any]) -> bytes:
    try:
        if "text" in said:
            return str(said["text"]).encode("utf-8")
        return base64.b64decode(said.get("base64", ""), validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ProtocolError("the session's bytes are no base64") from None
