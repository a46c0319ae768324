"""The ends of workers, step by step: what is left of one is reaped, given back and reported."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Protocol

from bridgehold.errors import BusyError, UnsupportedError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups.none import Parent as WatchedTrees
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.poll import apart, nobodys
from bridgehold.sandbox.launcher.reap import Ending
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.shortage import FAULTS
from bridgehold.sandbox.values import ExitReport


class Owner(Protocol):
    """What `Ends` needs of the launcher's loop."""

    parts: Parts
    workers: dict[str, Worker]
    recording: Recording
    left: set[int]

    def settle(self, worker: Worker) -> None:
        """See `Launcher.settle`."""

    def helpers(self) -> set[int]:
        """See `Launcher.helpers`."""

    def tell(self, channel: Channel, answer: requests.Answer) -> None:
        """See `Launcher.tell`."""


class Ends:
    """Of every worker."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def step(self, worker: Worker, ending: Ending) -> None:
        """A step of the end of `worker`; once nothing is left of it, whoever asked is told."""
        try:
            report = ending.step()
        except Exception:  # noqa: BLE001 - what can't be told now is asked again: nothing counts as gone before
            report = None
            ending.failed()
        if report is not None:
            apart(functools.partial(self._forget, worker), nobodys)
            apart(functools.partial(self._owner.recording.ended, worker, report), nobodys)
            apart(functools.partial(self._report, worker, report), nobodys)
        elif ending.slow:
            self._reap_orphans()
        if report is None and ending.overdue and worker.killers:
            stuck = BusyError(f"processes of {worker.name} do not die; the kernel still holds them")
            for request in worker.killers:
                self._owner.tell(worker.channel, requests.Answer(id=request, error=stuck.info()))
            worker.killers = []

    def reap_left(self) -> None:
        """Of the children that only have to end, those that have."""
        for pid in list(self._owner.left):
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    continue
            self._owner.left.discard(pid)

    def _reap_orphans(self) -> None:
        """What was killed while it made namespaces leaves children, which keep others from ending."""
        starts = [worker.start for worker in self._owner.workers.values()]
        own = {start.running.monitor for start in starts}
        own |= {start.helper for start in starts if isinstance(start, Fork)}
        own |= self._owner.helpers()
        own |= (
            self._owner.parts.parent.looking if isinstance(self._owner.parts.parent, WatchedTrees) else set()
        )
        own |= {worker.zygote.helper for worker in self._owner.workers.values() if worker.zygote is not None}
        try:
            children = procfs.children(os.getpid())
        except OSError:
            return  # the next step looks again
        for pid in children:
            if pid not in own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _forget(self, worker: Worker) -> None:
        """Nothing is left of it: its uid and folders are free."""
        del self._owner.workers[worker.name]
        self._owner.settle(worker)
        for uid in (worker.uid, worker.root_uid):
            if uid is not None:
                self._owner.parts.uids.give_back(uid)
        if worker.parent is not None and worker.parent.zygote is not None:
            worker.parent.zygote.sessions.discard(worker.name)
        if worker.zygote is not None:
            worker.zygote.close()
            self._owner.left |= worker.zygote.left
        if worker.staged is not None:
            with contextlib.suppress(*FAULTS):  # an empty folder may stay, until the launcher ends
                self._owner.parts.stage.discard(worker.staged)
        with contextlib.suppress(*FAULTS):  # the next one tidies again
            self._owner.parts.parent.tidy()

    def _report(self, worker: Worker, report: ExitReport) -> None:
        if not worker.request:
            return  # made ahead, and never wanted
        if not worker.started:
            early = UnsupportedError("the launcher ended before the sandbox had started")
            self._owner.tell(
                worker.channel, requests.Answer(id=worker.request, error=worker.failure or early.fact())
            )
            return
        self._owner.tell(worker.channel, requests.Answer(id=0, exited=report))
        for request in worker.killers:
            self._owner.tell(worker.channel, requests.Answer(id=request, exited=report))
