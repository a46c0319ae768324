"""ABUSE row 49 and 51: what no cgroup counts, taken from inside, in both starts and by both users.

Each act tries what was seen to grow the machine's memory outside every cap, or to take what all sessions
share; none of them tries enough to harm whoever tests beside it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.sandbox.cgroups.v1 import socket_bytes
from bridgehold.sandbox.launcher.uncounted import MOST_CONNECTIONS, MOST_LOCKS
from hostile.acts import HELPERS
from hostile.stage import Stage

pytestmark = pytest.mark.hostile

REFUSED = (
    HELPERS
    + """
import ctypes, fcntl, mmap, struct, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
inet, inet6 = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
tcp = socket.socket()
program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
code = struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
held = ctypes.create_string_buffer(code)
group = socket.inet_aton("224.1.2.3") + bytes(4)
group6 = socket.inet_pton(socket.AF_INET6, "ff02::1:2") + struct.pack("I", 1)
one = struct.pack("i", 1)
for name, end, level, option, value in (
    ("filter", inet, 1, 26, code), ("bpf", inet, 1, 50, one), ("reuseport filter", inet, 1, 51, code),
    ("reuseport bpf", inet, 1, 52, one), ("low water", tcp, 1, 18, struct.pack("i", 1 << 22)),
    ("timestamps", inet, 1, 37, struct.pack("i", 0x1FF)), ("timestamps, new", inet, 1, 65, struct.pack("i", 0x1FF)),
    ("zero copy", tcp, 1, 60, one), ("option of tomorrow", tcp, 1, 85, one), ("error queue", inet, 0, 11, one),
    ("error queue 6", inet6, 41, 25, one), ("group", inet, 0, 35, group), ("group 6", inet6, 41, 20, group6),
    ("any group", inet, 0, 42, bytes(136)), ("flow label", inet6, 41, 32, bytes(32)), ("md5", tcp, 6, 14, bytes(216)),
    ("header", inet6, 41, 6, bytes(64)), ("ulp", tcp, 6, 31, b"tls"), ("tls", tcp, 282, 1, bytes(40)),
):
    attempt("option: " + name, lambda: end.setsockopt(level, option, value))
attempt("option: filter, with high bits", lambda: syscall(54, inet.fileno(), ctypes.c_long(1 | 1 << 32), ctypes.c_long(26 | 1 << 40), held, 16))
attempt("filter of calls", lambda: syscall(157, 22, 2, held, 0, 0))
attempt("filter of calls, with high bits", lambda: syscall(157, ctypes.c_long(22 | 1 << 33), 2, held, 0, 0))
attempt("seccomp", lambda: syscall(317, 1, 0, held))
attempt("aio", lambda: syscall(206, 8, held))
attempt("inotify", lambda: syscall(253))
attempt("inotify, new", lambda: syscall(294, 0))
area = mmap.mmap(-1, 4096)
attempt("policy of memory", lambda: syscall(237, ctypes.c_long(ctypes.addressof(ctypes.c_char.from_buffer(area))), 4096, 2, held, 64, 0))
attempt("policy of a process", lambda: syscall(238, 2, held, 64))
attempt("huge pages", lambda: mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
attempt("huge file", lambda: os.memfd_create("x", 4))
attempt("huge segment", lambda: syscall(29, 0, 2 << 20, 0o4000 | 0o1600))
attempt("merged pages", lambda: area.madvise(12))
attempt("merged pages, with high bits", lambda: syscall(28, None, 0, ctypes.c_long(12 | 1 << 32)))
attempt("merged process", lambda: syscall(157, 67, 1, 0, 0, 0))
attempt("secret memory", lambda: syscall(447, 0))
open("/tmp/x", "w").close()
attempt("access list", lambda: os.setxattr("/tmp/x", "system.posix_acl_access", struct.pack("<I", 2)))
attempt("attribute", lambda: os.setxattr("/tmp/x", "user.x", b"x"))
attempt("attribute at", lambda: syscall(463, -100, b"/tmp/x", 0, b"user.x", held, 16))
reader, writer = os.pipe()
attempt("pipe", lambda: fcntl.fcntl(writer, 1031, 1 << 20))
attempt("pipe, with high bits", lambda: syscall(72, writer, ctypes.c_long(1031 | 1 << 32), 1 << 20))
for number in range(3, 40):  # those that the host gave
    if number not in (reader, writer):
        try:
            fcntl.fcntl(number, 1031, 1 << 20)
            tries[f"pipe {number}"] = "DONE"
        except OSError as e:
            tries.setdefault("a pipe of the host's", errno.errorcode[e.errno]) if e.errno == errno.EPERM else None
file = os.open("/tmp/x", os.O_RDWR)
lock = struct.pack("hhqqi4x", 1, 0, 0, 1, 0)
attempt("lock of a file", lambda: fcntl.fcntl(file, 37, lock))
attempt("lease", lambda: fcntl.fcntl(file, 1024, 0))
attempt("notify", lambda: fcntl.fcntl(os.open("/tmp", os.O_RDONLY), 1026, 1))
attempt("shared files", lambda: syscall(56, 0x400 | 17, 0, 0, 0, 0))
attempt("limit, asked for too", lambda: resource.prlimit(0, resource.RLIMIT_CORE, (0, 1)))
with open("/proc/self/limits") as text:
    result["core"] = next(line.split()[4:6] for line in text if "core file" in line)
tcp.setsockopt(1, socket.SO_RCVBUF, 1 << 22)
result["receive"] = tcp.getsockopt(1, socket.SO_RCVBUF)
"""
)
ANSWERS = {
    "option": "ENOPROTOOPT", "filter of calls": "EINVAL", "seccomp": "ENOSYS", "aio": "ENOSYS", "inotify": "ENOSYS",
    "policy of": "ENOSYS", "huge pages": "ENOMEM", "huge file": "EINVAL", "huge segment": "ENOMEM",
    "merged": "EINVAL", "secret memory": "ENOSYS", "access list": "ENOTSUP", "attribute": "ENOTSUP", "pipe": "EPERM",
    "a pipe of the host's": "EPERM", "lock of a file": "EINVAL", "lease": "EINVAL", "notify": "EINVAL",
    "shared files": "EPERM", "limit": "EPERM",
}  # fmt: skip


@pytest.mark.parametrize("where", ["command", "import"])
def test_what_is_charged_to_nobody_is_refused_as_by_a_kernel_without_it(host: Stage, where: str) -> None:
    result = host.act(REFUSED, where=where)
    tries = result["tries"]
    assert isinstance(tries, dict)
    assert len(tries) == 46
    wrong = {
        name: answer
        for name, answer in tries.items()
        if answer != next(want for start, want in ANSWERS.items() if name.startswith(start))
    }
    assert wrong == {}
    assert result["core"] == ["1", "1"]
    assert result["receive"] == 32768


KEEP = "import sys, socket, struct, os, time\nkept = sys.modules.setdefault('kept', [])\n"
UNREAD = (
    KEEP
    + """
def full(end):
    end.setblocking(False)
    try:
        for _ in range(400):
            end.send(b"x" * 60000)
    except OSError:
        pass
for _ in range(30):
    to, by = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    to.bind(("127.0.0.1", 0))
    by.connect(to.getsockname())
    kept += [to, by]
    full(by)
listener = socket.create_server(("127.0.0.1", 0))
for _ in range(30):
    by = socket.create_connection(listener.getsockname())
    kept += [by, listener.accept()[0]]
    full(by)
for option, value in ((socket.SO_RCVBUF, 1 << 23), (socket.SO_RCVLOWAT, 1 << 23)):
    try:
        listener.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError:
        pass
listener.listen(100)
for _ in range(100):
    by = socket.create_connection(listener.getsockname())
    full(by)
    by.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 1))
    kept.append(by)
kept.append(listener)
result = {"sockets": len(kept)}
"""
)


def socket_memory() -> int:
    """Of the whole machine's TCP and UDP sockets."""
    text = Path("/proc/net/sockstat").read_text()
    return (
        sum(int(line.split()[-1]) for line in text.splitlines() if " mem " in line) * resource.getpagesize()
    )


def test_unread_data_stays_within_the_sessions_bound(host: Stage) -> None:
    before = socket_memory()
    with host.session() as session:
        assert session.run("act", {"code": UNREAD}) == {"sockets": 221}
        held = socket_memory() - before
        unaccepted = 100 * (64 << 10)
        assert held < socket_bytes(256 << 20) * 1.25 + unaccepted + (
            4 << 20
        )  # the last: others' on this machine
        with host.session() as other:
            echo = (
                "import socket\nl = socket.create_server(('127.0.0.1', 0))\na = socket.create_connection("
                "l.getsockname())\nb, _ = l.accept()\na.sendall(b'x' * 100000)\nn = 0\n"
                "while n < 100000: n += len(b.recv(100000))\nresult = {'n': n}\n"
            )
            assert other.run("act", {"code": echo}) == {"n": 100000}


def test_terminals_are_bounded_and_work(host: Stage) -> None:
    code = """
import os
ends, result = [], {"error": ""}
try:
    for _ in range(50):
        ends += os.openpty()
except OSError as error:
    result["error"] = error.errno
result["pairs"] = len(ends) // 2
os.write(ends[1], b"heard")
result["heard"] = os.read(ends[0], 5).decode()
for end in ends: os.close(end)
"""
    found = host.act(code)
    assert found["pairs"] == 16
    assert found["heard"] == "heard"
    assert found["error"]


LOCKS = """
import fcntl, os, time
here = os.open("/tmp/locked", os.O_RDWR | os.O_CREAT)
for made in range({count}):
    fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, (1 << 24) - made * 2)
time.sleep({wait})
result = {{"made": {count}}}
"""
OWNERLESS = """
import fcntl, os, time
open("/tmp/flocked", "w").close()
reader, writer = os.pipe()
each = 400
for _ in range({count} // each):
    if os.fork() == 0:
        kept = [os.open("/tmp/flocked", os.O_RDONLY) for _ in range(each)]
        if os.fork() == 0:
            for descriptor in kept:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            os._exit(0)
        os.wait()
        os.write(writer, b".")
        time.sleep({wait} + 1)
        os._exit(0)
for _ in range({count} // each):
    os.read(reader, 1)
time.sleep({wait})
result = {{"made": {count}}}
"""
CONNECTIONS = """
import resource, socket, time
kept = []
made = 0
for _ in range({count} // 100):
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    kept.append(listener)
    for _ in range(100):
        by = socket.create_connection(listener.getsockname())
        by.close()
time.sleep({wait})
result = {{"made": {count}}}
"""


@pytest.mark.parametrize(
    ("act", "most", "word"),
    [
        (LOCKS, MOST_LOCKS, "locks of files"),
        (OWNERLESS, MOST_LOCKS, "locks of files"),
        (CONNECTIONS, MOST_CONNECTIONS, "TCP connections"),
    ],
    ids=["locks", "locks whose owner is gone", "connections"],
)
def test_what_can_only_be_looked_at_ends_who_holds_too_much(
    host: Stage, act: str, most: int, word: str
) -> None:
    with host.session() as sibling:
        assert (
            sibling.run("act", {"code": act.format(count=most * 9 // 1000 * 100, wait=0)})["made"] > most // 2
        )
        error = host.fails(act.format(count=most * 2, wait=30))
        assert error.code == "memory", (error.code, error.message)
        assert word in error.message
        assert sibling.run("act", {"code": "result = {'alive': True}"}) == {"alive": True}


PATTERN = Path("/proc/sys/kernel/core_pattern")
SWITCH = f"""
import sys
old = open("{PATTERN}").read()
try:
    open("{PATTERN}", "w").write(sys.argv[1])
    print("set", flush=True)
    sys.stdin.read()
finally:
    open("{PATTERN}", "w").write(old)
"""
CRASH = """
import os, resource, signal, subprocess, ctypes
libc = ctypes.CDLL(None)
def crash(prepare):
    pid = os.fork()
    if pid == 0:
        open("/proc/self/comm", "w").write("{name}")
        prepare()
        libc.prctl(4, 1, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.waitpid(pid, 0)[1]
pair = (ctypes.c_ulong * 2)(0, 0)
result = {{"ends": [
    crash(lambda: None),
    crash(lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))),
    crash(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))),
    crash(lambda: libc.syscall(160, ctypes.c_long(4 | 1 << 32), pair)),
    crash(lambda: libc.syscall(302, 0, ctypes.c_long(4 | 1 << 32), pair, None)),
    crash(lambda: libc.syscall(302, os.getppid(), 4, pair, pair)),
    subprocess.run(["/bin/sh", "-c", "echo {name} > /proc/$$/comm; ulimit -c 0; kill -SEGV $$"]).returncode,
]}}
"""


@contextlib.contextmanager
def handler(folder: Path) -> Iterator[Path]:
    """A handler behind a pipe for every crash of the machine; where it notes each one's name and limit.

    The process that changes the setting changes it back when its input ends, whatever becomes of this one.
    """
    seen, program = folder / "seen", folder / "handler"
    seen.touch()
    program.write_text(f"#!/bin/sh\necho $1 $2 >> {seen}\nexec cat > /dev/null\n")
    program.chmod(0o755)
    argv = [sys.executable, "-I", "-c", SWITCH, f"|{program} %e %c"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as switch:
        assert switch.stdout is not None
        assert switch.stdout.readline() == b"set\n"
        try:
            yield seen
        finally:
            assert switch.stdin is not None
            switch.stdin.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root sets the machine's handler of crashes")
def test_a_crash_starts_no_handler(host: Stage, tmp_path: Path) -> None:
    before, name = PATTERN.read_text(), f"crash{os.getpid()}"
    tmp_path.chmod(0o755)
    with host.session() as session, handler(tmp_path) as seen:
        found = session.run("act", {"code": CRASH.format(name=name)})
        own = f"open('/proc/self/comm', 'w').write('{name}own'); import os; os.kill(os.getpid(), 11)"
        limit = (0, 0)  # at which one is started: this one sees that the handler works
        subprocess.run(
            [sys.executable, "-c", own],
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, limit),
        )
        noted = [line for line in seen.read_text().splitlines() if line.startswith(name)]
    assert PATTERN.read_text() == before
    assert noted == [f"{name}own 0"]
    started = host.events("host.started")[-1]["machine"]
    assert isinstance(started, dict)
    assert started["core_handler"] == ""
    assert found == {"ends": [11, 11, 11, 11, 11, 11, -11]}
