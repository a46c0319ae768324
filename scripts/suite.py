"""The whole suite, stage by stage: a stage that fails hides none after it; one line sums all at the end.

    python scripts/suite.py [STAGE ...]     the stages named, or all of them

Each stage's result is also in build/suite/STAGE.xml (JUnit).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
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
FIRST = [
    f"tests/{file}.py"
    for file in (
        *("test_guides", "host/test_handover", "sandbox/test_recorded", "hostile/test_submissions"),
        *("hostile/test_egress", "sandbox/test_fork_hostile", "hostile/test_policy_keys"),
        *("host/test_langchain_host", "hostile/test_forks", "legacy/test_shim", "hostile/test_forks_torch"),
        *("hostile/test_cells", "hostile/test_policy_limits", "bridges/test_dspy_bridge"),
        *("bridges/test_transformers_bridge", "sandbox/test_shortage", "hostile/test_tools", "test_demo"),
        *("hostile/test_given_up", "bridges/test_langchain_agents", "hostile/test_authoring"),
        *("legacy/test_stdio", "bridges/test_langchain_bridge", "hostile/test_at_home"),
        *("hostile/test_programs", "hostile/test_attack", "legacy/test_no_files", "hostile/test_told"),
        *("hostile/test_place", "hostile/test_run_code", "hostile/test_supply"),
        *("envs/test_build", "hostile/test_audit_acts", "review/test_browser", "host/test_manners"),
        *("legacy/test_hostile_script", "keeper/test_keeper", "bridges/test_pandas_values"),
        *("sandbox/test_cgroups", "host/test_stopping", "kit/test_guide", "hostile/test_artifacts"),
        *("hostile/test_keys_in_answers", "legacy/test_transcripts", "hostile/test_uncounted"),
        *("kit/test_chaos", "http_face/test_http_processes", "host/test_first_use"),
        *("bridges/test_pandas_bridge", "hostile/test_callers", "hostile/test_every_event"),
    )
]
"""What takes more than 20 s each, the longest first: whoever begins one of them last, all others wait for."""
HANGING = (
    *("-o", "faulthandler_timeout=660", "-o", "faulthandler_exit_on_timeout=true"),
    "--max-worker-restart=1",
)
"""A test that its own time could not end says where it stands, and fails with its worker; others go on."""
STAGE_SECONDS = 40 * 60
"""No stage takes longer: what hangs beyond any test is ended, and has failed."""


@dataclass(frozen=True)
class Stage:
    """One command. `tests`: it is pytest, whose report counts each test; otherwise it counts as one.

    `beside`: those after it run meanwhile, up to one that runs `alone`, or `needs` it. What it says comes
    with its end.
    """

    name: str
    argv: tuple[str, ...]
    tests: bool = False
    beside: bool = False
    alone: bool = False
    needs: tuple[str, ...] = ()


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

    def pytest(name: str, *arguments: str, alone: bool = False) -> Stage:
        report = f"--junitxml={REPORTS / name}.xml"
        argv = (sys.executable, "-m", "pytest", "-q", report, *arguments)
        return Stage(name, argv, tests=True, alone=alone)

    named = {*SMALL, *FIRST, *LAST}
    others = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    others = [file for file in others if file not in named]
    # Rewritten and compiled once, where each of the workers would do that for itself otherwise.
    collects = (sys.executable, "-m", "pytest", "-qqq", "--collect-only", "-p", "no:cacheprovider")
    many = ("--dist", "loadfile", "--no-loadscope-reorder", *HANGING)
    builds = ("env", f"VENV={BIN.parent}", "scripts/build-environments")
    compares = (sys.executable, "compat/run.py", "--part")
    installed = any(Path("/usr/lib").glob("python3.*/test/test_json"))  # otherwise the first stage does that
    return (
        # What the tests' bridges import, built before any of them is timed.
        Stage("environments", builds, beside=True),
        Stage("differences", compares, beside=True, needs=() if installed else ("environments",)),
        Stage("lint", (str(BIN / "ruff"), "check", ".")),
        Stage("format", (str(BIN / "ruff"), "format", "--check", ".")),
        Stage("types", (str(BIN / "mypy"),), beside=True),  # one core's work
        Stage("collection", ("env", "-u", "PYTHONDONTWRITEBYTECODE", *collects), beside=True),
        Stage("documents", (sys.executable, "scripts/generate_docs.py", "--check")),
        pytest("small", *SMALL),
        pytest("main", "-n", "5", *many, *FIRST, *others, alone=True),  # they wait more than they work
        # In three parts whatever the file: two of them take as long as all others. A part has a host or two.
        pytest("floods", "-n", "3", "--dist", "worksteal", *HANGING, *LAST, alone=True),
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


def ended(argv: tuple[str, ...], seconds: float) -> int:
    """The command's status; past its time it is ended with all that it started, and that is no success."""
    with subprocess.Popen(argv, cwd=ROOT, start_new_session=True) as process:
        return waited(process, seconds)


def waited(process: subprocess.Popen[bytes], seconds: float) -> int:
    """As `ended`, of one that was begun."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"suite: ended after {seconds:g} s: {' '.join(map(str, process.args))[:200]}", flush=True)
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait() or 1
    except BaseException:  # asked to stop: so are they
        os.killpg(process.pid, signal.SIGINT)
        raise


def run(stage: Stage) -> Outcome:
    print(f"== {stage.name}", flush=True)
    report = REPORTS / f"{stage.name}.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    status = ended(stage.argv, STAGE_SECONDS)
    return outcome(stage, status, round(time.monotonic() - began))


def outcome(stage: Stage, status: int, seconds: int) -> Outcome:
    if not stage.tests:
        return Outcome(stage, status, seconds, int(status == 0), int(status != 0), 0)
    passed, failed, skipped = read_report(REPORTS / f"{stage.name}.xml")
    if status != 0 and failed == 0:
        failed = 1  # pytest itself broke: a stage without its report has not passed
    return Outcome(stage, status, seconds, passed, failed, skipped)


class Beside:
    """A stage that runs while others do."""

    def __init__(self, stage: Stage) -> None:
        self.name = stage.name
        self._stage = stage
        self._began = time.monotonic()
        self._said = REPORTS / f"{stage.name}.txt"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                stage.argv, cwd=ROOT, start_new_session=True, stdout=said, stderr=said
            )
        self._waits = threading.Thread(target=self._wait, daemon=True)
        self._waits.start()

    def _wait(self) -> None:
        self._status = waited(self._process, STAGE_SECONDS)
        self._seconds = round(time.monotonic() - self._began)  # its own, however late it is asked for

    def finish(self) -> Outcome:
        self._waits.join()
        print(f"== {self._stage.name}\n{self._said.read_text(errors='replace')}", end="", flush=True)
        return outcome(self._stage, self._status, self._seconds)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)


def run_all(stages: list[Stage]) -> list[Outcome]:
    """Of each its outcome."""
    outcomes: list[Outcome] = []
    beside: list[Beside] = []
    try:
        for stage in stages:
            for one in [one for one in beside[::-1] if stage.alone or one.name in stage.needs]:
                outcomes.append(one.finish())
                beside.remove(one)
            if stage.beside:
                beside.append(Beside(stage))
            else:
                outcomes.append(run(stage))
        return [*outcomes, *(one.finish() for one in beside)]
    except BaseException:
        for one in beside:
            one.stop()
        raise


def main(names: list[str]) -> int:
    known = {stage.name: stage for stage in stages()}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such stage: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    REPORTS.mkdir(parents=True, exist_ok=True)
    outcomes = run_all([known[name] for name in names or known])
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
