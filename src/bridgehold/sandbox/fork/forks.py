"""The fork start, from the request to a joined worker: a shell, a fork, a move, one exact byte.

It has the face of `launch.Start`, so that the launcher drives both alike: `waits_for`, `advance`,
`deadline`, `expire`, `abort`, `running`. It differs in three ways. It can be made ahead, up to where the
zygote is needed, and stand there until it is wanted. It waits for its turn at the zygote. And where a
step needs the zygote held, the step is `held_back`, and `proceed` is called until it was done.

What a fork reports of its failure is a hostile process's word. It is taken for the reason, and for
nothing else: whatever was said, the zygote goes on only where it is seen to be what it was (`clear`).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable

import msgspec

from bridgehold.errors import BridgeholdError, UnsupportedError, ZygoteError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest.observe import NAMESPACES, namespaces, parse_status
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.fork.shell import Shell, ShellPlan, own_mounts
from bridgehold.sandbox.fork.zygote import ForkOrder, Zygote, ZygoteChangedError
from bridgehold.sandbox.guest_files import processors
from bridgehold.sandbox.launch import network
from bridgehold.sandbox.launch.hold import Permit
from bridgehold.sandbox.launch.mounts import Identity, parse_mounts
from bridgehold.sandbox.launch.running import Descriptors, Running
from bridgehold.sandbox.limits import shortage
from bridgehold.sandbox.values import GUEST_UID, SandboxSpec

_FORKED, _MOVED, _JOINED, _FAILED, _RELEASE = b"F", b"M", b"J", b"E", b"R"
_MAX_SAID = 16
_FORK_SECONDS = 10.0


class ForkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that one fork needs beside its zygote."""

    spec: SandboxSpec
    uid: int
    seccomp: bytes
    rlimits: dict[int, int]


class Fork:
    """One fork under way: `advance` it until it is `ready`, `ask` when it is its turn, and go on."""

    def __init__(self, plan: ForkPlan, zygote: Zygote, cgroup: SessionCgroup) -> None:
        """Begins with the shell. From here on a failure needs `abort`, and then the end of `running`."""
        self.zygote = zygote
        self.running = Running(monitor=0, monitor_fd=-1)
        self.identities: dict[str, Identity] = {}
        """What the launcher saw at each mount of the fork's own, before the fork was there."""
        self._plan = plan
        self._cgroup = cgroup
        self._fds = Descriptors()
        self._met = False
        self._report = -1
        self._gate = -1
        self._ends: tuple[int, ...] = ()
        self._fork = self._fork_fd = -1
        self._enters_itself = False
        self._permit: Permit | None = None
        self._steps = deque(
            (
                (_FORKED, "forked", self._meet_fork),
                (_MOVED, "was in its cgroup", self._see_moved),
                (_JOINED, "joined", self._see_joined),
            )
        )
        self._wanted = self._asked = self._moved = False
        self._allowed = self._held = False
        """Whether it may enter its sandbox, and whether it stands at the gate for want of that."""
        self._due: Callable[[], None] | None = None
        self._said = b""
        """Why it failed, as it says."""
        self._clock = time.perf_counter_ns()
        self.deadline = time.monotonic() + _FORK_SECONDS
        shell = ShellPlan(
            spec=plan.spec,
            uid=plan.uid,
            zygote_fd=zygote.pid_fd,
            zygote_uid=zygote.uid,
            template=zygote.template,
            seccomp=plan.seccomp,
            rlimits=plan.rlimits,
        )
        self._shell: Shell | None = Shell(shell, cgroup)

    @property
    def waits_for(self) -> int | None:
        """The descriptor that tells of the next step; None while it waits to be wanted, or for its turn."""
        if self._shell is not None:
            return self._shell.waits_for
        return self._report if self._report >= 0 and self._due is None else None

    @property
    def helper(self) -> int:
        """A child of ours that makes the namespaces; 0: there is none."""
        return self._shell.helper if self._shell is not None else 0

    @property
    def ready(self) -> bool:
        """Everything stands, and the zygote has not been asked yet."""
        return self._met and not self._asked

    @property
    def under_way(self) -> bool:
        """Asked of the zygote, and not seen to be done: a failure now leaves something to clear away."""
        return self._asked and not self._moved

    @property
    def held_back(self) -> bool:
        """The next step is due, and waits for the zygote to stand."""
        return self._due is not None

    def want(self) -> None:
        """Somebody waits for it: from now on it has a deadline, and its phases count."""
        self._wanted = True
        self.deadline = time.monotonic() + _FORK_SECONDS
        self._clock = time.perf_counter_ns()

    def allow(self) -> bool:
        """It may enter its sandbox: its start is in the audit. No step is due for that (False)."""
        self._allowed = True
        if self._held:
            self._held = False
            self._mark("record")
            self._release()
        return False

    def _release(self) -> None:
        """Let it go on from its gate, where it is still there."""
        try:
            os.write(self._gate, _RELEASE)
        except BrokenPipeError as error:
            raise self._failure() from error

    def ask(self) -> None:
        """It is this fork's turn. Raises `ZygoteChangedError`."""
        self._mark("queue")
        self.deadline = time.monotonic() + _FORK_SECONDS  # waiting for other forks was not its fault
        self.zygote.look()
        self._ask()

    def advance(self) -> bool:
        """One step; true once the worker has joined. `ZygoteChangedError` where the zygote is to blame."""
        if self._shell is not None:
            if self._shell.advance():
                self.running.death_watch = self._shell.keep_death_watch()
                self._shell = None
                self._mark("shell")
                self._meet_init()
                self._met = True
                if not self._wanted:
                    self.deadline = math.inf
            return False
        heard = os.read(self._report, _MAX_SAID)
        if not heard and (self._steps or self._said):
            raise self._failure()
        if self._held:
            raise ZygoteChangedError("the fork did not wait at its gate")
        if not heard:
            self._meet_worker()
            return True
        if heard.startswith(_FAILED) and not self._said:
            self._said = heard[1:]
            return False  # until it has let go of everything
        if not self._steps or heard != self._steps[0][0]:
            raise ZygoteChangedError("the fork reports what it was not asked")
        _, _, step = self._steps.popleft()
        step()
        return False

    def proceed(self) -> bool:
        """What is held back, if the zygote stands; whether it was done. `ZygoteChangedError` as `advance`."""
        if self._due is None or not self.zygote.stands:
            return False
        due, self._due = self._due, None
        due()
        return True

    def _failure(self) -> BridgeholdError:
        """It ended too early. The zygote is not to blame: the machine may have been short of something,
        and said so to it or killed it."""
        number = int(self._said) if self._said.isdigit() else 0
        step = self._steps[0][1] if self._steps else "was limited"
        if number in shortage.SHORT_OF:
            return shortage.short_of(number, f"for a fork, before it {step}")
        return ZygoteError(f"the fork ended before it {step}")

    def expire(self) -> BridgeholdError:
        """It is late: the error that says at which step."""
        if not self._asked:
            what = "its namespaces" if self._shell is not None else "its turn at the zygote"
            return UnsupportedError(f"a fork waited {_FORK_SECONDS:.0f} s for {what}", retry="later")
        return ZygoteChangedError(f"the zygote did not fork within {_FORK_SECONDS:.0f} s")

    def abort(self) -> None:
        """Kill what there is; nothing of it was handed out."""
        if self._shell is not None:
            self.running.monitor, self.running.monitor_fd = self._shell.abort()
            self._shell = None
        for descriptor in (self.running.init_fd, self.running.monitor_fd):
            if descriptor >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for descriptor in self.running.host_ends:
            os.close(descriptor)
        self.running.host_ends = ()
        self._report, self._due = -1, None
        self._fds.close_all()

    def _meet_init(self) -> None:
        found = self._cgroup.processes()
        if len(found) != 1:
            raise UnsupportedError(f"{len(found)} processes in a fork's cgroup before the fork, not one")
        running, init = self.running, found[0]
        try:
            running.init_fd = procfs.open_process(
                init, lambda: self._cgroup.processes() == [init] and self._cgroup.holds(init)
            )
        except ProcessLookupError as error:
            raise UnsupportedError("a fork's init is outside its cgroup") from error
        running.init, running.init_start = init, procfs.start_time(init)
        own, zygotes = namespaces(init), namespaces(self.zygote.pid)
        shared = [name for name in own if own[name] == zygotes[name]]
        if shared:
            raise UnsupportedError(f"a fork's init shares namespaces with its zygote: {', '.join(shared)}")
        running.net = own["net"]
        shown = parse_mounts(procfs.read(f"/proc/{init}/mountinfo"))
        self.identities = {
            mount.target: shown[mount.target].identity for mount in own_mounts(self._plan.spec)
        }
        if self._plan.spec.gateway_port:
            try:
                running.host_ends = tuple(network.enter(init, self._plan.spec, settled=True))
            except OSError as error:
                raise network.no_listener(error) from error
        self._mark("listener")

    def _ask(self) -> None:
        fds, plan = self._fds, self._plan
        frames_in, to_guest = fds.pipe()
        from_guest, frames_out = fds.pipe()
        log, log_out = fds.pipe()
        output, output_in = fds.pipe() if plan.spec.two_outputs else (-1, log_out)
        gate, self._gate = fds.pipe()
        self._report, told = fds.pipe()
        order = ForkOrder(
            uid=GUEST_UID,
            environment=dict(plan.spec.environment),
            working_directory=plan.spec.working_directory,
            rlimits={str(number): value for number, value in plan.rlimits.items()},
            threads=processors(plan.spec.resources.cpu_millis),
        )
        os.set_blocking(self._gate, False)
        inside = [frames_in, frames_out, log_out, gate, told, output_in]
        # The user namespace first: it gives the right to the others. (Not a pidfd of the shell: the
        # zygote's Landlock domain keeps its forks from using one.)
        folder = f"/proc/{self.running.init}/ns"
        inside += (fds.add(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)) for name in NAMESPACES)
        entries = [fds.add(descriptor) for descriptor in self._cgroup.entries(self.zygote.uid)]
        self._enters_itself = bool(entries)
        inside += entries
        self._asked = True
        self.zygote.ask(order, inside)
        fds.close(*inside)
        self._ends = (to_guest, from_guest, log, *((output,) if output >= 0 else ()))

    def attend(self) -> None:
        """Between steps: pass on what stops the zygote while it is to run, or the fork while it joins."""
        if self.under_way:
            self.zygote.attend()
        if self._permit is not None and not self._held:
            self._permit.attend()

    def _meet_fork(self) -> None:
        """The fork stands at its gate: once its zygote stands too, it is met, and let into its cgroup."""
        self.zygote.stop()
        self._due = self._let_move
        self.proceed()

    def _let_move(self) -> None:
        self._mark("fork")
        self._fork = self.zygote.meet()
        try:
            self._fork_fd = self._fds.add(
                procfs.open_process(self._fork, lambda: self.zygote.meet() == self._fork)
            )
            self.running.hold = self._permit = Permit(self._fork, len(NAMESPACES))
            procfs.must_live(self._fork_fd)  # from here on its number stays its own: we are who reaps it
        except ProcessLookupError as error:
            raise ZygoteError("the fork ended before it was in its cgroup") from error
        if not self._enters_itself:
            self._cgroup.take(self._fork)
        self._release()

    def _see_moved(self) -> None:
        """It is in its cgroup: close the zygote's room again, and let it join."""
        if not self._cgroup.holds(self._fork):
            raise ZygoteChangedError("the fork is not in its cgroup")
        self.zygote.moved()
        self._moved = True
        self._mark("move")
        self._held = not self._allowed
        if self._allowed:
            self._release()

    def _see_joined(self) -> None:
        """It said so; the end of its report, which it can't delay, is what counts."""

    def _meet_worker(self) -> None:
        """The first process of the fork is on its way out, the second is the worker."""
        running = self.running
        if self._permit is None or not self._permit.used:
            raise ZygoteChangedError("a fork did not join all that it was handed")
        found = [pid for pid in self._cgroup.processes() if pid not in (running.init, self._fork)]
        if not found:
            raise ZygoteError("the fork ended as soon as it had joined")
        if len(found) != 1:
            raise ZygoteChangedError(f"{len(found)} processes joined a fork's namespaces, not one")
        try:
            running.monitor_fd = procfs.open_process(found[0], lambda: found[0] in self._cgroup.processes())
        except ProcessLookupError as error:
            raise ZygoteError("the fork ended as soon as it had joined") from error
        running.worker = found[0]
        self._have_end_seen(running)
        running.first_fd = self._fork_fd
        self._fds.keep(*self._ends, self._fork_fd)
        running.host_ends = (*self._ends, *running.host_ends)
        self._report = -1
        self._fds.close_all()
        self._mark("join")

    def _have_end_seen(self, running: Running) -> None:
        reaper = running.reaper = self.zygote.running.reaper
        if reaper is None:
            return
        try:
            status = parse_status(procfs.read(f"/proc/{running.worker}/status"))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ZygoteError("the fork ended as soon as it had joined") from error
        running.reaped_as = int(status["NSpid"].split()[-2])  # the last one is its own namespace's
        reaper.expect(running.reaped_as)

    def _mark(self, phase: str) -> None:
        now = time.perf_counter_ns()
        self.running.phases_us[phase] = (now - self._clock) // 1000
        self._clock = now
