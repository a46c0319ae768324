"""The cold launch: fork, enter cgroup and uid, wait for one exact byte, become bubblewrap.

The child can't run on by accident: only the byte ``R`` releases it, and EOF, another byte or any
exception ends it. The parent sends the byte after it has seen, in its own /proc, that the child
sits in its cgroup and has its uid and no other groups.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.argv import bwrap_arguments
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.limits import apply_rlimits
from bridgehold.sandbox.values import SandboxSpec

_RELEASE = b"R"
_INFO_SECONDS = 10.0
_IP_FREEBIND = 15
_MAX_DESCRIPTOR = 1 << 20


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    spec: SandboxSpec
    bwrap: str
    uid: int
    seccomp: bytes
    """Compiled filter; never empty for a worker."""
    as_limit: bool = False


class Running(msgspec.Struct, kw_only=True):
    """A released sandbox. `monitor` is our child (outer bwrap), `init` is pid 1 inside."""

    monitor: int
    monitor_fd: int
    init: int
    init_fd: int
    net: int
    """Inode of the sandbox's network namespace."""
    host_ends: tuple[int, ...]
    """Frames to the guest (write), frames from it (read), log (read)."""
    phases_us: dict[str, int]


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter_ns()
        self.phases: dict[str, int] = {}

    def mark(self, phase: str) -> None:
        now = time.perf_counter_ns()
        self.phases[phase] = (now - self._last) // 1000
        self._last = now


def launch(plan: LaunchPlan, cgroup: SessionCgroup) -> Running:
    """Start `plan` inside `cgroup`. On any failure the child is dead before this raises."""
    clock = _Clock()
    with _Descriptors() as fds:
        frames_in, to_guest = fds.pipe()
        from_guest, frames_out = fds.pipe()
        log, log_out = fds.pipe()
        info, info_out = fds.pipe()
        gate, release = fds.pipe()
        entered, entered_out = fds.pipe()
        seccomp = fds.file("seccomp", plan.seccomp)
        files = {m.target: fds.file("file", m.content.encode()) for m in plan.spec.mounts if m.kind == "file"}
        arguments = bwrap_arguments(plan.spec, seccomp_fd=seccomp, info_fd=info_out, files=files)
        split = arguments.index("--")
        options = fds.file("args", b"".join(a.encode() + b"\0" for a in arguments[:split]))
        ends = _Ends(
            launcher=os.getpid(),
            command=arguments[split:],
            options=options,
            keep=(info_out, seccomp, options, *files.values()),
            standard=(frames_in, frames_out, log_out),
            gate=gate,
            entered=entered_out,
        )
        clock.mark("prepare")
        monitor = os.fork()
        if monitor == 0:
            _child(plan, cgroup, ends)
        monitor_fd = os.pidfd_open(monitor)
        try:
            fds.close(frames_in, frames_out, log_out, info_out, gate, entered_out)
            _verify_entered(entered, monitor, plan.uid, cgroup)
            clock.mark("enter")
            os.write(release, _RELEASE)
            init = _read_info(info)
            clock.mark("bwrap")
            init_fd = _open_init(init, cgroup)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(monitor_fd, signal.SIGKILL)
            os.waitpid(monitor, 0)
            os.close(monitor_fd)
            raise
        return Running(
            monitor=monitor,
            monitor_fd=monitor_fd,
            init=init,
            init_fd=init_fd,
            net=Path(f"/proc/{init}/ns/net").stat().st_ino,
            host_ends=fds.keep(to_guest, from_guest, log),
            phases_us=clock.phases,
        )


class _Descriptors:
    """Descriptors of one launch: whatever was not kept is closed at the end."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*self._open)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()  # close-on-exec
        self._open.update(ends)
        return ends

    def file(self, name: str, content: bytes) -> int:
        descriptor = os.memfd_create(name)
        self._open.add(descriptor)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)

    def keep(self, *descriptors: int) -> tuple[int, ...]:
        self._open.difference_update(descriptors)
        return descriptors


class _Ends(msgspec.Struct, frozen=True, kw_only=True):
    """What the forked child needs of its parent: descriptors, the command, and the parent's pid."""

    launcher: int
    command: tuple[str, ...]
    options: int
    keep: tuple[int, ...]
    standard: tuple[int, int, int]
    gate: int
    entered: int


def _child(plan: LaunchPlan, cgroup: SessionCgroup, ends: _Ends) -> None:
    """The forked child: never returns. Its order matters: cgroup, limits, groups, uid, then the gate."""
    try:
        os.setsid()
        cgroup.enter()
        apply_rlimits(plan.spec.resources, as_limit=plan.as_limit)
        if plan.uid != os.getuid():
            os.setgroups([])
            os.setresgid(plan.uid, plan.uid, plan.uid)
            os.setresuid(plan.uid, plan.uid, plan.uid)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != ends.launcher:
            os._exit(125)
        for target, source in enumerate(ends.standard):
            os.dup2(source, target)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.write(ends.entered, _RELEASE)
        if os.read(ends.gate, 2) != _RELEASE:
            os._exit(125)
        for descriptor in ends.keep:
            os.set_inheritable(descriptor, True)
        wanted = sorted({0, 1, 2, *ends.keep})
        for low, high in zip(wanted, [*wanted[1:], _MAX_DESCRIPTOR], strict=True):
            os.closerange(low + 1, high)
        argv = ["bwrap", "--args", str(ends.options), *ends.command]
        os.execve(plan.bwrap, argv, {})  # noqa: S606 - no shell is wanted
    except BaseException:  # noqa: BLE001 - a forked child must end here, whatever it was
        os._exit(126)


def _open_init(pid: int, cgroup: SessionCgroup) -> int:
    descriptor = os.pidfd_open(pid)
    if not cgroup.holds(pid):
        os.close(descriptor)
        raise UnsupportedError("the sandbox's init is outside its cgroup")
    return descriptor


def _verify_entered(entered: int, pid: int, uid: int, cgroup: SessionCgroup) -> None:
    if os.read(entered, 1) != _RELEASE:
        raise UnsupportedError("the sandbox's process could not enter its cgroup, limits or uid")
    if not cgroup.holds(pid):
        raise UnsupportedError("the sandbox's process is not in its cgroup")
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    if status["Uid"].split() != [str(uid)] * 4:
        raise UnsupportedError(f"the sandbox's process has uid {status['Uid']!r}, not {uid}")
    if uid != os.getuid() and status["Groups"].strip():
        raise UnsupportedError(f"the sandbox's process kept groups {status['Groups']!r}")


def _read_info(descriptor: int) -> int:
    """The pid of the sandbox's init, as bubblewrap reports it. EOF means bubblewrap failed."""
    data = b""
    deadline = time.monotonic() + _INFO_SECONDS
    while b"}" not in data:
        left = deadline - time.monotonic()
        readable, _, _ = select.select([descriptor], [], [], max(0.0, left))
        part = os.read(descriptor, 4096) if readable else b""
        if not part:
            raise UnsupportedError("bubblewrap did not start the sandbox")
        data += part
    return int(json.loads(data[: data.index(b"}") + 1])["child-pid"])


def listen_inside(init: int, port: int) -> socket.socket:
    """The gateway's listener on the sandbox's own loopback; the guest never holds it.

    A thread that lives for this alone joins the network namespace (which is a thread's own), makes
    the socket and ends; it is joined before anything forks. An ordinary user's launcher could not
    go back to its first network namespace, so the main thread never leaves it (docs/adr/0002).
    """
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            made.append(_listen_in(init, port))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="listener")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _listen_in(init: int, port: int) -> socket.socket:
    inside = os.open(f"/proc/{init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(inside, syscalls.CLONE_NEWNET)
    finally:
        os.close(inside)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)  # the loopback may come up a moment later
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener
