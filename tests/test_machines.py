"""The matrix of machines: its page is what was seen, and its parts do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "machines"
sys.path.insert(0, str(FOLDER))
try:
    import kinds
    import page
    import without
finally:
    sys.path.remove(str(FOLDER))

RESULTS = [page.Outcome(**one) for one in json.loads((FOLDER / "results.json").read_text())]


def test_the_page_is_what_was_seen() -> None:
    assert (ROOT / "docs/reference/machines.md").read_text() == page.page(RESULTS, kinds.MACHINES)


def test_no_result_is_of_a_machine_that_met_a_stranger_otherwise() -> None:
    machines = {machine.name: machine for machine in kinds.MACHINES}
    assert len(machines) == len(kinds.MACHINES)
    for outcome in RESULTS:
        machine = machines[outcome.name]
        assert outcome.right, outcome
        assert outcome.works == (not machine.says), outcome
        assert outcome.works or re.search(machine.says, outcome.said), outcome
        assert outcome.works or outcome.works_then or machine.ends, outcome


@pytest.mark.parametrize(
    ("what", "act", "refused"),
    [
        ("namespaces", "import os; os.unshare(0x10000000)", "Operation not permitted"),
        (
            "landlock",
            "import ctypes, os; n = ctypes.CDLL(None, use_errno=True); n.syscall(444, 0, 0, 1); print(os.strerror(ctypes.get_errno()))",
            "Function not implemented",
        ),
    ],
)
def test_what_is_taken_away_is_away(what: str, act: str, refused: str) -> None:
    act = act.replace(
        "os.unshare(0x10000000)",
        "import ctypes; n = ctypes.CDLL(None, use_errno=True); n.unshare(0x10000000); print(os.strerror(ctypes.get_errno()))",
    )
    done = subprocess.run(
        [sys.executable, "-P", FOLDER / "without.py", what, sys.executable, "-P", "-c", act],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert refused in done.stdout


def test_what_is_not_known_is_not_taken_away() -> None:
    with pytest.raises(SystemExit, match="neither landlock nor namespaces"):
        without.program("everything")
