"""A hold on one process that it can't shake off: a ptrace stop, which nothing ends but us and SIGKILL.

A SIGSTOP is no such hold. A SIGCONT ends it, and a process has ways to have itself sent one: a timer,
a descriptor, a child that ends with it. The launcher's main thread is the tracer, for every call here,
and no call waits. When the launcher ends, the kernel kills what it holds.
"""

from __future__ import annotations

import contextlib
import os

from bridgehold.sandbox import syscalls

_WALL = 0x40000000
_EVENT_STOP = 128


class Hold:
    """A tracer's view of process `pid`, which is nobody's child of ours. It runs on until `stop`."""

    def __init__(self, pid: int) -> None:
        """Raises `OSError` where the kernel refuses (no ptrace here), or the process is gone."""
        self._pid = pid
        self._wanted = False
        self._stopped = False
        self._signal = 0
        """What it was about to be given when it stopped: it gets it when it is let go."""
        self.gone = False
        """It has ended, and was reaped: its parent is told only after that."""
        syscalls.ptrace(syscalls.PTRACE_SEIZE, pid, syscalls.PTRACE_O_EXITKILL)

    def stop(self) -> None:
        """Have it stop; `stands` tells when it does."""
        self._wanted = True
        if not self._stopped and not self.gone:
            with contextlib.suppress(ProcessLookupError):
                syscalls.ptrace(syscalls.PTRACE_INTERRUPT, self._pid)

    def let_go(self) -> None:
        """Have it run. Signals that it gets are passed on by `attend`, which is to be called now and then."""
        self._wanted = False
        self._go_on()

    @property
    def stands(self) -> bool:
        self.attend()
        return self._stopped and self._wanted

    def attend(self) -> None:
        """Take in what has become of it. Where it is to run and a signal stopped it, it goes on with it."""
        while not self.gone:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG | _WALL)
            except ChildProcessError:
                self.gone, self._stopped = True, False
                return
            if not pid:
                break
            self._stopped = os.WIFSTOPPED(status)
            self.gone = not self._stopped
            event = status >> 16
            if self._stopped and event != _EVENT_STOP:
                self._signal = os.WSTOPSIG(status)
            if not self._wanted:
                self._go_on()

    def _go_on(self) -> None:
        if self._stopped:
            with contextlib.suppress(ProcessLookupError):
                syscalls.ptrace(syscalls.PTRACE_CONT, self._pid, self._signal)
            self._signal, self._stopped = 0, False
