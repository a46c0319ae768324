"""Code that must not type-check. Each line says with which code of the type checker's it is refused."""

from __future__ import annotations

from pathlib import Path

from bridgehold import BridgeholdError, Client, Host, SyncClient, Tool
from bridgehold_sdk import Bridge, Store, operation


async def asynchronous(client: Client) -> None:
    client.run(1)  # refused: arg-type, unused-coroutine
    await client.run("a:b", deadline="5s")  # refused: call-arg
    number: int = (await client.call("a:b")).receipt  # refused: assignment
    await client.put("text")  # refused: arg-type
    client.nothing()  # refused: attr-defined
    async with Host.open(Path()) as host:  # refused: arg-type
        await host.session("python")  # refused: misc
    print(number)


def synchronous() -> None:
    with SyncClient.open() as host:
        host.session("python").run("execute")  # refused: attr-defined
        data: str = host.get("sha256:0")  # refused: assignment
        print(data)
    Tool(function=print, name=5)  # refused: arg-type
    raise BridgeholdError(code="x")  # refused: call-arg


class Poet(Bridge):
    name = 5  # refused: assignment

    @operation(effect="explode")  # refused: arg-type
    def act(self) -> None:
        styles: Store[str] = Store("style")
        styles.add(1)  # refused: arg-type
        self.provider(1)  # refused: arg-type
