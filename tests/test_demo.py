"""The demo, whole and for real: every scene must come to what it says (it exits 1 otherwise)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bridgehold.audit.read import read_all
from bridgehold.audit.verify import verify_audit


@pytest.mark.network
@pytest.mark.timeout(300)
def test_the_demo_plays_to_its_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("demo")
    for folder in (home, *home.parents):
        if folder.stat().st_uid == Path.home().stat().st_uid and folder.name.startswith("pytest"):
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "bridgehold", "demo", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "NOT AS IT MUST BE" not in done.stdout
    report = verify_audit(home / "state" / "audit")
    assert report.integrity.ok
    assert report.completeness.ok
    kinds = {entry.kind for entry in read_all(home / "state" / "audit")}
    assert {
        "command.intent",
        "command.outcome",
        "egress.outcome",
        "egress.refused",
        "worker.attested",
    } <= kinds
