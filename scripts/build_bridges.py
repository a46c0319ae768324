"""Build the environments of the bridges that are named, in one host: two at a time.

BRIDGEHOLD_HOME=FOLDER python scripts/build_bridges.py BRIDGE ...
"""

from __future__ import annotations

import asyncio
import sys

from bridgehold import BridgeholdError
from bridgehold.client.client import Host

AT_ONCE = 2
"""Two wait for downloads and compile beside each other; more have a small machine swap."""


async def build(names: list[str]) -> int:
    free = asyncio.Semaphore(AT_ONCE)
    async with Host.open() as host:

        async def one(name: str) -> bool:
            async with free:
                try:
                    built = await host.request("bridge.build", {"bridge": name})
                except BridgeholdError as error:
                    print(f"setup: {name}: {error}", file=sys.stderr, flush=True)
                    return False
                print(f"setup: {name}: {built['packages']} packages, {built['digest']}", flush=True)
                return True

        return 0 if all(await asyncio.gather(*map(one, names))) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(build(sys.argv[1:])))
