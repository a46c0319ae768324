"""Tools that the caller of a command runs itself, over the connection it called on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from bridgehold.errors import ApplicationError, NotFoundError
from bridgehold.host.cell.tools.values import ToolContext, ToolSource, ToolSpec

_MESSAGE = 2_000


class ToolReplyParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tool.reply``: what tool call `call` of `command` came to; with `error` where it failed."""

    command: str
    call: int
    result: object = None
    error: str = ""
    tenant: str | None = None
    """Whom the command runs for; said where it runs by another connection."""


class CallerTools:
    """Calls that wait for their callers, of all commands."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], tuple[str, asyncio.Future[object]]] = {}
        self._made = 0

    def source(self, emit: Callable[[object], None]) -> ToolSource:
        """Asks by an event on the caller's own request."""
        return _CallerSource(self, emit)

    def settle(self, principal: str, params: ToolReplyParams) -> None:
        """The caller's answer. `NotFoundError` where nobody waits for it, or for another's."""
        owner, future = self._waiting.get((params.command, params.call), ("", None))
        if future is None or future.done() or owner != principal:
            raise NotFoundError("no tool call waits for this reply")
        if params.error:
            future.set_exception(ApplicationError(params.error[:_MESSAGE]))
        else:
            future.set_result(params.result)

    async def ask(
        self,
        tool: ToolSpec,
        arguments: dict[str, object],
        context: ToolContext,
        emit: Callable[[object], None],
    ) -> object:
        """Ask the caller to run its tool, and wait for the answer.

        Raises `ToolError`'s code as a typed error.
        """
        self._made += 1
        key = (context.command, self._made)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (context.principal, future)
        event = {"command": context.command, "call": self._made, "tool": tool.name, "arguments": arguments}
        emit({"type": "tool_call", **event})
        try:
            return await future
        finally:
            del self._waiting[key]


class _CallerSource:
    def __init__(self, calls: CallerTools, emit: Callable[[object], None]) -> None:
        self._calls = calls
        self._emit = emit

    async def call(
        self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext, _means: object
    ) -> object:
        return await self._calls.ask(tool, arguments, context, self._emit)
