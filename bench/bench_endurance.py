"""Sessions made, used once and ended, by the thousand: what grows with them, and what is left of them.

``python bench/bench_endurance.py [--sessions N]``, 2,000 without. The promise is 100,000 without a leak of
processes, descriptors, cgroups, mounts, memory or scratch; at some fifty a second that is half an hour.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
from common import Row, row, show

from bridgehold.client.client import Host
from bridgehold.faces.bench.starts import bench_home, prepare

BRIDGE = "python"
AT_ONCE = 4
LEAST_WARM_UP = 300
"""Uncounted, or a fifth of the whole: pools, caches and the allocator's arenas have their size by then."""


def processes(name: str) -> list[int]:
    """Pids of this run's processes of that module."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"bridgehold.{name}".encode() in line:
                found.append(int(entry.name))
    return found


def state() -> dict[str, float]:
    """What a leak would show in."""
    found: dict[str, float] = {"processes": len(psutil.Process().children(recursive=True))}
    for label, module in (("launcher", "sandbox.launcher"), ("host", "host.main")):
        pid = processes(module)[-1]
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        found[f"descriptors of the {label}"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"memory of the {label}, MiB"] = int(status["VmRSS"].split()[0]) / 1024
        found[f"mounts of the {label}"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    groups = [path for path in Path("/sys/fs/cgroup").glob("**/w-*") if path.is_dir()]
    found["cgroups of sessions"] = len(groups)
    return found


async def run(host: Host, count: int) -> float:
    """Sessions per second."""
    left = iter(range(count))

    async def go() -> None:
        for _ in left:
            async with host.session(BRIDGE) as session:
                await session.run("common:ping")

    begun = time.perf_counter()
    await asyncio.gather(*(go() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - begun)


async def measure(count: int) -> list[Row]:
    layout = prepare(bench_home(), BRIDGE, "fork")
    async with Host.open(layout) as host:
        await run(host, max(LEAST_WARM_UP, count // 5))
        await asyncio.sleep(1)
        before = state()
        rate = await run(host, count)
        await asyncio.sleep(1)
        after = state()
    rows = [row(f"sessions made, used once and ended ({count:,})", rate, "/s")]
    for name, value in after.items():
        bar = {"most_ratio": 1.05} if "memory" in name else {"most": before[name]}
        rows.append(row(name, value, "", baseline=before[name], **bar))
    return rows


def main() -> None:
    arguments = sys.argv[1:]
    count = int(arguments[arguments.index("--sessions") + 1]) if "--sessions" in arguments else 2_000
    show(asyncio.run(measure(count)))


if __name__ == "__main__":
    main()
