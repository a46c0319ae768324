"""What counts as a difference between two runs of the same tests, and what explains it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "compat"
WAYS = ("outside", "cold", "fork", "execute")


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compat_compare", FOLDER / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_only_another_kind_of_end_is_a_difference(compare: ModuleType) -> None:
    outside = {
        "t.a": "passed",
        "t.b": "passed",
        "t.c": "skipped: no",
        "t.d": "failed: x",
        "t.e": "passed",
        "": "done",
    }
    inside = {"t.a": "passed", "t.b": "failed: EPERM", "t.c": "skipped: yes", "t.d": "failed: y", "": "done"}
    found = compare.differences("cold", outside, inside)
    assert [(one.test, one.inside) for one in found] == [("t.b", "failed: EPERM"), ("t.e", "absent")]


def test_a_run_that_was_cut_off_counts_once_and_not_by_what_it_did_not_reach(compare: ModuleType) -> None:
    outside = {"t.a": "passed", "t.b": "passed", "": "done"}
    found = compare.differences("fork", outside, {"t.a": "failed: x", "": "ended: memory"})
    assert [(one.test, one.inside) for one in found] == [("", "ended: memory"), ("t.a", "failed: x")]
    assert compare.differences("fork", {"": "ended: time"}, {"": "ended: time"}) == []


def test_what_one_of_two_runs_shows_alone_is_no_difference(compare: ModuleType) -> None:
    def of(*tests: str) -> list[object]:
        return [compare.Difference("cold", test, "passed", "failed: x") for test in tests]

    assert compare.confirmed(of("a", "b"), of("b", "c")) == (of("b"), of("a", "c"))
    assert compare.confirmed(of("a"), []) == ([], of("a"))
    assert compare.confirmed(of("", "a"), of("b")) == (of("b"), of("", "a")), "the first was cut off"
    assert compare.confirmed(of("a", "b"), of("", "b")) == (of("b", "a"), of("")), "the second was"
    assert compare.confirmed(of(""), of("")) == (of(""), [])


def test_the_first_reason_that_fits_explains_and_the_rest_has_none(compare: ModuleType) -> None:
    reasons = compare.read_reasons(
        """
        [[reason]]
        barrier = "seccomp"
        why = "the call is refused"
        tests = ["test.test_os.Xattr*", "test.test_os.*"]
        ways = ["cold"]
        [[reason]]
        barrier = "scratch"
        why = "a tmpfs"
        tests = ["test.test_os.Xattr*"]
        """
    )
    found = [
        compare.Difference(way, test, "passed", "failed: x")
        for way, test in (
            ("cold", "test.test_os.Xattr.a"),
            ("fork", "test.test_os.Xattr.a"),
            ("fork", "test.test_os.B.b"),
        )
    ]
    known, unknown = compare.explained(found, reasons)
    assert [len(known[reason]) for reason in reasons] == [1, 1]
    assert unknown == found[2:]
    assert compare.table(known).splitlines()[2:] == [
        "| seccomp | 1 | the call is refused (`test_os`) |",
        "| scratch | 1 | a tmpfs (`test_os`) |",
    ]


@pytest.mark.parametrize("line", ['barrier = ""', "tests = []", 'ways = ["warm"]'])
def test_a_reason_says_enough(compare: ModuleType, line: str) -> None:
    given = {
        "barrier": 'barrier = "x"',
        "why": 'why = "y"',
        "tests": 'tests = ["*"]',
        "ways": 'ways = ["cold"]',
    }
    given[line.split(maxsplit=1)[0]] = line
    with pytest.raises(ValueError, match="too little"):
        compare.read_reasons("[[reason]]\n" + "\n".join(given.values()))


def test_every_reason_that_is_given_is_one_of_a_barrier(compare: ModuleType) -> None:
    assert compare.read_reasons((FOLDER / "reasons.toml").read_text(encoding="utf-8"))
    page = (FOLDER.parent / "docs/reference/differences.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert all(line.split("|")[1].strip() for line in rows)


def test_what_no_test_of_theirs_shows_has_a_barrier_and_a_test_of_ours(compare: ModuleType) -> None:
    found = compare.read_beside((FOLDER / "reasons.toml").read_text(encoding="utf-8"))
    assert found
    for one in found:
        file, _, name = one.test.partition("::")
        assert f"\ndef {name}(" in (FOLDER.parent / file).read_text(encoding="utf-8"), one.test
    page = (FOLDER.parent / "docs/reference/differences.md").read_text(encoding="utf-8")
    assert compare.beside_table(found) in page, "it stands there as `make compat` would write it"
    for line in ('barrier = ""', 'test = "tests/x.py"', 'why = ""'):
        given = {"barrier": 'barrier = "x"', "why": 'why = "y"', "test": 'test = "a::b"'}
        given[line.split(maxsplit=1)[0]] = line
        with pytest.raises(ValueError, match="too little"):
            compare.read_beside("[[beside]]\n" + "\n".join(given.values()))


def test_a_packages_own_tests_are_told_one_by_one(compare: ModuleType, tmp_path: Path) -> None:
    tests = tmp_path / "test_mine.py"
    tests.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', [1, 2])\ndef test_passes(x):\n    pass\n"
        "def test_fails():\n    raise OSError(1, 'refused')\n"
        "def test_skips():\n    pytest.skip('no screen')\n"
        "@pytest.mark.xfail\ndef test_expected():\n    raise ValueError\n"
        "@pytest.fixture\ndef broken():\n    raise ValueError('set-up')\n"
        "def test_errs(broken):\n    pass\n"
    )
    out = tmp_path / "out.jsonl"
    argv = [sys.executable, "-I", str(FOLDER / "driver.py"), str(tests), str(out)]
    subprocess.run(argv, check=True, timeout=100, capture_output=True, cwd=tmp_path)
    lines = [json.loads(line) for line in out.read_text(encoding="ascii").splitlines()]
    assert lines.pop() == ["", "done"]
    assert {name.partition("::")[2]: outcome for name, outcome in lines} == {
        "test_passes[1]": "passed",
        "test_passes[2]": "passed",
        "test_fails": "failed: PermissionError: [Errno 1] refused",
        "test_skips": "skipped: Skipped: no screen",
        "test_expected": "passed",
        "test_errs": "failed: ValueError: set-up",
    }
    assert compare.module_of("a/tests/test_io.py::Case::test_x[b/c]") == "a/tests/test_io.py"


def test_one_difference_without_a_reason_fails_a_run_which_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    kept = {way: {"tree": "a1", "outcomes": {"test.test_x.A.b": "passed", "": "done"}} for way in WAYS}
    again: dict[str, dict[str, object]] = {}
    argv = [sys.executable, str(FOLDER / "run.py"), "--kept", str(tmp_path), "test_x"]

    def run() -> tuple[int, str]:
        for folder, outcomes in ((tmp_path, kept), (tmp_path / "again", again or kept)):
            for way, one in outcomes.items():
                (folder / way).mkdir(exist_ok=True, parents=True)
                (folder / way / "test_x.json").write_text(json.dumps(one))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stdout

    status, said = run()
    assert (status, "1 modules, 3 tests passed inside, 0 differences, 0 without a reason" in said) == (
        0,
        True,
    )
    kept["fork"]["outcomes"] = {"test.test_x.A.b": "failed: OSError: refused", "": "done"}
    status, said = run()
    assert (status, "no reason: fork     test.test_x.A.b" in said) == (1, True)
    kept["fork"]["outcomes"] = {"": "ended: crash"}
    status, said = run()
    assert (status, "inside   ended: crash" in said) == (1, True)
    again.update({way: {"tree": "a1", "outcomes": {"test.test_x.A.b": "passed", "": "done"}} for way in WAYS})
    status, said = run()
    assert (status, "seen once: fork     \n" in said, "0 differences" in said) == (0, True, True)
    argv.append("--only-kept")
    (tmp_path / "outside/test_x.json").unlink()
    kept.pop("outside")
    status, said = run()
    assert (status, "Nothing can be compared" in said) == (1, True)


def test_a_comparison_with_nothing_fails_and_says_what_is_missing() -> None:
    argv = [sys.executable, str(FOLDER / "run.py"), "test_that_no_python_has"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "libpython3.11-testsuite" in done.stdout
