"""The end of a worker, as steps that never block: kill, look, kill again, until the cgroup is empty."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Literal

from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.launch import Running
from bridgehold.sandbox.values import ExitReport, Usage

Cause = Literal["exited", "signal", "memory", "killed", "launcher"]
_HURRY_PASSES = 5


class Ending:
    """One worker that is being ended. `step` until it gives a report."""

    def __init__(
        self, worker: str, running: Running, cgroup: SessionCgroup, uid: int, *, killed: bool
    ) -> None:
        self._worker = worker
        self._running = running
        self._cgroup = cgroup
        self._uid = uid
        self._killed = killed
        self._passes = 0
        self._status: int | None = None
        self._started = time.monotonic()
        cgroup.lift()  # under a small quota two hundred processes take ten seconds to die
        for descriptor in (running.init_fd, running.monitor_fd):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def step(self) -> ExitReport | None:
        """One pass. None while anything is left."""
        if self._status is None:
            pid, status = os.waitpid(self._running.monitor, os.WNOHANG)
            if pid:
                self._status = status
        left = self._cgroup.processes()
        if left and (self._passes >= _HURRY_PASSES or self._passes == 0):
            self._cgroup.kill()
        self._passes += 1
        if left or self._status is None:
            return None
        usage = self._cgroup.usage()
        self._cgroup.remove()
        for descriptor in (self._running.init_fd, self._running.monitor_fd):
            os.close(descriptor)
        cause, status = _cause(self._status, usage, killed=self._killed)
        return ExitReport(
            worker=self._worker,
            cause=cause,
            status=status,
            usage=usage,
            emptied_ms=int((time.monotonic() - self._started) * 1000),
            uid=self._uid,
        )


def _cause(status: int, usage: Usage, *, killed: bool) -> tuple[Cause, int]:
    """Why it ended, by the kernel's counters first (pure). bubblewrap exits 128 + N for a signal inside."""
    if usage.oom_kills:
        return "memory", signal.SIGKILL
    if killed:
        return "killed", signal.SIGKILL
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if code > 128:
        return "signal", code - 128
    return "exited", code
