"""What the sandbox and a hostile neighbour cost: compute, p99 beside bombs, memory of the host."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
from common import Row, median, percentile, row, show, times

from bridgehold import BridgeholdError, SyncClient
from bridgehold.config.layout import find_layout

WORK = """
import time
t = time.perf_counter()
s = 0
for i in range(2_000_000):
    s += i * i % 7
spent = time.perf_counter() - t
"""
BOMB = """
import os, time
end = time.monotonic() + 20
while time.monotonic() < end:
    try:
        pid = os.fork()
        if pid == 0:
            held = bytearray(1 << 20)
            while True: pass
    except OSError:
        print("x" * 10_000)
"""
POLICY = """
extends = "baseline"
[limits]
memory = "256MiB"
cpu = 0.5
processes = 64
[operations]
allow = ["python:*"]
[rate]
commands_per_minute = 1000000
"""


def outside() -> float:
    """Median seconds of the loop in a bare interpreter."""
    found = []
    for _ in range(7):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", WORK + "print(spent)"],
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(float(done.stdout))
    return median(found)


def compute(client: SyncClient) -> Row:
    with client.session("python") as session:
        inside = [session.run("execute", {"code": WORK + "\nspent"})["value"] for _ in range(7)]
    bare = outside()
    speed = bare / median(inside)
    return row("speed of computing inside, outside = 1", speed, "×", least=0.98)


def neighbours(client: SyncClient) -> list[Row]:
    """p99 of another tenant's commands: alone, and beside one hostile session per core."""

    def p99(name: str) -> float:
        with client.session("python", tenant="quiet", name=name) as session:
            return percentile(times(lambda: session.run("execute", {"code": "1"}), 200, warmup=20), 0.99)

    alone = p99("alone")
    threads = []
    for i in range(os.cpu_count() or 2):
        thread = threading.Thread(target=_hostile, args=(client, f"hostile{i}"))
        thread.start()
        threads.append(thread)
    beside = p99("beside")
    for thread in threads:
        thread.join()
    return [row("another tenant's p99 beside bombs", beside, "ms", baseline=alone, most_ratio=2)]


def _hostile(client: SyncClient, name: str) -> None:
    try:
        with client.session("python", tenant="hostile", name=name) as session:
            session.call("execute", {"code": BOMB}, deadline_ms=8_000)
    except BridgeholdError:
        return


def growth(client: SyncClient, host: psutil.Process) -> Row:
    """Resident memory of the host's process after 10,000 commands more, as a share of before."""
    with client.session("python") as session:
        for _ in range(2_000):
            session.run("common:ping")
        before = host.memory_info().rss
        for _ in range(10_000):
            session.run("common:ping")
        after = host.memory_info().rss
    return row("growth of the host over 10,000 commands", (after / before - 1) * 100, "%", most=5)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as home:
        Path(home).chmod(0o755)
        layout = find_layout({"BRIDGEHOLD_HOME": home}, os.getuid())
        layout.policies.mkdir(parents=True)
        (layout.policies / "python.toml").write_text(POLICY.replace("cpu = 0.5", "cpu = 1.0"))
        with SyncClient.open(layout) as client:
            rows = [compute(client)]
            (layout.policies / "python.toml").write_text(POLICY)
            rows += neighbours(client)
            host = next(
                process
                for process in psutil.Process().children(recursive=True)
                if "bridgehold.host.main" in " ".join(process.cmdline())
            )
            rows.append(growth(client, host))
            show(rows)


if __name__ == "__main__":
    main()
