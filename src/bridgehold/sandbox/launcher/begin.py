"""The beginning of a sandbox, cold or forked: what it is given before its first process is there.

Whatever raises here has left nothing behind.
"""

from __future__ import annotations

import contextlib
import time

import msgspec

from bridgehold.errors import ReplacedError, UnsupportedError
from bridgehold.ids import new_worker_id
from bridgehold.sandbox.fork.forks import Fork, ForkPlan
from bridgehold.sandbox.fork.zygote import Zygote
from bridgehold.sandbox.launch.cold import LaunchPlan, Start
from bridgehold.sandbox.launch.uids import uid_map
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.bounds import check_fork
from bridgehold.sandbox.values import SandboxSpec


def begin_launch(parts: Parts, request: requests.LaunchRequest, channel: Channel) -> Worker:
    """Uid, cgroup and stage, and then the process that becomes bubblewrap."""
    spec = request.spec
    if spec.kind == "zygote" and not parts.forks:
        raise UnsupportedError("no session can be forked here: each needs a cgroup and a uid of its own")
    begun = time.perf_counter_ns()
    worker = Worker(new_worker_id(), spec, parts.uids.take(), request.id, channel)
    worker.note = request.note
    with contextlib.ExitStack() as undo:
        undo.callback(parts.uids.give_back, worker.uid)
        if spec.kind == "zygote":
            worker.root_uid = parts.uids.take()
            undo.callback(parts.uids.give_back, worker.root_uid)
        worker.cgroup = parts.parent.create(
            worker.name, spec.resources, tenant=spec.tenant, share=request.share
        )
        undo.callback(worker.cgroup.remove)
        made = time.perf_counter_ns()
        worker.staged = parts.stage.prepare(worker.name, spec, worker.uid)
        undo.callback(parts.stage.discard, worker.staged)
        staged = time.perf_counter_ns()
        plan = LaunchPlan(
            spec=spec,
            bwrap=parts.bwrap,
            uid=worker.uid,
            seccomp=parts.seccomp,
            staged=worker.staged,
            rlimits=parts.rlimits(spec),
        )
        if worker.root_uid is not None:
            plan = msgspec.structs.replace(
                plan,
                seccomp=parts.zygote_seccomp,
                uid_map=uid_map(parts.uids.range, worker.root_uid),
            )
        worker.start = Start(plan, worker.cgroup)
        undo.pop_all()
    phases = worker.start.running.phases_us
    phases |= {"cgroup": (made - begun) // 1000, "stage": (staged - made) // 1000}
    return worker


def check_current(worker: Worker, parts: Parts) -> None:
    """Raise `ReplacedError` where a sandbox of the same spec would show something else than this one does."""
    made = worker if worker.parent is None else worker.parent
    source = parts.roots.replaced(made.spec, made.staged.files) if made.staged is not None else ""
    if source:
        raise ReplacedError(f"{source} was replaced since the sandbox began", where=source)


def begin_fork(parts: Parts, spec: SandboxSpec, parent: Worker, zygote: Zygote) -> Worker:
    """Uid and cgroup, and the namespaces that the fork will join."""
    check_fork(spec, parent.spec)
    begun = time.perf_counter_ns()
    worker = Worker(new_worker_id(), spec, parts.uids.take(), 0, parent.channel)
    worker.parent = parent
    with contextlib.ExitStack() as undo:
        undo.callback(parts.uids.give_back, worker.uid)
        worker.cgroup = parts.parent.create(worker.name, spec.resources, tenant=spec.tenant)
        undo.callback(worker.cgroup.remove)
        made = (time.perf_counter_ns() - begun) // 1000
        plan = ForkPlan(spec=spec, uid=worker.uid, seccomp=parts.seccomp, rlimits=parts.rlimits(spec))
        worker.start = Fork(plan, zygote, worker.cgroup)
        undo.pop_all()
    worker.start.running.phases_us["cgroup"] = made
    zygote.sessions.add(worker.name)
    return worker
