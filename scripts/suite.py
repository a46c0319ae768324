"""The whole suite, stage by stage: a stage that fails hides none after it; one line sums all at the end.

    python scripts/suite.py [STAGE ...]     the stages named, or all of them

Each stage's result is also in build/suite/STAGE.xml (JUnit).
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET  # the files are pytest's own

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "build" / "suite"
BIN = Path(sys.executable).parent
SMALL = [f"tests/sandbox/test_{name}.py" for name in ("watchdog", "limits", "launch_gate")]
"""Acts that are forks of the test process itself count its size and its descriptors: it has to be small."""
LAST = [f"tests/hostile/test_{name}.py" for name in ("acts", "import_floods", "processes", "sessions")]
"""What floods a machine, or counts what is on it."""


@dataclass(frozen=True)
class Stage:
    """One command. `tests`: it is pytest, whose report counts each test; otherwise it counts as one."""

    name: str
    argv: tuple[str, ...]
    tests: bool = False


@dataclass(frozen=True)
class Outcome:
    stage: Stage
    status: int
    seconds: int
    passed: int
    failed: int
    skipped: int

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.failed == 0 and self.passed > 0


def stages() -> tuple[Stage, ...]:
    """Every stage, in the order in which they run."""

    def pytest(name: str, *arguments: str) -> Stage:
        report = f"--junitxml={REPORTS / name}.xml"
        return Stage(name, (sys.executable, "-m", "pytest", "-q", report, *arguments), tests=True)

    apart = [f"--ignore={file}" for file in (*SMALL, *LAST)]
    return (
        Stage("lint", (str(BIN / "ruff"), "check", ".")),
        Stage("format", (str(BIN / "ruff"), "format", "--check", ".")),
        Stage("types", (str(BIN / "mypy"),)),
        Stage("documents", (sys.executable, "scripts/generate_docs.py", "--check")),
        pytest("small", *SMALL),
        pytest("main", "-n", "4", "--dist", "loadfile", *apart),  # they wait more than they work
        pytest("floods", "-n", "2", "--dist", "loadfile", *LAST),
    )


def read_report(path: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit file; nothing passed where there is none."""
    try:
        suites = list(ET.parse(path).getroot().iter("testsuite"))  # noqa: S314  # written by pytest, one line above
    except (OSError, ET.ParseError):
        return 0, 0, 0
    count = {
        key: sum(int(one.get(key, "0")) for one in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    failed = count["failures"] + count["errors"]
    return max(0, count["tests"] - failed - count["skipped"]), failed, count["skipped"]


def run(stage: Stage) -> Outcome:
    print(f"== {stage.name}", flush=True)
    report = REPORTS / f"{stage.name}.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    status = subprocess.run(stage.argv, cwd=ROOT, check=False).returncode
    seconds = round(time.monotonic() - began)
    if not stage.tests:
        return Outcome(stage, status, seconds, int(status == 0), int(status != 0), 0)
    passed, failed, skipped = read_report(report)
    if status != 0 and failed == 0:
        failed = 1  # pytest itself broke: a stage without its report has not passed
    return Outcome(stage, status, seconds, passed, failed, skipped)


def main(names: list[str]) -> int:
    known = {stage.name: stage for stage in stages()}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such stage: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    REPORTS.mkdir(parents=True, exist_ok=True)
    outcomes = [run(known[name]) for name in names or known]
    print("\nstage       seconds   passed  failed  skipped")
    for one in outcomes:
        mark = "" if one.ok else "   FAILED"
        print(f"{one.stage.name:10} {one.seconds:8} {one.passed:8} {one.failed:7} {one.skipped:8}{mark}")
    passed, failed, skipped = (
        sum(getattr(one, key) for one in outcomes) for key in ("passed", "failed", "skipped")
    )
    print(f"\nsuite: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 0 if all(one.ok for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
