"""Honest code inside meets Python as at home: a program's view of its interpreter, and what libraries do with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bridgehold import Client
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.client.sync import SyncSession
from bridgehold.errors import ApplicationError, LimitError, UsageError
from bridgehold.host.cold_starts import remedy
from hostile.at_home import DUMP, REASONS, outside, unexplained
from hostile.stage import KINDS_OF_HOSTS, MANIFEST, PAIRED, Stage, stage

WAYS = PAIRED
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


STREAMS_AND_FRAMES = """
import sys, traceback
*below, own = [frame.filename for frame in traceback.extract_stack()]
[[sys.stdout.errors, sys.stdout.line_buffering], [name for name in below if not name.startswith(("/opt/bridgehold/sdk/", "/bridge/"))], own]
"""


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
        assert run(session, STREAMS_AND_FRAMES) == [["backslashreplace", True], [], "<execute 11>"]
        assert run(session, "repr(exit)") == "Use exit() or Ctrl-D (i.e. EOF) to exit"
        assert (
            run(session, "import copy\nspace = {}\nexec('', space)\ncopy.deepcopy(space) is not space")
            is True
        )
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
    bridge = host.bridge()
    with host.session(bridge) as session:
        found = session.run("act", {"code": "result = {}" + code})
    assert isinstance(found, dict)
    assert found["argv"] == [""]
    assert (found["arguments"], found["file"]) == ({}, None)
    for method in ("spawn", "forkserver", "fork"):
        assert found[method] == [[1.0, 2.0, 3.0], 0, {"a": 1, "b": 2}]


def test_a_copy_of_multiprocessing_starts_processes_as_the_standard_one(host: Stage) -> None:
    """pathos' `multiprocess` is one: its children have the flags that it asks `subprocess` for, by no name of ours.

    No environment of the tests holds that; `make compat` runs pathos' own tests.
    """
    code = """
import math, multiprocess, multiprocess.util
result["flags"] = multiprocess.util._args_from_interpreter_flags()
for method in ("spawn", "forkserver"):
    context = multiprocess.get_context(method)
    with context.Pool(1) as pool, context.Manager() as manager:
        result[method] = [pool.map(math.sqrt, [4.0, 9.0]), list(manager.list([1]))]
"""
    bridge = host.bridge()
    copied = host.layout.bridges / bridge / "multiprocess"
    shutil.copytree(Path(multiprocessing.__file__).parent, copied)
    for file in copied.rglob("*.py"):
        file.write_text(re.sub(r"(?<!_)multiprocessing", "multiprocess", file.read_text()))
    with host.session(bridge) as session:
        found = session.run("act", {"code": "result = {}" + code})
    assert isinstance(found, dict)
    assert not {"-I", "-S", "-E"} & set(found.pop("flags"))
    assert found == {"spawn": [[2.0, 3.0], [1]], "forkserver": [[2.0, 3.0], [1]]}


def test_a_child_finds_what_its_worker_finds_in_the_same_order(host: Stage) -> None:
    """The standard library first: a file of the bridge's with such a name is found by neither."""
    code = """
import multiprocessing, os, runpy, subprocess, sys
ask = "import sys, queue, helper, bridgehold_sdk; print([sys.path[1:], queue.__file__, helper.__file__, bridgehold_sdk.__file__])"
open("/tmp/ask.py", "w").write(ask)
import queue, helper, bridgehold_sdk
here = os.path.dirname(sys.executable)
assert {"python", "python3", "python%d.%d" % sys.version_info[:2]} <= set(os.listdir(here)), os.listdir(here)
result["worker"] = str([sys.path, queue.__file__, helper.__file__, bridgehold_sdk.__file__])
for name, argv in (("code", ["-c", ask]), ("file", ["/tmp/ask.py"]), ("options", ["-B", "-W", "ignore", "-c", ask])):
    result[name] = subprocess.run([sys.executable, *argv], capture_output=True, text=True).stdout.strip()
more = {**os.environ, "PYTHONPATH": "/tmp/mine:" + os.environ["PYTHONPATH"]}
result["first"] = eval(subprocess.check_output([sys.executable, "-c", ask], env=more, text=True))[0][0]
from helper import told
for method in ("spawn", "forkserver"):
    with multiprocessing.get_context(method).Pool(1) as pool:
        result[method] = pool.apply(told)
"""
    bridge = host.bridge()
    folder = host.layout.bridges / bridge
    (folder / "queue.py").write_text("raise ImportError('of the bridge')\n")
    (folder / "helper.py").write_text(
        "import queue, sys, bridgehold_sdk\n"
        "def told():\n    return str([sys.path, queue.__file__, __file__, bridgehold_sdk.__file__])\n"
    )
    with host.session(bridge) as session:
        found = session.run("act", {"code": "result = {}" + code})
    assert isinstance(found, dict)
    assert found.pop("first") == "/tmp/mine"
    assert found["worker"].endswith("'/bridge/helper.py', '/opt/bridgehold/sdk/bridgehold_sdk/__init__.py']")
    assert found == dict.fromkeys(found, found["worker"])
    assert len(found) == 6


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


BLOCKED = """
import os, signal, threading
def others():
    own = str(threading.get_native_id())
    tasks = [open(f"/proc/self/task/{task}/status").read() for task in os.listdir("/proc/self/task") if task != own]
    return [int(status.split("SigBlk:")[1].split()[0], 16) for status in tasks]
everything = sum(1 << number - 1 for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
waited = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGRTMAX}
signal.pthread_sigmask(signal.SIG_BLOCK, waited)
for number in waited:
    os.kill(os.getpid(), number)
found = {signal.sigwait(waited) for _ in waited} == waited
signal.pthread_sigmask(signal.SIG_UNBLOCK, waited)
len(others()) > 1, [mask for mask in others() if mask & everything != everything], found
"""


def test_a_signal_that_code_has_blocked_comes_to_no_thread_of_ours(host: Stage) -> None:
    """It would be lost there, or its default action the session's end: at home there is one thread."""
    with python(host) as session:
        session.run("process_start", {"argv": ["sleep", "100"]})  # has threads beside the reader
        assert run(session, BLOCKED) == [True, [], True]
        assert run(session, "signal.sigtimedwait(waited, 0)") is None


def test_user_and_host_have_names(host: Stage) -> None:
    code = """
import getpass, grp, io, mimetypes, os, pathlib, pwd, shutil, socket, subprocess, tarfile
own = pwd.getpwuid(os.getuid())
result["user"] = [own.pw_name, own.pw_uid, own.pw_gid, own.pw_dir, getpass.getuser(), os.environ["LOGNAME"],
                  subprocess.check_output(["whoami"], text=True).strip(), str(pathlib.Path.home()),
                  os.path.expanduser("~" + own.pw_name), grp.getgrgid(os.getgid()).gr_name, os.getgroups(),
                  pathlib.Path("/scratch").owner()]
name = socket.gethostname()
with socket.create_server((socket.gethostbyname(name), 0)) as server:
    socket.create_connection(server.getsockname()).close()
result["host"] = [name, socket.getfqdn(), socket.getnameinfo(("::1", 80), socket.NI_NUMERICSERV)[0],
                  socket.gethostbyname("localhost")]
result["tables"] = [socket.getservbyname("https"), socket.getprotobyname("tcp"), mimetypes.guess_type("a.webp")[0]]
open("/scratch/x", "w").close()
with tarfile.open("/scratch/x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
    tar.add("/scratch/x", "x")
result["packed"] = tarfile.open("/scratch/x.tar").getmember("x").uname
result["fonts"] = os.path.exists("/etc/fonts/fonts.conf")
result["map"] = open("/proc/self/uid_map").read().split()[-3::2]
"""
    found = host.act(code)
    assert found["user"] == [
        *("bridge", 1000, 1000, "/scratch", "bridge", "bridge", "bridge", "/scratch", "/scratch", "bridge"),
        *([], "bridge"),
    ]
    assert found["host"] == ["bridge", "bridge", "localhost", "127.0.0.1"]
    assert found["tables"] == [443, 6, "image/webp"]
    assert found["packed"] == "bridge"
    assert found["fonts"] is Path("/etc/fonts/fonts.conf").exists()
    assert found["map"] == ["1000", "1"], "one uid, and of the guest's choosing none"


def test_the_uid_that_the_kernel_knows_is_each_sessions_own(host: Stage) -> None:
    """Only what the guest sees is small and one: no two sessions have a kernel uid in common, nor one of the host's."""
    with host.session() as one, host.session() as two:
        for session in (one, two):
            assert (
                session.run("act", {"code": "import os\nresult = [*os.getresuid(), *os.getresgid()]"})
                == [1000] * 6
            )
        seen = {event["session"]: event["uid"] for event in host.events("worker.attested")}
        uids = [seen[one.id], seen[two.id]]
        assert len({*uids} - {0, os.getuid()}) == 2, uids
        for session in (one, two):
            code = "import os\nfor call in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0])):\n    try:\n        call()\n        result['got'] = os.getresuid()\n    except OSError:\n        pass"
            assert session.run("act", {"code": "result = {}\n" + code}) == {}


IDS = """
import ctypes, errno, os, shutil, subprocess, tarfile
libc = ctypes.CDLL(None, use_errno=True)
def says(act, *numbers):
    try:
        act(*numbers)
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
file = "/scratch/owned"
folder = os.open("/scratch", os.O_RDONLY)
opened = os.open(file, os.O_CREAT | os.O_RDWR)
chowns = [lambda u, g: os.chown(file, u, g), lambda u, g: os.lchown(file, u, g), lambda u, g: os.fchown(opened, u, g),
          lambda u, g: os.chown("owned", u, g, dir_fd=folder), lambda u, g: os.chown("owned", u, g, dir_fd=folder, follow_symlinks=False)]
sets = [os.setuid, os.setgid, os.seteuid, os.setegid, lambda n: os.setreuid(n, -1), lambda n: os.setreuid(-1, n),
        lambda n: os.setregid(n, -1), lambda n: os.setregid(-1, n), lambda n: os.setresuid(n, -1, -1),
        lambda n: os.setresuid(-1, n, -1), lambda n: os.setresuid(-1, -1, n), lambda n: os.setresgid(n, -1, -1),
        lambda n: os.setresgid(-1, n, -1), lambda n: os.setresgid(-1, -1, n), lambda n: os.setgroups([n])]
result["others'"] = sorted({says(act, *ids) for other in (0, 1, 999, 1001, 65534, 100_000, 2**31, 2**32 - 2)
                            for ids in ((other, -1), (-1, other), (1000, other), (other, 1000)) for act in chowns}
                           | {says(act, other) for other in (0, 1, 999, 1001, 65534, 100_000, 2**31, 2**32 - 2) for act in sets})
result["own"] = sorted({says(act, *ids) for ids in ((1000, 1000), (-1, -1), (1000, -1), (-1, 1000)) for act in chowns}
                       | {says(act, 1000) for act in sets[:-1]})
ctypes.set_errno(0)
result["raw"] = [libc.chown(file.encode(), ctypes.c_long(-1), ctypes.c_long(1000)), libc.syscall(92, file.encode(), ctypes.c_long((1 << 32) | 1001), -1),
                 errno.errorcode[ctypes.get_errno()]] if os.uname().machine == "x86_64" else [0, -1, "EPERM"]
result["still"] = [*os.getresuid(), *os.getresgid(), os.stat(file).st_uid, os.stat(file).st_gid]
with tarfile.open("/scratch/other.tar", "w") as tar:
    member = tar.gettarinfo(file)
    member.uid = member.gid = 4242
    tar.addfile(member)
os.mkdir("/scratch/out")
result["programs"] = [subprocess.run(argv, stderr=subprocess.DEVNULL).returncode for argv in (
    ["cp", "--preserve=all", "/etc/passwd", "/scratch/copy"], ["tar", "-C", "/scratch/out", "-xf", "/scratch/other.tar"])]
try:
    shutil.chown(file, 4242)
except PermissionError as error:
    result["library"] = str(error)
"""


def test_ids_that_are_not_the_guests_are_refused_as_at_home(host: Stage) -> None:
    assert host.act(IDS) == {
        "others'": ["EPERM"],
        "own": ["done"],
        "raw": [0, -1, "EPERM"],
        "still": [1000] * 8,
        "programs": [0, 0],
        "library": "[Errno 1] Operation not permitted: '/scratch/owned'",
    }


LIMITS = """
import multiprocessing, os, shutil, subprocess, sys
page = dict(line.split(":") for line in open("/proc/meminfo"))
def text(path):
    return open(path).read().strip()
result["memory"] = [int(page["MemTotal"].split()[0]) * 1024, int(text("/sys/fs/cgroup/memory.max")),
                    int(text("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
page_size = os.sysconf("SC_PAGE_SIZE")
result["pages"] = [os.sysconf("SC_PHYS_PAGES") * page_size, os.sysconf(os.sysconf_names["SC_AVPHYS_PAGES"]) * page_size,
                   os.sysconf("SC_NPROCESSORS_ONLN"), os.sysconf("SC_NPROCESSORS_CONF"), page_size == os.sysconf.__wrapped__(30),
                   int(subprocess.check_output([sys.executable, "-c", "import os; print(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))"]))]
for name in ("SC_NOTHING", [], 10**6):
    try:
        os.sysconf(name)
    except (ValueError, TypeError, OSError) as error:
        result["pages"].append(type(error).__name__)
result["processors"] = [os.cpu_count(), multiprocessing.cpu_count(), text("/proc/cpuinfo").count("processor\t"),
                        int(os.environ["LOKY_MAX_CPU_COUNT"]), int(os.environ["RAYON_NUM_THREADS"]),
                        int(os.environ["POLARS_MAX_THREADS"]), int(os.environ["PYTHON_CPU_COUNT"]),
                        len(os.sched_getaffinity(0)), int(subprocess.check_output([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"])),
                        int(text("/sys/fs/cgroup/cpu.max").split()[0]) // int(text("/sys/fs/cgroup/cpu.max").split()[1])]
result["lscpu"] = [l.split()[-1] for l in subprocess.check_output(["lscpu"], text=True).splitlines() if l.startswith(("CPU(s):", "Socket(s):"))]
import gc
limits = next(one for one in gc.get_objects() if type(one).__name__ == "Hostile").session.limits
result["told"] = [limits.memory_bytes, limits.processors, limits.processes, limits.command_ms]
import ctypes, inspect
read = ctypes.CDLL(None).getenv
read.restype = ctypes.c_char_p
pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ask = "import ctypes, os\\nread = ctypes.CDLL(None).getenv\\nread.restype = ctypes.c_char_p\\nprint(read(b'OMP_NUM_THREADS'), os.environ.get('OMP_NUM_THREADS'))"
def child(**more):
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env={**os.environ, **more} if more else None).stdout.strip()
result["threads"] = [[read(name.encode()).decode() for name in pools], [name for name in pools if name in os.environ],
                     subprocess.check_output("echo $OMP_NUM_THREADS", shell=True, text=True).strip(),
                     child(), child(OTHER="1"), child(OMP_NUM_THREADS="3"), str(inspect.signature(os.sched_getaffinity))]
whole = os.sched_getaffinity.__wrapped__(0)
os.sched_setaffinity(0, {max(whole)})
result["threads"].append(os.sched_getaffinity(0) == {max(whole)})
os.sched_setaffinity(0, whole)
os.environ["OMP_NUM_THREADS"] = "2"
result["threads"].append(child())
import errno, psutil
result["psutil"] = [psutil.virtual_memory().total, psutil.swap_memory().total, psutil.cpu_count(),
                    psutil.cpu_count(logical=False), psutil.sensors_temperatures(), psutil.sensors_fans(),
                    psutil.sensors_battery(), list(psutil.net_if_stats())]
try:
    psutil.net_if_addrs()
except OSError as error:
    result["interfaces"] = errno.errorcode[error.errno]
result["refused"] = []
for path in ("/proc/meminfo", "/proc/cpuinfo", "/sys/fs/cgroup/memory.max", "/sys/devices/system/cpu/online", "/sys/x", "/etc/passwd"):
    for act in (lambda: open(path, "w"), lambda: os.unlink(path), lambda: os.chmod(path, 0o777)):
        try:
            act()
            result["refused"].append(path)
        except OSError:
            pass
"""


def test_libraries_can_see_the_sessions_limits(host: Stage) -> None:
    bridge = host.bridge()
    shutil.copytree(str(Path(str(psutil.__file__)).parent), host.layout.bridges / bridge / "psutil")
    with host.session(bridge) as session:
        found = session.run("act", {"code": "result = {}" + LIMITS})
    assert isinstance(found, dict)
    assert found["psutil"] == [256 << 20, 0, 1, 1, {}, {}, None, ["lo"]]
    assert found["interfaces"] == "EAFNOSUPPORT"
    assert found["memory"] == [256 << 20] * 3
    assert found["pages"] == [
        *(256 << 20, 256 << 20, 1, 1, True, 256 << 20),
        *("ValueError", "TypeError", "OSError"),
    ]
    assert found["processors"] == [1] * 10
    assert found["threads"] == [
        *(["1"] * 4, [], "1", "b'1' None", "b'1' None", "b'3' 3"),
        *("(pid, /)", True, "b'2' 2"),
    ]
    assert found["lscpu"] == ["1", "1"]
    assert found["told"] == [256 << 20, 1, 64, 60_000]
    assert found["refused"] == []


def test_code_of_any_length_and_as_many_commands_as_a_caller_likes(host: Stage) -> None:
    with python(host) as session:
        assert run(session, f"x = '{'a' * 3_000_000}'\nlen(x)") == 3_000_000
        with pytest.raises(UsageError, match=r"arguments.code: text with a lone surrogate at character 1"):
            run(session, "'\ud800'")
        with pytest.raises(LimitError):
            run(session, f"'{'a' * (9 << 20)}'")
        assert run(session, "len(x)") == 3_000_000

    async def many() -> list[object]:
        async with Client.connect(host.layout.socket) as client, client.session("python") as one:
            calls = (one.run("execute", {"code": f"{number} + 1"}) for number in range(100))
            return [answer["value"] for answer in await asyncio.gather(*calls)]

    assert asyncio.run(many()) == list(range(1, 101))


def test_a_cold_start_against_the_policy_is_said_wherever_it_is_met() -> None:
    """By a command's first reply, and by `run`, `bridge check` and `bridge build`: the reason, and what to do."""
    with stage(KINDS_OF_HOSTS[0], "fork", zygote="4MiB") as cold:
        bridge = cold.bridge()
        with cold.session(bridge) as session:
            first = session.call("act", {"code": "result = 1"})
            again = session.call("act", {"code": "result = 1"})
            assert first.cold_start == "the zygote ended before it was warm"
            assert again.cold_start == ""
            (listed,) = [one for one in cold.client.sessions() if one.id == session.id]
            assert (listed.start, listed.cold_start) == ("cold", first.cold_start)
        kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # or tables fold
        environment = {**kept, "BRIDGEHOLD_HOME": str(cold.layout.config.parent)}
        for arguments in (
            ("run", f"{bridge}:act", "--args", '{"code": "result = 1"}'),
            ("bridge", "check", bridge),
            ("bridge", "build", bridge),
        ):
            command = [sys.executable, "-m", "bridgehold", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            said = " ".join((done.stdout + done.stderr).split())
            assert (
                f"started cold, though its policy says fork: {first.cold_start}. {remedy(first.cold_start)}"
                in said
            ), said
        command = [sys.executable, "-m", "bridgehold", "bridge", "build", bridge, "--no-start", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["cold_start"] == ""


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_joblibs_workers_find_their_packages_and_leave_nothing(start: str) -> None:
    """Its tracker is an interpreter of its own: one that can't import joblib dies, and each call's arrays stay.

    Arrays of eight calls are more than a session has by default.
    """
    code = """
import joblib, numpy, os
from joblib.externals.loky.backend import resource_tracker
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
data = numpy.ones((500_000, 10))  # 38 MiB, which each call lays into /dev/shm for its workers
result["sums"] = joblib.Parallel(n_jobs=2)(joblib.delayed(numpy.sum)(data) for _ in range(2))
result["scores"] = [len(cross_val_score(Ridge(), data, data[:, 0], cv=2, n_jobs=-1)) for _ in range(8)]
os.kill(resource_tracker._resource_tracker._pid, 0)
used = [os.statvfs(folder) for folder in ("/dev/shm", "/tmp")]
result["left"] = [(one.f_blocks - one.f_bfree) * one.f_frsize >> 20 for one in used]
result["processors"] = joblib.cpu_count()
result["each"] = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(2))
"""
    with stage(KINDS_OF_HOSTS[0], start, environments=True) as host:
        bridge = host.bridge(manifest='lock = "requirements.lock"\n' + MANIFEST)
        shipped = Catalogue.load().get("custom").folder / "requirements.lock"
        shutil.copy(shipped, host.layout.bridges / bridge)
        (host.layout.policies / f"{bridge}.toml").write_text(
            f'extends = "baseline"\n[operations]\nallow = ["{bridge}:*"]\n[limits]\ncpu = 2.0\ncommand = "240s"\n'
            f'[sandbox]\nstart = "{start}"\n'
        )
        with host.session(bridge) as session:
            found = session.run("act", {"code": "result = {}" + code})
        assert isinstance(found, dict)
        assert found["sums"] == [5_000_000.0] * 2
        assert found["scores"] == [2] * 8
        assert sum(found["left"]) < 60, "two calls' arrays: the tracker removes the last soon after it"
        assert found["processors"] == 2
        assert found["each"] == ["1", "1"], "the two share the session's processors"
