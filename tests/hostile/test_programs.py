"""Programs of the kind that people, and models, write: each ends inside as at home, with the same output.

As files by `program`, and as the code of one command. At home they run as an ordinary user, unbuffered: that a
sandbox's standard output shows each line when it ends is a difference that stands in differences.md.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError
from hostile.stage import PAIRED, Stage

pytestmark = pytest.mark.hostile
WAYS = PAIRED

PROGRAMS = {path.stem: path for path in sorted(Path(__file__).with_name("programs").glob("*.py"))}
FILES_ALONE = {
    "arguments": "its own command line",
    "dataclasses_across_processes": "a new process finds no class of a prompt's, neither here nor at home",
    "debuggers": "the last expression of a command is compiled apart",
    "errors": "the hook of a session is not asked, the session goes on",
    "faults": "its last line ends a session",
    "fork_and_atexit": "a session's end is later",
    "futures": "as of the classes of a prompt's",
    "misspelt": "only its standard output is compared, and it has none",
    "multiprocessing_everyway": "as of the classes of a prompt's",
    "subprocesses": "its last line is another program's",
    "threads": "a session's end is later, and one of its threads is the worker's",
    "unit_tests": "its last line ends the interpreter",
}
"""No code of one command: why."""
PYTHON = "/usr/bin/python3"
"""The interpreter that the sandboxes use."""
SECONDS = 300
POLICY = """
extends = "python"
[limits]
memory = "1GiB"
scratch = "256MiB"
shm = "64MiB"
processes = 128
[sandbox]
start = "{start}"
"""


@pytest.fixture(autouse=True)
def policy(host: Stage) -> None:
    host.layout.policies.joinpath("python.toml").write_text(POLICY.format(start=host.start))


def told(text: str, here: str, temporary: str) -> str:
    """Without what is each run's own: its folders, and addresses."""
    text = text.replace(temporary, "<tmp>").replace(here, "<here>")
    return re.sub(r"\b0x[0-9a-f]{8,}\b", "<address>", text)


@cache
def at_home(name: str) -> tuple[int, str, str]:
    """Its status, standard output and standard error, as an ordinary user of this machine."""
    with tempfile.TemporaryDirectory(prefix="at-home-") as made:
        here, temporary = Path(made, "p"), Path(made, "t")
        for folder in (here, temporary):
            folder.mkdir()
        script = here / "script.py"
        script.write_bytes(PROGRAMS[name].read_bytes())
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            entry = pwd.getpwnam("nobody")
            Path(made).chmod(0o755)
            for path in (here, temporary, script):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        done = subprocess.run(
            ["env", "--default-signal", PYTHON, "-u", str(script)],
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(here), "TMPDIR": str(temporary)},
            cwd=here,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            **user,
        )
        out, err = (
            told(text.decode("utf-8", "backslashreplace"), str(here), str(temporary))
            for text in (done.stdout, done.stderr)
        )
    return done.returncode, out, err


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_at_home(host: Stage, name: str) -> None:
    with host.client.session("python") as session:
        session.files.write("p/script.py", PROGRAMS[name].read_bytes())
        said = session.call(
            "program",
            {"kind": "file", "text": "/scratch/p/script.py", "cwd": "/scratch/p", "stdin": ""},
            deadline_ms=SECONDS * 1000,
        ).value
    status, out, err = at_home(name)
    assert not said["truncated"]
    assert told(said["stdout"], "/scratch/p", "/tmp") == out
    assert told(said["stderr"], "/scratch/p", "/tmp") == err
    assert (-said["signal"] or said["status"]) == status


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in FILES_ALONE])
def test_it_prints_the_same_as_a_command(host: Stage, name: str) -> None:
    with host.client.session("python") as session:
        code = PROGRAMS[name].read_text(encoding="utf-8")
        try:
            said = session.call("execute", {"code": code, "stdin": ""}, deadline_ms=SECONDS * 1000).value
            out = said["stdout"]
        except BridgeholdError as error:
            out = error.output.stdout
    assert told(out.replace("<execute 1>", "/scratch/script.py"), "/scratch", "/tmp") == at_home(name)[1]


ONE_AFTER_THE_OTHER: tuple[tuple[str, object, str], ...] = (
    ("def gen():\n  try:\n    while True: print('got', (yield))\n  finally: print('closed')\ng = gen()\nnext(g)", None, ""),
    ("g.send(1)", None, "got 1\n"),
    ("del g", None, "closed\n"),
    ("import contextvars\nv = contextvars.ContextVar('v', default=0)\nt = v.set(5)", None, ""),
    ("v.get()", 5, ""),
    ("v.reset(t)\nv.get()", 0, ""),
    ("import asyncio\nloop = asyncio.new_event_loop()\nfut = loop.create_future()\nasync def wait(): return await fut\ntask = loop.create_task(wait())", None, ""),
    ("loop.call_soon(fut.set_result, 7)\nloop.run_until_complete(task)", 7, ""),
    ("import threading\nbehind = asyncio.new_event_loop()\nthreading.Thread(target=behind.run_forever, daemon=True).start()", None, ""),
    ("asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, 'behind'), behind).result(60)", "behind", ""),
    ("await asyncio.sleep(0, 'at the top')", "at the top", ""),
    ("import contextlib, os, tempfile\nopened = tempfile.TemporaryDirectory()\nfolder = opened.__enter__()", None, ""),
    ("opened.__exit__(None, None, None)\nos.path.isdir(folder)", False, ""),
    ("file = open('kept.txt', 'w')\nfile.write('half')", 4, ""),
    ("file.write(' more')\nfile.close()\nopen('kept.txt').read()", "half more", ""),
    ("import signal\nfired = threading.Event()\nsignal.signal(signal.SIGALRM, lambda *_: fired.set())\nsignal.setitimer(signal.ITIMER_REAL, 0.01)[0]", 0.0, ""),
    ("fired.wait(60)", True, ""),
    ("import multiprocessing as mp, concurrent.futures as cf\npool = cf.ProcessPoolExecutor(1, mp.get_context('fork'))\nlist(pool.map(abs, [-1, -2]))", [1, 2], ""),
    ("def later(x): return x * 3", None, ""),
    ("pool.submit(pow, 2, 3).result()", 8, ""),
    ("pool.shutdown()", None, ""),
    ("mp.get_context('fork').Pool(1).apply(later, (4,))", 12, ""),
    ("import subprocess\ncat = subprocess.Popen(['cat'], stdin=-1, stdout=-1, text=True)", None, ""),
    ("cat.communicate('hi')[0]", "hi", ""),
    ("import sqlite3\ndb = sqlite3.connect(':memory:')\ndb.execute('create table t(a)') and None", None, ""),
    ("db.execute('insert into t values (1)').rowcount", 1, ""),
    ("class Gone:\n  def __del__(self): print('gone')\ngone = Gone()", None, ""),
    ("gone = None", None, "gone\n"),
    ("from dataclasses import dataclass\n@dataclass\nclass D:\n  a: int\nimport pickle", None, ""),
    ("pickle.loads(pickle.dumps(D(1))) == D(1)", True, ""),
    ("import inspect\ninspect.getsource(later)", "def later(x): return x * 3\n", ""),
    ("import logging, sys\nlogging.basicConfig(level=logging.INFO, stream=sys.stdout)", None, ""),
    ("logging.info('logged')", None, "INFO:root:logged\n"),
    ("threading.excepthook = lambda seen: print('hooked', seen.exc_type.__name__)", None, ""),
    ("thread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()", None, "hooked ZeroDivisionError\n"),
    ("sys.setrecursionlimit(100_000)\ndef deep(n): return n and deep(n - 1)\ndeep(20_000)", 0, ""),
)  # fmt: skip


def test_what_one_command_leaves_the_next_finds(host: Stage) -> None:
    with host.client.session("python") as session:
        for code, value, out in ONE_AFTER_THE_OTHER:
            said = session.call("execute", {"code": code}, deadline_ms=SECONDS * 1000).value
            assert (said["value"], said["stdout"], said["stderr"]) == (value, out, ""), code
