"""What a shim adds to a foreign script's frames, against the same script on bare pipes.

A negotiation passes without an intent, so that the way there and back shows alone; a command has its
durable intent, which is measured against one fdatasync of the same run.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, median, percentile, row, show, times

from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import find_layout
from bridgehold.faces.legacy.folder import write_shim
from bridgehold.faces.legacy.values import ShimFile

COUNT = 400
SCRIPT = """
import json, struct, sys
i, o = sys.stdin.buffer, sys.stdout.buffer
while len(h := i.read(4)) == 4:
    request = json.loads(i.read(struct.unpack(">I", h)[0]))
    answer = {"type": "protocol_selected", "protocol": "json"}
    if "command" in request:
        answer = {"id": request["id"], "success": True, "result": request["args"]}
    body = json.dumps(answer).encode()
    o.write(struct.pack(">I", len(body)) + body)
    o.flush()
"""
MANIFEST = 'name = "bench"\nversion = "1.0.0"\nforeign = "json"\n'
POLICY = 'extends = "baseline"\n[operations]\nallow = ["bench:*"]\n[rate]\ncommands_per_minute = 1000000\n'
NEGOTIATION = {"type": "protocol_negotiation", "supported": ["json"], "preferred": "json"}


def measure(argv: list[str], *, commands: bool) -> list[float]:
    """Milliseconds of each round trip."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    found = []
    for identity in range(COUNT + 20):
        request = {"id": identity, "command": "echo", "args": {"x": 1}} if commands else NEGOTIATION
        body = json.dumps(request).encode()
        start = time.perf_counter()
        child.stdin.write(struct.pack(">I", len(body)) + body)
        child.stdin.flush()
        child.stdout.read(struct.unpack(">I", child.stdout.read(4))[0])
        found.append((time.perf_counter() - start) * 1000)
    child.stdin.close()
    child.wait()
    return found[20:]


def sync_cost(folder: Path) -> float:
    """Median milliseconds of one append and fdatasync on the disk that the audit is on."""
    import os

    with tempfile.NamedTemporaryFile(dir=folder) as file:

        def append() -> None:
            file.write(b"x" * 800)
            file.flush()
            os.fdatasync(file.fileno())

        return median(times(append, 200))


def prepare(home: Path) -> tuple[Path, Path]:
    """(script, program) of a profile on a layout below `home`."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, 0)
    scripts, bridge = home / "scripts", layout.bridges / "bench"
    for folder in (scripts, bridge, layout.policies):
        folder.mkdir(parents=True)
    home.chmod(0o755)
    (scripts / "echo.py").write_text(SCRIPT)
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
    return scripts / "echo.py", write_shim(home / "venv", given)


def main() -> list[Row]:
    home = Path(tempfile.mkdtemp(prefix="bh-bench-"))
    try:
        script, program = prepare(home)
        host = PrivateHost.start(find_layout({"BRIDGEHOLD_HOME": str(home)}, 0))
        try:
            bare = median(measure([sys.executable, str(script)], commands=True))
            passing = measure([str(program), str(script)], commands=False)
            sync = sync_cost(home)
            audited = measure([str(program), str(script)], commands=True)
        finally:
            host.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return [
        row("relay: a frame above bare pipes", median(passing) - bare, "ms", most=0.15),
        row("relay: p99 of a frame", percentile(passing, 0.99), "ms"),
        row("relay: a command above one fdatasync", median(audited) - sync, "ms", baseline=sync, most=0.5),
    ]


if __name__ == "__main__":
    show(main())
