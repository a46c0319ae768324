"""What is counted, and not timed, keeps within its bars."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_warm_command_passes_no_more_of_the_host_than_its_bars() -> None:
    command = [sys.executable, str(ROOT / "bench/count_calls.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.startswith("{"), done.stderr
    found = json.loads(done.stdout)
    assert 10 < found["modules"] <= 25, found["each"]
    assert 50 < found["calls"] <= 100, found["each"]
    assert done.returncode == 0, done.stderr
