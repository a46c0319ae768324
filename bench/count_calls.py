"""What a warm `python:execute` passes on its way through the host: modules of ours, and calls in them.

python bench/count_calls.py [--json] [--names]   (`--names`: each function too)

A real host with a real sandbox, but for one thing: its host process begins here, and counts itself whenever a
signal says so. A call is a function's beginning: a coroutine's going on is none, nor is a comprehension.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from bridgehold import SyncClient
from bridgehold.config.layout import Layout
from bridgehold.faces.bench.starts import prepare
from bridgehold.host import main as host_main
from bridgehold.supervisor import plans, supervise

MODULES, CALLS = 25, 100
"""Bars: SPEC.md."""
ROUNDS, WARM = 15, 20
START, STOP = signal.SIGUSR1, signal.SIGUSR2
_PATIENCE_S = 60.0
_COUNTS = "calls.json"
"""In the run folder, as are the pid and the sign that counting has begun: each a file that appears whole."""
_PID, _BEGUN = "calls.pid", "calls.begun"
_REST_S = 0.05
"""What the host still does of a command once it has answered."""


class Counting:
    """In the host's process: counts what is called of ours between two signals."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls: Counter[tuple[str, str]] = Counter()

    def begin(self) -> None:
        self._calls.clear()
        put(self._folder / _BEGUN, "")
        sys.setprofile(self._seen)

    def end(self) -> None:
        sys.setprofile(None)
        found = [[module, name, count] for (module, name), count in sorted(self._calls.items())]
        put(self._folder / _COUNTS, json.dumps(found))

    def _seen(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        # RESUME's own argument: 0 where the function begins, else what it goes on from.
        begins = not code.co_code[frame.f_lasti + 1]
        named = not code.co_name.startswith("<") or code.co_name == "<lambda>"
        if begins and named and module.partition(".")[0] == "bridgehold":
            self._calls[module, code.co_qualname] += 1


def put(path: Path, text: str) -> None:
    """A file that is whole as soon as it is there."""
    beside = path.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def serve(home: Path) -> int:
    """The supervisor of a host whose host process is this file."""
    plans.MODULES["host"] = Path(__file__).stem
    os.environ["BRIDGEHOLD__HOST__CELLS"] = "false"  # what is counted is all in the one process that counts
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    return supervise.run(prepare(home, "python", "cold"))


def host(run: Path) -> int:
    """The host's process, as always, and its counting."""
    counting, assemble = Counting(run), host_main.HostProcess.run

    async def watched(self: host_main.HostProcess) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(START, counting.begin)
        loop.add_signal_handler(STOP, counting.end)
        put(run / _PID, str(os.getpid()))
        return await assemble(self)

    host_main.HostProcess.run = watched  # type: ignore[method-assign]  # what is counted stays as it is
    return host_main.main()


def once(ready: Callable[[], bool], what: str) -> None:
    """Wait until `ready`."""
    deadline = time.monotonic() + _PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


@contextlib.contextmanager
def running(home: Path) -> Iterator[Layout]:
    """A host on `home`, for as long as the block lasts."""
    layout = prepare(home, "python", "cold")
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(home)])
    try:
        once((layout.run / _PID).exists, "no host came up")
        once(layout.socket.exists, "the host does not listen")
        yield layout
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def counted(layout: Layout, rounds: int) -> list[dict[tuple[str, str], int]]:
    """Of each of some commands alone, in a session that has had many: how often each function was called."""
    pid, counts, begun = int((layout.run / _PID).read_text()), layout.run / _COUNTS, layout.run / _BEGUN
    found: list[dict[tuple[str, str], int]] = []
    with SyncClient.open(layout) as client, client.session("python") as session:
        for _ in range(WARM):
            session.run("execute", {"code": "1"})
        for _ in range(rounds):
            for sign in (begun, counts):
                sign.unlink(missing_ok=True)
            os.kill(pid, START)
            once(begun.exists, "the host did not begin to count")
            session.run("execute", {"code": "1"})
            time.sleep(_REST_S)
            os.kill(pid, STOP)
            once(counts.exists, "the host did not count")
            found.append({(one, name): n for one, name, n in json.loads(counts.read_text())})
    return found


def usual(rounds: list[dict[tuple[str, str], int]]) -> dict[tuple[str, str], int]:
    """Of each function what it is in the middle of all rounds: what a timer adds to one is in few others."""
    names = {name for one in rounds for name in one}
    middle = {name: statistics.median_low([one.get(name, 0) for one in rounds]) for name in names}
    return {name: count for name, count in middle.items() if count}


def report(calls: dict[tuple[str, str], int], *, names: bool) -> None:
    modules: Counter[str] = Counter()
    for (module, _), count in calls.items():
        modules[module] += count
    for module, count in modules.most_common():
        print(f"{count:6}  {module}")
        for (one, name), number in sorted(calls.items(), key=lambda item: -item[1]):
            if names and one == module:
                print(f"{'':8}{number:4}  {name}")
    print(f"{len(modules):6}  modules (at most {MODULES})")
    print(f"{modules.total():6}  calls (at most {CALLS})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--names", action="store_true", help="each function too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    with tempfile.TemporaryDirectory(prefix="bh-calls-") as folder:
        Path(folder).chmod(0o755)
        with running(Path(folder)) as layout:
            calls = usual(counted(layout, ROUNDS))
    modules = {module for module, _ in calls}
    if arguments.json:
        each = {f"{module}:{name}": count for (module, name), count in sorted(calls.items())}
        print(json.dumps({"modules": len(modules), "calls": sum(calls.values()), "each": each}, indent=2))
    else:
        report(calls, names=arguments.names)
    return 0 if len(modules) <= MODULES and sum(calls.values()) <= CALLS else 1


if __name__ == "__main__":
    if "--fd-launcher" in sys.argv:
        given = int(sys.argv[sys.argv.index("--fd-config") + 1])
        raise SystemExit(host(Path(json.loads(os.pread(given, 1 << 20, 0))["run"])))
    raise SystemExit(main())
