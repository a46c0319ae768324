"""Whose turn it is at a zygote, and which sandbox is made ahead of its session.

A zygote forks one session at a time; the namespaces for the next ones are made meanwhile. While nobody
waits, one *spare* stands ready beyond that, like the last session: only the fork itself is left to do.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from typing import Protocol

from bridgehold.errors import ZygoteError
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.fork.zygote import Zygote
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.begin import begin_fork, check_current
from bridgehold.sandbox.launcher.reap import By
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.shortage import FAULTS, shortage, typed
from bridgehold.sandbox.values import SandboxSpec, TenantShare

_SPARE_SECONDS = 0.02
"""After a session's attestation: its first command is not to share the processor with the next's sandbox."""

_HOLD_PAUSE, _RUN_PAUSE = 0.001, 0.01
"""Between looks at a zygote that is to stand, and at one that is to run."""


class Owner(Protocol):
    """What `Forking` needs of the launcher's loop."""

    parts: Parts
    workers: dict[str, Worker]
    recording: Recording

    def add(self, worker: Worker) -> None:
        """See `Launcher.add`."""

    def guard(self, worker: Worker, act: Callable[[], None]) -> None:
        """See `Launcher.guard`."""

    def admit(self, spec: SandboxSpec, share: TenantShare | None) -> None:
        """See `Launcher.admit`."""

    def demand_descriptors(self) -> None:
        """See `Launcher.demand_descriptors`."""

    def watch(self, worker: Worker, *wanted: int | None) -> None:
        """Have the loop visit `worker` when one of these descriptors is readable."""

    def fail(self, worker: Worker, error: Exception) -> None:
        """The start of `worker` has failed with `error`: answer, and end what stands of it."""

    def end(self, worker: Worker, *, by: By, reason: str = "") -> None:
        """See `Launcher.end`."""


class Forking:
    """The forks of every zygote."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._due: dict[str, tuple[float, SandboxSpec]] = {}
        """Zygote's name → when to make its spare, and of what."""

    def fork(self, request: requests.ForkRequest) -> None:
        """Raises `ZygoteError` where there is nothing to fork from, `ReplacedError` where that is past.

        The answer comes later.
        """
        parent = self._owner.workers.get(request.zygote)
        if parent is None or parent.ending is not None:
            raise ZygoteError("the zygote has ended")  # one that never was looks alike
        if not parent.running or parent.zygote is None or not parent.zygote.settled:
            raise ZygoteError("there is no such zygote to fork from")
        self._owner.recording.demand()
        self._owner.admit(request.spec, request.share)
        check_current(parent, self._owner.parts)
        if request.share is not None:
            self._owner.parts.parent.share_out(request.spec.tenant, request.share)
        worker = self._take_spare(parent.zygote, request.spec)
        if worker is None:
            worker = self._begin(request.spec, parent, parent.zygote)
        worker.request, worker.note = request.id, request.note  # its end answers from here on
        self._owner.guard(worker, functools.partial(self._set_out, worker))

    def _set_out(self, worker: Worker) -> None:
        if isinstance(worker.start, Fork):
            worker.start.want()
        self._owner.recording.start(worker)
        self.ready(worker)

    def ready(self, worker: Worker) -> None:
        """Its namespaces may stand: if somebody waits for it, its turn at the zygote will come."""
        if isinstance(worker.start, Fork) and worker.start.ready and worker.request:
            worker.start.zygote.queue.append(worker.name)
            self._take_turns(worker.start.zygote)

    def over(self, worker: Worker) -> None:
        """`worker`'s fork is over, this way or that: its zygote is free for the next, or cleared first."""
        parent = worker.parent
        if parent is not None and parent.zygote is not None and parent.zygote.busy == worker.name:
            parent.zygote.busy = ""
            self._owner.guard(parent, functools.partial(self._free, parent, parent.zygote, worker))

    def _free(self, parent: Worker, zygote: Zygote, worker: Worker) -> None:
        if parent.running and isinstance(worker.start, Fork) and worker.start.under_way:
            zygote.unclear = True
            self._owner.add(parent)
            zygote.stop()
        elif parent.running:
            self._take_turns(zygote)

    def clear(self, parent: Worker, zygote: Zygote) -> None:
        """One look at what a failed fork has left. What can't be told now is looked at again: until then
        nothing is forked, and nobody is blamed."""
        try:
            zygote.unclear = not zygote.clear()
        except FAULTS as error:
            if not shortage(error):
                self._owner.end(parent, by="zygote", reason=typed(error).message)
        if not zygote.unclear and parent.running:
            self._take_turns(zygote)

    def proceed(self, worker: Worker, start: Fork) -> None:
        """Where its next step waits for its zygote to stand: another look."""
        try:
            if start.proceed():
                self._owner.watch(worker, start.waits_for)
        except FAULTS as error:
            self._owner.fail(worker, error)

    def attested(self, worker: Worker) -> None:
        """Its session begins: a spare like it is due."""
        if worker.parent is not None:
            self._due[worker.parent.name] = (time.monotonic() + _SPARE_SECONDS, worker.spec)

    def end_sessions(self, worker: Worker, reason: str) -> None:
        """A zygote takes its sessions along: the kernel kills them with its namespace."""
        self._due.pop(worker.name, None)
        for name in list(worker.zygote.sessions) if worker.zygote else ():
            if (session := self._owner.workers.get(name)) is not None:
                session.failure = session.failure or ZygoteError(reason).fact()
                ended = functools.partial(self._owner.end, session, by="zygote", reason=reason)
                self._owner.guard(session, ended)

    @property
    def patience(self) -> float:
        """Seconds until a spare is due."""
        now = time.monotonic()
        return max(0.0, min((due - now for due, _ in self._due.values()), default=math.inf))

    def make_spares(self) -> None:
        """Those that are due: the next session will most likely be like the last."""
        now = time.monotonic()
        for name, (due, spec) in list(self._due.items()):
            if due <= now:
                del self._due[name]
                self._make_spare(self._owner.workers.get(name), spec)

    def _make_spare(self, parent: Worker | None, spec: SandboxSpec) -> None:
        zygote = parent.zygote if parent is not None and parent.running else None
        if parent is None or zygote is None or zygote.spare:
            return
        with contextlib.suppress(*FAULTS):  # nobody waits for it: the next session finds what is wrong
            self._owner.demand_descriptors()
            zygote.spare = self._begin(spec, parent, zygote).name

    def _take_spare(self, zygote: Zygote, spec: SandboxSpec) -> Worker | None:
        """The worker that was made ahead, if it is of this spec; one of another is ended."""
        worker = self._owner.workers.get(zygote.spare)
        zygote.spare = ""
        if worker is None or worker.ending is not None:
            return None
        if worker.spec != spec:
            self._owner.end(worker, by="killed")
            return None
        return worker

    def _begin(self, spec: SandboxSpec, parent: Worker, zygote: Zygote) -> Worker:
        worker = begin_fork(self._owner.parts, spec, parent, zygote)
        self._owner.add(worker)
        try:
            self._owner.watch(worker, worker.start.waits_for)
        except BaseException:
            self._owner.end(worker, by="killed")
            raise
        return worker

    def _take_turns(self, zygote: Zygote) -> None:
        """Ask for the next fork that waits, unless one is under way."""
        while zygote.queue and not zygote.busy and not zygote.unclear:
            worker = self._owner.workers.get(zygote.queue.popleft())
            if worker is None or worker.ending is not None or not isinstance(worker.start, Fork):
                continue
            zygote.busy = worker.name
            self._owner.guard(worker, functools.partial(self._ask, worker, worker.start))

    def _ask(self, worker: Worker, start: Fork) -> None:
        start.ask()
        self._owner.watch(worker, start.waits_for)


def hold_pause(worker: Worker) -> float:
    """Seconds until another look at the zygote that `worker` is, or is forked by."""
    if worker.settling is not None or (isinstance(worker.start, Fork) and worker.start.held_back):
        return _HOLD_PAUSE
    unclear = worker.running and worker.zygote is not None and worker.zygote.unclear
    if unclear or (isinstance(worker.start, Fork) and worker.start.under_way and not worker.started):
        return _RUN_PAUSE
    return math.inf
