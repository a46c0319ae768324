"""A worker's course: from the first step of its start, over what is noticed of it, to its end."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Protocol

from bridgehold.sandbox.cgroups.none import Leaf as WatchedTree
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.fork.zygote import Zygote
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.ends import Ends
from bridgehold.sandbox.launcher.forking import Forking
from bridgehold.sandbox.launcher.proving import Proving
from bridgehold.sandbox.launcher.reap import By
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.shortage import FAULTS
from bridgehold.sandbox.values import Launched

_SUSPECT_SECONDS = 2.0
"""After a notice of memory trouble: how long to look whether something was killed; on v1 the notice comes
before the kill."""


class Owner(Protocol):
    """What `Course` needs of the launcher's loop."""

    parts: Parts
    recording: Recording

    def watch(self, worker: Worker, *wanted: int | None) -> None:
        """See `Launcher.watch`."""

    def faulty(self, worker: Worker, error: Exception) -> None:
        """See `Launcher.faulty`."""

    def fail(self, worker: Worker, error: Exception) -> None:
        """See `Launcher.fail`."""

    def end(self, worker: Worker, *, by: By, reason: str = "") -> None:
        """See `Launcher.end`."""

    def settle(self, worker: Worker) -> None:
        """See `Launcher.settle`."""

    def unsettle(self, worker: Worker) -> None:
        """See `Launcher.unsettle`."""

    def respond(self, channel: Channel, request: requests.Request) -> None:
        """See `Launcher.respond`."""

    def tell(self, channel: Channel, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        """See `Launcher.tell`."""


class Course:
    """Of every worker."""

    def __init__(self, owner: Owner, forking: Forking, proving: Proving, ends: Ends) -> None:
        self._owner = owner
        self._forking = forking
        self._proving = proving
        self._ends = ends

    def visit(self, worker: Worker, now: float) -> None:
        """What is due of a worker that starts, ends, or may have run out of memory."""
        if worker.ending is not None:
            self._ends.step(worker, worker.ending)
        elif worker.fault is not None:
            self._owner.faulty(worker, worker.fault)
        elif not worker.started and now > worker.record_until:
            self._owner.recording.expire(worker)
        elif not worker.started and now > worker.start.deadline:
            self._owner.fail(worker, worker.start.expire())
        elif not worker.started and isinstance(worker.start, Fork):
            if worker.start.held_back:
                self._forking.proceed(worker, worker.start)
            else:
                worker.start.attend()
        elif worker.running and worker.zygote is not None and worker.settling is not None:
            self._proving.settle_in(worker, worker.zygote)
        elif worker.running and worker.zygote is not None and worker.zygote.unclear:
            self._forking.clear(worker, worker.zygote)
        elif worker.running and self._out_of_memory(worker, now):
            self._owner.end(worker, by="")  # v1 kills one process; the session dies whole
        elif worker.running and worker.proof_due is not None:
            request, worker.proof_wanted = worker.proof_due, None
            self._owner.respond(worker.channel, request)
        elif worker.running and worker.suspect_until <= now and worker.wanted == worker.watched:
            self._owner.settle(worker)

    def _out_of_memory(self, worker: Worker, now: float) -> bool:
        if isinstance(worker.cgroup, WatchedTree):
            return worker.cgroup.over()
        return worker.suspect_until > now and worker.cgroup.usage().oom_kills > 0

    def noticed(self, worker: Worker, descriptor: int) -> None:
        """One of the descriptors that are watched for it is readable."""
        if not worker.started:
            self.advance(worker)
        elif descriptor == worker.start.running.monitor_fd:
            self._ended(worker)
        elif descriptor == worker.start.running.first_fd:
            self._alone(worker)
        elif worker.zygote is not None and descriptor == worker.zygote.pid_fd:
            worker.zygote.attend()  # it died, held: its parent inside is told by this
            if worker.start.running.reaper is not None:
                worker.start.running.reaper.resume()
            self.watch_running(worker)
        else:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
            worker.suspect_until = time.monotonic() + _SUSPECT_SECONDS
            self._owner.unsettle(worker)

    def _ended(self, worker: Worker) -> None:
        by, reason = worker.whose_end()
        self._owner.end(worker, by=by, reason=reason)

    def advance(self, worker: Worker) -> None:
        """The next step of its start; with the last one it runs."""
        start = worker.start
        self._owner.watch(worker)  # a step may close what is watched
        try:
            if not start.advance():
                self._owner.watch(worker, start.waits_for)
                self._forking.ready(worker)
                return
            if worker.spec.kind == "zygote":
                worker.zygote = Zygote(worker.spec, start.running, worker.cgroup, worker.uid)
            self.watch_running(worker)
            if worker.staged is not None:
                self._owner.parts.stage.release(worker.staged)
        except FAULTS as error:
            self._owner.fail(worker, error)
            return
        worker.started = True
        ends = list(start.running.host_ends)
        start.running.host_ends = ()
        launched = Launched(
            worker=worker.name,
            pid=start.running.init,
            uid=worker.uid,
            spec_digest=worker.digest,
            phases_us=start.running.phases_us,
            descriptors=len(ends),
            zygote=worker.parent.name if worker.parent else "",
        )
        self._owner.tell(worker.channel, requests.Answer(id=worker.request, launched=launched), ends)
        self._forking.over(worker)

    def watch_running(self, worker: Worker) -> None:
        """Watch for the end of a worker that has started, and for its running out of memory."""
        running = worker.start.running
        first = running.first_fd if running.first_fd >= 0 else None
        held = worker.zygote.pid_fd if worker.zygote and running.hold and not running.hold.gone else None
        self._owner.watch(worker, running.monitor_fd, worker.cgroup.oom_fd(), first, held)

    def _alone(self, worker: Worker) -> None:
        """A fork's first process is gone: what is left is the worker's own."""
        running = worker.start.running
        descriptor, running.first_fd = running.first_fd, -1
        self.watch_running(worker)
        os.close(descriptor)
        request, worker.proof_wanted = worker.proof_wanted, None
        if request is not None:
            self._owner.respond(worker.channel, request)
