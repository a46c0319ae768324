"""Every benchmark in turn, each in a process of its own, joined into one table or one JSON list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from common import Row, show


def main() -> int:
    rows: list[Row] = []
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"… {script.stem}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, str(script), "--json"], capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode != 0:
            print(done.stderr[-2000:], file=sys.stderr)
            return done.returncode
        rows += [Row(**entry) for entry in json.loads(done.stdout)]
    show(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
