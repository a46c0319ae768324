"""A command through the whole host, against a bare asyncio pipe echo to a child process.

Also the cold start above the interpreter's own, and from the end of a deadline's grace to every process gone.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, median, percentile, row, show, times

from bridgehold import SyncClient
from bridgehold.errors import BridgeholdError
from bridgehold.faces.bench.starts import prepare

ECHO = """
import struct, sys
i, o = sys.stdin.buffer, sys.stdout.buffer
while (h := i.read(4)):
    b = i.read(struct.unpack('>I', h)[0])
    o.write(h + b); o.flush()
"""
COUNT = 400

GRACE_MS = 2_000
"""Of the shipped policy."""


def bare_echo() -> list[float]:
    """Milliseconds of each round trip to a child that echoes frames, by asyncio pipes."""

    async def measure() -> list[float]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdin is not None
        assert child.stdout is not None
        frame = b"\x00\x00\x00\x20" + b"x" * 32
        found = []
        for _ in range(COUNT + 20):
            start = time.perf_counter()
            child.stdin.write(frame)
            await child.stdin.drain()
            await child.stdout.readexactly(len(frame))
            found.append((time.perf_counter() - start) * 1000)
        child.stdin.close()
        await child.wait()
        return found[20:]

    return asyncio.run(measure())


def sync_cost() -> float:
    """Median milliseconds of one append and fdatasync on the same disk."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:

        def append() -> None:
            os.write(file.fileno(), b"x" * 600)
            os.fdatasync(file.fileno())

        return median(times(append, 200))


def interpreter() -> float:
    return median(times(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "0"], check=True), 15))


def measure(client: SyncClient) -> list[Row]:
    rows: list[Row] = []
    echo, sync = median(bare_echo()), sync_cost()
    with client.session("python") as session:
        found = times(lambda: session.run("common:ping"), COUNT, warmup=20)
        rows.append(row("command, durable audit, p50", median(found), "ms", baseline=echo))
        rows.append(row("command, durable audit, p99", percentile(found, 0.99), "ms"))
        rows.append(row("command above one fdatasync", median(found) - sync, "ms", most=0.5))
        rows.append(row("one fdatasync here", sync, "ms"))
        work = {"code": "import time; time.sleep(0.05)"}
        slow = median(times(lambda: session.run("execute", work), 20))
        rows.append(row("overhead on a 50 ms operation", (slow / 50 - 1) * 100, "%", most=5))

    def cold() -> None:
        with client.session("python") as fresh:
            fresh.run("common:ping")

    starts = times(cold, 15)
    bare = interpreter()
    rows.append(row("cold start to first reply and end, p50", median(starts), "ms", baseline=bare))
    rows.append(row("cold start above the interpreter", median(starts) - bare, "ms", most=40))
    rows.append(
        row(
            "from the end of a deadline's grace to every process gone, p50",
            median(deadlines(client)),
            "ms",
            most=100,
        )
    )
    return rows


def deadlines(client: SyncClient) -> list[float]:
    """Milliseconds past a deadline's grace until the typed error is there (the cgroup is empty by then)."""
    code = (
        "import os, signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "for _ in range(30):\n    if os.fork() == 0: time.sleep(99)\ntime.sleep(99)"
    )
    found = []
    for _ in range(5):
        with client.session("python") as session:
            session.run("common:ping")
            start = time.perf_counter()
            try:
                session.run("execute", {"code": code}, deadline_ms=500)
            except BridgeholdError as error:
                if error.code != "timeout":
                    raise
            found.append((time.perf_counter() - start) * 1000 - 500 - GRACE_MS)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as home:
        Path(home).chmod(0o755)
        layout = prepare(Path(home), "python", "cold")
        started = time.perf_counter()
        with SyncClient.open(layout) as client:
            client.run("python:execute", {"code": "1"})
            first = time.perf_counter() - started
            rows = [row("a host and its first bridge, environment built", first, "s", most=5)]
            show(rows + measure(client))


if __name__ == "__main__":
    main()
