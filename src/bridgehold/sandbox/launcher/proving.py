"""Attestation requests, answered in the launcher's loop: at once, or as soon as they can be."""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

from bridgehold.errors import (
    AttestationError,
    BridgeholdError,
    BusyError,
    LimitError,
    MemoryLimitError,
    NotFoundError,
    ShortageError,
    ZygoteError,
)
from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest import observe as attest
from bridgehold.sandbox.fork.zygote import Zygote, ZygoteChangedError
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.proof import EndsError, prove
from bridgehold.sandbox.launcher.reap import By
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.shortage import FAULTS, typed

_FILTER_SECONDS = 1.0
_REST = 20
"""So many times what a further proof took, before the next one for the same channel: all share the loop."""
_START_PROCESSES = 8
"""More than a start ever has at once: where the limit is higher, another one was hit."""


class Owner(Protocol):
    """What `Proving` needs of the launcher's loop."""

    parts: Parts
    left: set[int]
    recording: Recording

    def find(self, name: str) -> Worker:
        """See `Launcher.find`."""

    def add(self, worker: Worker) -> None:
        """See `Launcher.add`."""

    def watch_running(self, worker: Worker) -> None:
        """See `Launcher.watch_running`."""

    def answer(self, worker: Worker, answer: requests.Answer) -> None:
        """See `Launcher.answer`."""

    def attested(self, worker: Worker) -> None:
        """See `Launcher.attested`."""

    def end(self, worker: Worker, *, by: By, reason: str = "") -> None:
        """See `Launcher.end`."""


class Proving:
    """The proofs of every worker, and a zygote's way from its proof to where it is held."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._own = attest.namespaces("self")

    def attest(self, request: requests.AttestRequest) -> None:
        """Compare a worker with its spec, and answer with what was seen; one that differs is ended."""
        worker = self._owner.find(request.worker)
        if worker.ending is not None:
            raise NotFoundError(f"worker {worker.name} has ended")
        begun = time.monotonic()
        if worker.proved and begun < worker.channel.again_at:
            self._wait_for_turn(worker, request)
            return
        worker.proof_until = worker.proof_until or time.monotonic() + _FILTER_SECONDS
        late = worker.start.running.first_fd >= 0 or worker.settling is not None
        if late or self._init_is_late(worker):
            worker.proof_wanted = request
            return
        try:
            proof = prove(worker, self._owner.parts, self._own)
            if worker.zygote is not None and not worker.zygote.settled:
                worker.zygote.settle(proof.pid)
                worker.settling, worker.proof_wanted = proof, request
                self._owner.watch_running(worker)
                self._owner.add(worker)
                return
        except AttestationError as error:
            over = procfs.ended(worker.start.running.monitor_fd)
            if isinstance(error, EndsError) and not over:
                if time.monotonic() < worker.proof_until:  # its monitor is about to say what it ended of
                    worker.proof_wanted = request
                    self._owner.add(worker)
                    return
                over = error.gone
            if over:  # there was nothing left to prove
                by, reason = worker.whose_end()
                self._owner.end(worker, by=by, reason=reason)
                raise NotFoundError(f"worker {worker.name} has ended") from error
            self._owner.recording.refused(worker, error.message)
            if worker.parent is not None:  # what it was forked from is not what it seemed
                self._owner.end(
                    worker.parent, by="zygote", reason=f"a fork of it is not sound: {error.message}"
                )
            self._owner.end(worker, by="killed")
            raise
        self._owner.answer(worker, requests.Answer(id=request.id, attestation=proof))
        self._owner.recording.attested(worker, proof)
        self._owner.attested(worker)
        if worker.proved:
            now = time.monotonic()
            worker.channel.again_at = now + _REST * (now - begun)
        worker.proved, worker.proof_until = True, 0.0

    def _wait_for_turn(self, worker: Worker, request: requests.AttestRequest) -> None:
        if worker.proof_wanted is not None:
            raise BusyError(f"worker {worker.name} is about to be proved again", retry="later")
        worker.proof_wanted = request
        self._owner.add(worker)

    def settle_in(self, worker: Worker, zygote: Zygote) -> None:
        """A zygote that was proved, on its way to stand for the first time."""
        failure: BridgeholdError | None = None
        try:
            if not zygote.stands or not zygote.settle_in():
                return
        except FAULTS as error:
            failure = typed(error)
            if isinstance(failure, ZygoteChangedError):
                failure = AttestationError(failure.message)
            elif isinstance(failure, ZygoteError):
                failure = NotFoundError(failure.message)
        self._owner.left |= zygote.left
        zygote.left.clear()
        request, proof = worker.proof_wanted, worker.settling
        worker.proof_wanted = worker.settling = None
        if request is not None:
            error_info = failure.info() if failure else None
            answer = requests.Answer(
                id=request.id, attestation=proof if failure is None else None, error=error_info
            )
            self._owner.answer(worker, answer)
        if failure is None and proof is not None:
            self._owner.recording.attested(worker, proof)
            worker.proved = True
        if failure is not None:
            self._owner.end(worker, by="" if isinstance(failure, NotFoundError) else "killed")

    def _init_is_late(self, worker: Worker) -> bool:
        """bubblewrap's init loads its filter after it has let the guest begin: look again in a moment."""
        if time.monotonic() > worker.proof_until:
            return False
        late = False
        with contextlib.suppress(OSError):
            status = attest.parse_status(procfs.read(f"/proc/{worker.start.running.init}/status"))
            late = status.get("Seccomp") == "0"
        if late:
            self._owner.add(worker)
        return late


def own_limit(worker: Worker, failure: BridgeholdError) -> BridgeholdError:
    """What looked like the machine's shortage may be the sandbox's own limit."""
    if not isinstance(failure, ShortageError):
        return failure
    usage, limits = worker.cgroup.usage(), worker.spec.resources
    if usage.oom_kills:
        return MemoryLimitError(f"a memory limit of {limits.memory_bytes} bytes is too small to start in")
    if usage.pids_denied and limits.processes < _START_PROCESSES:
        return LimitError(f"a limit of {limits.processes} processes is too small to start in")
    return failure
