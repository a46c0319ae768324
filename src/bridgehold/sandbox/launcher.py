"""The launcher: the only process with privilege. It starts, proves and ends sandboxes.

``python -m bridgehold.sandbox.launcher --fd-control N --fd-config M``. It parses no guest
byte. One poll loop on one thread: bubblewrap's parent-death signal is tied to the thread that forks.
EOF on the control socket means the host is gone: every sandbox is killed, every cgroup removed, and
the launcher ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from bridgehold.errors import AttestationError, BridgeholdError, BusyError, NotFoundError, UnsupportedError
from bridgehold.ids import new_worker_id
from bridgehold.policies.model import Machine
from bridgehold.policies.units import format_size
from bridgehold.sandbox import attest, requests, seal, syscalls, userns
from bridgehold.sandbox.bounds import Bounds, check
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup, open_parent
from bridgehold.sandbox.cgroups.none import Leaf as WatchedTree
from bridgehold.sandbox.launch import LaunchPlan, Running, launch, listen_inside
from bridgehold.sandbox.reap import Ending
from bridgehold.sandbox.seccomp import compile_filter
from bridgehold.sandbox.spec import spec_digest
from bridgehold.sandbox.uids import UidPool, UidRange
from bridgehold.sandbox.values import ExitReport, Launched, SandboxSpec
from bridgehold.sandbox.view import open_view

_STEP_SECONDS = 0.002
_WATCHDOG_SECONDS = 0.1
_STOP_SECONDS = 10.0


class LauncherConfig(msgspec.Struct, frozen=True, kw_only=True):
    read_roots: tuple[str, ...]
    build_root: str
    uid_folder: str
    uid_first: int
    uid_count: int
    cgroup: str = "auto"
    reserve_bytes: int
    overcommit: bool = False
    shared_uid: bool = False
    """Named weakening: without a uid range, run every session under this user's own uid."""


class Worker(msgspec.Struct, kw_only=True):
    name: str
    spec: SandboxSpec
    uid: int
    running: Running
    cgroup: SessionCgroup
    ending: Ending | None = None
    waiting: list[int] = []


class Launcher:
    """State and requests. Driven by `serve`."""

    def __init__(self, config: LauncherConfig, control: socket.socket) -> None:
        self._config = config
        self._control = control
        self._uids = UidPool(_uid_range(config), Path(config.uid_folder))
        instance = f"{os.getpid()}-{attest.observe(os.getpid()).start_time}"
        self._parent: CgroupParent = open_parent(
            config.cgroup, reserve_bytes=config.reserve_bytes, instance=instance
        )
        self._parent.sweep()
        self._filter = compile_filter()
        self._bwrap = _find_bwrap()
        self._bounds = Bounds(
            read_roots=("/usr", "/etc", *config.read_roots),
            build_root=config.build_root,
            max_memory_bytes=self._parent.capacity_bytes,
        )
        self._workers: dict[str, Worker] = {}
        self._own = attest.own_namespaces()

    def serve(self) -> None:
        """Until EOF on the control socket; then everything is ended."""
        try:
            while self._turn():
                pass
        finally:
            self._end_all()
            self._parent.close()

    def _turn(self) -> bool:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        owners: dict[int, Worker] = {}
        for worker in self._workers.values():
            if worker.ending is None:
                for descriptor in (worker.running.monitor_fd, worker.cgroup.oom_fd()):
                    if descriptor is not None:
                        owners[descriptor] = worker
                        poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(self._timeout_ms()):
            if descriptor == self._control.fileno():
                if not self._serve_one():
                    return False
            elif owners[descriptor].name in self._workers and owners[descriptor].ending is None:
                self._noticed(owners[descriptor], descriptor)
        self._watch_trees()
        self._step_endings()
        return True

    def _timeout_ms(self) -> float | None:
        if any(worker.ending is not None for worker in self._workers.values()):
            return _STEP_SECONDS * 1000
        if self._parent.version == "none" and self._workers:
            return _WATCHDOG_SECONDS * 1000
        return None

    def _noticed(self, worker: Worker, descriptor: int) -> None:
        if descriptor == worker.running.monitor_fd:
            self._end(worker, killed=False)
            return
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, 4096)
        if worker.cgroup.usage().oom_kills:  # v1 kills one process; the session dies whole
            self._end(worker, killed=False)

    def _watch_trees(self) -> None:
        for worker in self._workers.values():
            tree = worker.cgroup
            if worker.ending is None and isinstance(tree, WatchedTree) and tree.over():
                self._end(worker, killed=False)

    def _end(self, worker: Worker, *, killed: bool) -> None:
        if worker.ending is None:
            worker.ending = Ending(worker.name, worker.running, worker.cgroup, worker.uid, killed=killed)

    def _step_endings(self) -> None:
        for worker in [w for w in self._workers.values() if w.ending is not None]:
            report = worker.ending.step() if worker.ending is not None else None
            if report is not None:
                del self._workers[worker.name]
                self._uids.give_back(worker.uid)
                self._report(worker, report)

    def _report(self, worker: Worker, report: ExitReport) -> None:
        with contextlib.suppress(OSError):
            self._send(requests.Answer(id=0, exited=report))
            for request_id in worker.waiting:
                self._send(requests.Answer(id=request_id, exited=report))

    def _serve_one(self) -> bool:
        try:
            data = self._control.recv(requests.MAX_DATAGRAM)
        except ConnectionError:
            return False
        if not data:
            return False
        try:
            request = msgspec.json.decode(data, type=requests.Request)
        except msgspec.MsgspecError as error:
            sys.stderr.write(f"launcher: a request that is none ({error}); the host is not sound\n")
            return False
        descriptors: list[int] = []
        try:
            answer, descriptors = self._handle(request)
        except BridgeholdError as error:
            answer = requests.Answer(id=request.id, error=error.info())
        except OSError as error:
            failure = UnsupportedError(f"{type(request).__name__}: {error}")
            answer = requests.Answer(id=request.id, error=failure.info())
        if answer is not None:
            self._send(answer, descriptors)
        return True

    def _send(self, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        try:
            socket.send_fds(self._control, [msgspec.json.encode(answer)], descriptors or [])
        finally:
            for descriptor in descriptors or []:
                os.close(descriptor)

    def _handle(self, request: requests.Request) -> tuple[requests.Answer | None, list[int]]:
        match request:
            case requests.MachineRequest():
                return requests.Answer(id=request.id, machine=self._machine()), []
            case requests.LaunchRequest():
                launched, descriptors = self._launch(request.spec)
                return requests.Answer(id=request.id, launched=launched), descriptors
            case requests.AttestRequest():
                return self._attest(request), []
            case requests.UsageRequest():
                return requests.Answer(id=request.id, usage=self._find(request.worker).cgroup.usage()), []
            case requests.KillRequest():
                worker = self._find(request.worker)
                worker.waiting.append(request.id)
                self._end(worker, killed=True)
                return None, []
            case requests.SealRequest():
                sealed = seal.seal(request.path, self._config.build_root)
                return requests.Answer(id=request.id, sealed=sealed), []

    def _find(self, name: str) -> Worker:
        worker = self._workers.get(name)
        if worker is None:
            raise NotFoundError(f"no worker {name[:40]}")
        return worker

    def _machine(self) -> Machine:
        return Machine(
            cgroup=self._parent.version,
            uids=self._uids.range.mode,
            seccomp=True,
            memory_bytes=self._parent.capacity_bytes,
            cpus=os.cpu_count() or 1,
        )

    def _admit(self, spec: SandboxSpec) -> None:
        promised = sum(worker.spec.resources.memory_bytes for worker in self._workers.values())
        wanted = spec.resources.memory_bytes
        if not self._config.overcommit and promised + wanted > self._parent.capacity_bytes:
            raise BusyError(
                f"{format_size(wanted)} more do not fit: sessions hold {format_size(promised)} of "
                f"{format_size(self._parent.capacity_bytes)}",
                hint="End sessions, lower `[limits] memory`, or name the weakening `[host] overcommit`.",
            )

    def _launch(self, spec: SandboxSpec) -> tuple[Launched, list[int]]:
        check(spec, self._bounds)
        self._admit(spec)
        name = new_worker_id()
        uid = self._uids.take()
        cgroup: SessionCgroup | None = None
        started = time.perf_counter_ns()
        try:
            cgroup = self._parent.create(name, spec.resources)
            made_us = (time.perf_counter_ns() - started) // 1000
            if spec.kind == "installer":
                seal.give(next(m.source for m in spec.mounts if m.kind == "bind"), uid)
            plan = LaunchPlan(
                spec=spec,
                bwrap=self._bwrap,
                uid=uid,
                seccomp=self._filter,
                as_limit=self._parent.version == "none",
            )
            running = launch(plan, cgroup)
        except BaseException:
            if cgroup is not None:
                cgroup.kill()
                cgroup.remove()
            self._uids.give_back(uid)
            raise
        worker = Worker(name=name, spec=spec, uid=uid, running=running, cgroup=cgroup, waiting=[])
        self._workers[name] = worker
        descriptors = list(running.host_ends)
        if spec.gateway_port:
            begun = time.perf_counter_ns()
            try:
                descriptors.append(listen_inside(running.init, spec.gateway_port).detach())
            except OSError as error:
                self._end(worker, killed=True)
                for descriptor in descriptors:
                    os.close(descriptor)
                raise UnsupportedError(f"no listener inside the sandbox: {error}") from error
            running.phases_us["listener"] = (time.perf_counter_ns() - begun) // 1000
        phases = {"cgroup": made_us, **running.phases_us}
        launched = Launched(
            worker=name,
            pid=running.init,
            uid=uid,
            spec_digest=spec_digest(spec),
            phases_us=phases,
            descriptors=len(descriptors),
        )
        return launched, descriptors

    def _attest(self, request: requests.AttestRequest) -> requests.Answer:
        worker = self._find(request.worker)
        if worker.ending is not None:
            raise NotFoundError(f"worker {worker.name} has ended")
        read_only, writable = attest.expected_mounts(worker.spec)
        expected = attest.Expected(
            uid=worker.uid,
            net=worker.running.net,
            monitor=worker.running.monitor,
            init=worker.running.init,
            own_namespaces=self._own,
            read_only=read_only,
            writable=writable,
        )
        seen = []
        for pid in worker.cgroup.processes():
            with contextlib.suppress(OSError):
                seen.append(attest.observe(pid))
        differences = attest.compare(expected, seen)
        if differences:
            self._end(worker, killed=True)
            raise AttestationError("; ".join(differences)[:4000])
        proof = attest.attestation(worker.name, expected, seen, worker.cgroup.path, differences)
        return requests.Answer(id=request.id, attestation=proof)

    def _end_all(self) -> None:
        for worker in self._workers.values():
            self._end(worker, killed=True)
        deadline = time.monotonic() + _STOP_SECONDS
        while self._workers and time.monotonic() < deadline:
            self._step_endings()
            time.sleep(_STEP_SECONDS)


def _uid_range(config: LauncherConfig) -> UidRange:
    if os.getuid() == 0 and _ENTERED_COUNT:
        return UidRange(mode="subuid", first=1, count=_ENTERED_COUNT[0])
    if os.getuid() == 0:
        return UidRange(mode="range", first=config.uid_first, count=config.uid_count)
    if config.shared_uid:
        return UidRange(mode="shared", first=os.getuid(), count=1)
    raise UnsupportedError(
        "no uids for sessions: not root, and no subordinate range",
        hint="Add a line for this user to /etc/subuid and /etc/subgid (usermod --add-subuids), install "
        "uidmap, or name the weakening `shared_uid`.",
    )


_ENTERED_COUNT: list[int] = []
"""How many subordinate uids this process maps, once it has entered its namespace."""


def _find_bwrap() -> str:
    found = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if found is None:
        raise UnsupportedError("bubblewrap is missing", hint="Install it: apt-get install bubblewrap")
    return found


def main() -> int:
    """The process. Exits 0 after an orderly end, the error's status where it can't start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd-control", type=int, required=True)
    parser.add_argument("--fd-config", type=int, required=True)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(arguments.fd_config, "rb") as file:
        config = msgspec.json.decode(file.read(), type=LauncherConfig)
    control = socket.socket(fileno=arguments.fd_control)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end is EOF, after the host has said why
    try:
        ranges = userns.own_ranges() if os.getuid() != 0 else None
        if ranges is not None:
            _ENTERED_COUNT.append(userns.enter(ranges))
            open_view([Path(root) for root in (*config.read_roots, config.build_root, config.uid_folder)])
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        Launcher(config, control).serve()
    except BridgeholdError as error:
        sys.stderr.write(f"bridgehold: {error.message}" + (f" ({error.hint})" if error.hint else "") + "\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
