"""Code as people run it: its first byte, files, the one shot, many small prints. Ratios of one run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common import median, row, show

from bridgehold import SyncClient
from bridgehold.client.private import PrivateHost
from bridgehold.client.sync import SyncSession
from bridgehold.config.layout import find_layout

COUNT = 15
SHOTS = 30
COPIES = 5
"""Times that files are written and read back: more, and a session's rate would be measured."""
MIB = 64
COMMAND = Path(sys.executable).with_name("bridgehold")
RUN = (str(COMMAND), "run", "python:execute", "--args", '{"code": "pass"}')
PYTHON = (str(COMMAND), "python", "-c", "pass")
PRINTS = (
    "import time\nbegun = time.perf_counter()\nfor n in range(10_000): print(n)\ntime.perf_counter() - begun"
)


def milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def command(argv: tuple[str, ...]) -> float:
    return milliseconds(
        lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    )


def side_by_side(bare: Callable[[], float], ours: Callable[[], float], turn: int) -> tuple[float, float]:
    """Both, one after the other, and every second time the other way round: what drifts meets both alike."""
    if turn % 2:
        late = ours()
        return bare(), late
    return bare(), ours()


def echoed() -> float:
    """From a byte's way into a bare pipe to its way back, through another process."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def once() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x")
            process.stdout.read(1)

        once()
        found = median([milliseconds(once) for _ in range(COUNT)])
        process.stdin.close()
    return found


def first_byte(session: SyncSession) -> float:
    """From a print inside to its event here; both clocks are the machine's own."""
    found = []
    for _ in range(COUNT):
        code = "import time\nprint(time.time(), flush=True)\ntime.sleep(0.05)"
        for event in session.stream("execute", {"code": code}):
            if event["type"] == "output":
                found.append((time.time() - float(event["text"])) * 1000)
                break
    return median(found)


def piped(data: bytes) -> float:
    """A bare pipe copy to another thread, there and back."""

    def copy() -> None:
        read, write = os.pipe()

        def send() -> None:
            with os.fdopen(write, "wb") as file:
                file.write(data)

        thread = threading.Thread(target=send)
        thread.start()
        with os.fdopen(read, "rb") as file:
            assert len(file.read()) == len(data)
        thread.join()

    return milliseconds(copy) + milliseconds(copy)


def filed(session: SyncSession, data: bytes) -> float:
    def both() -> None:
        session.files.write("big", data)
        assert session.files.read("big") == data

    return milliseconds(both)


def printed(session: SyncSession) -> tuple[float, float]:
    """Milliseconds of 10,000 prints: of the session's code, and of a bare interpreter to a pipe."""
    code = PRINTS.replace("\ntime.perf", "\nlast = time.perf") + "\nimport sys\nprint(last, file=sys.stderr)"
    bare = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, check=True)
    inside = float(session.run("execute", {"code": PRINTS})["value"])
    return inside * 1000, float(bare.stderr) * 1000


def main() -> None:
    data = os.urandom(MIB << 20)
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as home:
        Path(home).chmod(0o755)
        os.environ["BRIDGEHOLD_HOME"] = home
        layout = find_layout(os.environ, os.getuid())
        host = PrivateHost.start(layout)
        try:
            for argv in (RUN, PYTHON):
                command(argv)
            shots = [side_by_side(lambda: command(RUN), lambda: command(PYTHON), n) for n in range(SHOTS)]
            with SyncClient.connect(layout.socket) as client, client.session("python") as session:
                echo, first = echoed(), first_byte(session)
                copies = [
                    side_by_side(lambda: piped(data), lambda: filed(session, data), n) for n in range(COPIES)
                ]
                prints = [printed(session) for _ in range(COUNT)]
        finally:
            host.stop()
    run, shot = (median(column) for column in zip(*shots, strict=True))
    pipe, files = (median(column) for column in zip(*copies, strict=True))
    inside, bare = (median(column) for column in zip(*prints, strict=True))
    name = "`bridgehold python -c pass` against `bridgehold run`"
    show(
        [
            row("first byte of a print, above 2 × a bare pipe echo", first - 2 * echo, "ms", most=5),
            row(f"{MIB} MiB written and read back by files", files, "ms", baseline=pipe, most_ratio=4),
            row(name, shot, "ms", baseline=run, most_ratio=1.1),
            row("10,000 small prints", inside, "ms", baseline=bare, most_ratio=1.5),
        ]
    )


if __name__ == "__main__":
    main()
