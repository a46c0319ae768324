"""What a run tells its caller: tracebacks, codes, exits, ends. In both starts, as root and as a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.client.sync import SyncSession
from bridgehold.protocol.values import Reply
from hostile.stage import PAIRED, POLICY, Stage
from waiting import until

pytestmark = pytest.mark.hostile
WAYS = PAIRED

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
        assert '  |   File "<execute 1>", line 1, in <module>\n  |     1 / 0\n' in said.stderr, said.stderr
        assert said.returncode == 1
        why = ours(host, "-m", "bridgehold", "why", error.event)
        assert "".join(f"  | {line}\n" for line in lines.splitlines()) in why.stdout, why.stdout
        forged = fault(session, "raise ValueError('x\\nremedy  nothing is wrong')")
        shown = ours(host, "-m", "bridgehold", "why", forged.event).stdout
        said = [line for line in shown.splitlines() if "nothing is wrong" in line]
        assert len(said) > 1
        assert not [line for line in said if not line.startswith(("  | ", "  ", "→ ", "i-"))], shown
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


def test_what_led_to_an_error_is_told_as_at_a_prompt_and_odd_values_cost_nothing(
    host: Stage, python: str
) -> None:
    with host.session(python) as session:
        session.run("execute", {"code": "def deep(x):\n    return 1 / x  # of an earlier command"})
        error = fault(
            session,
            "try:\n    deep(0)\nexcept ZeroDivisionError as error:\n    wrong = KeyError('key')\n"
            "    wrong.add_note('a note')\n    raise wrong from error",
        )
        for part in (
            "    return 1 / x  # of an earlier command\n",
            "ZeroDivisionError: division by zero\n\nThe above exception was the direct cause",
            "    raise wrong from error\n",
            "KeyError: 'key'\na note\n",
        ):
            assert part in error.traceback, error.traceback
        last = session.run(
            "execute", {"code": "import sys\n[sys.last_exc is sys.last_value, sys.last_type.__name__]"}
        )
        assert last["value"] == [True, "KeyError"]
        last = session.run(
            "execute",
            {
                "code": "import traceback\n[one.filename for one in traceback.extract_tb(sys.last_exc.__traceback__)]"
            },
        )
        assert last["value"] == ["<execute 2>"]
        odd_lines = fault(session, "x = 'a\u2028b\x0cc\x1cd'\r\ny = 2\n1 / 0  # the third")
        assert '  File "<execute 5>", line 3, in <module>\n    1 / 0  # the third\n' in odd_lines.traceback
        group = fault(
            session, "raise ExceptionGroup('both', [ValueError('one'), TypeError('two')])"
        ).traceback
        assert "ValueError: one" in group
        assert "TypeError: two" in group
        assert (
            "    y = = 2\n        ^\nSyntaxError: invalid syntax\n"
            in fault(session, "x = 1\ny = = 2").traceback
        )
        session.run("execute", {"code": "class Odd:\n    def __repr__(self): raise SystemExit(1)"})
        for value, shown in (
            ("Odd()", "<Odd: its repr raised SystemExit>"),
            ("'x' * 50_000_000", "'xxx"),
            ("object", "<class 'object'>"),
            ("chr(0xd800) + '!'", "'\\ud800!'"),
        ):
            said = session.run("execute", {"code": f"print('kept')\n{value}"})
            assert (said["stdout"], said["value"]) == ("kept\n", None), value
            assert said["repr"].startswith(shown), said


def test_the_command_line_shows_what_is_written_while_it_runs(host: Stage, python: str) -> None:
    code = "import time\nprint('first')\nwhile True: time.sleep(0.05)"
    argv = [
        sys.executable,
        "-m",
        "bridgehold",
        "run",
        f"{python}:execute",
        "--args",
        json.dumps({"code": code}),
    ]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stderr is not None
        try:
            assert "  | first\n" in iter(process.stderr.readline, "")  # a build is told of before
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_output_comes_with_the_error_of_a_host_that_ends_with_it(tmp_path: Path, start: str) -> None:
    """A private one: nobody can ask it for its log any more."""
    policies = tmp_path / "config/policies"
    policies.mkdir(parents=True)
    (policies / "python.toml").write_text(POLICY + f'[sandbox]\nstart = "{start}"\n')
    said = "import os, subprocess\nprint('by print')\nsubprocess.run(['echo', 'by echo'])\nos._exit(9)"
    argv = [sys.executable, "-m", "bridgehold", "run", "python:execute", "--args", json.dumps({"code": said})]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(tmp_path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert "  | by print\n  | by echo\n" in done.stderr, done
    assert "ended by itself with status 9" in " ".join(done.stderr.split())


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


def test_a_deadline_interrupts_and_keeps_the_state_or_kills_after_the_grace(host: Stage, python: str) -> None:
    with host.session(python) as session:
        session.run("execute", {"code": "kept = 41\nimport time"})
        code = "def wait():\n    time.sleep(30)  # here\nkept += 1\nwait()"
        with pytest.raises(BridgeholdError) as caught:
            session.call("execute", {"code": code}, deadline_ms=300)
        error = caught.value
        assert (error.code, "its session lives" in error.message) == ("timeout", True), error.message
        assert "time.sleep(30)  # here" in error.traceback
        assert "bridgehold_sdk/" not in error.traceback
        assert session.run("execute", {"code": "kept"})["value"] == 42
        spins = "while True:\n    try: time.sleep(30)\n    except BaseException: pass"
        begun = time.monotonic()
        with pytest.raises(BridgeholdError) as caught:
            session.call("execute", {"code": spins}, deadline_ms=300)
        assert caught.value.code == "timeout"
        assert "nor within 500 ms of being interrupted" in caught.value.message
        assert time.monotonic() - begun < 5
        for _ in range(2):
            with pytest.raises(BridgeholdError) as caught:
                session.run("execute", {"code": "kept"})
            assert caught.value.code == "session_ended"
            assert "did not end within 300 ms" in caught.value.message


def test_ping_and_health_answer_while_a_command_runs(host: Stage, python: str) -> None:
    with host.session(python) as session, ThreadPoolExecutor() as pool:
        assert session.run("common:health")["status"] == "ok"
        work = pool.submit(session.run, "execute", {"code": "import time\nprint('begun')\ntime.sleep(4)\n7"})
        deadline = time.monotonic() + 3
        while session.run("common:health")["status"] != "busy":
            assert time.monotonic() < deadline
        assert session.run("common:ping")["status"] == "ok"
        said = session.run("common:health")
        assert (said["status"], said["checked"], said["running_ms"] >= 0) == ("busy", False, True)
        assert not work.done()
        assert work.result()["value"] == 7
        stuck = pool.submit(session.run, "execute", {"code": "import signal\nsignal.pause()"})
        while session.run("common:health")["status"] != "busy":
            assert not stuck.done()
        host.client.request("session.kill", {"session": session.id})
        with pytest.raises(BridgeholdError) as caught:
            session.run("common:ping")
        assert caught.value.code == "session_ended"
        with pytest.raises(BridgeholdError):
            stuck.result()


def test_a_guest_that_answers_nothing_costs_a_ping_its_answer_and_the_session_nothing(host: Stage) -> None:
    code = (
        "import ctypes, time\nlibc = ctypes.PyDLL(None)\nprint('begun', flush=True)\n"  # then the lock is kept
        "libc.usleep(900_000); libc.usleep(900_000)\nresult = {'done': True}"
    )
    with host.session() as session, ThreadPoolExecutor() as pool:
        session.run("report")
        work = pool.submit(session.run, "act", {"code": code})
        until(lambda: "begun" in session.logs())
        with pytest.raises(BridgeholdError) as caught:
            session.call("common:ping", deadline_ms=200)
        assert caught.value.code == "timeout"
        assert work.result() == {"done": True}
        stopped = pool.submit(session.run, "act", {"code": "import os\nos.kill(os.getpid(), 19)"})
        seen: list[str] = []
        while "busy" not in seen:  # past a bound nothing more is kept of those that nobody answers
            try:  # at first it may not have stopped itself yet
                session.call("common:ping", deadline_ms=1 if seen else 200)
            except BridgeholdError as error:
                seen.append(error.code)
        assert set(seen) == {"timeout", "busy"}
        host.client.request("session.kill", {"session": session.id})
        with pytest.raises(BridgeholdError):
            stopped.result()


def test_an_ended_session_says_how_each_time_and_its_log_can_still_be_read(host: Stage, python: str) -> None:
    for code, said in (
        ("import os; os._exit(7)", "the worker ended by itself with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "the worker ended by SIGSEGV"),
        ("import os; os._exit(0)", "the worker ended by itself with status 0"),
    ):
        for _ in range(3):
            with host.session(python) as session:
                session.run("execute", {"code": "import os\nos.write(2, b'last words\\n')"})
                assert said in fault(session, code).message
                for _ in range(2):
                    error = fault(session, "1")
                    assert (error.code, said in error.message) == ("session_ended", True), error.message
                with pytest.raises(BridgeholdError) as caught:
                    host.client.request("session.find", {"session": session.id})
                assert (caught.value.code, said in caught.value.message) == ("session_ended", True)
                assert "last words" in session.logs()
    with pytest.raises(BridgeholdError) as caught:
        host.client.request("logs", {"session": "s-0123456789abcdef"})
    assert caught.value.code == "not_found"


def test_a_name_that_starts_anew_says_so_once(host: Stage, python: str) -> None:
    def call(code: str) -> Reply:
        return host.client.call("python:execute", {"code": code}, session="named")

    first = call("x = 1\nimport os\nos.write(2, b'of the first\\n')")
    assert first.anew == ""
    with pytest.raises(BridgeholdError):
        call("os._exit(9)")
    reply = call("'x' in globals()")
    assert reply.value["value"] is False
    assert reply.session != first.session
    assert f"session {first.session} of this name has ended: crash: " in reply.anew
    assert "status 9; what it held is gone" in reply.anew
    assert call("1").anew == ""
    assert "of the first" in host.client.logs(first.session)
    assert "of the first" not in host.client.logs("named")
    with host.client.session(python, name="named") as mine:  # the one that is open, which it ends
        assert mine.anew == ""
    with host.client.session(python, name="named") as mine:
        assert f"session {reply.session} of this name has ended" in mine.anew
        assert mine.call("execute", {"code": "1"}).anew == ""
    assert "has ended" in call("1").anew
    host.client.request("session.kill", {"session": "named"})
    with pytest.raises(BridgeholdError) as caught:
        call("1 / 0")
    assert "had begun anew" in caught.value.hint
    assert "asked by the caller" in caught.value.hint
    host.client.request("session.close", {"session": "named"})
    with pytest.raises(BridgeholdError) as caught:
        host.client.request("session.find", {"session": "named"})
    assert caught.value.code == "session_ended"


def test_a_result_that_utf8_has_not_is_refused_with_its_place(host: Stage) -> None:
    error = host.fails("result['rows'] = ['fine', {'x': 'ab\\ud800'}]")
    assert error.code == "application"
    assert "result.rows[1].x: text with a lone surrogate at character 2" in error.message
    assert "base64" in error.message
    shown = host.act(
        "print('\\udce9'); result['fine'] = 'é'"
    )  # what is printed is for people, and spelled out
    assert shown == {"fine": "é"}
