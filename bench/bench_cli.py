"""What a command line costs before it does anything: against ``python -c pass`` of the same run, in turns."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import median, row, show

from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import find_layout

COUNT = 25
COMMAND = Path(sys.executable).with_name("bridgehold")
BARE = (sys.executable, "-c", "pass")
HELP = (str(COMMAND), "--help")
RUN = (str(COMMAND), "run", "python:execute", "--args", '{"code": "1"}')


def milliseconds(argv: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


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
    bare, shown, ran = (median(column) for column in zip(*found, strict=True))
    show(
        [
            row("`bridgehold --help` against `python -c pass`", shown, "ms", baseline=bare, most_ratio=10),
            row("`bridgehold run`, of a running host", ran, "ms", baseline=bare, most_ratio=14),
        ]
    )


if __name__ == "__main__":
    main()
