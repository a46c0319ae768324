"""Code as users write it: the type checker must accept every line of it, in strict mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridgehold import BridgeholdError, Client, Host, SyncClient, Tool, connect
from bridgehold.testing import FakeHost, Provider, record
from bridgehold_sdk import Bridge, InvalidInput, Session, Store, operation


async def calls(path: Path) -> int:
    async with Host.open() as host, host.session("python", name="mine") as session:
        value: Any = await session.run("execute", {"code": "1"}, deadline_ms=500)
        async for event in session.stream("execute", {"code": "2"}):
            kind: str = event["type"]
            print(kind, value)
        kept = await session.put(path, name="x")
        data: bytes = await session.get(kept.digest)
    async with Client.connect(path, token="t") as client:
        reply = await client.call("python:execute", {"code": "3"}, tenant="acme")
        print(reply.value, reply.receipt, reply.usage)
        names: list[str] = [session.name for session in await client.sessions()]
    waited = await connect(path)
    await waited.aclose()
    return len(data) + len(names)


def lookup(name: str) -> dict[str, int]:
    return {name: 1}


def calls_synchronously() -> str:
    tool = Tool(function=lookup, name="look", parameters={"type": "object"})
    try:
        with SyncClient.open() as host, host.session("desk", tools=[tool, lookup]) as session:
            return str(session.run("greet"))
    except BridgeholdError as error:
        return f"{error.code} {error.hint} {error.retry} {error.exit_status:d}"


async def tests_with_the_kit(file: Path) -> None:
    async with Provider.open() as provider, Client.connect() as client:
        url: str = provider.base_url
        async with record(client, file) as recorder:
            print(url, recorder.alive)
    async with FakeHost(file) as fake:
        await fake.run("python:execute")


class Poet(Bridge):
    name = "poet"
    version = "1.0.0"

    def open(self, session: Session) -> None:
        self.styles: Store[str] = Store("style")
        print(session.tenant, session.limits.memory_bytes)

    @operation(effect="create", resource="style", id_field="id")
    def create(self, words: str, id: str | None = None) -> dict[str, str]:  # noqa: A002 - named as the command names it
        if not words:
            raise InvalidInput("no words")
        base_url, placeholder, shape = self.provider("openai")
        self.progress(1, 2, f"{base_url} {placeholder} {shape}")
        return {"style_id": self.styles.add(words, id)}
