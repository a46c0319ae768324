"""The warm processes that sessions are forked from: made on first use, renewed, evicted, given up.

One for each tenant, environment, preload and sandbox. Their health is their process's: the launcher
reports an end, and a fork that doesn't come in time ends them. `zygote_rules` decides, this acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TypeVar

from bridgehold.audit.events import ZygoteEnded, ZygoteStarted
from bridgehold.bridges.frames import GuestFrame, StrayFrame, WarmedFrame, WarmFrame
from bridgehold.config.settings import ZygoteLimits
from bridgehold.errors import (
    AttestationError,
    AuditError,
    BridgeholdError,
    BudgetError,
    BusyError,
    CrashError,
    ShortageError,
    TenantFullError,
    UnsupportedError,
)
from bridgehold.host.cell.workers import zygote_rules as rules
from bridgehold.host.cell.workers.calls import unbroken
from bridgehold.host.cell.workers.live import Services, until_gone
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.cell.workers.starts import bubblewrap_refusal
from bridgehold.host.cell.workers.warm_gateway import WarmGateway
from bridgehold.host.cell.workers.zygote import Zygote, ZygoteInfo, ZygoteKey
from bridgehold.host.front.boots import GATEWAY_PORT, StartOrder
from bridgehold.host.shares.logs import SessionLog
from bridgehold.ids import random_id
from bridgehold.policies.units import format_size
from bridgehold.sandbox.spec import spec_digest, warming_spec
from bridgehold.sandbox.values import ExitReport, SandboxSpec, StartNote
from bridgehold.tasks import begin_task

T = TypeVar("T")
_LOG_BYTES = 64 * 1024
_FAILED_FORKS = 8
_OTHERS_FAULTS = (BusyError, ShortageError, AuditError, BudgetError)
"""Nothing that a zygote's key is to blame for."""


class NoZygoteError(UnsupportedError):
    """Nothing can be forked for this order now; the session starts cold."""


class Zygotes:
    """Every zygote of the host."""

    def __init__(self, services: Services, limits: ZygoteLimits) -> None:
        self._services = services
        self._limits = limits
        self._current: dict[ZygoteKey, Zygote] = {}
        self._all: dict[str, Zygote] = {}
        self._warming: dict[ZygoteKey, asyncio.Task[Zygote]] = {}
        self._failures: dict[ZygoteKey, rules.Failures] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def replace(self, limits: ZygoteLimits) -> None:
        """From now on these; what is warm already keeps its memory's cap."""
        self._limits = limits

    def infos(self) -> list[ZygoteInfo]:
        """All zygotes."""
        return [zygote.info() for zygote in self._all.values()]

    @contextlib.asynccontextmanager
    async def borrow(self, order: StartOrder) -> AsyncIterator[Zygote]:
        """The warm zygote of `order`, started where there is none. Raises `NoZygoteError`."""
        zygote = await self._get(order)
        fork = random_id("f")  # each that is under way keeps it from being evicted
        zygote.hold(fork)
        try:
            yield zygote
        finally:
            zygote.release(fork)

    def failed(self, zygote: Zygote) -> None:
        """A fork of it did not come. After some in a row it is replaced, and ends with its last session."""
        zygote.failed += 1
        if zygote.failed >= _FAILED_FORKS and zygote.state == "warm":
            self._retire(zygote, f"{zygote.failed} forks in a row have failed")

    def uses(self, environment: str) -> bool:
        """Whether one of them, or one to be, has this environment."""
        keys = [*self._warming, *(zygote.key for zygote in self._all.values())]
        return any(key.environment == environment for key in keys)

    def replaced(self, zygote: Zygote, why: str) -> None:
        """What it shows is of the past: its sessions go on, and the next ones get a new one."""
        if zygote.state == "warm":
            self._retire(zygote, why)

    async def warm(self, order: StartOrder) -> None:
        """Have `order`'s zygote warm, where it is one to be forked. Raises `NoZygoteError`."""
        if order.grant.sandbox.start == "fork":
            await self._get(order)

    async def making_room(self, tenant: str, start: Callable[[], Awaitable[T]]) -> T:
        """`start`; where admission refuses it, once more after every zygote without sessions has left: the
        tenant's own, where it is its own part that is used up."""
        try:
            return await start()
        except BusyError as error:
            own = isinstance(error, TenantFullError)
            idle = [
                zygote
                for zygote in self._all.values()
                if zygote.state == "warm" and not zygote.sessions and (not own or zygote.key.tenant == tenant)
            ]
            if not idle:
                raise
            await asyncio.gather(*(self._end(zygote, "evicted") for zygote in idle))
            return await start()

    async def end_all(self, tenant: str, reason: str) -> int:
        """End the tenant's zygotes with their sessions, warm or not yet; how many there were."""
        warming = [task for key, task in self._warming.items() if key.tenant == tenant]
        for task in warming:
            task.cancel()
        await asyncio.gather(*warming, return_exceptions=True)
        count = sum(zygote.key.tenant == tenant for zygote in self._all.values())
        await self.drain(lambda key: key.tenant == tenant, reason)
        return len(warming) + count

    async def drain(self, doomed: Callable[[ZygoteKey], bool], reason: str) -> None:
        """End the zygotes of these keys, sessions and all."""
        leaving = [zygote for zygote in self._all.values() if doomed(zygote.key)]
        await asyncio.gather(*(self._end(zygote, reason) for zygote in leaving))

    def retire(self, environment: str, reason: str) -> None:
        """Have no more sessions forked from what runs in this environment; it leaves with its last one."""
        for key, warming in self._warming.items():
            if key.environment == environment:
                warming.add_done_callback(lambda _: self.retire(environment, reason))
        for zygote in [one for one in self._current.values() if one.key.environment == environment]:
            self._retire(zygote, reason)

    async def stop(self) -> None:
        """End every zygote, and every start of one."""
        if self._looking is not None:
            self._looking.cancel()
        warming = list(self._warming.values())
        for task in warming:
            task.cancel()
        await asyncio.gather(*warming, return_exceptions=True)
        await self.drain(lambda _: True, "the host is stopping")
        while self._tasks:  # those that had begun to end before: their ends are in the audit, too
            await asyncio.wait(self._tasks)

    async def _get(self, order: StartOrder) -> Zygote:
        spec = self._spec(order)
        key = ZygoteKey(
            tenant=order.grant.tenant,
            bridge=order.manifest.name,
            spec=spec_digest(spec),
            environment=order.environment_digest,
            warm=" ".join((*order.manifest.preload, "/", *order.manifest.preload_calls, "/", *order.weights)),
        )
        zygote = self._current.get(key)
        if zygote is not None and zygote.state == "warm":
            return zygote
        warming = self._warming.get(key)
        if warming is None:
            warming = asyncio.create_task(self._start(key, spec, order))
            self._warming[key] = warming
            warming.add_done_callback(lambda _: self._warming.pop(key, None))
        return await asyncio.shield(warming)

    def _spec(self, order: StartOrder) -> SandboxSpec:
        return warming_spec(order.spec, self._limits.memory_bytes)

    async def _start(self, key: ZygoteKey, spec: SandboxSpec, order: StartOrder) -> Zygote:
        failures = self._failures.get(key, rules.Failures())
        if not rules.closed(failures, time.monotonic()):
            raise NoZygoteError(failures.reason)
        try:
            await self._make_room()
            zygote = await self._warm(key, spec, order)
        except _OTHERS_FAULTS as error:
            raise NoZygoteError(error.message) from error
        except BridgeholdError as error:
            lasting = isinstance(error, UnsupportedError)
            self._failures[key] = rules.failed(failures, error.message, time.monotonic(), lasting=lasting)
            raise NoZygoteError(error.message) from error
        self._current[key] = zygote
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return zygote

    async def _make_room(self) -> None:
        """Within the memory budget, by ending what is unused. The new one is counted as the others are."""
        facts = [zygote.facts() for zygote in self._all.values()]
        sizes = [fact.memory_bytes for fact in facts if fact.memory_bytes]
        needed = max(sizes, default=0)
        leaving = rules.evicted(facts, needed, self._limits.budget_bytes)
        if leaving is None:
            budget = format_size(self._limits.budget_bytes)
            raise BusyError(f"the zygotes' memory budget of {budget} is in use by zygotes with sessions")
        await asyncio.gather(*(self._end(self._all[name], "evicted") for name in leaving))

    async def _warm(self, key: ZygoteKey, spec: SandboxSpec, order: StartOrder) -> Zygote:
        note = StartNote(environment=key.environment)
        launched, descriptors = await self.making_room(
            key.tenant, lambda: self._services.launcher.launch(spec, note)
        )
        zygote = Zygote(key, launched, SessionLog(_LOG_BYTES))
        self._all[zygote.name] = zygote
        self._spawn(self._watch(zygote))
        gateway = WarmGateway(socket.socket(fileno=descriptors[3])) if len(descriptors) > 3 else None
        try:
            async with asyncio.timeout(self._limits.warm_s):
                warmed = await self._load(zygote, descriptors, order)
                await self._services.launcher.attest(zygote.name)
            await self._begin_use(zygote, warmed)
        except BaseException as error:
            reason = "it was not warm in time" if isinstance(error, TimeoutError) else str(error)
            await unbroken(self._end(zygote, reason[:300]))
            if zygote.pipes is not None:
                zygote.pipes.close()  # its end may have been reported before they were there
            failure = bubblewrap_refusal(zygote.log) if isinstance(error, CrashError) else None
            if isinstance(failure, ShortageError):  # no memory for a filter: no fault of the framework's
                raise failure from error
            if isinstance(error, TimeoutError):
                raise CrashError(f"a zygote was not warm within {self._limits.warm_s:g} s") from error
            if isinstance(error, AttestationError):
                raise CrashError(f"a zygote is not sound: {error.message}") from error
            raise
        finally:
            if gateway is not None:
                await gateway.close()
        return zygote

    async def _begin_use(self, zygote: Zygote, warmed: WarmedFrame) -> None:
        usage = await self._services.launcher.usage(zygote.name)
        zygote.memory_bytes = zygote.first_bytes = usage.memory_bytes
        zygote.state = "warm"
        await self._services.journal.append(
            ZygoteStarted(
                tenant=zygote.key.tenant,
                bridge=zygote.key.bridge,
                zygote=zygote.name,
                spec=zygote.launched.spec_digest,
                environment=zygote.key.environment,
                modules=warmed.modules,
                ms=warmed.ms,
                memory_bytes=zygote.memory_bytes,
            )
        )

    async def _load(self, zygote: Zygote, descriptors: list[int], order: StartOrder) -> WarmedFrame:
        heard: asyncio.Future[WarmedFrame] = asyncio.get_running_loop().create_future()

        def on_frame(frame: GuestFrame | StrayFrame) -> None:
            if isinstance(frame, WarmedFrame) and not heard.done():
                heard.set_result(frame)

        def on_end(error: BridgeholdError | None) -> None:
            if not heard.done():
                heard.set_exception((error or CrashError("the zygote ended before it was warm")).bare())

        zygote.pipes = GuestPipes(
            descriptors[:3],
            limits=order.grant.limits,
            rate=order.grant.rate,
            log=zygote.log,
            on_frame=on_frame,
            on_end=on_end,
            budget=self._services.frames.of(zygote.key.tenant),
            zygote=True,
        )
        frame = WarmFrame(
            modules=order.manifest.preload,
            calls=order.manifest.preload_calls,
            weights=order.weights,
            gateway=f"http://127.0.0.1:{GATEWAY_PORT}",
        )
        await zygote.pipes.send(frame)
        warmed = await heard
        if warmed.reason:
            raise UnsupportedError(warmed.reason)
        return warmed

    async def _watch(self, zygote: Zygote) -> None:
        """Its end, whoever caused it: no further session is forked from it."""
        report: ExitReport | None = None
        with contextlib.suppress(BridgeholdError):
            report = await self._services.launcher.exited(zygote.name)
        was_warm, zygote.state = zygote.state == "warm", "gone"
        if zygote.pipes is not None:
            zygote.pipes.close()
        if self._current.get(zygote.key) is zygote:
            del self._current[zygote.key]
        self._all.pop(zygote.name, None)
        if report is not None:
            reason = report.reason or zygote.why_ended
            if was_warm:
                crashed = "" if zygote.why_ended else reason or f"its zygote ended: {report.cause}"
                self._remember(zygote, crashed)
            ended = ZygoteEnded(
                tenant=zygote.key.tenant,
                bridge=zygote.key.bridge,
                zygote=zygote.name,
                cause=report.cause,
                reason=reason[:500],
                forks=zygote.forks,
            )
            with contextlib.suppress(BridgeholdError):
                await self._services.journal.append(ended)
        zygote.ended.set()

    def _remember(self, zygote: Zygote, crashed: str) -> None:
        """That a warm zygote ended: `crashed` says why where it was not the host's doing."""
        now = time.monotonic()
        before = rules.lived(self._failures.pop(zygote.key, rules.Failures()), now - zygote.began)
        if crashed:
            before = rules.failed(before, crashed, now, lasting=False)
        if before.count:
            self._failures[zygote.key] = before

    async def _end(self, zygote: Zygote, reason: str) -> None:
        zygote.why_ended = zygote.why_ended or reason
        zygote.state = "leaving"
        if zygote.killing is None:
            zygote.killing = asyncio.create_task(
                until_gone(lambda: self._services.launcher.kill(zygote.name), zygote.ended)
            )
        await asyncio.shield(zygote.killing)  # who asked may go away: the end goes on without him

    async def _look(self) -> None:
        """From time to time: what has grown or aged is replaced, and leaves once its sessions have ended."""
        while True:
            await asyncio.sleep(self._limits.check_s)
            for zygote in list(self._current.values()):
                with contextlib.suppress(BridgeholdError):
                    usage = await self._services.launcher.usage(zygote.name)
                    zygote.memory_bytes = usage.memory_bytes
                why = rules.worn(zygote.facts(), self._limits)
                if why:
                    self._retire(zygote, why)

    def _retire(self, zygote: Zygote, why: str) -> None:
        if self._current.get(zygote.key) is zygote:
            del self._current[zygote.key]
        zygote.state, zygote.why_ended = "leaving", why
        if zygote.sessions:
            zygote.when_free(lambda free: self._spawn(self._end(free, why)))
        else:
            self._spawn(self._end(zygote, why))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        begin_task(work, self._tasks)
