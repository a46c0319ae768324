"""Runs one of CPython's own test modules, or a package's own file of tests, and writes what became of each.

    python driver.py MODULE FILE

MODULE with a slash is a file below site-packages, for pytest; for others it takes the standard library only.
The same file runs inside a sandbox and outside of it. A line that it writes is JSON, ``[test, outcome]``; the
outcome is ``passed``, ``skipped: why`` or ``failed: what``. The last line is ``["", "done"]``, so that a run
that was cut off can be told from one that ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import unittest

RESOURCES = ["cpu", "subprocess", "decimal", "tzdata"]
"""Of `test.support`: neither the network nor a screen, a sound card or gigabytes."""
PATIENCE = 8
"""How much longer than `test.support` says a test waits for what a busy machine does late."""
_WORDS = 160


class Outcomes(unittest.TestResult):
    """Writes each test's outcome as soon as it is known."""

    def __init__(self, out):
        super().__init__()
        self._out = out
        self._bad = ""

    def _write(self, test, outcome):
        self._out.write(json.dumps([type(test).id(test), outcome]) + "\n")
        self._out.flush()

    def startTest(self, test):
        super().startTest(test)
        self._bad = ""

    def _failed(self, error):
        text = str(error[1]).strip().splitlines() or [""]
        self._bad = f"failed: {error[0].__name__}: {text[0]}"[:_WORDS]

    def addError(self, test, err):
        self._failed(err)
        self._write(test, self._bad)

    def addFailure(self, test, err):
        self._failed(err)
        self._write(test, self._bad)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._failed(err)
            self._write(test, self._bad)

    def addSuccess(self, test):
        self._write(test, "passed")

    def addExpectedFailure(self, test, err):
        self._write(test, "passed")

    def addUnexpectedSuccess(self, test):
        self._write(test, "failed: it was expected to fail")

    def addSkip(self, test, reason):
        self._write(test, f"skipped: {reason}"[:_WORDS])


def run(module, path):
    """Every test of ``test.MODULE``, in a folder of its own."""
    before = os.getcwd()
    with open(path, "w", encoding="ascii") as out, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            from test import support

            support.use_resources = list(RESOURCES)
            for name in ("LOOPBACK_TIMEOUT", "SHORT_TIMEOUT", "LONG_TIMEOUT"):
                setattr(support, name, PATIENCE * getattr(support, name))
            try:
                loaded = importlib.import_module(f"test.{module}")
                tests = unittest.defaultTestLoader.loadTestsFromModule(loaded)
            except unittest.SkipTest as error:
                out.write(json.dumps([f"test.{module}", f"skipped: {error}"[:_WORDS]]) + "\n")
            except Exception as error:  # noqa: BLE001 - what a distribution left out of its package
                what = f"failed: {type(error).__name__}: {error}".partition("\n")[0][:_WORDS]
                out.write(json.dumps([f"test.{module}", what]) + "\n")
            else:
                tests.run(Outcomes(out))
            out.write(json.dumps(["", "done"]) + "\n")
        finally:
            os.chdir(before)


class Reports:
    """A plugin of pytest's that writes each test's outcome as soon as it is known."""

    def __init__(self, out):
        self._out = out

    def _write(self, test, outcome):
        self._out.write(json.dumps([test, outcome]) + "\n")
        self._out.flush()

    def pytest_collectreport(self, report):
        if report.failed or report.skipped:
            self._write(report.nodeid, self._bad(report))

    def pytest_runtest_logreport(self, report):
        if report.failed or (report.skipped and not hasattr(report, "wasxfail")):
            self._write(report.nodeid, self._bad(report))
        elif report.when == "call":
            self._write(report.nodeid, "passed")

    def _bad(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        if report.skipped:
            said = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        else:
            said = crash.message if crash else report.longrepr
        lines = str(said).strip().splitlines() or [""]
        return f"{'skipped' if report.skipped else 'failed'}: {lines[0]}"[:_WORDS]


def run_file(file, path):
    """Every test of `file`, by pytest, in a folder of its own."""
    import sysconfig

    import pytest

    site = sysconfig.get_path("purelib")
    with open(path, "w", encoding="ascii") as out, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        options = ["-c", os.devnull, "--rootdir", site, "-p", "no:cacheprovider", "-W", "ignore", "-q"]
        pytest.main([os.path.join(site, file), *options], plugins=[Reports(out)])
        os.chdir("/")
        out.write(json.dumps(["", "done"]) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    target, result = sys.argv[1:]
    sys.argv[1:] = []
    (run_file if "/" in target else run)(target, result)
