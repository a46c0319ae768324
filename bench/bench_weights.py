"""A session beside a loaded model: 500 MiB of weights in the zygote, shared by each fork until written."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from common import Row, median, percentile, row, show

from bridgehold.client.client import Host
from bridgehold.faces.bench.starts import available_bytes, bench_home, prepare

MIB = 1 << 20
SIZE = 500 * MIB
COUNT = 20


def write_array(path: Path) -> None:
    """A ``.npy`` file of SIZE random bytes, without numpy."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({SIZE},), }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))


async def measure(weights: Path) -> list[Row]:
    layout = prepare(bench_home(), "custom", "fork", weights)
    async with Host.open(layout) as host:
        async with host.session("custom") as first:
            await first.run("common:ping")
        zygote = (await host.request("zygotes", {}))["zygotes"][0]
        found, opened = [], []
        await asyncio.sleep(1)
        before = available_bytes()
        for _ in range(COUNT):
            await asyncio.sleep(0.1)
            begun = time.perf_counter()
            opened.append(await host.request("session.open", {"bridge": "custom"}))
            found.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(1)
        each = (before - available_bytes()) / COUNT / MIB
        for one in opened:
            await host.request("session.close", {"session": one["id"]})
    return [
        row("memory of the zygote", zygote["memory_bytes"] / MIB, "MiB"),
        row("fork with 500 MiB of weights, to the first reply, p50", median(found), "ms", most=250),
        row("fork with 500 MiB of weights, to the first reply, p99", percentile(found, 0.99), "ms"),
        row("memory of one more session beside them, of the machine", each, "MiB", most=32),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-weights-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        weights = Path(folder) / "weights.npy"
        write_array(weights)
        weights.chmod(0o644)
        show(asyncio.run(measure(weights)))


if __name__ == "__main__":
    main()
