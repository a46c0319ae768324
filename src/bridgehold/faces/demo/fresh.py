"""Two hundred sessions, each in a sandbox that nobody has used before, counted as they come."""

from __future__ import annotations

import asyncio
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bridgehold.client.client import Client
from bridgehold.client.session import ClientSession
from bridgehold.faces.progress import console
from bridgehold.faces.screen import err
from bridgehold.ids import LOCAL_TENANT

COUNT = 200
_ENDING_AT_ONCE = 4


async def tick_up(host: Client, *, count: int = COUNT) -> list[float]:
    """Milliseconds of each, from asking for the session to its first reply; ended beside the next."""
    found: list[float] = []
    endings: set[asyncio.Task[object]] = set()
    columns = (
        TextColumn("  fresh dspy sandboxes"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(err), transient=not err.is_terminal) as bars:
        bar = bars.add_task("fresh", total=count, note="")
        for _ in range(count):
            begun = time.perf_counter()
            opened = await host.request("session.open", {"bridge": "dspy"})
            await ClientSession(host, "dspy", LOCAL_TENANT, opened["id"]).run("common:ping")
            found.append((time.perf_counter() - begun) * 1000)
            endings.add(
                asyncio.ensure_future(
                    host.request("session.close", {"session": opened["id"], "reason": "counted"})
                )
            )
            if len(endings) >= _ENDING_AT_ONCE:
                _, endings = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            bars.update(bar, advance=1, note=f"the last in {found[-1]:.0f} ms")
        if endings:
            await asyncio.wait(endings)
    return found
