"""Where submitted bridges are opened and tried: in the cell that stands for their tenant."""

from __future__ import annotations

import asyncio

from bridgehold.bridges.bundle import MOST_PACKED, Bundle
from bridgehold.host.cell.artifact_methods import Artifacts
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.store.archives import unpack
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.trial import Trial
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.boots import StartOrder
from bridgehold.protocol.submissions import Tried
from bridgehold.protocol.values import Principal


class CellBench:
    """`examination.Bench`, in the process that it works in."""

    def __init__(
        self, artifacts: Artifacts, trial: Trial, sessions: Sessions, zygotes: Zygotes, pool: WarmPool
    ) -> None:
        self._artifacts = artifacts
        self._trial = trial
        self._sessions = sessions
        self._zygotes = zygotes
        self._pool = pool

    async def take_out(self, principal: Principal, tenant: str, archive: str) -> Bundle:
        """See `Bench.take_out`."""
        data = await self._artifacts.take_out(principal, tenant, archive, MOST_PACKED)
        return await asyncio.to_thread(unpack, data)

    async def try_out(self, order: StartOrder, _found: Bundle, principal: str) -> tuple[Tried, ...]:
        """See `Bench.try_out`."""
        return await self._trial.of(order, principal)

    def uses(self, digest: str) -> bool:
        """See `Bench.uses`."""
        return (
            self._zygotes.uses(digest)
            or self._pool.uses(digest)
            or any(one.order.environment_digest == digest for one in self._sessions)
        )
