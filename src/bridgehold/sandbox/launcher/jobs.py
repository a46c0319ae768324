"""Requests that a child works for before they can be answered: sealing a tree, opening what is granted."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from bridgehold.errors import BusyError
from bridgehold.sandbox.attest.seal import SealJob, empty_tree, seal_tree
from bridgehold.sandbox.launch.roots import OpenedAside
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.poll import Fails, nobodys
from bridgehold.sandbox.launcher.worker import Parts
from bridgehold.sandbox.limits.shortage import typed
from bridgehold.sandbox.values import SandboxSpec

MOST_OPENING = 8
"""Of one tenant at once: each is a process for as long as a file system lets it wait."""


class Owner(Protocol):
    """What `Jobs` needs of the launcher's loop."""

    parts: Parts
    left: set[int]

    def tell(self, channel: Channel, answer: requests.Answer) -> None:
        """See `Launcher.tell`."""

    def respond(self, channel: Channel, request: requests.Request, opened: Mapping[str, int]) -> None:
        """See `Launcher.respond`."""

    def listen(self, descriptor: int, ready: Callable[[int], None] | None, fails: Fails = nobodys) -> None:
        """See `Launcher.listen`."""


class _Opening(msgspec.Struct, frozen=True, kw_only=True):
    channel: Channel
    request: requests.Request
    tenant: str
    job: OpenedAside


class Jobs:
    """Those under way."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._seals: dict[int, tuple[Channel, int, SealJob]] = {}
        self._openings: dict[int, _Opening] = {}

    @property
    def children(self) -> set[int]:
        """Of ours, that do the work."""
        jobs = [job for _, _, job in self._seals.values()]
        return {job.child for job in (*jobs, *(opening.job for opening in self._openings.values()))}

    @property
    def patience(self) -> float:
        """Seconds until one is late."""
        soonest = min((opening.job.deadline for opening in self._openings.values()), default=math.inf)
        return max(0.0, soonest - time.monotonic())

    def seal(self, channel: Channel, request: requests.SealRequest) -> None:
        """Raises `DeniedError`, `OSError`. The answer comes later."""
        top = self._owner.parts.roots.open_build(request.path, flags=os.O_RDONLY)
        job = SealJob(top, request.path, seal_tree if not request.empty else empty_tree)
        self._seals[job.descriptor] = (channel, request.id, job)
        self._listen(job.descriptor, self._sealed, self._drop_seal)

    def open(self, channel: Channel, request: requests.Request, spec: SandboxSpec) -> None:
        """Have all that `spec` is bound from opened, and then respond to `request` once more.

        Raises `BusyError`, and what the machine is short of.
        """
        if sum(one.tenant == spec.tenant for one in self._openings.values()) >= MOST_OPENING:
            raise BusyError("what is granted can't be opened: a file system has not answered others yet")
        job = self._owner.parts.roots.aside(spec)
        self._openings[job.descriptor] = _Opening(
            channel=channel, request=request, tenant=spec.tenant, job=job
        )
        self._listen(job.descriptor, self._opened, self._drop)

    def _listen(self, descriptor: int, ready: Callable[[int], None], drop: Callable[[int], None]) -> None:
        """One that can't be polled, or fails in some other way, is given up."""
        try:
            self._owner.listen(descriptor, ready, lambda _: drop(descriptor))
        except BaseException:
            drop(descriptor)
            raise

    def expire(self, now: float) -> None:
        """Give up those that are late."""
        for descriptor, opening in list(self._openings.items()):
            if descriptor in self._openings and now > opening.job.deadline:
                self._drop(descriptor)
                error = opening.job.expire().info()
                self._owner.tell(opening.channel, requests.Answer(id=opening.request.id, error=error))

    def lost(self, channel: Channel) -> None:
        """Nobody is left to do it for."""
        for descriptor, opening in list(self._openings.items()):
            if opening.channel is channel:
                self._drop(descriptor)

    def _opened(self, descriptor: int) -> None:
        opening = self._openings.get(descriptor)
        if opening is None:  # it was given up in this very turn
            return
        try:
            answer = opening.job.advance()
            if answer is None:
                return
            opened = opening.job.take(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            self._drop(descriptor)
            answered = requests.Answer(id=opening.request.id, error=typed(error).info())
            self._owner.tell(opening.channel, answered)
            return
        self._drop(descriptor)
        self._owner.respond(opening.channel, opening.request, opened)

    def _drop(self, descriptor: int) -> None:
        if (opening := self._openings.pop(descriptor, None)) is not None:
            self._owner.listen(descriptor, None)
            self._owner.left.add(opening.job.close())

    def _drop_seal(self, descriptor: int) -> None:
        if (sealing := self._seals.pop(descriptor, None)) is not None:
            self._owner.listen(descriptor, None)
            self._owner.left.add(sealing[2].close())

    def _sealed(self, descriptor: int) -> None:
        channel, request, job = self._seals[descriptor]
        try:
            found = job.advance()
            if found is None:
                return
            answer = requests.Answer(id=request, sealed=job.report(found))
        except Exception as error:  # noqa: BLE001 - as above
            answer = requests.Answer(id=request, error=typed(error).info())
        self._drop_seal(descriptor)
        self._owner.tell(channel, answer)
