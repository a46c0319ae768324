"""ptrace without waiting: a zygote is held stopped, and a fork is let join its namespaces.

Its main thread is the tracer, for every call here. When the launcher ends, the kernel kills what it
traces. What it traces it reaps, before the parent inside is told.
"""

from __future__ import annotations

import contextlib
import os
import signal

from bridgehold.sandbox import syscalls

_WALL = 0x40000000
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_AT_A_CALL = signal.SIGTRAP | 0x80
_WAIT4 = 260 if os.uname().machine == "aarch64" else 61
_AT_ONCE, _MOST_STOPS = 64, 1_000
"""Stops that are taken in at one look, and while it is to run: who signals itself without end has no more
of the launcher's time, and stays where it stopped."""


class Traced:
    """A tracer's view of process `pid`, which is nobody's child of ours."""

    def __init__(self, pid: int, options: int = 0) -> None:
        """Raises `OSError` where the kernel refuses (no ptrace here), or the process is gone."""
        self._pid = pid
        self._stopped = False
        self._stops = 0
        self._signal = 0
        """What it was about to be given when it stopped: it gets it when it goes on."""
        self.gone = False
        """It has ended, and was reaped; or it is not traced any more."""
        syscalls.ptrace(syscalls.PTRACE_SEIZE, pid, syscalls.PTRACE_O_EXITKILL | options)

    def attend(self) -> None:
        """Take in what has become of it. Where it is to run and something stopped it, it goes on."""
        for _ in range(_AT_ONCE):
            if self.gone:
                return
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG | _WALL)
            except ChildProcessError:
                self.gone, self._stopped = True, False
                return
            if not pid:
                return
            self._stopped = os.WIFSTOPPED(status)
            self.gone = not self._stopped
            if self._stopped:
                self._stops += 1
                self._met(status >> 16, os.WSTOPSIG(status))

    def _met(self, event: int, number: int) -> None:
        """It stopped: at `event`, or (0) at the signal `number`."""
        if not event:
            self._signal = number
        self._go_on()

    def _go_on(self) -> None:
        if self._stopped and self._stops <= _MOST_STOPS:
            with contextlib.suppress(ProcessLookupError):
                syscalls.ptrace(syscalls.PTRACE_CONT, self._pid, self._signal)
            self._signal, self._stopped = 0, False


class Hold(Traced):
    """A hold on a zygote that it can't shake off. It runs on until `stop`.

    A SIGSTOP is no such hold. A SIGCONT ends it, and a process has ways to have itself sent one: a timer,
    a descriptor, a child that ends with it. Nothing ends a ptrace stop but us and SIGKILL.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self._wanted = False

    def stop(self) -> None:
        """Have it stop; `stands` tells when it does."""
        self._wanted = True
        if not self._stopped and not self.gone:
            with contextlib.suppress(ProcessLookupError):
                syscalls.ptrace(syscalls.PTRACE_INTERRUPT, self._pid)

    def let_go(self) -> None:
        """Have it run. Signals that it gets are passed on by `attend`, which is to be called now and then."""
        self._wanted = False
        self._stops = 0
        self._go_on()

    @property
    def stands(self) -> bool:
        """Whether the process is stopped now, as was wanted."""
        self.attend()
        return self._stopped and self._wanted

    def _met(self, event: int, number: int) -> None:
        if event != _EVENT_STOP:
            self._signal = number
        if not self._wanted:
            self._go_on()


class Permit(Traced):
    """A fork's leave to make `calls` calls that its filter refuses to who isn't traced; then it is let go.

    The filter has no memory, so it can't allow a call for once, and a filter that a fork puts on itself is
    a hostile fork's to leave out. Whoever counts is outside.
    """

    def __init__(self, pid: int, calls: int) -> None:
        super().__init__(pid, syscalls.PTRACE_O_TRACESECCOMP)
        self._left = calls

    @property
    def used(self) -> bool:
        """All of them were made, and it is not traced any more."""
        return not self._left

    def _met(self, event: int, number: int) -> None:
        if event != _EVENT_SECCOMP:
            super()._met(event, number)
            return
        self._left -= 1
        if not self.used:
            self._go_on()
            return
        with contextlib.suppress(ProcessLookupError):  # however often it has stopped, or nobody could reap it
            syscalls.ptrace(syscalls.PTRACE_DETACH, self._pid, 0)
        self.gone, self._stopped = True, False


class Reaper(Traced):
    """How the orphans ended that the init `pid` reaps: seen in what its own wait calls return.

    Only whose parent a process is learns how it ended, and a worker's is its zygote's init. (From Linux 6.15
    on the kernel tells others too: `syscalls.wait_status`.) Signals to an init are nothing to it but SIGKILL.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(pid, syscalls.PTRACE_O_TRACESYSGOOD)
        self._place = 0
        """Where its wait call is to write the status; 0: it is in none."""
        self._ends: dict[int, int | None] = {}
        syscalls.ptrace(syscalls.PTRACE_INTERRUPT, pid)

    def expect(self, number: int) -> None:
        """Keep how the process ends that has this number in the init's namespace."""
        self._ends[number] = None

    def ended(self, number: int) -> int | None:
        """Its wait status, once it was reaped."""
        return self._ends.get(number)

    def forget(self, number: int) -> None:
        """Nobody asks for that process any more."""
        self._ends.pop(number, None)

    def _met(self, event: int, number: int) -> None:
        if not event and number == _AT_A_CALL:
            with contextlib.suppress(OSError):  # it dies meanwhile
                self._see_call()
        self._go_on()

    def _see_call(self) -> None:
        enters, what, arguments = syscalls.ptrace_call(self._pid)
        if enters:
            self._place = arguments[1] if what == _WAIT4 else 0
        elif self._place and what in self._ends:
            self._ends[what] = syscalls.ptrace_word(self._pid, self._place)
            self._stops = 0

    def resume(self) -> None:
        """Something of its namespace has ended: it goes on, however often it was made to stop."""
        self._stops = 0
        self._go_on()
        self.attend()

    def _go_on(self) -> None:
        if self._stopped and self._stops <= _MOST_STOPS:
            with contextlib.suppress(ProcessLookupError):
                syscalls.ptrace(syscalls.PTRACE_SYSCALL, self._pid)
            self._stopped = False


def child_signals() -> int:
    """A descriptor that is readable once a child of ours, or what we trace, has stopped or ended.

    Blocks SIGCHLD in this thread, and so in what it forks.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    return syscalls.signalfd(signal.SIGCHLD)
