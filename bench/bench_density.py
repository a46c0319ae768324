"""How many sessions are open at once: 1,000 of dspy with litellm, used once; 100 tenants with three each.

``--sessions N`` for another number than 1,000. It takes about 8 GiB and a minute.
"""

from __future__ import annotations

import asyncio
import sys
import time

from common import Row, row, show

from bridgehold.client.client import Host
from bridgehold.client.session import ClientSession
from bridgehold.faces.bench.starts import available_bytes, bench_home, prepare

MIB = 1 << 20
TENANTS, EACH = 100, 3


async def many_sessions(count: int) -> list[Row]:
    """`count` dspy sessions of one tenant, each with one command, all open."""
    layout = prepare(bench_home(), "dspy", "fork")
    async with Host.open(layout) as host:
        async with host.session("dspy") as first:
            await first.run("common:ping")
        before, begun, opened = available_bytes(), time.perf_counter(), []
        for _ in range(count):
            one = await host.request("session.open", {"bridge": "dspy"})
            await ClientSession(host, "dspy", "local", one["id"]).run("common:ping")
            opened.append(one["id"])
        seconds = time.perf_counter() - begun
        await asyncio.sleep(1)
        listed = [session for session in await host.sessions() if session.start == "fork"]
        each = (before - available_bytes()) / count / MIB
    return [
        row("dspy + litellm sessions open at once, each used once", len(listed), "", least=count),
        row("opened and used", count / seconds, "/s"),
        row("memory of each, of the whole machine", each, "MiB"),
    ]


async def many_tenants() -> list[Row]:
    """A zygote for each tenant, three sessions each, all open."""
    layout = prepare(bench_home(), "python", "fork")
    async with Host.open(layout) as host:
        before, begun = available_bytes(), time.perf_counter()

        async def go(number: int) -> None:
            for _ in range(EACH):
                tenant = f"tenant{number}"
                one = await host.request("session.open", {"bridge": "python", "tenant": tenant})
                await ClientSession(host, "python", tenant, one["id"]).run("common:ping")

        for start in range(0, TENANTS, 4):
            await asyncio.gather(*(go(number) for number in range(start, min(start + 4, TENANTS))))
        seconds = time.perf_counter() - begun
        zygotes = (await host.request("zygotes", {}))["zygotes"]
        forked = [session for session in await host.sessions() if session.start == "fork"]
        used = (before - available_bytes()) / MIB
    return [
        row("tenants with a zygote of their own", len({one["tenant"] for one in zygotes}), "", least=TENANTS),
        row("forked sessions of them, open at once", len(forked), "", least=TENANTS * EACH),
        row("from nothing to all of them", seconds, "s"),
        row("memory of it all", used, "MiB"),
    ]


def main() -> None:
    arguments = sys.argv[1:]
    count = int(arguments[arguments.index("--sessions") + 1]) if "--sessions" in arguments else 1_000
    show([*asyncio.run(many_sessions(count)), *asyncio.run(many_tenants())])


if __name__ == "__main__":
    main()
