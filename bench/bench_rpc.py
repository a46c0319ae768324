"""What a shim adds to a worker that speaks gRPC, against the same worker dialled bare, in turns of one run.

The worker is the tests' own: gRPC's frames by `h2` on threads, which take most of the bare call's time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_relay import sync_cost
from common import Row, median, percentile, row, show, times

from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import find_layout
from bridgehold.faces.legacy.folder import write_shim
from bridgehold.faces.legacy.values import ShimFile

SCRIPTS = Path(__file__).parents[1] / "tests/legacy/scripts"
sys.path.append(str(SCRIPTS))
import rpcwire  # type: ignore[import-not-found]  # noqa: E402 - found by the line above; it is a guest's
from rpcwire import field, pair  # noqa: E402 - as it

ROUNDS, SMALL, LARGE = 5, 60, 4
MANIFEST = 'name = "bench"\nversion = "1.0.0"\nforeign = "auto"\n'
POLICY = """
extends = "baseline"
[limits]
request = "8MiB"
response = "8MiB"
[operations]
allow = ["bench:*"]
[tools]
allow = ["*"]
[rate]
commands_per_minute = 1000000
"""


class Worker:
    """One worker and the BEAM that starts it, bare or behind the shim."""

    def __init__(self, program: str, folder: Path, script: Path) -> None:
        folder.mkdir()
        back, _ = rpcwire.listen(_serve)
        ready = folder / "ready"
        run = ("--port", "0", "--elixir-address", f"127.0.0.1:{back}", "--snakepit-run-id", "bench")
        environment = {**os.environ, "SNAKEPIT_READY_FILE": str(ready)}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [program, str(script), "--adapter", "a.B", *run],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        while not ready.exists():
            if self.process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit("bench: the worker did not start")
            time.sleep(0.001)
        self.start_ms = (time.perf_counter() - began) * 1000
        self.wire: Any = rpcwire.dial(int(ready.read_text()))

    def ping(self) -> None:
        assert self.wire.call("Ping").status == 0

    def echo(self, text: str = "x") -> None:
        message = (
            field(1, "s1") + field(2, "echo") + pair(3, "text", field(1, "json") + field(2, f'"{text}"'))
        )
        reply = self.wire.call("ExecuteTool", message)
        assert reply.status == 0, reply.headers

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _serve(_name: str, _message: bytes) -> Iterator[bytes]:
    yield field(1, 1)


def prepare(home: Path) -> tuple[Path, str]:
    """(script, the shim's program) of a profile on a layout below `home`."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, 0)
    scripts, bridge = home / "scripts", layout.bridges / "bench"
    for folder in (bridge, layout.policies):
        folder.mkdir(parents=True)
    home.chmod(0o755)
    shutil.copytree(SCRIPTS, scripts)
    for name in ("h2", "hpack", "hyperframe"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        shutil.copytree(Path(found.origin).parent, scripts / name)
    (bridge / "bridge.toml").write_text(MANIFEST)
    (layout.policies / "bench.toml").write_text(POLICY)
    layout.config_file.write_text(f'[bridges.bench]\nscripts = "{scripts}"\n')
    given = ShimFile(
        profile="bench",
        tenant="local",
        config=str(layout.config),
        state=str(layout.state),
        run=str(layout.run),
    )
    return scripts / "grpc_server.py", str(write_shim(home / "venv", given))


def turns(
    bare: Callable[[], object], ours: Callable[[], object], count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each call, a few of the one and a few of the other in turn."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for kept, call in zip(found, (bare, ours), strict=True):
            kept.extend(times(call, count))
    return found


def main() -> list[Row]:
    home = Path(tempfile.mkdtemp(prefix="bh-bench-"))
    workers: list[Worker] = []
    try:
        script, program = prepare(home)
        host = PrivateHost.start(find_layout({"BRIDGEHOLD_HOME": str(home)}, 0))
        try:
            bare = Worker(sys.executable, home / "bare", script)
            workers.append(bare)
            ours = Worker(program, home / "ours", script)
            workers.append(ours)
            pings = turns(bare.ping, ours.ping, SMALL)
            sync = sync_cost(home)
            tools = turns(bare.echo, ours.echo, SMALL)
            text = "x" * (1 << 20)
            large = turns(lambda: bare.echo(text), lambda: ours.echo(text), LARGE)
        finally:
            for worker in workers:
                worker.end()
            host.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    ping, tool, mib = ((median(one), median(other)) for one, other in (pings, tools, large))
    return [
        row("rpc: a start until it is ready", ours.start_ms, "ms", baseline=bare.start_ms),
        row("rpc: a Ping above the bare worker's", ping[1] - ping[0], "ms", baseline=ping[0], most=0.15),
        row("rpc: p99 of a Ping", percentile(pings[1], 0.99), "ms", baseline=percentile(pings[0], 0.99)),
        row(
            "rpc: an ExecuteTool above the bare worker's and one fdatasync",
            tool[1] - tool[0] - sync,
            "ms",
            baseline=tool[0],
            most=0.6,
        ),
        row("rpc: an ExecuteTool of 1 MiB both ways", mib[1], "ms", baseline=mib[0], most_ratio=1.5),
    ]


if __name__ == "__main__":
    show(main())
