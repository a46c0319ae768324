"""A process for each tenant beside one for all: what it costs, and what a tenant does to another.

Both hosts run side by side, each in a home of its own, and are measured in turns. It takes about two minutes
and 4 GiB; with ``--short`` half a minute and 1 GiB, with ``--commands N`` it also looks how memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from common import Row, row, show

from bridgehold import BridgeholdError, SyncClient
from bridgehold.client.client import Client, Host
from bridgehold.client.session import ClientSession
from bridgehold.faces.bench.starts import available_bytes, bench_home, prepare
from bridgehold.sandbox import procfs

MIB = 1 << 20
ROUNDS, COMMANDS = 5, 60
TENANTS, EACH = 100, 3
STARTS = 10
CODE = {"code": "1 + 1"}
HEAVY = {"code": "list(range(600_000))"}
SOCKETS: dict[int, Path] = {}
HOMES = {cells: bench_home() / f"cells-{cells}" for cells in (False, True)}


def flood(socket: str) -> None:
    """A hostile tenant's client, in a process of its own: until it is killed."""
    with (
        SyncClient.connect(socket, tenant="hostile") as client,
        client.session("python", tenant="hostile") as session,
    ):
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


async def opened(at: Client, tenant: str) -> ClientSession:
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
    for number in range(STARTS):
        await many.request("describe", {"bridge": "python", "tenant": f"with{number}"})  # its cell begins
        for name, spent in first.items():
            begun = time.perf_counter()
            await (await opened(many, f"{name}{number}")).run("common:ping")
            spent.append(time.perf_counter() - begun)
    cost = statistics.median(spans["many"]) / statistics.median(spans["one"])
    with_cell, without = (statistics.median(first[name]) for name in ("with", "without"))
    return [
        row("a warm command, cells / one process for all", cost, "×"),
        row("a tenant's first command: without a cell / with one", without / with_cell, "×", most=1.5),
        row("what of that is the cell", (without - with_cell) * 1000, "ms"),
    ]


async def beside(one: Host, many: Host) -> list[Row]:
    """Another tenant's p99 while two sessions of a hostile one give results of 600,000 numbers."""
    rows = []
    for name, at, most in (("one process for all", one, None), ("cells", many, 2.0)):
        client = await Client.connect(SOCKETS[id(at)], tenant="victim")
        victim = await opened(client, "victim")
        quiet = [span for _ in range(3) for span in await timed(victim)]
        argv = [sys.executable, __file__, "--flood", str(SOCKETS[id(at)])]
        floods = [await asyncio.create_subprocess_exec(*argv) for _ in range(2)]
        await asyncio.sleep(2)
        during = [span for _ in range(3) for span in await timed(victim)]
        for flood in floods:
            flood.kill()
            await flood.wait()
        await client.aclose()
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
        clients = [await Client.connect(SOCKETS[id(at)], tenant=tenant) for tenant in tenants]
        turns = [number % len(tenants) for number in range(16)]
        sessions = [await opened(clients[turn], tenants[turn]) for turn in turns]
        begun = time.perf_counter()
        await asyncio.gather(*(timed(session) for session in sessions))
        spent = time.perf_counter() - begun
        for client in clients:
            await client.aclose()
        return 16 * COMMANDS / spent

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


def own_pids(of: bytes = b"bridgehold.") -> list[int]:
    """Of each process of `of` below this one, and in no sandbox."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and os.getpid() in _parents(int(entry.name)):
            with contextlib.suppress(OSError):
                if of in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def cell_pids() -> list[int]:
    """Of every cell: a grandchild of a host's process, its template's child."""
    mains = set(own_pids(b"bridgehold.host.main"))
    return [pid for pid in mains if len(_parents(pid) & mains) == 2]


def _parents(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        while pid > 1:
            pid = int(procfs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
            found.add(pid)
    return found


async def alone() -> list[Row]:
    """`bridgehold run` without a service: a host begins for it."""
    command = [str(Path(sys.executable).with_name("bridgehold")), "run", "python:execute"]
    command += ["--args", '{"code": "1"}']
    spans: dict[bool, list[float]] = {False: [], True: []}
    for cells in (False, True) * STARTS:
        prepare(HOMES[cells], "python", "cold")
        environment = {"BRIDGEHOLD_HOME": str(HOMES[cells]), "BRIDGEHOLD__HOST__CELLS": str(cells).lower()}
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert await process.wait() == 0
        spans[cells].append(time.perf_counter() - begun)
    ratio = statistics.median(spans[True]) / statistics.median(spans[False])
    return [row("`bridgehold run` without a service, cells / one process for all", ratio, "×", most=1.1)]


async def growth(commands: int) -> list[Row]:
    """So many commands over 50 tenants: the host's memory at the end, and after a fifth of them."""
    async with host(cells=True) as at, contextlib.AsyncExitStack() as stack:
        names = [f"grows{number}" for number in range(50)]
        clients = [
            await stack.enter_async_context(Client.connect(SOCKETS[id(at)], tenant=name)) for name in names
        ]
        sessions = [await opened(client, name) for client, name in zip(clients, names, strict=True)]
        seen = []
        for part in range(5):
            for start in range(0, 50, 10):
                some = sessions[start : start + 10]
                await asyncio.gather(*(timed(session, commands // 250) for session in some))
            if part in (0, 4):
                seen.append(sum(map(pss, own_pids())) / MIB)
    name = f"memory of the host's processes after {commands} commands of 50 tenants / after a fifth of them"
    return [row(name, seen[1] / seen[0], "×", most=1.05)]


async def density(tenants: int) -> list[Row]:
    """So many tenants, each with a cell, a zygote and three sessions."""
    async with host(cells=True) as at:
        before = available_bytes()

        async def go(number: int) -> None:
            for _ in range(EACH):
                await (await opened(at, f"tenant{number}")).run("common:ping")

        for start in range(0, tenants, 4):
            await asyncio.gather(*(go(number) for number in range(start, min(start + 4, tenants))))
        forked = [session for session in await at.sessions() if session.start == "fork"]
        used = (before - available_bytes()) / MIB
        each = [pss(pid) / MIB for pid in cell_pids()]
    return [
        row(f"forked sessions of {tenants} tenants, open at once", len(forked), "", least=tenants * EACH),
        row("memory of it all, for a tenant", used / tenants, "MiB", most=3 * 1024 / TENANTS),
        row(
            "a cell with three sessions, shared pages by their share", statistics.median(each), "MiB", most=12
        ),
    ]


async def measure(tenants: int, grown: int) -> list[Row]:
    async with host(cells=False) as one, host(cells=True) as many:
        rows = [*await commands(one, many), *await throughput(one, many), *await beside(one, many)]
    return [*rows, *await alone(), *await density(tenants), *(await growth(grown) if grown else ())]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="20 tenants instead of 100")
    parser.add_argument("--commands", type=int, default=0, help="also run so many, over 50 tenants")
    parser.add_argument("--flood", default="", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.flood:
        flood(given.flood)
    show(asyncio.run(measure(20 if given.short else TENANTS, given.commands)))


if __name__ == "__main__":
    main()
