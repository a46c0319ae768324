"""Two sessions side by side, a deadline, the receipt in the audit.

Prints:

    ['left', 'right']
    timeout
    receipt: True
"""

import asyncio

from bridgehold import BridgeholdError, Host


async def greet(host: Host, word: str) -> str:
    """The value of a command in a session, and a sandbox, of its own."""
    async with host.session("python") as session:
        answer = await session.run("execute", {"code": repr(word)})
        return str(answer["value"])


async def main() -> None:
    """The host that runs, or a private one for the block."""
    async with Host.open() as host:
        print(list(await asyncio.gather(greet(host, "left"), greet(host, "right"))))
        async with host.session("python") as session:
            try:
                await session.call("execute", {"code": "while True: pass"}, deadline_ms=500)
            except BridgeholdError as error:
                print(error.code)
        reply = await host.call("python:execute", {"code": "1"})
        print(f"receipt: {bool(reply.receipt)}")  # `bridgehold why RECEIPT` tells its story


asyncio.run(main())
