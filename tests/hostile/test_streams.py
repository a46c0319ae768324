"""What a session's code writes, by whatever means, comes with the command: both starts, both users."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold import BridgeholdError
from bridgehold.client.sync import SyncSession
from hostile.stage import PAIRED, POLICY, Stage
from waiting import until

WAYS = PAIRED
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Runs code"
entry = "streams:Streams"
[resources.names]
summary = "names"
[operations.execute]
summary = "Run code"
effect = "run"
resource = "names"
output = true
[operations.execute.arguments]
required = ["code"]
[operations.execute.arguments.properties]
code = {{ type = "string" }}
[operations.plain]
summary = "Run code; its output is beside the value"
effect = "run"
[operations.plain.arguments]
required = ["code"]
[operations.plain.arguments.properties]
code = {{ type = "string" }}
[operations.counts]
summary = "Prints, then gives a chunk, some times"
effect = "run"
stream = true
"""
BRIDGE = """
from bridgehold_sdk import Bridge, operation
names = {}

class Streams(Bridge):
    @operation()
    def execute(self, code):
        exec(compile(code, "code", "exec"), names)
        return {"value": names.pop("value", None), "truncated": False}

    @operation()
    def plain(self, code):
        exec(compile(code, "code", "exec"), names)
        return names.pop("value", None)

    @operation(stream=True)
    def counts(self):
        for number in range(3):
            print("before", number)
            yield number
"""


@pytest.fixture(scope="module")
def bridge(host: Stage) -> str:
    name = f"streams{host.made}"
    host.made += 1
    folder = host.layout.bridges / name
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "bridge.toml").write_text(MANIFEST.format(name=name))
    (folder / "streams.py").write_text(BRIDGE)
    policy = POLICY.replace('log_rate = "4MiB/s"', 'log_rate = "64KiB/s"')
    (host.layout.policies / f"{name}.toml").write_text(policy + f'[sandbox]\nstart = "{host.start}"\n')
    return name


@pytest.fixture
def session(host: Stage, bridge: str) -> Iterator[SyncSession]:
    with host.session(bridge) as session:
        yield session


def run(session: SyncSession, code: str) -> tuple[str, str]:
    value: Any = session.run("execute", {"code": code})
    return value["stdout"], value["stderr"]


def failure(session: SyncSession, code: str, **more: Any) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        session.run("execute", {"code": code}, **more)
    return caught.value


WRITERS = {
    "print": ("print('out')\nimport sys\nprint('err', file=sys.stderr)", "out\n", "err\n"),
    "text and bytes": (
        (
            "import sys\nprint('a', end='')\nsys.stdout.buffer.write(b'b')\nprint('c', end='')\nsys.stdout.flush()\n"
            "import os\nos.write(1, b'd')"
        ),
        "abcd",
        "",
    ),
    "a subprocess": (
        "import subprocess\nsubprocess.run(['sh', '-c', 'echo child; echo wrong >&2'])",
        "child\n",
        "wrong\n",
    ),
    "system": ("import os\nos.system('echo system')", "system\n", ""),
    "the C library": ("import ctypes\nctypes.CDLL(None).puts(b'from C')", "from C\n", ""),
    "the streams' own names": (
        (
            "import sys\nprint(sys.stdout.fileno(), sys.stdout.name, sys.stdout.writable(), sys.stdout.isatty())\n"
            "print(sys.stderr.fileno(), sys.stderr.name, sys.stdout is sys.__stdout__, sys.stdout.mode)"
        ),
        "1 <stdout> True False\n2 <stderr> True w\n",
        "",
    ),
    "what UTF-8 has not": (
        "import os\nprint('\\udce9 é')\nos.write(1, b'\\xff\\n')",
        "\\udce9 é\n\\xff\n",
        "",
    ),
    "a process": (
        (
            "import multiprocessing as m\np = m.get_context('fork').Process(target=print, args=('worker',))\n"
            "p.start(); p.join()"
        ),
        "worker\n",
        "",
    ),
    "a spawned process": (
        (
            "import multiprocessing as m\np = m.get_context('spawn').Process(target=print, args=('spawned',))\n"
            "p.start(); p.join()"
        ),
        "spawned\n",
        "",
    ),
    "a redirected stream": (
        (
            "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as kept: print('kept')\n"
            "print('seen', kept.getvalue(), end='')"
        ),
        "seen kept\n",
        "",
    ),
    "no stream": (
        "import sys\nkeep, sys.stdout = sys.stdout, None\nprint('lost')\nsys.stdout = keep",
        "",
        "",
    ),
    "a stream that raises": (
        (
            "import sys\nclass Bad:\n closed = False\n def flush(self): raise SystemExit(3)\n"
            "keep, sys.stdout = sys.stdout, Bad()\nvalue = 1"
        ),
        "",
        "",
    ),
    "and then": ("sys.stdout = keep\nprint('again')", "again\n", ""),
}


def test_whoever_writes_it_comes_with_the_command_that_runs(session: SyncSession) -> None:
    for name, (code, out, err) in WRITERS.items():
        assert run(session, code) == (out, err), name


def test_what_kept_the_streams_writes_to_the_command_that_runs_or_to_the_log(session: SyncSession) -> None:
    run(
        session,
        "import logging, sys, faulthandler, threading, time\n"
        "logging.basicConfig(stream=sys.stderr, format='%(message)s')\n"
        "def shout(text, to=sys.stdout): print(text, file=to)\n"
        "kept = sys.stdout\nfaulthandler.enable()",
    )
    out, err = run(
        session,
        "logging.warning('logged'); shout('shouted'); kept.write('kept\\n'); faulthandler.dump_traceback()",
    )
    assert out == "shouted\nkept\n"
    assert err.startswith("logged\n")
    assert "most recent call first" in err
    run(session, "def later():\n time.sleep(0.2); shout('between')\nthreading.Thread(target=later).start()")
    until(lambda: "between" in session.logs())
    assert run(session, "shout('mine')") == ("mine\n", "")
    assert "shouted" in session.logs()  # the log has all, for who looks later
    reply = session.call("plain", {"code": "print('beside')\nvalue = 7"})
    assert (reply.value, reply.output.stdout, reply.output.stderr) == (7, "beside\n", "")


FORKS = """
import os, sys
def child(act):
    pid = os.fork()
    if pid == 0:
        act()
        raise ValueError('of the child')
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_ends_as_at_home_with_its_traceback(session: SyncSession) -> None:
    run(session, FORKS)
    out, err = run(session, "print(child(lambda: None))")
    assert out == "1\n"
    assert err.splitlines()[0] == "Traceback (most recent call last):"
    assert err.splitlines()[-1] == "ValueError: of the child"
    assert "bridgehold" not in err
    assert run(session, "print(child(lambda: sys.exit(7)))") == ("7\n", "")
    assert run(session, "print(child(lambda: sys.exit('why')))") == ("1\n", "why\n")
    ended = "import atexit\nif os.fork() == 0:\n atexit.register(print, 'at exit')\n print('child', end=' ')\nelse:\n"
    ended += " print(os.waitstatus_to_exitcode(os.wait()[1]))"
    assert run(session, ended) == ("child at exit\n0\n", "")
    pool = (
        "import concurrent.futures as f, multiprocessing as m\n"
        "with f.ProcessPoolExecutor(1, mp_context=m.get_context('fork')) as pool:\n"
        " print(repr(pool.submit(int, 'x').exception()))\n"
        "p = m.get_context('fork').Process(target=int, args=('y',)); p.start(); p.join(); print(p.exitcode)"
    )
    out, err = run(session, pool)
    assert out.splitlines()[-1] == "1"
    assert "invalid literal for int() with base 10: 'y'" in err
    assert run(session, "print('the session lives')") == ("the session lives\n", "")


STUBBORN = "sys.stdout.flush()\nwhile True:\n try: time.sleep(60)\n except BaseException: pass"


def test_its_output_comes_with_an_error_however_it_ends(host: Stage, bridge: str) -> None:
    said = "import os, sys, time\nprint('partial', end='')\nos.write(2, b'to err')\n"
    with host.session(bridge) as session:
        error = failure(session, said + "raise ValueError('x')")
        assert (error.code, error.output.stdout, error.output.stderr) == ("application", "partial", "to err")
    for end, code, more in (
        ("os.kill(os.getpid(), 9)", "crash", {}),
        ("import ctypes; sys.stdout.flush(); ctypes.string_at(0)", "crash", {}),
        ("sys.stdout.flush(); os._exit(5)", "crash", {}),
        ("sys.exit(3)", "application", {}),
        ("time.sleep(60)", "timeout", {"deadline_ms": 500}),  # interrupted: its streams are flushed
        (STUBBORN, "timeout", {"deadline_ms": 500}),  # killed
        ("sys.stdout.flush(); kept = bytearray(600 << 20)", "memory", {}),
    ):
        with host.session(bridge) as session:
            error = failure(session, said + end, **more)
            flushed = "" if end.startswith("os.kill") else "partial"
            assert (error.code, error.output.stdout) == (code, flushed), end
            assert "to err" in error.output.stderr, end
            assert "to err" in host.client.logs(session.id), end  # though it may have ended


def test_nothing_that_prints_waits_for_the_log_and_what_is_cut_is_counted(session: SyncSession) -> None:
    began = time.monotonic()
    code = "import subprocess\nsubprocess.run(['sh', '-c', 'yes 1234567 | head -c 8000000'])\nprint('end')"
    reply = session.call("plain", {"code": code})
    assert time.monotonic() - began < 20  # at the log's 64 KiB/s it would be two minutes
    output = reply.output
    kept = len(output.stdout.encode()) - len(f"\n… {output.stdout_cut} bytes cut …\n".encode())
    assert (kept + output.stdout_cut, kept) == (8_000_004, 256 * 1024)
    assert output.stdout.startswith("1234567\n")
    assert output.stdout.endswith("1234567\nend\n")
    assert "bytes cut]" in session.logs()
    assert len(session.logs()) < 300_000
    error = failure(session, code + "\nraise ValueError('x')")
    assert (error.code, error.output.stdout_cut) == ("application", output.stdout_cut)
    value: Any = session.run("execute", {"code": code})
    assert (value["truncated"], value["stdout"]) == (True, output.stdout)


def test_output_streams_as_it_is_written(session: SyncSession) -> None:
    code = (
        "import sys, time\nprint('first'); time.sleep(0.6)\nprint('é', end='')\nsys.stdout.flush()\n"
        "time.sleep(0.3)\nprint('last', file=sys.stderr)"
    )
    seen = [(event, time.monotonic()) for event in session.stream("plain", {"code": code})]
    pieces = [(event["stream"], event["text"]) for event, _ in seen if event["type"] == "output"]
    assert pieces == [("stdout", "first\n"), ("stdout", "é"), ("stderr", "last\n")]
    assert seen[-1][0]["type"] == "result"
    assert seen[-1][1] - seen[0][1] > 0.8
    said = ""
    for event in session.stream("counts"):
        said += event.get("text", "")
        assert event["type"] != "chunk" or f"before {event['data']}\n" in said
    assert said == "before 0\nbefore 1\nbefore 2\n"
    seen_bytes = cut = 0
    flood = "import subprocess\nsubprocess.run(['sh', '-c', 'yes 1234567 | head -c 16000000'])"
    for event in session.stream("plain", {"code": flood}):
        if event["type"] == "output":
            seen_bytes += len(event["text"])
            cut += event.get("cut", 0)
    assert (seen_bytes + cut, cut > 0) == (16_000_000, True)
