"""Tools of the host's side, for agents: each call goes out of the sandbox, decided and audited there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from bridgehold_sdk import Tool, ToolError
from bridgehold_sdk.threads import begin_thread


def host_tool(tool: Tool) -> BaseTool:
    """What refuses or fails goes back to the model as text, and the run goes on."""

    def ask(**arguments: Any) -> str:
        try:
            said = tool(**arguments)
        except ToolError as error:
            raise ToolException(f"{error.code}: {error}") from error
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)

    async def ask_on_thread(**arguments: Any) -> str:
        return await _on_thread(lambda: ask(**arguments))

    return StructuredTool.from_function(
        ask,
        ask_on_thread,
        name=tool.name,
        description=tool.description or tool.name,
        args_schema={"type": "object", "properties": {}, **tool.parameters},
        handle_tool_error=True,
        infer_schema=False,
    )


def chosen(names: list[str], own: Mapping[str, BaseTool], offered: Mapping[str, Tool]) -> list[BaseTool]:
    """By name: the bridge's own first, then what is offered to the running command."""
    return [own[name] if name in own else host_tool(offered[name]) for name in names]


async def _on_thread(work: Callable[[], str]) -> str:
    """On a daemon of its own: a cancel must not wait for an answer that may never come."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def settle(act: Callable[[Any], None], value: object) -> None:
        if not future.done():
            act(value)

    def run() -> None:
        act: Callable[[Any], None] = future.set_result
        value: object
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - carried over to who waits
            act, value = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, act, value)
        except RuntimeError:  # the loop has ended, and with it who waits
            return

    begin_thread("host-tool", run)
    return await future
