"""A bridge that does a bit of everything, and one conversation with it: real or replayed, it must look the same."""

from __future__ import annotations

import asyncio
from typing import Any

from bridgehold import BridgeholdError, Client
from hostile.stage import POLICY, Stage

KEY = "sk-live-0123456789abcdefghijkl"
TOKEN = "a token without any shape"
MANIFEST = """
name = "talk"
version = "1.0.0"
summary = "A bit of everything"
entry = "talk_bridge:Talk"
[operations.add]
summary = "add"
effect = "create"
resource = "word"
id_field = "id"
[operations.add.arguments]
required = ["text"]
properties = { text = { type = "string" }, id = { type = "string" } }
[operations.spell]
summary = "spell"
effect = "read"
resource = "word"
id_field = "word_id"
[operations.spell.arguments]
required = ["word_id"]
properties = { word_id = { type = "string" } }
[operations.count]
summary = "count"
effect = "run"
stream = true
[operations.count.arguments]
required = ["to"]
properties = { to = { type = "integer" }, pause = { type = "number" } }
[operations.ask]
summary = "ask"
effect = "run"
[operations.ask.arguments]
required = ["names"]
properties = { names = { type = "array", items = { type = "string" } } }
[operations.echo]
summary = "echo"
effect = "run"
[operations.echo.arguments]
additionalProperties = true
[operations.crash]
summary = "crash"
effect = "run"
[resources.word]
summary = "A word"
"""
CODE = """
import os, time
from bridgehold_sdk import Bridge, Store, ToolError, operation

class Talk(Bridge):
    name = "talk"
    version = "1.0.0"

    def open(self, session):
        self.words = Store("word")

    @operation(effect="create", resource="word", id_field="id")
    def add(self, text, id=None):
        return {"word_id": self.words.add(text, id)}

    @operation(effect="read", resource="word", id_field="word_id")
    def spell(self, word_id):
        return list(self.words.get(word_id))

    @operation(effect="run", stream=True)
    def count(self, to, pause=0):
        for number in range(to):
            self.progress(number + 1, to, "counting")
            yield {"number": number}
            time.sleep(pause)
        return {"counted": to}

    @operation(effect="run")
    def ask(self, names):
        said = []
        for name in names:
            try:
                said.append(self.tools["lookup"](name=name))
            except ToolError as error:
                said.append(f"{error.code}: {error}")
        return said

    @operation(effect="run")
    def echo(self, **given):
        print(given)
        return {"said": str(given)}

    @operation(effect="run")
    def crash(self):
        os._exit(3)
"""


def put_bridge(stage: Stage) -> None:
    folder = stage.layout.bridges / "talk"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "bridge.toml").write_text(MANIFEST)
    (folder / "talk_bridge.py").write_text(CODE)
    (stage.layout.policies / "talk.toml").write_text(POLICY + '[tools]\nallow = ["lookup"]\n')


def lookup(name: str) -> dict[str, str]:
    """Where somebody is."""
    if name == "nobody":
        raise KeyError(name)
    return {"name": name, "place": "Turin"}


async def refusal(work: Any) -> tuple[str, str, str, str]:
    try:
        await work
    except BridgeholdError as error:
        return error.code, error.message, error.hint, error.retry
    raise AssertionError("it was not refused")


async def talk(host: Client) -> dict[str, Any]:
    """All that a caller can see of one conversation."""
    seen: dict[str, Any] = {}
    async with host.session("talk", tools=[lookup]) as session:
        seen["made"] = await session.run("add", {"text": "sandbox", "id": "w"})
        seen["spelled"] = await session.run("spell", {"word_id": "w"})
        seen["streamed"] = [event async for event in session.stream("count", {"to": 3})]
        seen["asked"] = await session.run("ask", {"names": ["Ada", "nobody", "Alan"]})
        seen["missing"] = await refusal(session.run("spell", {"word_id": "no"}))
        seen["wrong"] = await refusal(session.run("add", {"word": "w"}))
        seen["denied"] = await refusal(session.run("echo", {"api_key": KEY}))
        seen["quiet"] = sorted(await session.run("echo", {"options": {"token": TOKEN}}))
        seen["logged"] = "options" in await session.logs()
        stream = session.stream("count", {"to": 200, "pause": 0.05})
        async for event in stream:
            if event["type"] == "chunk":
                seen["first"] = event
                break
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as what callers need
        reply = await session.call("add", {"text": "whole"}, deadline_ms=5_000)
        seen["reply"] = (reply.session == session.id, reply.usage, reply.receipt, reply.value)
        seen["artifact"] = await session.put(b"bytes\x00of" * 10, name="some.bin")
        seen["bytes"] = await session.get(seen["artifact"].digest)
        seen["crashed"] = (await refusal(session.run("crash")))[::3]
    seen["alive"] = host.alive
    seen["created"] = await host.create_resource("word", {"text": "x", "id": "loose"}, bridge="talk")
    seen["listed"] = await host.list_resources(bridge="talk")
    seen["adapted"] = await (await host.get_adapter("talk")).spell(word_id="loose")
    await asyncio.sleep(0)
    return seen
