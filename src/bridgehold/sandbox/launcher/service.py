"""The launcher's requests and its one loop. Nothing in it waits for a single session.

A worker goes from *starting* (its `Start` or `Fork` is advanced as its descriptors become readable)
over *running* to *ending* (its `Ending` is stepped until nothing is left). Whatever fails on the way
ends the worker, and its uid and cgroup are free only after it. A zygote is a worker too; it forks one
session at a time, and takes its sessions along when it ends.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from bridgehold.errors import (
    BusyError,
    NotFoundError,
    UnsupportedError,
    ZygoteError,
)
from bridgehold.policies.model import Machine
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups.admission import Held, admit
from bridgehold.sandbox.cgroups.none import Leaf as WatchedTree
from bridgehold.sandbox.cgroups.none import Parent as WatchedTrees
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.fork.zygote import Zygote, ZygoteChangedError
from bridgehold.sandbox.launch.hold import child_signals
from bridgehold.sandbox.launch.roots import NotAtHandError
from bridgehold.sandbox.launch.staging import is_device
from bridgehold.sandbox.launcher import requests, room
from bridgehold.sandbox.launcher.begin import begin_launch, check_current
from bridgehold.sandbox.launcher.cells import Cells, OfCells
from bridgehold.sandbox.launcher.channel import Channel, ChannelClosedError
from bridgehold.sandbox.launcher.forking import Forking, hold_pause
from bridgehold.sandbox.launcher.jobs import Jobs
from bridgehold.sandbox.launcher.poll import READ, WRITE, Fails, Poll, apart, nobodys
from bridgehold.sandbox.launcher.proving import Proving, own_limit
from bridgehold.sandbox.launcher.reap import By, Ending
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.uncounted import Watch
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.bounds import check
from bridgehold.sandbox.limits.rlimits import core_handler
from bridgehold.sandbox.limits.shortage import FAULTS, shortage, typed
from bridgehold.sandbox.values import ExitReport, Launched, SandboxSpec, TenantShare

_WATCHDOG_SECONDS = 0.1
_SUSPECT_SECONDS, _SUSPECT_PAUSE = 2.0, 0.01
"""After a notice of memory trouble: how long, and how often, to look whether something was killed.
On v1 the notice comes before the kill."""
_FILTER_PAUSE = 0.002
_STOP_SECONDS = 10.0
_AGAIN_SECONDS, _DEAF_SECONDS = 0.01, 0.01
"""Before what could not be polled for want of room is tried again; and where nothing can be."""
_ZYGOTE_ENDED = "the zygote has ended"
_Start = TypeVar("_Start", requests.LaunchRequest, requests.ForkRequest)


class Launcher:
    """State and requests. Driven by `serve`. What has no underscore is `forking.Owner`'s."""

    def __init__(self, parts: Parts, channel: Channel, journal: socket.socket | None) -> None:
        """`journal`: where starts and ends are recorded; None: nowhere."""
        self.parts = parts
        self._channel = channel
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
        self.recording = Recording(self, journal)
        self._poll = Poll()
        self._journal = -1
        """What is polled of `recording`."""
        self._unheard = False
        """Something could not be polled for want of room: it is tried again."""
        self._over = False
        """The host's own channel has ended. Nothing else ends the loop."""
        self._children = child_signals()
        self._poll.want(channel.fileno(), READ, self._ready(channel), nobodys)
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
        self._unheard = False
        for channel in (self._channel, *self._cells.channels()):
            apart(functools.partial(self._listen, channel), functools.partial(self._mute, channel))
        apart(self._listen_to_journal, self._mute_journal)
        apart(self._wait, self._deaf)
        now = time.monotonic()
        apart(self._watch_trees, nobodys)
        watched = self.workers.values() if self.parts.parent.version == "none" else self._restless
        for worker in [one for one in self._restless if one.wanted != one.watched]:
            self.guard(worker, functools.partial(self.watch, worker, *worker.wanted))
        for worker in list(watched):
            self.guard(worker, functools.partial(self._visit, worker, now))
        apart(functools.partial(self._look_at_uncounted, now), nobodys)
        apart(functools.partial(self._jobs.expire, now), nobodys)
        apart(self._cells.step, nobodys)
        apart(self._reap_left, nobodys)
        apart(self._forking.make_spares, nobodys)

    def _wait(self) -> None:
        self._poll.turn(self._patience())

    def _deaf(self, _: Exception) -> None:
        """It can't be told now what is ready: each is asked; or else, after a pause, the host alone."""
        try:
            self._poll.look(_DEAF_SECONDS)
        except OSError:
            time.sleep(_DEAF_SECONDS)
            self._channel_ready(self._channel, self._channel.fileno(), READ | WRITE)

    def guard(self, worker: Worker, act: Callable[[], None]) -> None:
        """What goes wrong with one worker ends that one, or its start, and no other.

        Not where the machine is short of something: then the next look tells more. One that is ending goes on
        with that.
        """
        apart(act, functools.partial(self._faulty, worker))

    def _faulty(self, worker: Worker, error: Exception) -> None:
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
        waits += [_AGAIN_SECONDS] if self._unheard else []
        if self.workers:
            waits.append(max(0.0, self._uncounted.due - now))
        soonest = min([*waits, self._forking.patience, self._jobs.patience, self._cells.patience])
        return None if soonest == math.inf else soonest

    def _visit(self, worker: Worker, now: float) -> None:
        if worker.ending is not None:
            self._step(worker, worker.ending)
        elif worker.fault is not None:
            self._faulty(worker, worker.fault)
        elif not worker.started and now > worker.record_until:
            self.recording.expire(worker)
        elif not worker.started and now > worker.start.deadline:
            self.fail(worker, worker.start.expire())
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
            self.end(worker, by="")  # v1 kills one process; the session dies whole
        elif worker.running and worker.proof_due is not None:
            request, worker.proof_wanted = worker.proof_due, None
            self.respond(worker.channel, request)
        elif worker.running and worker.suspect_until <= now and worker.wanted == worker.watched:
            self._restless.discard(worker)

    def _out_of_memory(self, worker: Worker, now: float) -> bool:
        if isinstance(worker.cgroup, WatchedTree):
            return worker.cgroup.over()
        return worker.suspect_until > now and worker.cgroup.usage().oom_kills > 0

    def _listen(self, channel: Channel) -> None:
        """Poll `channel` for what can be done with it now."""
        wanted = 0 if channel.full else READ
        wanted = (wanted | WRITE if channel.unsent else wanted) or WRITE
        if not self._poll.wants(channel.fileno(), wanted):
            ready = self._ready(channel)
            self._poll.want(channel.fileno(), wanted, ready, functools.partial(self._mute, channel))

    def _ready(self, channel: Channel) -> Callable[[int, int], None]:
        return functools.partial(self._channel_ready, channel)

    def _mute(self, channel: Channel, error: Exception) -> None:
        """A channel can't be polled, or read: where the machine is short of something, it is tried again."""
        if shortage(error):
            self._unheard = True
        elif not channel.whole:  # of the host's own nothing but its end is one
            self._lost(channel)

    def _listen_to_journal(self) -> None:
        journal = self.recording.channel.fileno() if self.recording.channel is not None else -1
        if journal != self._journal and self._journal >= 0:
            self._poll.drop(self._journal)
        self._journal = journal
        wanted = READ | (WRITE if self.recording.unsent else 0)
        if journal >= 0 and not self._poll.wants(journal, wanted):
            self._poll.want(journal, wanted, self._journal_ready, self._mute_journal)

    def _journal_ready(self, _: int, events: int) -> None:
        self.recording.ready(readable=bool(events & READ))

    def _mute_journal(self, error: Exception) -> None:
        if shortage(error):
            self._unheard = True
        else:
            self.recording.lose(typed(error).message)

    def recorded(self, worker: Worker) -> None:
        """A worker's start is in the audit: its guest may begin."""
        self.guard(worker, functools.partial(self._let_begin, worker))

    def _let_begin(self, worker: Worker) -> None:
        if worker.start.allow():
            self._advance(worker)

    def _channel_ready(self, channel: Channel, _: int, events: int) -> None:
        try:
            if events & WRITE:
                channel.flush()
            request = channel.receive() if events & READ else None
        except ChannelClosedError:
            self._lost(channel)
            return
        if request is not None:
            self.respond(channel, request)

    def _lost(self, channel: Channel) -> None:
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
            self._lost(channel)

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
                    answer = self._handle(channel, request)
            except NotAtHandError as wait:
                self._jobs.open(channel, request, wait.spec)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            answer = requests.Answer(id=request.id, error=typed(error).info())
        if answer is not None:
            self.tell(channel, answer)

    def _account(self, request: requests.AccountRequest) -> None:
        worker = self.find(request.worker)
        answer = requests.Answer(id=request.id, usage=worker.cgroup.usage())
        self.tell(worker.channel, answer, worker.cgroup.account())

    def _handle(self, channel: Channel, request: requests.Request) -> requests.Answer | None:
        """The answer, or None where it comes later."""
        name = getattr(request, "worker", None) or getattr(request, "zygote", None)
        known = self.workers.get(name) if name is not None else None
        if known is not None and known.channel is not channel:
            raise NotFoundError(
                f"no worker {known.name[:40]}"
            )  # another's, and one that never was, look alike
        match request:
            case requests.MachineRequest():
                return requests.Answer(id=request.id, machine=self._machine())
            case requests.AttestRequest():
                self._proving.attest(request)
            case requests.UsageRequest():
                return requests.Answer(id=request.id, usage=self.find(request.worker).cgroup.usage())
            case requests.AccountRequest():
                self._account(request)
            case requests.CurrentRequest():
                check_current(self.find(request.worker), self.parts)
                return requests.Answer(id=request.id)
            case requests.LaunchRequest():
                self._launch(channel, request)
            case requests.ForkRequest():
                channel.demand(request.spec)
                self._forking.fork(_shared(channel, request))
            case requests.KillRequest():
                worker = self.find(request.worker)
                worker.killers.append(request.id)
                self.end(worker, by="killed")
            case requests.SealRequest():
                self._jobs.seal(channel, request)
            case _:
                self._handle_cells(channel, request)
        return None

    def _handle_cells(self, channel: Channel, request: OfCells) -> None:
        if isinstance(request, requests.OpenRequest):
            uid, namespace = self._cells.open(channel, request)
            self.tell(channel, requests.Answer(id=request.id, cell_uid=uid), namespace)
            return
        if (ending := self._cells.handle(channel, request)) is not None:
            self._lost(ending)
        self.tell(channel, requests.Answer(id=request.id))

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

    def _machine(self) -> Machine:
        return Machine(
            cgroup=self.parts.parent.version,
            uids=self.parts.uids.range.mode,
            seccomp=True,
            memory_bytes=self.parts.parent.capacity_bytes,
            cpus=os.cpu_count() or 1,
            devices=tuple(name for name in self.parts.bounds.devices if is_device(name)),
            core_handler=core_handler(
                procfs.read("/proc/sys/kernel/core_pattern"), resource.getrlimit(resource.RLIMIT_CORE)[0]
            ),
        )

    def _launch(self, channel: Channel, request: requests.LaunchRequest) -> None:
        channel.demand(request.spec)
        request = _shared(channel, request)
        self.recording.demand()
        self.admit(request.spec, request.share)
        worker = begin_launch(self.parts, request, channel)
        self.add(worker)
        self.guard(worker, functools.partial(self._set_out, worker))

    def _set_out(self, worker: Worker) -> None:
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
                    lambda found, _: self._noticed(worker, found),
                    functools.partial(self._faulty, worker),
                )
                worker.watched.add(descriptor)
        except OSError as error:
            if not worker.running or not shortage(error):
                raise
            self._restless.add(worker)

    def _noticed(self, worker: Worker, descriptor: int) -> None:
        if not worker.started:
            self._advance(worker)
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
            self._restless.add(worker)

    def _ended(self, worker: Worker) -> None:
        """By itself; or with its zygote, of whose end the kernel may tell later than of its forks'."""
        init = worker.parent.start.running if worker.parent is not None else None
        if init is not None and procfs.ending(init.init, init.init_start):
            self.end(worker, by="zygote", reason=_ZYGOTE_ENDED)
        else:
            self.end(worker, by="")

    def _advance(self, worker: Worker) -> None:
        start = worker.start
        self.watch(worker)  # a step may close what is watched
        try:
            if not start.advance():
                self.watch(worker, start.waits_for)
                self._forking.ready(worker)
                return
            if worker.spec.kind == "zygote":
                worker.zygote = Zygote(worker.spec, start.running, worker.cgroup, worker.uid)
            self.watch_running(worker)
            if worker.staged is not None:
                self.parts.stage.release(worker.staged)
        except FAULTS as error:
            self.fail(worker, error)
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
        self.tell(worker.channel, requests.Answer(id=worker.request, launched=launched), ends)
        self._forking.over(worker)

    def watch_running(self, worker: Worker) -> None:
        """Watch for the end of a worker that has started, and for its running out of memory."""
        running = worker.start.running
        first = running.first_fd if running.first_fd >= 0 else None
        held = worker.zygote.pid_fd if worker.zygote and running.hold and not running.hold.gone else None
        self.watch(worker, running.monitor_fd, worker.cgroup.oom_fd(), first, held)

    def _alone(self, worker: Worker) -> None:
        """A fork's first process is gone: what is left is the worker's own."""
        running = worker.start.running
        descriptor, running.first_fd = running.first_fd, -1
        self.watch_running(worker)
        os.close(descriptor)
        request, worker.proof_wanted = worker.proof_wanted, None
        if request is not None:
            self.respond(worker.channel, request)

    def fail(self, worker: Worker, error: Exception) -> None:
        """A start that failed: its processes die now, the answer goes out when nothing is left of them."""
        failure = typed(error)
        with contextlib.suppress(*FAULTS):  # then it stays a shortage
            failure = own_limit(worker, failure)
        zygote = worker.parent.zygote if worker.parent is not None else None
        if zygote is not None and (zygote.pid_fd < 0 or procfs.ended(zygote.pid_fd)):
            failure = ZygoteError(_ZYGOTE_ENDED)  # whatever it led to
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
        self._forking.end_sessions(worker, reason or _ZYGOTE_ENDED)
        self._forking.over(worker)

    def _step(self, worker: Worker, ending: Ending) -> None:
        try:
            report = ending.step()
        except Exception:  # noqa: BLE001 - what can't be told now is asked again: nothing counts as gone before
            report = None
            ending.failed()
        if report is not None:
            apart(functools.partial(self._forget, worker), nobodys)
            apart(functools.partial(self.recording.ended, worker, report), nobodys)
            apart(functools.partial(self._report, worker, report), nobodys)
        elif ending.slow:
            self._reap_orphans()
        if report is None and ending.overdue and worker.killers:
            stuck = BusyError(f"processes of {worker.name} do not die; the kernel still holds them")
            for request in worker.killers:
                self.tell(worker.channel, requests.Answer(id=request, error=stuck.info()))
            worker.killers = []

    def _reap_left(self) -> None:
        for pid in list(self.left):
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    continue
            self.left.discard(pid)

    def _reap_orphans(self) -> None:
        """What was killed while it made namespaces leaves children, which keep others from ending."""
        starts = [worker.start for worker in self.workers.values()]
        own = {start.running.monitor for start in starts}
        own |= {start.helper for start in starts if isinstance(start, Fork)}
        own |= self._jobs.children | self._uncounted.children
        own |= self.parts.parent.looking if isinstance(self.parts.parent, WatchedTrees) else set()
        own |= {worker.zygote.helper for worker in self.workers.values() if worker.zygote is not None}
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
        del self.workers[worker.name]
        self._restless.discard(worker)
        for uid in (worker.uid, worker.root_uid):
            if uid is not None:
                self.parts.uids.give_back(uid)
        if worker.parent is not None and worker.parent.zygote is not None:
            worker.parent.zygote.sessions.discard(worker.name)
        if worker.zygote is not None:
            worker.zygote.close()
            self.left |= worker.zygote.left
        if worker.staged is not None:
            with contextlib.suppress(*FAULTS):  # an empty folder may stay, until the launcher ends
                self.parts.stage.discard(worker.staged)
        with contextlib.suppress(*FAULTS):  # the next one tidies again
            self.parts.parent.tidy()

    def _report(self, worker: Worker, report: ExitReport) -> None:
        if not worker.request:
            return  # made ahead, and never wanted
        if not worker.started:
            early = UnsupportedError("the launcher ended before the sandbox had started")
            self.tell(
                worker.channel, requests.Answer(id=worker.request, error=worker.failure or early.fact())
            )
            return
        self.tell(worker.channel, requests.Answer(id=0, exited=report))
        for request in worker.killers:
            self.tell(worker.channel, requests.Answer(id=request, exited=report))

    def _end_all(self) -> None:
        for worker in list(self.workers.values()):
            self.guard(worker, functools.partial(self.end, worker, by="killed"))
        deadline = time.monotonic() + _STOP_SECONDS
        while self.workers and time.monotonic() < deadline:
            for worker in list(self.workers.values()):
                self.guard(worker, functools.partial(self._visit, worker, time.monotonic()))
            time.sleep(min((w.ending.pause for w in self.workers.values() if w.ending), default=0.0))


def _shared(channel: Channel, request: _Start) -> _Start:
    """The request, with its tenant's share as the host says it (pure)."""
    return request if channel.whole else msgspec.structs.replace(request, share=channel.share)
