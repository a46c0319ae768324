"""A worker's proof: what is expected of it, what is seen of it, and the value that goes to the host."""

from __future__ import annotations

import os

from bridgehold.errors import AttestationError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest import observe as attest
from bridgehold.sandbox.fork.forks import Fork
from bridgehold.sandbox.launch.mounts import Identity
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.rlimits import shown_rlimits
from bridgehold.sandbox.values import Attestation

_MOST_PROCESSES = 64
"""A worker that has more than this many before it is attested is refused unread."""
_ZYGOTE_PROCESSES = 3
"""bubblewrap's two, and the zygote."""
_MAX_MESSAGE = 4000


class EndsError(AttestationError):
    """Nothing but what its end takes away is missing of the worker: no difference, once it has ended."""

    def __init__(self, message: str, *, gone: bool) -> None:
        """`gone`: nothing of it is left; otherwise some thread of it is."""
        super().__init__(message)
        self.gone = gone


def prove(worker: Worker, parts: Parts, own: dict[str, int]) -> Attestation:
    """Judge every process of a running worker. Raises `AttestationError` naming each difference, `EndsError`
    where it ends by itself, and `OSError` where the machine is too short of something to look.

    `own`: the launcher's namespaces.
    """
    expected = _expected(worker, parts, own)
    top = expected.monitor or worker.start.running.worker

    def list_pids() -> set[int]:
        return {*worker.cgroup.processes(), *attest.descendants(top, most=_MOST_PROCESSES)}

    seen, differences = attest.observe_all(list_pids, worker.cgroup, most=_MOST_PROCESSES)
    seen = [attest.recognise(expected.mounts, process) for process in seen]
    differences += attest.compare(expected, seen)
    if differences:
        message = "; ".join(differences)[:_MAX_MESSAGE]
        left = _left(worker)
        here = [p for p in seen if procfs.life(p.pid) == "living" and not procfs.ending(p.pid, p.start_time)]
        if "living" not in left and not attest.wrong(expected, here):
            raise EndsError(message, gone="ending" not in left)
        raise AttestationError(message)
    return attest.attestation(worker.name, expected, seen, worker.cgroup.path, differences)


def _left(worker: Worker) -> set[str]:
    """The lives of the worker's own first process, and of what its namespace's init took over from it."""
    running = worker.start.running
    own = procfs.children(running.init) if running.monitor else [running.worker]
    return {procfs.life(pid) for pid in own}


def _expected(worker: Worker, parts: Parts, own: dict[str, int]) -> attest.Expected:
    running = worker.start.running
    shared = parts.uids.range.mode == "shared"
    staged = worker.staged
    own_mounts: dict[str, Identity] = {}
    parent, others = running.init, {}
    if isinstance(worker.start, Fork) and worker.parent is not None and worker.parent.zygote is not None:
        zygote = worker.parent.zygote
        parent, others = zygote.running.init, zygote.namespaces
        staged, own_mounts = worker.parent.staged, worker.start.identities
    identities = {**(staged.identities if staged else {}), **own_mounts}
    return attest.Expected(
        uid=worker.uid,
        gid=os.getgid() if shared else worker.uid,
        groups=frozenset(os.getgroups()) if shared else frozenset(),
        net=running.net,
        monitor=running.monitor,
        init=running.init,
        init_start=running.init_start,
        parent=parent,
        own_namespaces=own,
        zygote_namespaces=others,
        only=_ZYGOTE_PROCESSES if worker.zygote is not None else 0,
        rlimits=shown_rlimits(parts.rlimits(worker.spec)),
        mounts=attest.expected_mounts(worker.spec, identities, staged.files if staged else None),
        private=not shared,
    )
