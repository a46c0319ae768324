"""The fork start: a session's worker is a fork of its tenant's zygote, in a sandbox of its own."""

from __future__ import annotations

import msgspec

from bridgehold.audit.events import StartFellBack
from bridgehold.errors import UnsupportedError
from bridgehold.host.boots import StartOrder
from bridgehold.host.starts import LiveWorker, Services, begin, guarded, prepare
from bridgehold.host.zygotes import NoZygoteError, Zygotes


class ForkStart:
    """Forks where the grant says so and the machine can; where it can't, cold, with a word in the audit.

    A surprise of the zygote is an error, and no second try within the same start.
    """

    def __init__(self, services: Services, zygotes: Zygotes) -> None:
        self._services = services
        self._zygotes = zygotes
        self._said: set[tuple[str, str, str]] = set()

    async def prepare(self, order: StartOrder) -> LiveWorker:
        """A booted and attested worker that was told nothing of its session yet."""
        plain = order.script is not None and not order.script.protocol  # its exit status has to be exact
        if order.grant.sandbox.start == "fork" and not plain:
            try:
                return await self._fork(order)
            except (NoZygoteError, UnsupportedError) as error:
                await self._say(order, error.message)
        spec = msgspec.structs.replace(order.spec, start="cold")
        launched, descriptors = await self._zygotes.making_room(lambda: self._services.launcher.launch(spec))
        worker = begin(self._services, order, launched)
        await guarded(worker, prepare(self._services, worker, descriptors))
        return worker

    async def _fork(self, order: StartOrder) -> LiveWorker:
        async with self._zygotes.borrow(order) as zygote:
            spec = msgspec.structs.replace(order.spec, start="fork")
            launched, descriptors = await self._zygotes.making_room(
                lambda: self._services.launcher.fork(zygote.name, spec)
            )
            worker = begin(self._services, order, launched)
            zygote.adopt(worker)
        await guarded(worker, prepare(self._services, worker, descriptors))
        return worker

    async def _say(self, order: StartOrder, reason: str) -> None:
        """Once for each bridge, tenant and reason."""
        key = (order.grant.tenant, order.manifest.name, reason)
        if key in self._said:
            return
        self._said.add(key)
        await self._services.journal.append(
            StartFellBack(tenant=order.grant.tenant, bridge=order.manifest.name, reason=reason[:500])
        )
