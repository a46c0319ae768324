"""The end of a worker, as steps that never block: kill, look, kill again, until nothing is left.

Nothing is left when the namespace's init is dead (the kernel lets it die only after every process
in it was reaped), our own child is reaped, and the cgroup is empty. Only then is the uid free.
A fork is not our child: its pidfd tells its end, and its init's parent-death watch is closed as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Literal

from bridgehold.sandbox import procfs, syscalls
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.launch.running import Running
from bridgehold.sandbox.values import ExitReport, Usage

Cause = Literal["exited", "signal", "memory", "killed", "launcher", "zygote"]
By = Literal["", "killed", "zygote", "memory", "launcher"]
"""Whose doing an end is: nobody's, the host's, its zygote's, that it held what no cgroup counts, or the
launcher's, which could not tell what it does any more."""
UNKNOWN_STATUS = -1
"""Of a fork that never came to be, or whose zygote ended before it was reaped."""
_QUICK_PASSES, _CALM_PASSES = 50, 150
_QUICK_SECONDS, _CALM_SECONDS, _SLOW_SECONDS = 0.002, 0.02, 0.2
_SLOW_EVERY = 8
OVERDUE_SECONDS = 30.0
_FOLDER_SECONDS = 2.0
"""From the kill on: a cgroup that is busy for longer is the parent's to remove."""


class Ending:
    """One worker that is being ended. `step` until it gives a report, `pause` seconds apart."""

    def __init__(
        self,
        worker: str,
        running: Running,
        cgroup: SessionCgroup,
        uid: int,
        *,
        by: By,
        reason: str = "",
    ) -> None:
        """`by`: whose doing the end is; empty where it came by itself."""
        self._worker = worker
        self._running = running
        self._cgroup = cgroup
        self._uid = uid
        self._by = by
        self._reason = reason
        self._passes = 0
        self._status: int | None = None
        self._usage: Usage | None = None
        self._started = time.monotonic()
        with contextlib.suppress(OSError):  # the first step tries again
            cgroup.lift()  # under a small quota two hundred processes take ten seconds to die
        self._strike()

    @property
    def pause(self) -> float:
        """Seconds until the next step is worth while: quick at first, slower against a stuck process."""
        if self._passes < _QUICK_PASSES:
            return _QUICK_SECONDS
        return _CALM_SECONDS if self._passes < _CALM_PASSES else _SLOW_SECONDS

    @property
    def slow(self) -> bool:
        """Whether it takes longer than it should: an orphan may be in its way."""
        return self._passes % _SLOW_EVERY == _SLOW_EVERY - 1

    @property
    def overdue(self) -> bool:
        """Whether something does not die, such as a process in an uninterruptible call."""
        return time.monotonic() - self._started > OVERDUE_SECONDS

    def failed(self) -> None:
        """A step raised: the next ones come calmer, as if something was left."""
        self._passes += 1

    def step(self) -> ExitReport | None:
        """One pass. None while anything is left. Raises `OSError` where it can't be told: try again."""
        traced = self._running.hold
        if traced is not None:
            traced.attend()
        if self._running.reaper is not None:
            self._running.reaper.resume()
        if self._status is None:
            self._status = self._wait()
        left = self._cgroup.processes()
        if left and (self._passes == 0 or self._passes % 5 == 4):
            self._cgroup.lift()
            with contextlib.suppress(
                PermissionError
            ):  # another user's, put there by root: overdue, in the end
                self._cgroup.kill()
            self._strike()
        self._passes += 1
        if left or self._status is None or not _gone(self._running.init_fd):
            return None
        if traced is not None and not traced.gone:
            return None  # a fork that never left its zygote's cgroup: that is cleared, or ends
        if self._running.reaper is not None:
            self._running.reaper.forget(self._running.reaped_as)
        usage = self._usage = self._usage or self._cgroup.usage()
        self._cgroup.remove()
        if self._cgroup.left_over and time.monotonic() - self._started < _FOLDER_SECONDS:
            return None  # the kernel is still letting go of what died in it
        for descriptor in (self._running.init_fd, self._running.monitor_fd, self._running.first_fd):
            if descriptor >= 0:
                os.close(descriptor)
        cause, status = exit_cause(self._status, usage, by=self._by)
        return ExitReport(
            worker=self._worker,
            cause=cause,
            status=status,
            usage=usage,
            emptied_ms=int((time.monotonic() - self._started) * 1000),
            uid=self._uid,
            reason=self._reason,
        )

    def _wait(self) -> int | None:
        """The wait status of the worker's first process, once it ended."""
        running = self._running
        if running.monitor:
            pid, status = os.waitpid(running.monitor, os.WNOHANG)
            return status if pid else None
        if running.monitor_fd < 0:  # a fork that never came to be
            return UNKNOWN_STATUS
        if not procfs.ended(running.monitor_fd):
            return None
        reaped = _gone(running.init_fd)  # who reaps it, and has done so once it is gone itself
        if running.reaper is None:
            known = syscalls.wait_status(running.monitor_fd)
        else:
            running.reaper.attend()  # it may have stopped with the news since this pass began
            known = running.reaper.ended(running.reaped_as)
        return UNKNOWN_STATUS if known is None and reaped else known

    def _strike(self) -> None:
        """SIGKILL to the namespace's init, which takes all of it along, and to its monitor."""
        if self._running.death_watch >= 0:
            os.close(self._running.death_watch)
            self._running.death_watch = -1
        for descriptor in (self._running.init_fd, self._running.monitor_fd):
            if descriptor >= 0:
                with contextlib.suppress(OSError):  # gone; or what the kernel refuses now is tried again
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _gone(init_fd: int) -> bool:
    """Whether init is dead, and reaped where that fell to us. -1: there never was one."""
    if init_fd < 0:
        return True
    if not procfs.ended(init_fd):
        return False
    with contextlib.suppress(ChildProcessError):  # its monitor has reaped it
        os.waitid(os.P_PIDFD, init_fd, os.WEXITED | os.WNOHANG)
    return True


def exit_cause(status: int, usage: Usage, *, by: By) -> tuple[Cause, int]:
    """Why it ended, by the kernel's counters first (pure).

    bubblewrap passes a signal inside on as exit status 128 + N, so a guest can make its own exit
    look like a signal: both are its own crash, and neither can look like ``memory`` or ``killed``.
    """
    if usage.oom_kills:
        return "memory", signal.SIGKILL
    if by:
        return by, signal.SIGKILL
    if status == UNKNOWN_STATUS:
        return "exited", UNKNOWN_STATUS
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if code > 128:
        return "signal", code - 128
    return "exited", code
