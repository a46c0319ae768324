"""The warm pool: pre-started, attested sandboxes without tenant data, each used for one session.

A pooled sandbox is exactly what a session would get: the pool's key holds the digests of the sandbox, the
grant, the environment and the preload. When one of them changes, the sandboxes of the old key are ended. A
pooled worker has its session's id from the start (its gateway and its proof name it); it learns whose
session it becomes when it is taken. The audit and the metrics call such a start `parked`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from bridgehold.config.settings import PoolLimits
from bridgehold.errors import BridgeholdError, BusyError, NotFoundError, ReplacedError
from bridgehold.host.cell.workers.live import LiveWorker, Services
from bridgehold.host.cell.workers.starts import Record, guarded, open_session
from bridgehold.host.front.boots import OrderMaker, StartOrder
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.ids import new_session_id
from bridgehold.sandbox.spec import spec_digest
from bridgehold.tasks import begin_task


class Preparer(Protocol):
    """Order in, attested worker out that knows nothing of its session yet."""

    async def prepare(self, order: StartOrder) -> LiveWorker:
        """Start and attest a worker; raises what kept it from starting."""


_LOOK_SECONDS = 2.0
_PAUSE_SECONDS = 0.02
"""Before another is started: the session that took the last one should not share the processor with it."""


class _Pool:
    """The sandboxes that stand ready for one tenant and bridge, all of one key."""

    def __init__(self, key: str, limits: PoolLimits) -> None:
        self.key = key
        self.limits = limits
        self._ready: deque[LiveWorker] = deque()
        self.under_way = 0
        self.starts: set[asyncio.Task[None]] = set()
        """Those under way."""
        self.secrets = ""
        """The versions of its tenant's secrets when it was looked at last."""
        self.overflow = asyncio.Semaphore(limits.overflow)

    @property
    def ready(self) -> deque[LiveWorker]:
        """What stands, the longest first. What has died meanwhile stands no more."""
        if any(worker.gone for worker in self._ready):
            self._ready = deque(worker for worker in self._ready if not worker.gone)
        return self._ready


LimitsOf = Callable[[str, str], PoolLimits]
"""(tenant, bridge) → its pool; of size 0: none."""


class WarmPool:
    """A `Starter` that takes a worker from the pool, or starts one where the pool has none."""

    def __init__(self, services: Services, preparer: Preparer, limits: LimitsOf) -> None:
        self._services = services
        self._preparer = preparer
        self._limits = limits
        self._pools: dict[tuple[str, str], _Pool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def counts(self) -> dict[tuple[str, str], int]:
        """(tenant, bridge) → how many stand ready."""
        return {place: len(pool.ready) for place, pool in self._pools.items()}

    async def start(self, order: StartOrder, record: Record) -> LiveWorker:
        """As `Starter`. Raises `BusyError` where neither a pooled worker nor a start is to be had in time."""
        worker = self._take(order)
        while worker is not None and not await self._is_current(worker):
            worker = self._take(order)
        recorded = record(order if worker is None else worker.order)
        if worker is None:
            worker = await self._start_now(order)
        worker.renew_deadline()
        await guarded(worker, open_session(self._services, worker, recorded))
        return worker

    def _take(self, order: StartOrder) -> LiveWorker | None:
        """A pooled worker for `order`'s session, where one stands ready: the caller's to end from here on."""
        pool = self._pool(order)
        if pool is None:
            return None
        worker = pool.ready.popleft() if pool.ready else None
        if worker is not None:
            worker.order = msgspec.structs.replace(
                worker.order,
                session_name=order.session_name,
                script=order.script,
                grant=order.grant,
                asked=order.asked,
            )
        self._fill(pool, order)
        return worker

    async def _is_current(self, worker: LiveWorker) -> bool:
        """Whether it shows what a sandbox would that began now; otherwise it has ended."""
        worker.renew_deadline()
        try:
            await guarded(worker, self._services.launcher.current(worker.name))
        except (ReplacedError, NotFoundError):
            return False
        return True

    async def _start_now(self, order: StartOrder) -> LiveWorker:
        pool = self._pool(order)
        if pool is None:
            return await self._preparer.prepare(order)
        try:
            async with asyncio.timeout(pool.limits.checkout_s):
                await pool.overflow.acquire()
        except TimeoutError:
            raise BusyError(
                f"no sandbox of {order.manifest.name} within {pool.limits.checkout_s:g} s: "
                f"{pool.limits.overflow} starts are under way",
                hint="Raise `[bridges.NAME] pool_size` or `overflow`, or try again.",
                retry="later",
            ) from None
        try:
            return await self._preparer.prepare(order)
        finally:
            pool.overflow.release()

    def _pool(self, order: StartOrder) -> _Pool | None:
        """The pool of `order`'s tenant and bridge; one of another key is drained first.

        None for limits that no pooled sandbox has.
        """
        if order.asked.sized:
            return None
        limits = self._limits(order.grant.tenant, order.manifest.name)
        place = (order.grant.tenant, order.manifest.name)
        if not limits.size or order.env_secrets or self._stopping:
            if place in self._pools:
                self._drain(self._pools.pop(place), "its pool was switched off")
            return None
        key = pool_key(order)
        pool = self._pools.get(place)
        if pool is None or pool.key != key or pool.limits != limits:
            if pool is not None:
                self._drain(pool, "what it rests on has changed")
            pool = self._pools[place] = _Pool(key, limits)
        return pool

    def _fill(self, pool: _Pool, order: StartOrder) -> None:
        while len(pool.ready) + pool.under_way < pool.limits.size:
            pool.under_way += 1
            begin_task(self._add(pool, order), self._tasks, pool.starts)

    async def _add(self, pool: _Pool, like: StartOrder) -> None:
        order = msgspec.structs.replace(like, session=new_session_id(), session_name="")
        try:
            await asyncio.sleep(_PAUSE_SECONDS)
            with contextlib.suppress(BridgeholdError):  # the next start that somebody waits for says it
                worker = await self._preparer.prepare(order)
                await guarded(worker, worker.proven())  # a session waits for that beside its opening
                current = self._pools.get((order.grant.tenant, order.manifest.name)) is pool
                if current and not self._stopping:
                    pool.ready.append(worker)
                else:
                    await worker.end()
        finally:
            pool.under_way -= 1

    async def watch(self, make_order: OrderMaker, versions: Callable[[str], Awaitable[str]]) -> None:
        """From time to time: what a session would not be given any more is ended. Runs until cancelled.

        `versions`: of a tenant's secrets. No pooled sandbox holds one, and none outlives its change either.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for (tenant, bridge), pool in list(self._pools.items()):
                try:
                    order = await make_order(tenant, AskOrder(bridge=bridge))
                    current = self._pool(order)
                    found = await versions(tenant)
                    changed = bool(pool.secrets) and pool.secrets != found
                    pool.secrets = found
                    if changed:
                        self._drain(pool, "a secret of its tenant has changed")
                    if current is not None and (changed or current is not pool):
                        self._fill(current, order)  # once: a start that fails is not tried for ever
                except BridgeholdError as error:
                    self._drain(pool, f"no session would be given it: {error.message}")

    def uses(self, environment: str) -> bool:
        """Whether a pooled sandbox may have this environment."""
        return any(environment in pool.key.split("\n") for pool in self._pools.values())

    def retire(self, environment: str, reason: str) -> None:
        """End the pooled sandboxes of this environment."""
        for place, pool in list(self._pools.items()):
            if environment in pool.key.split("\n"):
                self._drain(self._pools.pop(place), reason)

    async def end_all(self, tenant: str, reason: str) -> int:
        """End what stands ready for the tenant, or is on its way to; how many there were."""
        pools = [self._pools.pop(place) for place in list(self._pools) if place[0] == tenant]
        count = sum(len(pool.ready) + pool.under_way for pool in pools)
        starts = [task for pool in pools for task in pool.starts]
        for start in starts:
            start.cancel()
        ending = [task for pool in pools for task in self._drain(pool, reason)]
        await asyncio.gather(*starts, *ending, return_exceptions=True)
        return count

    def _drain(self, pool: _Pool, reason: str) -> list[asyncio.Task[None]]:
        ending = []
        while pool.ready:
            ending.append(begin_task(_end(pool.ready.popleft(), reason), self._tasks))
        return ending

    async def stop(self) -> None:
        """End every pooled sandbox, and those that are being started."""
        self._stopping = True
        for pool in self._pools.values():
            self._drain(pool, "the host is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _end(worker: LiveWorker, reason: str) -> None:
    with contextlib.suppress(BridgeholdError):
        await worker.end(BusyError(reason))


def pool_key(order: StartOrder) -> str:
    """All that decides what a pooled sandbox is, except whose session it becomes (pure)."""
    return "\n".join(
        (
            spec_digest(order.spec),
            order.grant.digest,
            order.environment_digest,
            order.manifest.digest,
            *order.manifest.preload,
            *order.manifest.preload_calls,
            *order.weights,
        )
    )
