"""Tools of a stdio caller's own: ``rpc_call`` goes out on its pipe, ``rpc_response`` comes back.

The caller says once which there are (``register_tools``); from then on they are offered to each command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from bridgehold.bridges.legacy import messages
from bridgehold.bridges.legacy.bodies import Format
from bridgehold.client.tools import Tool
from bridgehold.errors import UsageError

_MOST = 64


class _Declared(msgspec.Struct, frozen=True):
    """One of ``register_tools``; `tool_id` is what DSPex calls a name."""

    name: str = ""
    tool_id: str = ""
    description: str = ""
    parameters: dict[str, Any] = {}


class Callbacks:
    """The tools of one caller, and its answers that are waited for."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._made = 0
        self.tools: tuple[Tool, ...] = ()

    def register(self, args: dict[str, object], written_in: Format) -> dict[str, object]:
        """Take the caller's tools in place of those before. Raises `UsageError`."""
        try:
            declared = msgspec.convert(args.get("tools"), type=list[_Declared])
        except msgspec.ValidationError as error:
            raise UsageError(
                f"tools: {error}", hint="[{name, description, parameters}] is expected."
            ) from None
        if len(declared) > _MOST:
            raise UsageError(f"{len(declared)} tools; {_MOST} are taken", where="tools")
        self.tools = tuple(self._tool(one, written_in) for one in declared)
        return {"status": "ok", "tools": [tool.name for tool in self.tools]}

    def settle(self, answer: messages.RpcAnswer) -> None:
        """What the caller says a call came to; one that nobody waits for is dropped."""
        future = self._waiting.get(answer.rpc_id)
        if future is None or future.done():
            return
        if answer.error:
            future.set_exception(RuntimeError(answer.error))
        else:
            future.set_result(answer.result)

    def _tool(self, declared: _Declared, written_in: Format) -> Tool:
        name = declared.name or declared.tool_id

        async def call(**arguments: Any) -> object:
            self._made += 1
            number = self._made
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            try:
                self._send(messages.rpc_call(number, name, arguments, written_in))
                return await future
            finally:
                del self._waiting[number]

        return Tool(
            function=call, name=name, description=declared.description, parameters=declared.parameters
        )
