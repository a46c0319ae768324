"""`scripts/suite.py`: every stage runs, and what one of them says can't be lost."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
GOOD = "def test_one():\n    assert True\n\ndef test_two():\n    import pytest\n    pytest.skip('-')\n"
BAD = "def test_three():\n    assert False\n"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bridgehold_suite", ROOT / "scripts/suite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REPORTS", tmp_path)
    return module


def pytest_stage(suite: ModuleType, folder: Path, name: str, source: str) -> object:
    (folder / f"test_{name}.py").write_text(source)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    argv += ["-c", "/dev/null", f"--junitxml={folder / name}.xml", str(folder / f"test_{name}.py")]
    return suite.Stage(name, tuple(argv), tests=True)


def test_a_failed_stage_hides_none_after_it(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (
        suite.Stage("fails", ("false",)),
        pytest_stage(suite, tmp_path, "bad", BAD),
        pytest_stage(suite, tmp_path, "gone", "import no_such_module_of_bridgehold\n"),
        suite.Stage("crash", (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), tests=True),
        pytest_stage(suite, tmp_path, "good", GOOD),
    )
    monkeypatch.setattr(suite, "stages", lambda: given)
    assert suite.main([]) == 1
    assert capfd.readouterr().out.splitlines()[-1] == "suite: 1 passed, 4 failed, 1 skipped"
    assert suite.main(["good"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "suite: 1 passed, 0 failed, 1 skipped"
    assert suite.main(["nothing"]) == 2


def test_what_runs_beside_others_is_waited_for_and_told_before_what_runs_alone(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    met = tmp_path / "met"
    waits = f"until [ -e {met} ]; do sleep 0.01; done; echo beside; exit 3"
    given = (
        suite.Stage("beside", ("sh", "-c", waits), beside=True),
        suite.Stage("meets", ("touch", str(met))),
        suite.Stage("alone", ("echo", "alone"), alone=True),
    )
    monkeypatch.setattr(suite, "stages", lambda: given)
    assert suite.main([]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[:5] == ["== meets", "== beside", "beside", "== alone", "alone"]
    assert lines[-1] == "suite: 2 passed, 1 failed, 0 skipped"


def test_what_a_stage_needs_has_ended_before_it_and_others_go_on(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made, met = tmp_path / "made", tmp_path / "met"
    waits = f"until [ -e {met} ]; do sleep 0.01; done; echo goes on"
    given = (
        suite.Stage("makes", ("touch", str(made)), beside=True),
        suite.Stage("goes on", ("sh", "-c", waits), beside=True),
        suite.Stage("needs", ("sh", "-c", f"test -e {made} && touch {met}"), needs=("makes",)),
    )
    monkeypatch.setattr(suite, "stages", lambda: given)
    assert suite.main([]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:4] == ["== makes", "== needs", "== goes on", "goes on"]


def test_a_stage_that_ran_no_test_has_not_passed(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "stages", lambda: (pytest_stage(suite, tmp_path, "none", ""),))
    assert suite.main([]) == 1


def test_no_script_of_ours_ends_a_pipe_before_its_writer() -> None:
    """Under `pipefail` the writer's end by SIGPIPE is the pipe's: what searches or cuts has to read it whole."""
    early = re.compile(r"\|\s*(?:grep\b[^|;&]*\s-\w*[qm]|head\b|sed\b[^|;&]*q['\"]?\s*(?:$|[|;)]))")
    assert early.search("ldconfig -p | grep -q libseccomp")
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    for path in (*scripts, ROOT / "Makefile"):
        text = path.read_text()
        if text.startswith("#!/usr/bin/env bash") or path.name == "Makefile":
            assert not early.search(text), path


def test_every_test_file_belongs_to_one_stage(suite: ModuleType) -> None:
    named = [*suite.SMALL, *suite.FIRST, *suite.LAST]
    assert len(named) == len(set(named))
    for file in named:
        assert (ROOT / file).is_file(), file
    named = [stage.name for stage in suite.stages()]
    assert named == [
        "environments",
        "differences",
        "lint",
        "format",
        "types",
        "collection",
        "documents",
        "small",
        "main",
        "floods",
    ]


HUNG = """
import time
def test_hung():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
def test_after():
    pass
"""


def test_a_test_that_can_not_be_ended_says_where_it_stands_and_holds_up_nothing(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_hung.py").write_text(HUNG)
    (tmp_path / "test_other.py").write_text(GOOD)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    argv += ["-c", "/dev/null", "-n", "2", "--dist", "loadfile", f"--junitxml={tmp_path / 'hung'}.xml"]
    hanging = [one.replace("=660", "=3") for one in suite.HANGING]
    stage = suite.Stage("hung", (*argv, "-o", "timeout=1", *hanging, str(tmp_path)), tests=True)
    monkeypatch.setattr(suite, "stages", lambda: (stage,))
    assert suite.main([]) == 1
    told = capfd.readouterr()
    assert 'test_hung.py", line' in told.err
    assert "crashed while running" in told.out
    assert told.out.splitlines()[-1] == "suite: 1 passed, 2 failed, 1 skipped"


def test_a_stage_has_an_end(suite: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert suite.ended(("sh", "-c", "sleep 300 & sleep 300"), 0.2) != 0
    assert "ended after 0.2 s" in capfd.readouterr().out
