"""What users write is checked against the package's own types: what is right passes, what is wrong is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "typing"


def test_users_code_type_checks_and_misuse_does_not(tmp_path: Path) -> None:
    files = [FOLDER / "uses.py", FOLDER / "misuses.py"]
    options = ["--strict", "--config-file=", "--no-pretty", "--hide-error-context", "--no-color-output"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={tmp_path}", *map(str, files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found = {
        (match[1], int(match[2]), match[3])
        for match in re.finditer(r"(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    }
    expected = {
        ("misuses", number, code)
        for number, line in enumerate(files[1].read_text().splitlines(), 1)
        if "# refused: " in line
        for code in line.partition("# refused: ")[2].split(", ")
    }
    assert len(expected) > 12
    assert found == expected, done.stdout + done.stderr
