"""The cold launch: fork, enter cgroup and uid, wait for one exact byte, become bubblewrap.

The child can't run on by accident: only the byte ``R`` releases it, and EOF, another byte or any
exception ends it. The parent sends the byte after it has seen, in its own /proc, that the child
sits in its cgroup and has its uid and no other groups. The parent never waits: `Start` names the
descriptor that becomes readable when its next step is due.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import msgspec

from bridgehold.errors import BridgeholdError, UnsupportedError
from bridgehold.sandbox import containers, procfs, syscalls
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.guest_files import hidden
from bridgehold.sandbox.launch import network
from bridgehold.sandbox.launch.argv import bwrap_arguments
from bridgehold.sandbox.launch.bwrap import Bubblewrap
from bridgehold.sandbox.launch.running import Descriptors, Running
from bridgehold.sandbox.launch.staging import Staged, look_through
from bridgehold.sandbox.limits import shortage
from bridgehold.sandbox.limits.rlimits import apply_rlimits, lift_shared_rlimits
from bridgehold.sandbox.values import SandboxSpec

_RELEASE = b"R"
_START_SECONDS = 10.0
_MAX_INFO = 4096
_MAX_COMPLAINT = 300
_MAX_REPORT = 4096
_NOT_ENTERED = "the sandbox's process could not enter its cgroup, limits or uid"


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that one cold start needs."""

    spec: SandboxSpec
    bwrap: Bubblewrap
    uid: int
    seccomp: bytes
    """Compiled filter; never empty."""
    staged: Staged
    rlimits: dict[int, int]
    uid_map: str = ""
    """Of a zygote: the map of its user namespace, which holds every session's uid."""


class Start:
    """One launch under way. `advance` whenever `waits_for` is readable or `deadline` has come."""

    def __init__(self, plan: LaunchPlan, cgroup: SessionCgroup) -> None:
        """Forks. From here on a failure needs `abort`, and then the end of `running`."""
        self._plan = plan
        self._cgroup = cgroup
        self._fds = Descriptors()
        self._info = b""
        self._entered = self._met = self._allowed = False
        self._listeners: list[int] = []
        self._clock = time.perf_counter_ns()
        self.deadline = time.monotonic() + _START_SECONDS
        try:
            self._pipes = _Pipes.open(self._fds, two_outputs=plan.spec.two_outputs)
            self._zygote = _ZygoteEnds.open(self._fds, self._pipes.standard) if plan.uid_map else None
            self.running = self._fork()
        except BaseException:
            self._fds.close_all()
            raise
        self._mark("fork")

    def _fork(self) -> Running:
        plan, fds, pipes, zygote = self._plan, self._fds, self._pipes, self._zygote
        seccomp = fds.file("seccomp", plan.seccomp)
        files = {
            m.target: fds.file("file", m.content.encode())
            for m in plan.spec.mounts
            if m.kind in ("file", "text")
        }
        arguments = bwrap_arguments(
            plan.spec,
            known=plan.bwrap.options,
            seccomp_fd=seccomp,
            info_fd=pipes.info_out,
            block_fd=pipes.block,
            files=files,
            staged=plan.staged.sources,
            userns_block_fd=zygote.block if zygote else None,
            extra=(str(zygote.orders),) if zygote else tuple(map(str, pipes.outputs)),
            hidden=hidden(),
        )
        split = arguments.index("--")
        options = fds.file("args", b"".join(a.encode() + b"\0" for a in arguments[:split]))
        kept = (pipes.info_out, pipes.block, seccomp, options, *files.values(), *pipes.outputs)
        ends = _Ends(
            launcher=os.getpid(),
            command=arguments[split:],
            options=options,
            keep=(*kept, *(zygote.inside() if zygote else ())),
            standard=pipes.standard,
            gate=pipes.gate,
            entered=pipes.entered_out,
        )
        monitor = os.fork()
        if monitor == 0:
            _child(plan, self._cgroup, ends)
        try:
            running = Running(monitor=monitor, monitor_fd=os.pidfd_open(monitor), phases_us={})
        except OSError:
            os.kill(monitor, signal.SIGKILL)  # ours, and not reaped yet: once it is dead, as an orphan
            raise
        if zygote:
            running.fork_socket, running.given = zygote.socket, zygote.given
        fds.close(*ends.keep, *pipes.standard, pipes.gate, pipes.entered_out)
        return running

    @property
    def waits_for(self) -> int | None:
        """The descriptor whose next byte takes the start a step further; None: it waits to be allowed."""
        if self._met:
            return None
        return self._pipes.info if self._entered else self._pipes.entered

    def allow(self) -> bool:
        """The guest may begin: its start is in the audit. Whether the next step is due by that."""
        self._allowed = True
        return self._met

    def advance(self) -> bool:
        """One step; true once the sandbox runs and `running` is whole. Raises `UnsupportedError`."""
        if not self._entered:
            self._let_go()
            return False
        if not self._met and not self._hear_of_init():
            return False
        if self._allowed:
            self._let_run()
        return self._allowed

    def _hear_of_init(self) -> bool:
        part = os.read(self._pipes.info, _MAX_INFO)
        self._info += part
        if not part or len(self._info) >= _MAX_INFO:
            said = _read_now(self._pipes.entered, _MAX_REPORT)
            if said:  # it did not even become bubblewrap
                raise shortage.decode_failure(said, _NOT_ENTERED)
            raise self._given_up()
        if b"}" not in self._info:
            return False
        self._mark("bwrap")
        self._meet_init(int(json.loads(self._info[: self._info.index(b"}") + 1])["child-pid"]))
        return True

    def expire(self) -> UnsupportedError:
        """It is late: the error that says at which step."""
        where = "bubblewrap to start the sandbox" if self._entered else "the process to enter its cgroup"
        return UnsupportedError(f"waited {_START_SECONDS:.0f} s for {where}", retry="later")

    def abort(self) -> None:
        """Kill the child; nothing of it was handed out."""
        for descriptor in (self.running.init_fd, self.running.monitor_fd):
            if descriptor >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for descriptor in self.running.host_ends:
            os.close(descriptor)
        self.running.host_ends = ()
        self._fds.close_all()

    def _let_go(self) -> None:
        said = os.read(self._pipes.entered, _MAX_REPORT)
        if said != _RELEASE:
            raise shortage.decode_failure(said, _NOT_ENTERED)
        _verify_entered(self.running.monitor, self._plan.uid, self._cgroup)
        self._mark("enter")
        os.write(self._pipes.release, _RELEASE)
        self._entered = True

    def _meet_init(self, init: int) -> None:
        running = self.running
        try:
            running.init_fd = procfs.open_process(init, lambda: self._cgroup.holds(init))
        except ProcessLookupError as error:
            raise self._given_up("the sandbox's init is outside its cgroup, or gone") from error
        running.init = init
        running.init_start = procfs.start_time(init)
        running.net = Path(f"/proc/{init}/ns/net").stat().st_ino
        if self._zygote is not None:
            for name in ("gid_map", "uid_map"):
                Path(f"/proc/{init}/{name}").write_text(self._plan.uid_map, encoding="ascii")
            os.write(self._zygote.mapped, _RELEASE)
        try:
            for listener in network.enter(init, self._plan.spec):
                self._listeners.append(self._fds.add(listener))
        except OSError as error:
            unlistening = network.no_listener(error)
            raise self._given_up(unlistening.message, hint=unlistening.hint) from error
        self._mark("listener")
        self._met = True

    def _let_run(self) -> None:
        """Met, in its cgroup, with its listener, and in the audit: the guest may begin."""
        self._mark("record")
        os.write(self._pipes.unblock, _RELEASE)
        self.running.host_ends = (*self._pipes.ours, *self._listeners)
        self._fds.keep(*self.running.host_ends)
        self._fds.close_all()

    def _mark(self, phase: str) -> None:
        now = time.perf_counter_ns()
        self.running.phases_us[phase] = (now - self._clock) // 1000
        self._clock = now

    def _given_up(self, otherwise: str = "", *, hint: str | None = None) -> BridgeholdError:
        """What bubblewrap wrote before it ended, as an error; `otherwise` where it wrote nothing."""
        complaint = self._complaint()
        number = shortage.named(complaint)
        if number:
            return shortage.short_of(number, complaint)
        if otherwise and not complaint:
            return UnsupportedError(otherwise, hint=hint)
        said = f"bubblewrap did not start the sandbox{complaint and f': {complaint}'}"
        return UnsupportedError(said, hint=containers.complained(complaint) or hint)

    def _complaint(self) -> str:
        """What bubblewrap wrote before it gave up (no guest has run yet): bounded and printable."""
        text = _read_now(self._pipes.log, _MAX_COMPLAINT).decode("utf-8", "replace")
        return "".join(c if c.isprintable() else " " for c in text).strip()


def _read_now(descriptor: int, most: int) -> bytes:
    """What a pipe holds; nothing where it is empty."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return b""


class _Pipes(msgspec.Struct, frozen=True, kw_only=True):
    """One launch's pipes: the ends of the launcher, and those of its child."""

    ours: tuple[int, ...]
    """Frames to the guest, frames from it, its log, and its standard output where it has `two_outputs`."""
    standard: tuple[int, int, int]
    """The child's ends of the first three."""
    outputs: tuple[int, ...]
    """And of the last."""
    info: int
    info_out: int
    block: int
    """bubblewrap waits here until `unblock` is written to."""
    unblock: int
    gate: int
    """The child waits here until `release` is written to."""
    release: int
    entered: int
    entered_out: int

    @property
    def log(self) -> int:
        """Our end of the guest's log."""
        return self.ours[2]

    @classmethod
    def open(cls, fds: Descriptors, *, two_outputs: bool) -> _Pipes:
        """All of them, to be closed with `fds`."""
        frames_in, to_guest = fds.pipe()
        from_guest, frames_out = fds.pipe()
        log, log_out = fds.pipe()
        output = fds.pipe() if two_outputs else ()
        info, info_out = fds.pipe()
        block, unblock = fds.pipe()
        gate, release = fds.pipe()
        entered, entered_out = fds.pipe()
        return cls(
            ours=(to_guest, from_guest, log, *output[:1]),
            standard=(frames_in, frames_out, log_out),
            outputs=output[1:],
            info=info,
            info_out=info_out,
            block=block,
            unblock=unblock,
            gate=gate,
            release=release,
            entered=entered,
            entered_out=entered_out,
        )


class _ZygoteEnds(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote has beside the pipes: a socket for orders on which nothing can come back."""

    socket: socket.socket
    """Ours, for writing only."""
    orders: int
    block: int
    """bubblewrap waits here for its user namespace to be mapped, until `mapped` is written to."""
    mapped: int
    given: frozenset[str]

    @classmethod
    def open(cls, fds: Descriptors, standard: tuple[int, int, int]) -> _ZygoteEnds:
        """To be closed with `fds`, but for our end of the socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.shutdown(socket.SHUT_RD)  # a descriptor that a guest sends can hang who receives it
        orders = fds.add(theirs.detach())
        block, mapped = fds.pipe()
        links = (str(Path(f"/proc/self/fd/{number}").readlink()) for number in (*standard, orders))
        return cls(socket=ours, orders=orders, block=block, mapped=mapped, given=frozenset(links))

    def inside(self) -> tuple[int, ...]:
        return (self.orders, self.block)


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
    """The forked child: never returns. Its order matters: cgroup, descriptors, limits, uid, then the gate."""
    try:
        _die_with(ends.launcher)
        os.setsid()
        cgroup.enter()
        for target, source in enumerate(ends.standard):
            os.dup2(source, target)
        # Now, not at exec: another launch's gate must not stay open because this child holds its end.
        syscalls.close_all_but({ends.gate, ends.entered, *ends.keep})
        if plan.uid_map:
            lift_shared_rlimits()
        apply_rlimits(plan.rlimits)
        if plan.uid != os.getuid():
            os.setgroups([])
            os.setresgid(plan.uid, plan.uid, plan.uid)
            os.setresuid(plan.uid, plan.uid, plan.uid)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        _die_with(ends.launcher)  # a change of uid forgets it
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        look_through(plan.staged)
        os.write(ends.entered, _RELEASE)
        if os.read(ends.gate, 2) != _RELEASE:
            os._exit(125)
        for descriptor in ends.keep:
            os.set_inheritable(descriptor, True)
        argv = ["bwrap", "--args", str(ends.options), *ends.command]
        os.execve(plan.bwrap.path, argv, {})  # noqa: S606 - no shell is wanted
    except BaseException as error:  # noqa: BLE001 - a forked child must end here, whatever it was
        with contextlib.suppress(OSError):
            os.write(ends.entered, shortage.encode_failure(error, _NOT_ENTERED))
        os._exit(126)


def _die_with(launcher: int) -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it died before the call
        os._exit(125)


def _verify_entered(pid: int, uid: int, cgroup: SessionCgroup) -> None:
    if not cgroup.holds(pid):
        raise UnsupportedError("the sandbox's process is not in its cgroup")
    text = procfs.read(f"/proc/{pid}/status")
    status = dict(line.split(":\t", 1) for line in procfs.lines(text) if ":\t" in line)
    for name in ("Uid", "Gid") if uid != os.getuid() else ("Uid",):
        if status[name].split() != [str(uid)] * 4:
            raise UnsupportedError(f"the sandbox's process has {name.lower()} {status[name]!r}, not {uid}")
    if uid != os.getuid() and status["Groups"].strip():
        raise UnsupportedError(f"the sandbox's process kept groups {status['Groups']!r}")
