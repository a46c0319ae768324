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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.sandbox.cgroups.v1 import socket_bytes
from bridgehold.sandbox.uncounted import MOST_CONNECTIONS, MOST_LOCKS
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
    "secret memory": "ENOSYS", "access list": "ENOTSUP", "attribute": "ENOTSUP", "pipe": "EPERM",
    "a pipe of the host's": "EPERM", "lock of a file": "EINVAL", "lease": "EINVAL", "notify": "EINVAL",
    "shared files": "EPERM", "limit": "EPERM",
}  # fmt: skip


@pytest.mark.parametrize("where", ["command", "import"])
def test_what_is_charged_to_nobody_is_refused_as_by_a_kernel_without_it(host: Stage, where: str) -> None:
    result = host.act(REFUSED, where=where)
    tries = result["tries"]
    assert isinstance(tries, dict)
    assert len(tries) == 43
    wrong = {
        name: answer
        for name, answer in tries.items()
        if answer != next(want for start, want in ANSWERS.items() if name.startswith(start))
    }
    assert wrong == {}
    assert result["core"] == ["1", "1"]
    assert result["receive"] == 32768
