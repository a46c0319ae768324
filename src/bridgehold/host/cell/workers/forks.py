"""The fork start: a session's worker is a fork of its tenant's zygote, in a sandbox of its own."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from bridgehold.audit.events import StartFellBack
from bridgehold.errors import ReplacedError, ShortageError, UnsupportedError, ZygoteError
from bridgehold.host.cell.workers.live import LiveWorker, Services
from bridgehold.host.cell.workers.starts import SHORTAGE_DELAYS_S, begin, guarded, patiently, prepare
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.boots import StartOrder, note_of

_FORK_DELAYS_S = SHORTAGE_DELAYS_S[:3]
"""Of a fork that meets a shortage; after these the session starts cold."""
_MOST_SAID = 1000
_TRIES_WHILE_REPLACED = 2
"""Each with a zygote of its own, while somebody goes on replacing what it shows; after these cold."""


class ForkStart:
    """Forks where the grant says so and the machine can; where it can't, cold, with a word in the audit.

    A zygote that is gone, or that doesn't come through with this fork, costs the session no more than
    that, as long as nothing of the tenant's has run in what it gave.
    """

    def __init__(self, services: Services, zygotes: Zygotes) -> None:
        self._services = services
        self._zygotes = zygotes
        self._said: set[tuple[str, str, str]] = set()

    async def prepare(self, order: StartOrder) -> LiveWorker:
        """A booted and attested worker that was told nothing of its session yet."""
        plain = order.script is not None and not order.script.protocol  # its exit status has to be exact
        if order.grant.sandbox.start != "fork" or plain:
            return await self._cold(order)
        worker = await self._forked(order)
        if isinstance(worker, LiveWorker):
            return worker
        reason, worker = worker, await self._cold(order)
        worker.cold_reason = reason
        return worker

    async def _forked(self, order: StartOrder) -> LiveWorker | str:
        """A fork of the order's zygote; or why there is none to be had now, which the audit is told too."""
        worker: LiveWorker | None = None
        try:
            forked, descriptors = await patiently(lambda: self._fork(order), _FORK_DELAYS_S)
            worker = forked
            await guarded(worker, prepare(self._services, worker, descriptors))
        except (UnsupportedError, ZygoteError, ShortageError) as error:
            if worker is not None and worker.booted:
                raise
            await self._say(order, error.message)
            return error.message
        return worker

    async def _fork(self, order: StartOrder) -> tuple[LiveWorker, list[int]]:
        for _ in range(_TRIES_WHILE_REPLACED):
            with contextlib.suppress(ReplacedError):
                return await self._fork_one(order)
        return await self._fork_one(order)

    async def _fork_one(self, order: StartOrder) -> tuple[LiveWorker, list[int]]:
        async with self._zygotes.borrow(order) as zygote:
            spec = msgspec.structs.replace(order.own_spec, start="fork")
            try:
                launched, descriptors = await self._zygotes.making_room(
                    spec.tenant, lambda: self._services.launcher.fork(zygote.name, spec, note_of(order))
                )
            except ReplacedError as error:
                self._zygotes.replaced(zygote, error.message)
                raise
            except ZygoteError:
                self._zygotes.failed(zygote)
                raise
            worker = begin(self._services, order, launched)
            zygote.adopt(worker)
        return worker, descriptors

    async def _cold(self, order: StartOrder) -> LiveWorker:
        """A sandbox of its own, tried again while the machine is short of something and nothing has run."""
        spec = msgspec.structs.replace(order.own_spec, start="cold")
        delays = iter(SHORTAGE_DELAYS_S)
        while True:
            worker: LiveWorker | None = None
            try:
                launched, descriptors = await self._zygotes.making_room(
                    spec.tenant, lambda: self._services.launcher.launch(spec, note_of(order))
                )
                worker = begin(self._services, order, launched)
                await guarded(worker, prepare(self._services, worker, descriptors))
            except ShortageError:
                delay = next(delays, None)
                if delay is None or (worker is not None and worker.booted):
                    raise
                await asyncio.sleep(delay)
            else:
                return worker

    async def _say(self, order: StartOrder, reason: str) -> None:
        """Once for each bridge, tenant and reason."""
        key = (order.grant.tenant, order.manifest.name, reason)
        if key in self._said:
            return
        if len(self._said) >= _MOST_SAID:
            self._said.clear()
        self._said.add(key)
        await self._services.journal.append(
            StartFellBack(tenant=order.grant.tenant, bridge=order.manifest.name, reason=reason[:500])
        )
