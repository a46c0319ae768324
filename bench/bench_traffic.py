"""What crosses a sandbox's border: a tool's round trip, a stream's chunks, a large frame, an artifact."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path

from common import Row, median, row, show, times

from bridgehold import SyncClient, strict, strict_turns
from bridgehold.config.layout import Layout, find_layout

MANIFEST = """
name = "traffic"
version = "1.0.0"
summary = "For the benchmark"
entry = "traffic:Traffic"
[operations.echo]
summary = "What came"
effect = "run"
arguments = { required = ["value"], properties = { value = {} } }
[operations.ask]
summary = "Call a tool so many times, in seconds"
effect = "run"
arguments = { required = ["count"], properties = { count = { type = "integer" } } }
[operations.count]
summary = "So many chunks"
effect = "run"
stream = true
arguments = { required = ["count"], properties = { count = { type = "integer" } } }
[operations.keep]
summary = "An artifact of so many bytes, in seconds"
effect = "run"
arguments = { required = ["size"], properties = { size = { type = "integer" } } }
"""
BRIDGE = """
import os, time
from bridgehold_sdk import Bridge, operation

class Traffic(Bridge):
    @operation()
    def echo(self, value):
        return value

    @operation()
    def ask(self, count):
        started = time.perf_counter()
        for number in range(count):
            self.tools["double"](number=number)
        return time.perf_counter() - started

    @operation(stream=True)
    def count(self, count):
        for number in range(count):
            yield number
        return count

    @operation()
    def keep(self, size):
        data = os.urandom(size)
        started = time.perf_counter()
        kept = self.artifacts.put(data)
        self.artifacts.get(kept["digest"])
        return time.perf_counter() - started
"""
POLICY = """
extends = "baseline"
[operations]
allow = ["*"]
[tools]
allow = ["*"]
[rate]
frames_per_second = 100000
commands_per_minute = 1000000
"""
CALLS, CHUNKS, MIB = 300, 5_000, 1 << 20


def prepare(home: Path) -> Layout:
    home.chmod(0o755)
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    folder = layout.bridges / "traffic"
    for made in (folder, layout.policies):
        made.mkdir(parents=True)
    (folder / "bridge.toml").write_text(MANIFEST)
    (folder / "traffic.py").write_text(BRIDGE)
    (layout.policies / "traffic.toml").write_text(POLICY)
    return layout


def double(number: int) -> int:
    return 2 * number


def stream_rate(client: SyncClient) -> float:
    """Chunks a second that reach the caller."""
    seen = 0

    def heard(_: object) -> None:
        nonlocal seen
        seen += 1

    params = {"operation": "traffic:count", "arguments": {"count": CHUNKS}, "stream": True}
    started = time.perf_counter()
    client.request("run", params, on_event=heard)
    spent = time.perf_counter() - started
    if seen != CHUNKS:
        sys.exit(f"{seen} of {CHUNKS} chunks came")
    return CHUNKS / spent


def measure(client: SyncClient) -> list[Row]:
    with client.session("traffic", tools=[double]) as session:
        small = median(times(lambda: session.run("echo", {"value": 1}), 200, warmup=20))
        large = median(times(lambda: session.run("echo", {"value": "x" * MIB}), 20))
        session.run("ask", {"count": 20})
        asked = median([session.run("ask", {"count": CALLS}) / CALLS * 1000 for _ in range(3)])
        kept = median([session.run("keep", {"size": 4 * MIB}) for _ in range(3)])
    rate = median([stream_rate(client) for _ in range(3)])
    return [
        row("command, a number there and back", small, "ms"),
        row("command, 1 MiB of text there and back", large, "ms", baseline=small),
        row("tool: a call of the caller's, from inside and back, audited", asked, "ms", baseline=small),
        row("stream: chunks that reach the caller", rate, "/s"),
        row("artifact: 4 MiB kept and read from inside", kept * 1000, "ms"),
    ]


def long_frames() -> list[Row]:
    """A frame of many values, of the processor: the longest that reading it keeps its loop; all of it."""
    texts = {
        "numbers": b"[" + b",".join([b"1"] * 999_000) + b"]",
        "empty arrays": b"[" + b",".join([b"[]"] * 499_000) + b"]",
        "objects of one key": b"[" + b",".join([b'{"a":1}'] * 499_000) + b"]",
        "names of one object": b"{" + b",".join(b'"%d":{}' % name for name in range(499_000)) + b"}",
    }
    rows = []
    for name, text in texts.items():
        gc.collect()
        gc.freeze()  # as a host does at its start
        started = time.process_time()
        value = strict.loads(text)
        whole = (time.process_time() - started) * 1000
        del value
        longest, total, done = 0.0, 0.0, False
        steps = strict_turns.steps(text)
        while not done:
            started = time.process_time()
            done = next(steps, steps) is steps
            spent = (time.process_time() - started) * 1000
            longest, total = max(longest, spent), total + spent
        rows += [
            row(
                f"a frame of {name}: the longest turn, beside one decode",
                longest,
                "ms",
                baseline=whole,
                most=50,
            ),
            row(f"a frame of {name}: all turns, beside one decode", total, "ms", baseline=whole),
        ]
    return rows


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="bh-bench-") as home,
        SyncClient.open(prepare(Path(home))) as client,
    ):
        show(measure(client) + long_frames())


if __name__ == "__main__":
    main()
