"""What the kernel charges to a session, and the machine's own counts that all sessions share."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Mapping

from bridgehold.policies.units import format_size
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.cgroups.v1 import socket_bytes
from bridgehold.sandbox.doctor.acts import read
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed
from bridgehold.sandbox.doctor.resources import FREE, enter_and, session
from bridgehold.sandbox.limits.rlimits import core_handler, forbid_cores

_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SO_MEMINFO = 55
_DATAGRAM = 60_000
_ROUNDS = 400
_SESSIONS = 100
"""What each shared count should leave room for."""
_FILES = 64 * 512
"""Of one session at its default limits: processes times descriptors."""
_PIPE_PAGES = 6 * 16
_TERMINALS = 16
_CORE_DUMPED = 0x80


def kernel_memory(context: Context) -> Check:
    """Data that nobody reads, on local sockets and on UDP, under a session's cap."""
    read_end, write_end = os.pipe()
    with session(context, FREE) as (parent, cgroup):
        if parent.version == "none":
            return caution("kernel-memory", "no cgroup: nothing counts kernel memory", "See the row cgroup.")
        status = _ended(cgroup, _fill_local)
        if status != -signal.SIGKILL:
            return failed(
                "kernel-memory",
                "unread data of local sockets is not counted",
                "Take cgroup.memory=nokmem off the kernel's command line.",
            )
    with session(context, FREE) as (parent, cgroup):
        status = _ended(cgroup, lambda: _fill_udp(write_end))
        os.set_blocking(read_end, False)
        held = int.from_bytes(os.read(read_end, 8), "little") if status == 0 else FREE.memory_bytes
    bound = FREE.memory_bytes if parent.version == "v2" else socket_bytes(FREE.memory_bytes)
    if held > bound + 4 * _MIB:
        return failed(
            "kernel-memory",
            f"UDP held {format_size(held)} where {format_size(bound)} is the most",
            "Take cgroup.memory=nosocket off the kernel's command line.",
        )
    return passed("kernel-memory", "unread data of local sockets and of UDP is charged to its session")


def _ended(cgroup: SessionCgroup, act: Callable[[], None]) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(enter_and(cgroup, act), 0)[1])


def _fill_local() -> None:
    kept = []
    for _ in range(_ROUNDS):
        near, far = socket.socketpair()
        near.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MIB)
        try:
            while near.send(bytes(_DATAGRAM)):
                pass
        except BlockingIOError:
            kept += [near, far]


def _fill_udp(answer: int) -> None:
    """Tell how many bytes the receivers hold in the end."""
    held, kept = 0, []
    for _ in range(_ROUNDS):
        to, by = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
        to.bind(("127.0.0.1", 0))
        by.connect(to.getsockname())
        by.setblocking(False)
        for _ in range(4):
            try:
                by.send(bytes(_DATAGRAM))
            except OSError:
                break
        kept += [to, by]
        held += int(struct.unpack_from("I", to.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[0])
    os.write(answer, held.to_bytes(8, "little"))


def cores(_: Context) -> Check:
    """A crash at the sessions' limit, and what the machine would do with one."""
    pattern = read("/proc/sys/kernel/core_pattern")

    limit, dumped = _crash()
    handler = core_handler(pattern, limit)
    if handler or dumped:
        what = handler or f"a core by {pattern}"
        return failed(
            "cores",
            f"a crash inside reaches {what[:100]}, outside every limit of its session",
            "sysctl -w kernel.core_pattern=core; or a program behind a pipe, and a hard limit for the host's "
            "cores above 0 (LimitCORE=1:1).",
        )
    kind = f"starts {pattern[1:80]}" if pattern.startswith("|") else f"would write the file {pattern[:80]}"
    return passed("cores", f"a crash of the machine's {kind}; one at the sessions' limit left nothing")


def _crash() -> tuple[int, bool]:
    """What a child's limit was that may leave no core, and whether it left one."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            forbid_cores()
            os.write(write_end, str(resource.getrlimit(resource.RLIMIT_CORE)[0]).encode())
            os.chdir("/")
            os.kill(os.getpid(), signal.SIGQUIT)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return int(os.read(read_end, 32)), bool(status & _CORE_DUMPED)


def short_counts(
    numbers: Mapping[str, tuple[int, ...]], *, v2: bool, root: bool, memory_bytes: int
) -> list[str]:
    """The settings that don't leave room for a hundred sessions, as sysctl's arguments (pure).

    `numbers`: sysctl → its numbers, empty where there is none. `memory_bytes`: of all sessions.
    """
    wanted = {"fs.file-max": _SESSIONS * _FILES, "kernel.pty.max": _SESSIONS * _TERMINALS + 1024}
    if not root:  # root's pipes are never made smaller
        wanted["fs.pipe-user-pages-soft"] = _SESSIONS * _PIPE_PAGES
    if v2:  # one for each session, of the launcher's account
        wanted["fs.inotify.max_user_instances"] = _SESSIONS * 10
    found = [
        f"{name}={least}"
        for name, least in wanted.items()
        if numbers.get(name) and 0 < numbers[name][-1] < least
    ]
    pages = memory_bytes // _PAGE
    stacks = ("net.ipv4.tcp_mem", "net.ipv4.udp_mem") if v2 else ()
    return found + [
        f"{name}='{pages // 2} {pages * 3 // 4} {pages}'"
        for name in stacks
        if numbers.get(name) and numbers[name][-1] < pages
    ]


_SETTINGS = (
    "fs.file-max",
    "fs.inotify.max_user_instances",
    "fs.pipe-user-pages-soft",
    "kernel.pty.max",
    "net.ipv4.tcp_mem",
    "net.ipv4.udp_mem",
)


def shared_counts(context: Context) -> Check:
    """What sessions of one uid share of the kernel's counts, and how many that allows."""
    numbers = {}
    for name in _SETTINGS:
        words = read(f"/proc/sys/{name.replace('.', '/')}").split()
        numbers[name] = tuple(int(word) for word in words)
    with session(context, FREE) as (parent, _):
        v2, memory_bytes = parent.version == "v2", parent.capacity_bytes
    short = short_counts(numbers, v2=v2, root=os.getuid() == 0, memory_bytes=memory_bytes)
    if short:
        names = ", ".join(setting.split("=")[0] for setting in short)
        return caution(
            "shared-counts",
            f"{names}: below what {_SESSIONS} hostile sessions could take together",
            "sysctl -w " + " ".join(short),
        )
    return passed("shared-counts", f"the machine's own counts leave room for {_SESSIONS} hostile sessions")


PROBES = (
    Probe(
        name="kernel-memory",
        proves="Data that nobody reads, on local sockets and on UDP, is charged to its session.",
        run=kernel_memory,
    ),
    Probe(
        name="shared-counts",
        proves="Counts that all of the machine shares (files, terminals, pipes, TCP) leave room.",
        run=shared_counts,
    ),
    Probe(
        name="cores",
        proves="A crash at the sessions' limit leaves no core and starts no handler.",
        run=cores,
    ),
)
