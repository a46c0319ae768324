"""A reload that gives a tool another function: whenever it comes, no later call runs the one before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridgehold.errors import NotFoundError
from bridgehold.host.cell.tools.process import ProcessTools
from bridgehold.host.cell.tools.values import ToolContext, ToolSpec
from bridgehold.host.shares.tool_starts import Running, as_child

TOOL = ToolSpec(name="word", how="process")
WHO = ToolContext(tenant="acme", principal="app", session="s-1", command="c-1")


def test_a_function_that_is_replaced_while_its_process_begins_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("def old(): return 'old'\ndef new(): return 'new'\n")

    async def act() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        start = as_child(tmp_path)

        async def slowly(name: str, entry: str) -> Running:
            begun.set()
            await go.wait()
            return await start(name, entry)

        tools = ProcessTools(slowly)
        try:
            tools.replace({"word": "said:old"})
            first = asyncio.ensure_future(tools.call(TOOL, {}, WHO, None))
            await begun.wait()
            tools.replace({"word": "said:new"})
            go.set()
            assert await first == "old"  # it had been asked for before
            assert await tools.call(TOOL, {}, WHO, None) == "new"
            tools.replace({})
            with pytest.raises(NotFoundError):
                await tools.call(TOOL, {}, WHO, None)
        finally:
            await tools.stop()

    asyncio.run(act())
