"""The launcher's one loop. Nothing in it waits for a single session.

What is heard (`hearing`) is answered (`answering`), now or later. A worker goes from *starting* (its `Start`
or `Fork` is advanced as its descriptors become readable) over *running* to *ending* (its `Ending` is stepped
until nothing is left): `course`, `ends`. Whatever fails on the way ends the worker, and its uid and cgroup
are free only after it. A zygote is a worker too; it forks one session at a time, and takes its sessions along
when it ends.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import time
from collections.abc import Callable, Mapping

from bridgehold.errors import (
    NotFoundError,
    ZygoteError,
)
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups.admission import Held, admit, demand_count
from bridgehold.sandbox.cgroups.none import Parent as WatchedTrees
from bridgehold.sandbox.fork.zygote import ZygoteChangedError
from bridgehold.sandbox.launch.hold import child_signals
from bridgehold.sandbox.launch.roots import NotAtHandError
from bridgehold.sandbox.launcher import requests, room
from bridgehold.sandbox.launcher.answering import Answering
from bridgehold.sandbox.launcher.cells import Cells
from bridgehold.sandbox.launcher.channel import Channel, ChannelClosedError
from bridgehold.sandbox.launcher.course import Course
from bridgehold.sandbox.launcher.ends import Ends
from bridgehold.sandbox.launcher.forking import Forking, hold_pause
from bridgehold.sandbox.launcher.hearing import Hearing
from bridgehold.sandbox.launcher.jobs import Jobs
from bridgehold.sandbox.launcher.poll import READ, Fails, Poll, apart, nobodys
from bridgehold.sandbox.launcher.proving import Proving, own_limit
from bridgehold.sandbox.launcher.reap import By, Ending
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.uncounted import Watch
from bridgehold.sandbox.launcher.worker import ZYGOTE_ENDED, Parts, Worker
from bridgehold.sandbox.limits.bounds import check
from bridgehold.sandbox.limits.shortage import FAULTS, shortage, typed
from bridgehold.sandbox.values import SandboxSpec, TenantShare

_WATCHDOG_SECONDS = 0.1
_SUSPECT_PAUSE = 0.01
"""After a notice of memory trouble: between two looks at whether something was killed."""
_FILTER_PAUSE = 0.002
_STOP_SECONDS = 10.0
_AGAIN_SECONDS, _DEAF_SECONDS = 0.01, 0.01
"""Before what could not be polled for want of room is tried again; and where nothing can be."""


class Launcher:
    """State, and the loop. Driven by `serve`. What has no underscore is for its parts."""

    def __init__(self, parts: Parts, channel: Channel, journal: socket.socket | None) -> None:
        """`journal`: where starts and ends are recorded; None: nowhere."""
        self.parts = parts
        self._cells = Cells(parts)
        self.workers: dict[str, Worker] = {}
        self._restless: set[Worker] = set()
        """Those that start, end, or may have run out of memory: the others need no look."""
        self._forking = Forking(self)
        self._uncounted = Watch()
        self._jobs = Jobs(self)
        self.left: set[int] = set()
        """Children that only have to end, and are reaped when they have."""
        self._proving = Proving(self)
        self._ends = Ends(self)
        self._course = Course(self, self._forking, self._proving, self._ends)
        self._answering = Answering(self, self._cells, self._forking, self._proving, self._jobs)
        self.recording = Recording(self, journal)
        self._poll = Poll()
        self._hearing = Hearing(self, self._poll, channel, self.recording)
        self._over = False
        """The host's own channel has ended. Nothing else ends the loop."""
        self._children = child_signals()
        self._poll.want(self._children, READ, self._child_ready, nobodys)

    def serve(self) -> None:
        """Until the host is gone; then everything is ended."""
        try:
            while not self._over:
                self._turn()
        finally:
            self._end_all()
            self._cells.close()
            self.recording.close()

    def _turn(self) -> None:
        """Each call of somebody's is `apart`: one that raises ends whom it concerns."""
        self._hearing.attend(self._cells.channels())
        apart(self._wait, self._deaf)
        now = time.monotonic()
        apart(self._watch_trees, nobodys)
        watched = self.workers.values() if self.parts.parent.version == "none" else self._restless
        for worker in [one for one in self._restless if one.wanted != one.watched]:
            self.guard(worker, functools.partial(self.watch, worker, *worker.wanted))
        for worker in list(watched):
            self.guard(worker, functools.partial(self._course.visit, worker, now))
        apart(functools.partial(self._look_at_uncounted, now), nobodys)
        apart(functools.partial(self._jobs.expire, now), nobodys)
        apart(self._cells.step, nobodys)
        apart(self._ends.reap_left, nobodys)
        apart(self._forking.make_spares, nobodys)

    def _wait(self) -> None:
        self._poll.turn(self._patience())

    def _deaf(self, _: Exception) -> None:
        """It can't be told now what is ready: each is asked; or else, after a pause, the host alone."""
        try:
            self._poll.look(_DEAF_SECONDS)
        except OSError:
            time.sleep(_DEAF_SECONDS)
            self._hearing.attend_host()

    def guard(self, worker: Worker, act: Callable[[], None]) -> None:
        """What goes wrong with one worker ends that one, or its start, and no other.

        Not where the machine is short of something: then the next look tells more. One that is ending goes on
        with that.
        """
        apart(act, functools.partial(self.faulty, worker))

    def faulty(self, worker: Worker, error: Exception) -> None:
        """Something has gone wrong with `worker`: see `guard`."""
        if worker.ending is not None or (worker.started and shortage(error)):
            return
        worker.fault = error  # until that has ended it
        self._restless.add(worker)
        if worker.started:
            self.end(worker, by="launcher", reason=typed(error).message)
        else:
            self.fail(worker, error)

    def _watch_trees(self) -> None:
        parent = self.parts.parent
        if isinstance(parent, WatchedTrees):
            try:
                parent.look()
            finally:
                self.left |= parent.left
                parent.left.clear()

    def _look_at_uncounted(self, now: float) -> None:
        if self.workers and now >= self._uncounted.due:
            self._end_uncounted(now)
        elif not self.workers:
            self._uncounted.close()  # nobody is left to look at
            self.left |= self._uncounted.left
            self._uncounted.left.clear()

    def _end_uncounted(self, now: float) -> None:
        over = self._uncounted.over(self.workers.values(), now)
        self.left |= self._uncounted.left
        self._uncounted.left.clear()
        for worker, what in over:
            self.end(worker, by="memory", reason=f"it held {what}, which no cgroup counts")

    def _patience(self) -> float | None:
        """Seconds until something is due that no descriptor tells of."""
        now = time.monotonic()
        waits = [w.ending.pause for w in self._restless if w.ending is not None]
        due = [min(w.start.deadline, w.record_until) for w in self._restless if not w.started]
        waits += [max(0.0, at - now) for at in due]
        waits += [hold_pause(w) for w in self._restless]
        waits += [_SUSPECT_PAUSE for w in self._restless if w.running and w.suspect_until > now]
        waits += [_FILTER_PAUSE for w in self._restless if w.running and w.proof_due]
        if self.parts.parent.version == "none" and self.workers:
            waits.append(_WATCHDOG_SECONDS)
        waits += [
            _AGAIN_SECONDS for w in self._restless if w.wanted != w.watched or (w.fault and not w.ending)
        ]
        waits += [_AGAIN_SECONDS] if self._hearing.unheard else []
        if self.workers:
            waits.append(max(0.0, self._uncounted.due - now))
        soonest = min([*waits, self._forking.patience, self._jobs.patience, self._cells.patience])
        return None if soonest == math.inf else soonest

    def watch_running(self, worker: Worker) -> None:
        """See `Course.watch_running`."""
        self._course.watch_running(worker)

    def unsettle(self, worker: Worker) -> None:
        """It is looked at every turn, until it is settled."""
        self._restless.add(worker)

    def settle(self, worker: Worker) -> None:
        """It needs no look any more."""
        self._restless.discard(worker)

    def helpers(self) -> set[int]:
        """Children of this process that work for it, and are reaped where they are waited for."""
        return self._jobs.children | self._uncounted.children

    def recorded(self, worker: Worker) -> None:
        """A worker's start is in the audit: its guest may begin."""
        self.guard(worker, functools.partial(self._let_begin, worker))

    def _let_begin(self, worker: Worker) -> None:
        if worker.start.allow():
            self._course.advance(worker)

    def lost(self, channel: Channel) -> None:
        """Its peer is gone, or broke its rules: what a cell started ends with it, and nothing else does. With
        the host's own the launcher ends."""
        if channel.whole:
            self._over = True
            return
        if channel.closed:
            return
        self._poll.drop(channel.fileno())
        channel.close()
        self._cells.forget(channel)
        apart(functools.partial(self._jobs.lost, channel), nobodys)
        for worker in list(self.workers.values()):
            if worker.channel is channel:
                self.guard(
                    worker, functools.partial(self.end, worker, by="killed", reason="its cell is gone")
                )

    def tell(self, channel: Channel, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        """Queue an answer; a cell that is gone hears nothing."""
        try:
            channel.send(answer, descriptors)
        except ChannelClosedError:
            self.lost(channel)

    def _child_ready(self, descriptor: int, _: int) -> None:
        """What is traced has stopped, or a child has ended: this turn's look at the restless sees which."""
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, 4096)
        for worker in list(self.workers.values()):
            if worker.zygote is not None and worker.start.running.reaper is not None:
                # A zygote's init goes on, whoever it has reaped.
                self.guard(worker, worker.start.running.reaper.attend)

    def respond(
        self, channel: Channel, request: requests.Request, opened: Mapping[str, int] | None = None
    ) -> None:
        """Answer, now or later; raises nothing. `opened`: what a child has opened for it, which could not be
        had without a wait; closed here."""
        answer: requests.Answer | None = None
        try:
            try:
                with self.parts.roots.at_hand(opened or {}):
                    answer = self._answering.handle(channel, request)
            except NotAtHandError as wait:
                self._jobs.open(channel, request, wait.spec)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            answer = requests.Answer(id=request.id, error=typed(error).info())
        if answer is not None:
            self.tell(channel, answer)

    def answer(self, worker: Worker, answer: requests.Answer) -> None:
        """Queue an answer for whoever started `worker`."""
        self.tell(worker.channel, answer)

    def listen(self, descriptor: int, ready: Callable[[int], None] | None, fails: Fails = nobodys) -> None:
        """Have `ready` called when `descriptor` is readable; None: no more. Before it is closed.

        `fails` is told what that raises. Raises `OSError` where it can't be polled.
        """
        if ready is None:
            self._poll.drop(descriptor)
        else:
            self._poll.want(descriptor, READ, lambda found, _: ready(found), fails)

    def attested(self, worker: Worker) -> None:
        """A worker has passed: a fork's zygote may be forked again."""
        self._forking.attested(worker)

    def find(self, name: str) -> Worker:
        """The started worker of that name. Raises `NotFoundError`."""
        worker = self.workers.get(name)
        if worker is None or not worker.started:
            raise NotFoundError(f"no worker {name[:40]}")
        return worker

    def set_out(self, worker: Worker) -> None:
        """Begin with what a start waits for, and write down that it is begun."""
        self.watch(worker, worker.start.waits_for)
        self.recording.start(worker)

    def add(self, worker: Worker) -> None:
        """Take `worker` into the loop, from its first step on."""
        self.workers[worker.name] = worker
        self._restless.add(worker)

    def admit(self, spec: SandboxSpec, share: TenantShare | None) -> None:
        """Raise the typed refusal where `spec` goes beyond this launcher's bounds, its capacity, or its
        tenant's part."""
        parts = self.parts
        check(spec, parts.bounds)
        self.demand_descriptors()
        held = Held.of((w.spec.tenant, w.spec.resources) for w in self.workers.values() if w.request)
        if spec.kind == "worker":
            theirs = (w for w in self.workers.values() if w.request and w.spec.tenant == spec.tenant)
            demand_count(sum(w.spec.kind == "worker" for w in theirs), spec.tenant, share)
        overcommit = parts.overcommit and "overcommit" in spec.weakenings
        admit(
            spec.resources,
            held,
            parts.parent.capacity,
            tenant=spec.tenant,
            share=share,
            overcommit=overcommit,
        )

    def demand_descriptors(self) -> None:
        """Raise `ShortageError` where one more sandbox would not find what it takes of them."""
        room.demand(self.parts.descriptors, (worker.started for worker in self.workers.values()))

    def watch(self, worker: Worker, *wanted: int | None) -> None:
        """Poll these for `worker`, and nothing else. Raises `OSError` where a start's can't be polled; of one
        that runs, it is tried again."""
        worker.wanted = {descriptor for descriptor in wanted if descriptor is not None}
        for descriptor in worker.watched - worker.wanted:
            self._poll.drop(descriptor)
        worker.watched &= worker.wanted
        try:
            for descriptor in worker.wanted - worker.watched:
                self._poll.want(
                    descriptor,
                    READ,
                    lambda found, _: self._course.noticed(worker, found),
                    functools.partial(self.faulty, worker),
                )
                worker.watched.add(descriptor)
        except OSError as error:
            if not worker.running or not shortage(error):
                raise
            self._restless.add(worker)

    def fail(self, worker: Worker, error: Exception) -> None:
        """A start that failed: its processes die now, the answer goes out when nothing is left of them."""
        failure = typed(error)
        with contextlib.suppress(*FAULTS):  # then it stays a shortage
            failure = own_limit(worker, failure)
        zygote = worker.parent.zygote if worker.parent is not None else None
        if zygote is not None and (zygote.pid_fd < 0 or procfs.ended(zygote.pid_fd)):
            failure = ZygoteError(ZYGOTE_ENDED)  # whatever it led to
        worker.failure = failure.fact()
        if isinstance(failure, ZygoteChangedError) and worker.parent is not None:
            self.end(worker.parent, by="zygote", reason=failure.message)
        self.end(worker, by="killed")

    def end(self, worker: Worker, *, by: By, reason: str = "") -> None:
        """Begin to end `worker`; the first call's `by` and `reason` go into its report."""
        if worker.ending is not None:
            return
        self.watch(worker)
        if not worker.started:
            with contextlib.suppress(*FAULTS):  # what it leaves is killed with its cgroup
                worker.start.abort()
        running = worker.start.running
        worker.ending = Ending(worker.name, running, worker.cgroup, worker.uid, by=by, reason=reason)
        self._restless.add(worker)
        if worker.proof_wanted is not None:
            request, worker.proof_wanted = worker.proof_wanted, None
            self.respond(worker.channel, request)  # that it has ended
        self._forking.end_sessions(worker, reason or ZYGOTE_ENDED)
        self._forking.over(worker)

    def _end_all(self) -> None:
        for worker in list(self.workers.values()):
            self.guard(worker, functools.partial(self.end, worker, by="killed"))
        deadline = time.monotonic() + _STOP_SECONDS
        while self.workers and time.monotonic() < deadline:
            for worker in list(self.workers.values()):
                self.guard(worker, functools.partial(self._course.visit, worker, time.monotonic()))
            time.sleep(min((w.ending.pause for w in self.workers.values() if w.ending), default=0.0))
