"""What a command line costs before it does anything: against ``python -c pass`` of the same run, in turns."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import median, row, show

from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import find_layout

COUNT, FIRST = 25, 7
COMMAND = Path(sys.executable).with_name("bridgehold")
BARE = (sys.executable, "-c", "pass")
HELP = (str(COMMAND), "--help")
RUN = (str(COMMAND), "run", "python:execute", "--args", '{"code": "1"}')


def milliseconds(argv: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def processor_milliseconds(argv: Sequence[str]) -> float:
    """Of `argv` and of all that it starts and waits for, as a private host is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def first_runs() -> tuple[float, float, float, float]:
    """A `run` that begins its own host and ends it, and `python -c pass`: wall time, then the processor's."""
    for argv in (BARE, RUN):
        milliseconds(argv)
    walls = [[milliseconds(argv) for argv in (BARE, RUN)] for _ in range(FIRST)]
    spent = [[processor_milliseconds(argv) for argv in (BARE, RUN)] for _ in range(FIRST)]
    columns = [*zip(*walls, strict=True), *zip(*spent, strict=True)]
    bare, ran, bare_spent, ran_spent = map(median, columns)
    return bare, ran, bare_spent, ran_spent


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as home:
        Path(home).chmod(0o755)
        os.environ["BRIDGEHOLD_HOME"] = home
        host = PrivateHost.start(find_layout(os.environ, os.getuid()))
        try:
            for argv in (BARE, HELP, RUN):  # compiled, and the session is there
                milliseconds(argv)
            found = [[milliseconds(argv) for argv in (BARE, HELP, RUN)] for _ in range(COUNT)]
        finally:
            host.stop()
        first_bare, first, first_bare_spent, first_spent = first_runs()
    bare, shown, ran = (median(column) for column in zip(*found, strict=True))
    show(
        [
            row("`bridgehold --help` against `python -c pass`", shown, "ms", baseline=bare, most_ratio=10),
            row("`bridgehold run`, of a running host", ran, "ms", baseline=bare, most_ratio=14),
            row("`bridgehold run` that begins its host, to its end", first, "ms", baseline=first_bare),
            row(
                "the same, of the processor, with all that it starts",
                first_spent,
                "ms",
                baseline=first_bare_spent,
                most_ratio=120,
            ),
        ]
    )


if __name__ == "__main__":
    main()
