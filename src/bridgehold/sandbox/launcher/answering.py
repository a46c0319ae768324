"""What is asked of the launcher, and what it does for that."""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from bridgehold.errors import NotFoundError
from bridgehold.policies.model import Machine
from bridgehold.sandbox import procfs
from bridgehold.sandbox.launch.staging import is_device
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.begin import begin_launch, check_current
from bridgehold.sandbox.launcher.cells import Cells, OfCells
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.forking import Forking
from bridgehold.sandbox.launcher.jobs import Jobs
from bridgehold.sandbox.launcher.proving import Proving
from bridgehold.sandbox.launcher.reap import By
from bridgehold.sandbox.launcher.recording import Recording
from bridgehold.sandbox.launcher.worker import Parts, Worker
from bridgehold.sandbox.limits.rlimits import core_handler
from bridgehold.sandbox.values import SandboxSpec, TenantShare

_Start = TypeVar("_Start", requests.LaunchRequest, requests.ForkRequest)


class Owner(Protocol):
    """What `Answering` needs of the launcher's loop."""

    parts: Parts
    workers: dict[str, Worker]
    recording: Recording

    def find(self, name: str) -> Worker:
        """See `Launcher.find`."""

    def admit(self, spec: SandboxSpec, share: TenantShare | None) -> None:
        """See `Launcher.admit`."""

    def add(self, worker: Worker) -> None:
        """See `Launcher.add`."""

    def guard(self, worker: Worker, act: Callable[[], None]) -> None:
        """See `Launcher.guard`."""

    def set_out(self, worker: Worker) -> None:
        """See `Launcher.set_out`."""

    def end(self, worker: Worker, *, by: By, reason: str = "") -> None:
        """See `Launcher.end`."""

    def tell(self, channel: Channel, answer: requests.Answer, descriptors: list[int] | None = None) -> None:
        """See `Launcher.tell`."""

    def lost(self, channel: Channel) -> None:
        """See `Launcher.lost`."""


class Answering:
    """Of every channel; each speaks of its own workers only."""

    def __init__(self, owner: Owner, cells: Cells, forking: Forking, proving: Proving, jobs: Jobs) -> None:
        self._owner = owner
        self._cells = cells
        self._forking = forking
        self._proving = proving
        self._jobs = jobs

    def handle(self, channel: Channel, request: requests.Request) -> requests.Answer | None:
        """The answer, or None where it comes later. Raises what refuses it."""
        name = getattr(request, "worker", None) or getattr(request, "zygote", None)
        known = self._owner.workers.get(name) if name is not None else None
        if known is not None and known.channel is not channel:
            raise NotFoundError(f"no worker {known.name[:40]}")  # another's and none look alike
        match request:
            case requests.MachineRequest():
                return requests.Answer(id=request.id, machine=machine_of(self._owner.parts))
            case requests.AttestRequest():
                self._proving.attest(request)
            case requests.UsageRequest():
                return requests.Answer(id=request.id, usage=self._owner.find(request.worker).cgroup.usage())
            case requests.AccountRequest():
                self._account(request)
            case requests.CurrentRequest():
                check_current(self._owner.find(request.worker), self._owner.parts)
                return requests.Answer(id=request.id)
            case requests.LaunchRequest():
                self._launch(channel, request)
            case requests.ForkRequest():
                channel.demand(request.spec)
                self._forking.fork(_shared(channel, request))
            case requests.KillRequest():
                worker = self._owner.find(request.worker)
                worker.killers.append(request.id)
                self._owner.end(worker, by="killed")
            case requests.SealRequest():
                self._jobs.seal(channel, request)
            case _:
                self._handle_cells(channel, request)
        return None

    def _handle_cells(self, channel: Channel, request: OfCells) -> None:
        if isinstance(request, requests.OpenRequest):
            uid, namespace = self._cells.open(channel, request)
            self._owner.tell(channel, requests.Answer(id=request.id, cell_uid=uid), namespace)
            return
        if (ending := self._cells.handle(channel, request)) is not None:
            self._owner.lost(ending)
        self._owner.tell(channel, requests.Answer(id=request.id))

    def _account(self, request: requests.AccountRequest) -> None:
        worker = self._owner.find(request.worker)
        answer = requests.Answer(id=request.id, usage=worker.cgroup.usage())
        self._owner.tell(worker.channel, answer, worker.cgroup.account())

    def _launch(self, channel: Channel, request: requests.LaunchRequest) -> None:
        channel.demand(request.spec)
        request = _shared(channel, request)
        self._owner.recording.demand()
        self._owner.admit(request.spec, request.share)
        worker = begin_launch(self._owner.parts, request, channel)
        self._owner.add(worker)
        self._owner.guard(worker, functools.partial(self._owner.set_out, worker))


def machine_of(parts: Parts) -> Machine:
    """What sandboxes can have here, as grants are resolved by it."""
    return Machine(
        cgroup=parts.parent.version,
        uids=parts.uids.range.mode,
        seccomp=True,
        memory_bytes=parts.parent.capacity_bytes,
        cpus=os.cpu_count() or 1,
        devices=tuple(name for name in parts.bounds.devices if is_device(name)),
        core_handler=core_handler(
            procfs.read("/proc/sys/kernel/core_pattern"), resource.getrlimit(resource.RLIMIT_CORE)[0]
        ),
    )


def _shared(channel: Channel, request: _Start) -> _Start:
    """The request, with its tenant's share as the host says it (pure)."""
    return request if channel.whole else msgspec.structs.replace(request, share=channel.share)
