"""Honest code inside meets Python as at home: a program's view of its interpreter, and what libraries do with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from bridgehold.errors import ApplicationError
from bridgehold.host.faces.sync import SyncSession
from hostile.at_home import DUMP, Difference, outside, unexplained
from hostile.stage import Stage

REASONS = {
    "-X": Difference(reason="UTF-8 whatever locales the machine has", only_inside=("utf8",)),
    "flags": Difference(
        reason="UTF-8, and no packages but the lock's (PYTHONNOUSERSITE)",
        changed=(("no_user_site=0", "no_user_site=1"), ("utf8_mode=0", "utf8_mode=1")),
    ),
    "argv": Difference(reason="a worker has no command line, as a prompt has none", inside=[""]),
    "linecache": Difference(reason="the code of commands, for tracebacks", only_inside=("<execute ",)),
    "main is this": Difference(reason="a module's own names, where a bridge runs code in one", inside=False),
    "real-time signals": Difference(reason="a cancel comes as one", only_inside=("40",)),
    "threads": Difference(reason="reads what the host sends", only_inside=("bridgehold-reader",)),
    "core files": Difference(reason="barrier: no core file, and no core handler of the machine's", inside=1),
    "descriptors": Difference(
        reason="the wire, where no child inherits it",
        only_inside=tuple(f"{number}=pipe" for number in range(16, 40)),
    ),
    "finders": Difference(
        reason="a bridge's sources are compiled once in the zygote; a machine's own site hooks are not inside",
        only_inside=("<function use.<locals>.only", "<function FileFinder"),
        only_outside=("<_distutils_hack", "<function FileFinder"),
    ),
    "environment": Difference(
        reason="barrier: an allow-list; the caches' places, and what libraries read the session's limits from",
        only_inside=(
            *("DSPY_CACHEDIR", "HF_HOME", "LC_ALL", "LITELLM_LOCAL_MODEL_COST_MAP", "NO_PROXY", "PWD"),
            *("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
            *("PYTHONNOUSERSITE", "PYTHONPATH", "TMPDIR", "TZ", "XDG_CACHE_HOME"),
        ),
    ),
    "modules": Difference(
        reason="the SDK and its runner, with the part of the standard library that they need; the bridge's own",
        only_inside=(
            *("bridgehold_sdk", "bridgehold_inner", "python_bridge", "hostile"),
            *(sorted({*sys.stdlib_module_names, "re._", "typing."})),
        ),
        only_outside=("_distutils_hack", "sitecustomize", "apport", "usercustomize", "_virtualenv"),
    ),
}
NO_MODULES = (
    "asyncio",
    "logging",
    "ssl",
    "subprocess",
    "concurrent.futures",
    "multiprocessing",
    "tempfile",
    "inspect",
)
"""Of the standard library, what a program would meet half set up, or its own files could be taken for."""

PYTHON_POLICY = """
extends = "baseline"
[operations]
allow = ["python:*"]
[limits]
command = "30s"
[sandbox]
start = "{start}"
"""


@contextlib.contextmanager
def python(host: Stage) -> Iterator[SyncSession]:
    """A session of the shipped bridge, in this host's start."""
    (host.layout.policies / "python.toml").write_text(PYTHON_POLICY.format(start=host.start))
    with host.client.session("python") as session:
        yield session


def run(session: SyncSession, code: str) -> object:
    """The value of the last expression."""
    answer = session.run("execute", {"code": code})
    assert isinstance(answer, dict)
    return answer["value"]


def test_nothing_of_ours_leaks_into_a_program(host: Stage) -> None:
    here = outside()
    with python(host) as session:
        in_commands = run(session, DUMP + "\ndump()")
    in_a_class = host.act(DUMP + "\nresult = dump()")
    for there in (in_commands, in_a_class):
        assert isinstance(there, dict)
        assert unexplained(here, there, REASONS) == []
        assert not {name for name in there["modules"] if name.startswith(NO_MODULES)}


def test_commands_are_compiled_as_at_a_prompt(host: Stage) -> None:
    with python(host) as session:
        assert run(session, "def f(x: int): pass\nf.__annotations__['x'] is int") is True
        assert run(session, "from __future__ import annotations") is None
        assert (
            run(session, "def g(x: int): pass\ng.__annotations__['x']") == "int"
        )  # as at a prompt: it lasts
        assert run(session, "40 + 2") == 42
        assert run(session, "_ + 1") == 43
        assert run(session, "_ = 'mine'\n5") == 5
        assert run(session, "_, __builtins__._") == ["mine", 5]
        assert run(session, "del _\nimport sys\nseen = []\nsys.displayhook = seen.append\n7") == 7
        assert run(session, "sys.displayhook = sys.__displayhook__\nseen") == [7]
        assert run(session, "str(help).startswith('Type help'), 'Python Software' in str(copyright)") == [
            True,
            True,
        ]
        assert run(session, "repr(exit)") == "Use exit() or Ctrl-D (i.e. EOF) to exit"
        assert run(session, "open('beside.py', 'w').write('told = 9')\nimport beside\nbeside.told") == 9
        session.run("reset", {})
        assert run(session, "def f(x: int): pass\nf.__annotations__['x'] is int") is True


def test_a_worker_is_no_zygote_and_starts_processes_as_at_home(host: Stage) -> None:
    code = """
import argparse, math, multiprocessing, os, sys, threading
result["argv"] = sys.argv
result["arguments"] = vars(argparse.ArgumentParser().parse_args())
result["file"] = getattr(sys.modules["__main__"], "__file__", None)
for method in ("spawn", "forkserver", "fork"):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        squares = pool.map(math.sqrt, [1.0, 4.0, 9.0])
    one = context.Process(target=math.sqrt, args=(2.0,))
    one.start()
    one.join()
    with context.Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        result[method] = [squares, one.exitcode, dict(shared)]
"""
    found = host.act(code)
    assert found["argv"] == [""]
    assert (found["arguments"], found["file"]) == ({}, None)
    for method in ("spawn", "forkserver", "fork"):
        assert found[method] == [[1.0, 2.0, 3.0], 0, {"a": 1, "b": 2}]


def test_an_interrupt_is_a_keyboard_interrupt_and_never_the_end(host: Stage) -> None:
    code = """
import asyncio, os, signal, subprocess, sys, threading, time, unittest
result["handler"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    result["caught"] = True
unittest.installHandler()
unittest.removeHandler()
async def wait():
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(10)
try:
    asyncio.run(wait())
except KeyboardInterrupt:
    result["asyncio"] = True
child = subprocess.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"],
                       stderr=subprocess.PIPE, text=True)
result["child"] = [child.returncode, child.stderr.splitlines()[-1:]]
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
"""
    storm = """
import gc, os, signal, threading, time
bridge = next(one for one in gc.get_objects() if type(one).__name__ == "Hostile")
def send():
    for _ in range(400):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
threading.Thread(target=send).start()
while True:
    bridge.progress(1, 1, "x" * 400)  # half a frame would be the end of the session
"""
    with host.session() as session:
        found = session.run("act", {"code": "result = {}\n" + code})
        assert found == {
            "handler": True,
            "caught": True,
            "asyncio": True,
            "child": [-2, ["KeyboardInterrupt"]],
        }
        for _ in range(20):  # whether it comes to one of them or between two
            with contextlib.suppress(ApplicationError):
                session.run("act", {"code": "import time; time.sleep(0.01)"})
        for code in (storm, storm, "import time; time.sleep(0.5)"):
            with pytest.raises(ApplicationError, match="KeyboardInterrupt"):
                session.run("act", {"code": code})
        ends = "import threading, time\nwhile threading.active_count() > 2: time.sleep(0.01)\nresult = 2"
        while True:
            with contextlib.suppress(ApplicationError):
                assert session.run("act", {"code": ends}) == 2
                break
