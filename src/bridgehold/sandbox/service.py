"""The launcher's requests and its one loop. Nothing in it waits for a single session.

A worker goes from *starting* (its `Start` is advanced as its descriptors become readable) over
*running* to *ending* (its `Ending` is stepped until nothing is left). Whatever fails on the way
ends the worker, and its uid and cgroup are free only after it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable

import msgspec

from bridgehold.errors import AttestationError, BridgeholdError, BusyError, NotFoundError, UnsupportedError
from bridgehold.ids import new_worker_id
from bridgehold.policies.model import Machine
from bridgehold.sandbox import attest, requests
from bridgehold.sandbox.bounds import Bounds, check
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup
from bridgehold.sandbox.cgroups.admission import admit
from bridgehold.sandbox.cgroups.none import Leaf as WatchedTree
from bridgehold.sandbox.channel import Channel, ChannelClosedError
from bridgehold.sandbox.launch import LaunchPlan, Start
from bridgehold.sandbox.reap import Ending
from bridgehold.sandbox.seal import SealJob, empty_tree, give, seal_tree
from bridgehold.sandbox.spec import spec_digest
from bridgehold.sandbox.staging import NoStage, Roots, Stage, Staged
from bridgehold.sandbox.uids import UidPool
from bridgehold.sandbox.values import ExitReport, Launched, SandboxSpec

_WATCHDOG_SECONDS = 0.1
_SUSPECT_SECONDS, _SUSPECT_PAUSE = 2.0, 0.01
"""After a notice of memory trouble: how long, and how often, to look whether something was killed.
On v1 the notice comes before the kill."""
_STOP_SECONDS = 10.0
_MOST_PROCESSES = 64
"""A worker that has more than this many before it is attested is refused unread."""
_FAULTS = (BridgeholdError, OSError, ValueError, KeyError)
"""What one worker's start may raise; it ends that worker and no other."""


class Parts(msgspec.Struct, kw_only=True):
    """What the launcher has set up by the time it serves."""

    bounds: Bounds
    overcommit: bool
    parent: CgroupParent
    uids: UidPool
    roots: Roots
    stage: Stage | NoStage
    seccomp: bytes
    bwrap: str


class Worker:
    """One sandbox, from the request on."""

    def __init__(self, name: str, spec: SandboxSpec, uid: int, request: int) -> None:
        self.name = name
        self.spec = spec
        self.uid = uid
        self.request = request
        self.cgroup: SessionCgroup
        self.staged: Staged
        self.start: Start
        self.started = False
        self.ending: Ending | None = None
        self.failure: BridgeholdError | None = None
        self.killers: list[int] = []
        """Ids of `kill` requests that wait for its end."""
        self.watched: set[int] = set()
        self.suspect_until = 0.0
        """Monotonic time up to which a kill for memory may still show."""

    @property
    def running(self) -> bool:
        return self.started and self.ending is None


class Launcher:
    """State and requests. Driven by `serve`."""

    def __init__(self, parts: Parts, channel: Channel) -> None:
        self._parts = parts
        self._channel = channel
        self._workers: dict[str, Worker] = {}
        self._seals: dict[int, tuple[int, SealJob]] = {}
        self._own = attest.own_namespaces()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._control_ready)

    def serve(self) -> None:
        """Until the host is gone; then everything is ended."""
        try:
            with contextlib.suppress(ChannelClosedError):
                while True:
                    self._turn()
        finally:
            self._end_all()

    def _turn(self) -> None:
        wanted = 0 if self._channel.full else selectors.EVENT_READ
        wanted |= selectors.EVENT_WRITE if self._channel.unsent else 0
        self._selector.modify(self._channel, wanted or selectors.EVENT_WRITE, self._control_ready)
        for key, events in self._selector.select(self._patience()):
            ready: Callable[[int, int], None] = key.data
            ready(key.fd, events)
        now = time.monotonic()
        for worker in list(self._workers.values()):
            self._visit(worker, now)

    def _patience(self) -> float | None:
        """Seconds until something is due that no descriptor tells of."""
        waits = [w.ending.pause for w in self._workers.values() if w.ending is not None]
        now = time.monotonic()
        waits += [max(0.0, w.start.deadline - now) for w in self._workers.values() if not w.started]
        if any(w.running and w.suspect_until > now for w in self._workers.values()):
            waits.append(_SUSPECT_PAUSE)
        if self._parts.parent.version == "none" and self._workers:
            waits.append(_WATCHDOG_SECONDS)
        return min(waits, default=None)

    def _visit(self, worker: Worker, now: float) -> None:
        if worker.ending is not None:
            self._step(worker, worker.ending)
        elif not worker.started and now > worker.start.deadline:
            self._fail(worker, worker.start.expire())
        elif worker.running and self._out_of_memory(worker, now):
            self._end(worker, killed=False)  # v1 kills one process; the session dies whole

    def _out_of_memory(self, worker: Worker, now: float) -> bool:
        if isinstance(worker.cgroup, WatchedTree):
            return worker.cgroup.over()
        return worker.suspect_until > now and worker.cgroup.usage().oom_kills > 0

    def _control_ready(self, _: int, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._channel.flush()
        if not events & selectors.EVENT_READ:
            return
        request = self._channel.receive()
        if request is None:
            return
        try:
            answer = self._handle(request)
        except BridgeholdError as error:
            answer = requests.Answer(id=request.id, error=error.info())
        except (OSError, ValueError, KeyError) as error:
            failure = UnsupportedError(f"{type(request).__name__}: {error}")
            answer = requests.Answer(id=request.id, error=failure.info())
        if answer is not None:
            self._channel.send(answer)

    def _handle(self, request: requests.Request) -> requests.Answer | None:
        match request:
            case requests.MachineRequest():
                return requests.Answer(id=request.id, machine=self._machine())
            case requests.LaunchRequest():
                self._launch(request)
                return None
            case requests.AttestRequest():
                return self._attest(request)
            case requests.UsageRequest():
                return requests.Answer(id=request.id, usage=self._find(request.worker).cgroup.usage())
            case requests.KillRequest():
                worker = self._find(request.worker)
                worker.killers.append(request.id)
                self._end(worker, killed=True)
                return None
            case requests.SealRequest():
                self._seal(request)
                return None

    def _find(self, name: str) -> Worker:
        worker = self._workers.get(name)
        if worker is None or not worker.started:
            raise NotFoundError(f"no worker {name[:40]}")
        return worker

    def _machine(self) -> Machine:
        return Machine(
            cgroup=self._parts.parent.version,
            uids=self._parts.uids.range.mode,
            seccomp=True,
            memory_bytes=self._parts.parent.capacity_bytes,
            cpus=os.cpu_count() or 1,
        )

    def _launch(self, request: requests.LaunchRequest) -> None:
        parts, spec = self._parts, request.spec
        check(spec, parts.bounds)
        promised = [worker.spec.resources for worker in self._workers.values()]
        admit(spec.resources, promised, parts.parent.capacity, overcommit=parts.overcommit)
        begun = time.perf_counter_ns()
        worker = Worker(new_worker_id(), spec, parts.uids.take(), request.id)
        with contextlib.ExitStack() as undo:
            undo.callback(parts.uids.give_back, worker.uid)
            worker.cgroup = parts.parent.create(worker.name, spec.resources)
            undo.callback(worker.cgroup.remove)
            made = time.perf_counter_ns()
            self._give_build(worker)
            worker.staged = parts.stage.prepare(worker.name, spec, worker.uid)
            undo.callback(parts.stage.discard, worker.staged)
            staged = time.perf_counter_ns()
            plan = LaunchPlan(
                spec=spec,
                bwrap=parts.bwrap,
                uid=worker.uid,
                seccomp=parts.seccomp,
                staged=worker.staged,
                as_limit=parts.parent.version == "none",
                shared_uid=parts.uids.range.mode == "shared",
            )
            worker.start = Start(plan, worker.cgroup)
            undo.pop_all()
        phases = worker.start.running.phases_us
        phases |= {"cgroup": (made - begun) // 1000, "stage": (staged - made) // 1000}
        self._workers[worker.name] = worker
        self._watch(worker, worker.start.waits_for)

    def _give_build(self, worker: Worker) -> None:
        for mount in worker.spec.mounts:
            if mount.kind == "bind":
                if self._builder(mount.source):
                    raise BusyError(f"another installer works in {mount.source}", where=mount.source)
                descriptor = self._parts.roots.open_build(mount.source, flags=os.O_RDONLY)
                try:
                    give(descriptor, worker.uid)
                finally:
                    os.close(descriptor)

    def _builder(self, path: str) -> bool:
        """Whether an installer that writes to `path` is not gone yet."""
        binds = (m.source for w in self._workers.values() for m in w.spec.mounts if m.kind == "bind")
        return path in binds

    def _watch(self, worker: Worker, *descriptors: int) -> None:
        """Poll these for `worker`, and nothing else."""

        def ready(descriptor: int, _: int) -> None:
            if descriptor in worker.watched:
                self._noticed(worker, descriptor)

        for descriptor in worker.watched - set(descriptors):
            self._selector.unregister(descriptor)
        for descriptor in set(descriptors) - worker.watched:
            self._selector.register(descriptor, selectors.EVENT_READ, ready)
        worker.watched = set(descriptors)

    def _noticed(self, worker: Worker, descriptor: int) -> None:
        if not worker.started:
            self._advance(worker)
        elif descriptor == worker.start.running.monitor_fd:
            self._end(worker, killed=False)
        else:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
            worker.suspect_until = time.monotonic() + _SUSPECT_SECONDS

    def _advance(self, worker: Worker) -> None:
        start = worker.start
        self._watch(worker)  # a step may close what is watched
        try:
            worker.started = start.advance()
        except _FAULTS as error:
            self._fail(worker, error if isinstance(error, BridgeholdError) else _unsupported(error))
            return
        if not worker.started:
            self._watch(worker, start.waits_for)
            return
        self._parts.stage.release(worker.staged)
        oom = worker.cgroup.oom_fd()
        self._watch(worker, start.running.monitor_fd, *([] if oom is None else [oom]))
        ends = list(start.running.host_ends)
        start.running.host_ends = ()
        launched = Launched(
            worker=worker.name,
            pid=start.running.init,
            uid=worker.uid,
            spec_digest=spec_digest(worker.spec),
            phases_us=start.running.phases_us,
            descriptors=len(ends),
        )
        self._channel.send(requests.Answer(id=worker.request, launched=launched), ends)

    def _fail(self, worker: Worker, error: BridgeholdError) -> None:
        """A start that failed: its child dies now, the answer goes out when nothing is left of it."""
        worker.failure = error
        self._end(worker, killed=True)

    def _end(self, worker: Worker, *, killed: bool) -> None:
        if worker.ending is not None:
            return
        self._watch(worker)
        if not worker.started:
            worker.start.abort()
        running = worker.start.running
        worker.ending = Ending(worker.name, running, worker.cgroup, worker.uid, killed=killed)

    def _step(self, worker: Worker, ending: Ending) -> None:
        report = ending.step()
        if report is not None:
            del self._workers[worker.name]
            self._parts.stage.discard(worker.staged)
            self._parts.uids.give_back(worker.uid)
            self._report(worker, report)
        elif ending.overdue and worker.killers:
            stuck = BusyError(f"processes of {worker.name} do not die; the kernel still holds them")
            for request in worker.killers:
                self._channel.send(requests.Answer(id=request, error=stuck.info()))
            worker.killers = []

    def _report(self, worker: Worker, report: ExitReport) -> None:
        if not worker.started:
            error = worker.failure or UnsupportedError("the launcher ended before the sandbox had started")
            self._channel.send(requests.Answer(id=worker.request, error=error.info()))
            return
        self._channel.send(requests.Answer(id=0, exited=report))
        for request in worker.killers:
            self._channel.send(requests.Answer(id=request, exited=report))

    def _attest(self, request: requests.AttestRequest) -> requests.Answer:
        worker = self._find(request.worker)
        if worker.ending is not None:
            raise NotFoundError(f"worker {worker.name} has ended")
        running = worker.start.running
        shared = self._parts.uids.range.mode == "shared"
        expected = attest.Expected(
            uid=worker.uid,
            gid=os.getgid() if shared else worker.uid,
            groups=frozenset(os.getgroups()) if shared else frozenset(),
            net=running.net,
            monitor=running.monitor,
            init=running.init,
            init_start=running.init_start,
            own_namespaces=self._own,
            mounts=attest.expected_mounts(worker.spec, worker.staged.identities),
        )
        pids = {*worker.cgroup.processes(), *attest.descendants(running.monitor)}
        seen, differences = attest.observe_all(pids, worker.cgroup, most=_MOST_PROCESSES)
        differences += attest.compare(expected, seen)
        if differences:
            self._end(worker, killed=True)
            raise AttestationError("; ".join(differences)[:4000])
        proof = attest.attestation(worker.name, expected, seen, worker.cgroup.path, differences)
        return requests.Answer(id=request.id, attestation=proof)

    def _seal(self, request: requests.SealRequest) -> None:
        if self._builder(request.path):
            raise BusyError(f"an installer still works in {request.path}", where=request.path)
        top = self._parts.roots.open_build(request.path, flags=os.O_RDONLY)
        job = SealJob(top, request.path, seal_tree if not request.empty else empty_tree)
        self._seals[job.descriptor] = (request.id, job)
        self._selector.register(job.descriptor, selectors.EVENT_READ, self._sealed)

    def _sealed(self, descriptor: int, _: int) -> None:
        self._selector.unregister(descriptor)
        request, job = self._seals.pop(descriptor)
        try:
            answer = requests.Answer(id=request, sealed=job.finish())
        except BridgeholdError as error:
            answer = requests.Answer(id=request, error=error.info())
        self._channel.send(answer)

    def _end_all(self) -> None:
        for worker in self._workers.values():
            self._end(worker, killed=True)
        deadline = time.monotonic() + _STOP_SECONDS
        while self._workers and time.monotonic() < deadline:
            for worker in list(self._workers.values()):
                if worker.ending is not None:
                    with contextlib.suppress(ChannelClosedError):
                        self._step(worker, worker.ending)
            time.sleep(min((w.ending.pause for w in self._workers.values() if w.ending), default=0.0))


def _unsupported(error: Exception) -> UnsupportedError:
    return UnsupportedError(f"the sandbox did not start: {error}")
