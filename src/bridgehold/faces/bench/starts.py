"""How long a session takes to begin, on this machine: cold, forked, from the warm pool; each on its own host.

Every session is new and in a sandbox that nobody has used. "First reply" is the worker's answer to
`open`: by then the sandbox has its cgroup, its uid, its gateway and its proof, and the audit has both
on the disk. "First command" adds a `common:ping` through the whole host, with its durable intent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bridgehold import reads, writes
from bridgehold.audit.read import read_all
from bridgehold.client.client import Host
from bridgehold.client.session import ClientSession
from bridgehold.config.layout import Layout, find_layout
from bridgehold.faces.bench.figures import Figure, figure, spread
from bridgehold.ids import LOCAL_TENANT

Way = Literal["cold", "fork", "parked"]
_POLICY = """\
extends = "{bridge}"
weakenings = ["overcommit"]

[rate]
concurrency = 2000

[sandbox]
start = "{start}"
"""
_CONFIG = """\
[host]
overcommit = true

[bridges.{bridge}]
policy = "bench"
pool_size = {pool}
"""
_POOL = 4
_PAUSE_S = 0.06
"""Between sessions: what is made ahead has the time to be made, as it has where sessions come one by one."""
_BARS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("dspy", "fork"): (15.0, 30.0),
    ("dspy", "parked"): (2.5, None),
}
"""DESIGN's bars; any other shipped bridge is forked within `_FORK_BAR`."""
_FORK_BAR = (25.0, None)
_MEMORY_BAR = 5.0
_MIB = 1 << 20
_SESSIONS_AT_ONCE = 4
_RATE_SECONDS = 4.0

Report = Callable[[str], None]


def bench_home() -> Path:
    """Where environments stay between runs: below the cache folder, or /var/cache for root."""
    if os.getuid() == 0:
        return Path("/var/cache/bridgehold-bench")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else reads.home_of(os.environ, os.getuid()) / ".cache") / "bridgehold-bench"


def prepare(home: Path, bridge: str, way: Way, weights: Path | None = None) -> Layout:
    """A layout whose `bridge` starts in that way. The audit is cleared, environments stay.

    `weights`: a file that its zygote loads once.
    """
    writes.make_folder(home)
    writes.give(home, os.getuid(), os.getgid(), 0o755)
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    for folder in (layout.config, layout.audit, layout.anchors):
        shutil.rmtree(folder, ignore_errors=True)
    writes.make_folder(layout.policies)
    start = "cold" if way == "cold" else "fork"
    policy = _POLICY.format(bridge=bridge, start=start)
    pool = _POOL if way == "parked" else 0
    config = _CONFIG.format(bridge=bridge, pool=pool)
    if weights is not None:
        below = str(weights.parent)
        config = config.replace("[host]\n", f"[host]\nread_roots = [{below!r}]\n")
        config += f"weights = [{str(weights)!r}]\n"
        policy += f"\n[filesystem]\nread = [{below!r}]\n"
    writes.replace(layout.policies / "bench.toml", policy)
    writes.replace(layout.config_file, config)
    return layout


async def measure(bridge: str, count: int, tell: Report, home: Path | None = None) -> list[Figure]:
    """Every figure of `bridge`, from `count` sessions each way (cold: a fifth). Minutes for a large one."""
    place = home or bench_home()
    found: list[Figure] = []
    baseline = 0.0
    for way in ("cold", "fork", "parked"):
        tell(f"{bridge}: {way}")
        layout = prepare(place, bridge, way)
        async with Host.open(layout) as host:
            begun = time.perf_counter()
            async with host.session(bridge) as first:
                await first.run("common:ping")
            warm = time.perf_counter() - begun
            sessions = max(5, count // 5) if way == "cold" else count
            opens, commands = await _one_by_one(host, bridge, sessions)
            baseline = baseline or statistics.median(opens)
            bar = _BARS.get((bridge, way), _FORK_BAR if way == "fork" else None)
            found += spread(f"{bridge}: {way}, to the first reply", opens, most=bar, baseline=baseline)
            found += spread(f"{bridge}: {way}, to the first command's end", commands)
            if way == "fork":
                found.append(figure(f"{bridge}: first session, zygote warmed for it", warm, "s"))
                found += await _memory(host, bridge, min(count, 40), tell)
                found += await _rate(host, bridge, tell)
        found += _phases(layout, f"{bridge}: {way}")
    return found


async def _one_by_one(host: Host, bridge: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first reply, and to the end of a first command."""
    opens, commands = [], []
    for _ in range(count):
        await asyncio.sleep(_PAUSE_S)
        begun = time.perf_counter()
        opened = await host.request("session.open", {"bridge": bridge})
        replied = time.perf_counter()
        await ClientSession(host, bridge, LOCAL_TENANT, opened["id"]).run("common:ping")
        ended = time.perf_counter()
        opens.append((replied - begun) * 1000)
        commands.append((ended - begun) * 1000)
        await host.request("session.close", {"session": opened["id"]})
    return opens, commands


async def _memory(host: Host, bridge: str, count: int, tell: Report) -> list[Figure]:
    """What one more idle session costs the machine, kernel included: by MemAvailable."""
    tell(f"{bridge}: memory of {count} sessions")
    await asyncio.sleep(1)
    before = available_bytes()
    opened = [await host.request("session.open", {"bridge": bridge}) for _ in range(count)]
    await asyncio.sleep(1)
    each = (before - available_bytes()) / count / _MIB
    await asyncio.gather(*(host.request("session.close", {"session": one["id"]}) for one in opened))
    most = _MEMORY_BAR if bridge == "dspy" else None
    return [figure(f"{bridge}: memory of one more idle session, of the machine", each, "MiB", most=most)]


async def _rate(host: Host, bridge: str, tell: Report) -> list[Figure]:
    """Sessions begun, used once and ended in a second, by each core."""
    tell(f"{bridge}: sessions per second")
    until = time.perf_counter() + _RATE_SECONDS
    done = 0

    async def go() -> None:
        nonlocal done
        while time.perf_counter() < until:
            async with host.session(bridge) as session:
                await session.run("common:ping")
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(go() for _ in range(_SESSIONS_AT_ONCE)))
    rate = done / (time.perf_counter() - begun) / (os.cpu_count() or 1)
    return [figure(f"{bridge}: sessions made, used once and ended, for each core", rate, "/s")]


def _phases(layout: Layout, name: str) -> list[Figure]:
    """The launcher's part of a start, by phase, from the audit."""
    phases: dict[str, list[float]] = {}
    for entry in read_all(layout.audit):
        of_session = entry.kind == "worker.attested" and entry.tenant  # what a build runs is nobody's
        taken = entry.fields.get("phases_us") if of_session else None
        if isinstance(taken, dict):
            for phase, micros in taken.items():
                phases.setdefault(str(phase), []).append(int(micros) / 1000)
    return [
        figure(f"{name}, phase {phase}", statistics.median(values), "ms") for phase, values in phases.items()
    ]


def available_bytes() -> int:
    """MemAvailable of this machine."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable in /proc/meminfo")
