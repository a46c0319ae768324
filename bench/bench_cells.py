"""A process for each tenant beside one for all: what it costs, and what a tenant does to another.

Both hosts run side by side, and are measured in turns. It takes about two minutes and 4 GiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from common import Row, row, show

from bridgehold import BridgeholdError, SyncClient
from bridgehold.client.client import Host
from bridgehold.client.session import ClientSession
from bridgehold.faces.bench.starts import available_bytes, bench_home, prepare
from bridgehold.sandbox import procfs

MIB = 1 << 20
ROUNDS, COMMANDS = 5, 60
TENANTS, EACH = 100, 3
CODE = {"code": "1 + 1"}
HEAVY = {"code": "list(range(600_000))"}
SOCKETS: dict[int, Path] = {}
HOMES = {cells: bench_home() / f"cells-{cells}" for cells in (False, True)}


def flood(socket: str) -> None:
    """A hostile tenant's client, in a process of its own: until it is killed."""
    with SyncClient.connect(socket) as client, client.session("python", tenant="hostile") as session:
        while True:
            with contextlib.suppress(BridgeholdError):
                session.run("execute", HEAVY)


@contextlib.asynccontextmanager
async def host(*, cells: bool) -> AsyncIterator[Host]:
    layout = prepare(HOMES[cells], "python", "fork")  # one home has one host
    for policy in layout.policies.glob("*.toml"):
        faster = policy.read_text().replace("[rate]", "[rate]\ncommands_per_minute = 1_000_000", 1)
        policy.write_text(faster)
    text = layout.config_file.read_text() if layout.config_file.exists() else ""
    if cells and "[host]" in text:
        layout.config_file.write_text(text.replace("[host]", "[host]\ncells = true", 1))
    elif cells:
        layout.config_file.write_text(f"{text}\n[host]\ncells = true\n")
    async with Host.open(layout) as opened:
        SOCKETS[id(opened)] = layout.socket
        yield opened


async def opened(at: Host, tenant: str) -> ClientSession:
    one = await at.request("session.open", {"bridge": "python", "tenant": tenant})
    return ClientSession(at, "python", tenant, one["id"])


async def timed(session: ClientSession, count: int = COMMANDS) -> list[float]:
    """Seconds of each of `count` commands."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        await session.run("execute", CODE)
        found.append(time.perf_counter() - begun)
    return found


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


async def commands(one: Host, many: Host) -> list[Row]:
    """A warm command, and a tenant's first."""
    warm = {name: await opened(at, "warm") for name, at in (("one", one), ("many", many))}
    spans: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(ROUNDS):
        for name, session in warm.items():
            spans[name] += await timed(session)
    first: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(10):
        for name, tenant in (("without", f"new{number}"), ("with", "warm")):
            begun = time.perf_counter()
            await (await opened(many, tenant)).run("common:ping")
            first[name].append(time.perf_counter() - begun)
    cost = statistics.median(spans["many"]) / statistics.median(spans["one"])
    begin = statistics.median(first["without"]) - statistics.median(first["with"])
    return [
        row("a warm command, cells / one process for all", cost, "×"),
        row("what a tenant's first session waits for its cell and zygote", begin * 1000, "ms"),
    ]


async def beside(one: Host, many: Host) -> list[Row]:
    """Another tenant's p99 while two sessions of a hostile one give results of 600,000 numbers."""
    rows = []
    for name, at, most in (("one process for all", one, None), ("cells", many, 2.0)):
        victim = await opened(at, "victim")
        quiet = [span for _ in range(3) for span in await timed(victim)]
        argv = [sys.executable, __file__, "--flood", str(SOCKETS[id(at)])]
        floods = [await asyncio.create_subprocess_exec(*argv) for _ in range(2)]
        await asyncio.sleep(2)
        during = [span for _ in range(3) for span in await timed(victim)]
        for flood in floods:
            flood.kill()
            await flood.wait()
        rows.append(
            row(
                f"another tenant's p99 beside it / its own quiet p99, {name}",
                p99(during) / p99(quiet),
                "×",
                most=most,
            )
        )
    return rows


async def throughput(one: Host, many: Host) -> list[Row]:
    """Durable commands a second of 16 sessions: of four tenants with cells, of one tenant without."""

    async def rate(at: Host, tenants: tuple[str, ...]) -> float:
        sessions = [await opened(at, tenants[number % len(tenants)]) for number in range(16)]
        begun = time.perf_counter()
        await asyncio.gather(*(timed(session) for session in sessions))
        return 16 * COMMANDS / (time.perf_counter() - begun)

    four = tuple(f"four{number}" for number in range(4))
    rates: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(3):
        rates["one"].append(await rate(one, ("alone",)))
        rates["many"].append(await rate(many, four))
    ratio = statistics.median(rates["many"]) / statistics.median(rates["one"])
    return [
        row(
            "commands a second: 16 sessions of 4 tenants in cells / of one tenant without",
            ratio,
            "×",
            least=1.6,
        )
    ]


def pss(pid: int) -> int:
    """Bytes, shared pages by their share."""
    for line in procfs.lines(procfs.read(f"/proc/{pid}/smaps_rollup")):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cell_pids() -> list[int]:
    """Of every cell on this machine that is a grandchild of a host's: its template's children."""
    mains = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if b"bridgehold.host.main" in (entry / "cmdline").read_bytes():
                    mains.append(int(entry.name))
    own = set(mains)
    return [pid for pid in mains if sum(_parents(pid) & {one} == {one} for one in own) == 2]


def _parents(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        while pid > 1:
            pid = int(procfs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
            found.add(pid)
    return found


async def density() -> list[Row]:
    """100 tenants, each with a cell, a zygote and three sessions."""
    async with host(cells=True) as at:
        before = available_bytes()

        async def go(number: int) -> None:
            for _ in range(EACH):
                await (await opened(at, f"tenant{number}")).run("common:ping")

        for start in range(0, TENANTS, 4):
            await asyncio.gather(*(go(number) for number in range(start, min(start + 4, TENANTS))))
        forked = [session for session in await at.sessions() if session.start == "fork"]
        used = (before - available_bytes()) / MIB
        each = [pss(pid) / MIB for pid in cell_pids()]
    return [
        row("forked sessions of 100 tenants in cells, open at once", len(forked), "", least=TENANTS * EACH),
        row("memory of it all", used, "MiB", most=3 * 1024),
        row(
            "a cell with three sessions, shared pages by their share", statistics.median(each), "MiB", most=12
        ),
    ]


async def measure() -> list[Row]:
    async with host(cells=False) as one, host(cells=True) as many:
        rows = [*await commands(one, many), *await throughput(one, many), *await beside(one, many)]
    return [*rows, *await density()]


def main() -> None:
    if "--flood" in sys.argv:
        flood(sys.argv[-1])
    show(asyncio.run(measure()))


if __name__ == "__main__":
    main()
