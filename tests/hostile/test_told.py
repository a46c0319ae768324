"""What a run tells its caller: tracebacks, codes, exits, ends. In both starts, as root and as a user."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.host.faces.sync import SyncSession
from hostile.stage import POLICY, Stage

pytestmark = pytest.mark.hostile

WRONG = """\
def half(x):
    return x / 0  # the line itself
half(4)
"""


@pytest.fixture
def python(host: Stage) -> str:
    """The shipped bridge for code, in the stage's start."""
    (host.layout.policies / "python.toml").write_text(POLICY + f'[sandbox]\nstart = "{host.start}"\n')
    return "python"


def fault(session: SyncSession, code: str) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        session.run("execute", {"code": code})
    return caught.value


def ours(host: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command line of the host's own user."""
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")


def test_the_traceback_reaches_the_author_wherever_the_author_is(
    host: Stage, python: str, tmp_path: Path
) -> None:
    lines = '  File "<execute 1>", line 2, in half\n    return x / 0  # the line itself\n'
    with host.session(python) as session:
        error = fault(session, WRONG)
        assert (error.code, error.message) == ("application", "ZeroDivisionError: division by zero")
        assert lines in error.traceback
        assert lines in "".join(error.__notes__)
        said = ours(host, "-m", "bridgehold", "run", "python:execute", "--args", f'{{"code": "{"1 / 0"}"}}')
        assert '  File "<execute 1>", line 1, in <module>\n    1 / 0\n' in said.stderr, said.stderr
        assert said.returncode == 1
        why = ours(host, "-m", "bridgehold", "why", error.event)
        assert lines in why.stdout, why.stdout
        odd = fault(session, "raise ValueError('\\x1b[31mred\\x07\\u202e')")
        assert "ValueError: \\x1b[31mred\\x07\\u202e" in odd.traceback
        assert "\x1b" not in odd.message
        deep = fault(
            session,
            "def f(n):\n    try: 1 / 0\n    except Exception:\n        if n: f(n - 1)\n        raise KeyError('é' * 9_000)\nf(300)",
        )
        assert len(deep.traceback) < 8_200
        stored = next(event for event in host.events("command.outcome") if event["ref"] == deep.event)
        assert 0 < len(str(stored["traceback"])) < 4_200
    test = tmp_path / "test_it.py"
    test.write_text(
        textwrap.dedent(f"""
        import pytest
        @pytest.mark.bridge("python")
        def test_it(bridge):
            bridge.run("execute", {{"code": {WRONG!r}}})
        """)
    )
    failed = ours(host, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))
    assert "return x / 0  # the line itself" in failed.stdout, failed.stdout


def test_a_bridge_that_fails_at_its_import_says_where(host: Stage) -> None:
    error = host.fails("def setup():\n    return {}['absent']\nsetup()", where="import")
    assert "line 3, in setup" in error.traceback or "in setup" in error.traceback, error.traceback
    assert "KeyError: 'absent'" in error.traceback


def test_nothing_that_code_raises_is_tried_again(host: Stage, python: str) -> None:
    with host.session(python) as session:
        session.run("execute", {"code": "count = 0"})
        for raised in (
            "type('RateLimitError', (Exception,), {})('x')",
            "MemoryError()",
            "type('E', (Exception,), {'status_code': 429})('x')",
            "ModuleNotFoundError('x', name='x')",
        ):
            before = session.run("execute", {"code": "count"})["value"]
            with pytest.raises(BridgeholdError) as caught:
                session.run("execute", {"code": f"count += 1\nraise {raised}"}, retries=2, repeatable=True)
            assert (caught.value.code, caught.value.retry) == ("application", "no")
            assert session.run("execute", {"code": "count"})["value"] == before + 1
        assert session.run("execute", {"code": "print('out')\nexit(0)"})["stdout"] == "out\n"
        assert "exit status 7" in fault(session, "exit(7)").message
