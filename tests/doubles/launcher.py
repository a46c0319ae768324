"""The launcher: sandboxes that are guests of this process, each with a place that it takes until its end."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Literal

from bridgehold.errors import HostUnavailableError, NotFoundError, ReplacedError, ZygoteError
from bridgehold.policies.model import Machine
from bridgehold.records.workers import WorkerAttested, WorkerExited, WorkerStarted
from bridgehold.sandbox.spec import spec_digest
from bridgehold.sandbox.values import Attestation, ExitReport, Launched, SandboxSpec, StartNote, Usage
from doubles.guest import Behaviour, Guest, obedient
from doubles.journal import DoubleJournal
from doubles.steps import Steps

Cause = Literal["exited", "signal", "memory", "killed", "launcher", "zygote"]


@dataclass
class Place:
    """What one sandbox takes of the machine: its cgroup, its uid, its processes."""

    guest: Guest
    spec: SandboxSpec
    zygote: str = ""
    replaced: bool = False
    forks: set[str] = field(default_factory=set)


class DoubleLauncher:
    """As `LauncherClient`: what nobody waits for any more is ended, and an end is reported once."""

    def __init__(
        self,
        steps: Steps,
        journal: DoubleJournal,
        behaviour: Behaviour = obedient,
        operations: tuple[str, ...] = (),
    ) -> None:
        self._journal = journal
        self._steps = steps
        self.behaviour = behaviour
        self._operations = operations
        self.places: dict[str, Place] = {}
        """What lives, by name."""
        self._exits: dict[str, asyncio.Future[ExitReport]] = {}
        self._made = 0
        self.lost = asyncio.Event()

    def guest(self, worker: str) -> Guest:
        return self.places[worker].guest

    def workers(self) -> set[str]:
        return {name for name, place in self.places.items() if place.spec.kind == "worker"}

    def zygotes(self) -> set[str]:
        return {name for name, place in self.places.items() if place.spec.kind == "zygote"}

    async def machine(self) -> Machine:
        return Machine(cgroup="v2", uids="range")

    async def launch(self, spec: SandboxSpec, note: StartNote) -> tuple[Launched, list[int]]:
        await self._steps.take(f"launcher launch {spec.kind}")
        return await self._started(spec, "", note)

    async def fork(self, zygote: str, spec: SandboxSpec, note: StartNote) -> tuple[Launched, list[int]]:
        await self._steps.take("launcher fork")
        if zygote not in self.places:
            raise ZygoteError(f"there is no zygote {zygote} to fork from")
        return await self._started(spec, zygote, note)

    async def _started(self, spec: SandboxSpec, zygote: str, note: StartNote) -> tuple[Launched, list[int]]:
        self._made += 1
        name = f"{'z' if spec.kind == 'zygote' else 'w'}-{self._made}"
        outputs = 2 if spec.two_outputs else 1
        guest = Guest(self._steps, self.behaviour, self._operations, outputs=outputs)
        guest.left = lambda status: self.end(name, "exited", status)
        self.places[name] = Place(guest, spec, zygote)
        started = WorkerStarted(
            tenant=spec.tenant,
            session=note.session,
            worker=name,
            purpose=spec.kind,
            bridge=spec.bridge,
            start=spec.start,
            spec="",
            environment=note.environment,
            uid=1,
            cgroup=name,
            zygote=zygote,
        )
        self._journal.events.append(started)
        self._exits[name] = asyncio.get_running_loop().create_future()
        if zygote:
            self.places[zygote].forks.add(name)
        try:
            await self._steps.take(f"launcher started {spec.kind}")
        except BaseException:  # as the real one disowns what comes for a caller that is gone
            self.end(name, "killed", 9)
            for descriptor in guest.host_ends:
                os.close(descriptor)
            raise
        launched = Launched(
            worker=name,
            pid=self._made,
            uid=self._made,
            spec_digest=spec_digest(spec),
            phases_us={},
            descriptors=len(guest.host_ends),
            zygote=zygote,
        )
        return launched, guest.host_ends

    async def attest(self, worker: str) -> Attestation:
        await self._steps.take("launcher attest")
        self._require(worker)
        return Attestation(
            worker=worker,
            pid=1,
            start_time=1,
            uid=1,
            capabilities="0",
            no_new_privs=True,
            seccomp_mode=2,
            namespaces={},
            cgroup=worker,
            mounts_digest="",
        )

    async def recorded(self, worker: str) -> None:
        """The launcher's own channel to the journal, which may refuse it as any other."""
        proof = WorkerAttested(
            tenant="acme",
            worker=worker,
            spec="",
            pid=1,
            uid=1,
            environment="",
            capabilities="0",
            no_new_privs=True,
            seccomp_mode=2,
            namespaces={},
            cgroup=worker,
            mounts="",
        )
        await self._journal.append(proof)

    async def usage(self, worker: str) -> Usage:
        await self._steps.take("launcher usage")
        self._require(worker)
        return Usage(memory_bytes=1)

    async def account(self, worker: str) -> tuple[Usage, list[int]]:
        await self._steps.take("launcher account")
        self._require(worker)
        return Usage(), []

    async def current(self, worker: str) -> None:
        await self._steps.take("launcher current")
        self._require(worker)
        if self.places[worker].replaced:
            raise ReplacedError("what it shows was replaced")

    async def kill(self, worker: str) -> ExitReport:
        await self._steps.take("launcher kill")
        known = self._exits.get(worker)
        if known is None:
            raise NotFoundError(f"no worker {worker}")
        self.end(worker, "killed", 9)
        return known.result()

    async def exited(self, worker: str) -> ExitReport:
        return await asyncio.shield(self._exits[worker])

    def end(self, worker: str, cause: Cause, status: int) -> None:
        """The kernel ends it, whoever had it do so; with a zygote its forks end."""
        place = self.places.pop(worker, None)
        if place is None:
            return
        place.guest.close()
        report = ExitReport(worker=worker, cause=cause, status=status, usage=Usage(), emptied_ms=0, uid=1)
        exited = WorkerExited(
            worker=worker,
            cause=cause,
            status=status,
            cpu_us=0,
            memory_peak_bytes=0,
            oom_kills=0,
            emptied_ms=0,
        )
        self._journal.events.append(exited)
        self._exits[worker].set_result(report)
        for fork in place.forks:
            self.end(fork, "zygote", 9)

    def lose(self) -> None:
        """The launcher's process is gone, and every sandbox with it."""
        self.lost.set()
        for place in self.places.values():
            place.guest.close()
        self.places.clear()
        for known in self._exits.values():
            if not known.done():
                known.set_exception(HostUnavailableError("the launcher is gone", retry="no"))
                known.exception()

    def _require(self, worker: str) -> None:
        if worker not in self.places:
            raise NotFoundError(f"no worker {worker}")
