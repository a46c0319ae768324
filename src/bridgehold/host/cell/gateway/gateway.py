"""A session's only way out: one listener inside its sandbox, accepted and answered by the host.

The guest never holds the listener, so the connection's origin needs no proof and can't be forged.
Everything a guest can make the host do here is counted, and past its bucket the host reads more
slowly: it waits instead of answering, and the rest stays in the guest's own kernel buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable, Mapping

import h11

from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.gateway.outbound import Outbound, Places
from bridgehold.host.cell.gateway.parse import BadRequest, Target, check_head, parse_head
from bridgehold.host.cell.gateway.records import Records
from bridgehold.host.cell.gateway.replies import Refusal, raw_refusal
from bridgehold.host.cell.gateway.reverse import ReverseProxy
from bridgehold.host.cell.gateway.served import Keeper, Served, Upstream
from bridgehold.host.cell.gateway.values import Attribution, GatewayLimits, ProviderFacts, SessionFacts
from bridgehold.host.cell.gateway.wire import GuestGone, Wire
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.shares.buffers import Buffers
from bridgehold.host.shares.dialling import Dial, dial
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.places import Places as Shared
from bridgehold.keeper.resolve import Lookup, system_lookup
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.decide import secret_of
from bridgehold.policies.model import Grant
from bridgehold.tasks import begin_task

_DESCRIPTORS = 2
"""Of one connection: the guest's, and a tunnel's other end."""
_BUFFER_BYTES = 20 * 1024
"""What a head that is under way may make the host hold."""


class Gateway:
    """Serves one session until it is closed. One task for each connection."""

    def __init__(
        self,
        listener: socket.socket,
        grant: Grant,
        facts: SessionFacts,
        *,
        keeper: Keeper,
        events: SessionEvents,
        budgets: Budgets,
        buffers: Buffers,
        providers: Mapping[str, ProviderFacts],
        downloads: Downloads,
        attribution: Callable[[], Attribution],
        descriptors: Shared,
        limits: GatewayLimits | None = None,
        lookup: Lookup = system_lookup,
        dial: Dial = dial,
    ) -> None:
        """`descriptors`: of this process, for what all its gateways accept and dial."""
        listener.setblocking(False)
        self._descriptors = descriptors
        self._listener = listener
        self._port = int(listener.getsockname()[1])
        self._limits = limits or GatewayLimits()
        records = Records(facts, attribution, events, kept=keeper.keeps_account)
        self._served = Served(grant, facts, records, buffers, self._limits)
        self._upstream = Upstream(keeper, budgets, downloads, providers)
        self._places = Places(lookup, dial, providers)
        rate = grant.rate.connections_per_second
        self._connections = TokenBucket(rate, rate)
        self._requests = TokenBucket(self._limits.requests_per_second, self._limits.requests_per_second * 2)
        self._reads = TokenBucket(self._limits.reads_per_second, self._limits.reads_per_second / 2)
        parts = TokenBucket(self._limits.parts_per_second, self._limits.parts_per_second)
        self._refusals = TokenBucket(self._limits.refusals_per_second, self._limits.refusals_per_second * 2)
        self._own = frozenset(f"{host}:{self._port}" for host in ("127.0.0.1", "localhost"))
        self._reverse = ReverseProxy(self._served, self._upstream, parts, self._slow)
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(self._limits.connections)
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Serve in a task of its own, until `close`."""
        self._serving = asyncio.create_task(self.serve())

    async def serve(self) -> None:
        """Accept until closed, or until the listener's namespace has gone."""
        begin_task(self._prefetch(), self._tasks)
        while not self._closed:
            await _readable(self._listener)
            await self._free.acquire()
            try:
                await self._descriptors.wait(self._served.facts.tenant, _DESCRIPTORS)
            except BaseException:
                self._free.release()
                raise
            serving: asyncio.Task[None] | None = None
            try:
                await asyncio.sleep(self._connections.take(1, time.monotonic()))
                wire = Wire(self._listener.accept()[0], self._limits, self._pace)
                serving = begin_task(self._connection(wire), self._tasks)
                serving.add_done_callback(functools.partial(self._ended, wire))
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                continue
            except OSError:
                if self._listener.fileno() < 0:
                    return
                await asyncio.sleep(0.5)  # out of descriptors, say: others need the loop meanwhile
            finally:
                if serving is None:
                    self._let_go()

    def _ended(self, wire: Wire, _task: asyncio.Task[None]) -> None:
        """However it ended, and where it never began."""
        wire.close()
        self._let_go()

    def _let_go(self) -> None:
        self._free.release()
        self._descriptors.give_back(self._served.facts.tenant, _DESCRIPTORS)

    async def close(self) -> None:
        """Cut every connection, end every request, forget the session's own keys. Idempotent."""
        if self._closed:
            return
        self._closed = True
        tasks = {*self._tasks, *([self._serving] if self._serving is not None else [])}
        tasks.discard(asyncio.current_task())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._listener.close()
        await self._served.records.close()
        with contextlib.suppress(BridgeholdError):
            await self._upstream.keeper.drop_session(
                self._served.facts.session, tenant=self._served.facts.tenant
            )

    async def _slow(self) -> None:
        """Wait as this session's refusals require; all its connections wait in one line."""
        await asyncio.sleep(self._refusals.take(1, time.monotonic()))

    async def _pace(self) -> None:
        """Before each read of a guest's connection: a byte at a time costs the guest, not the host."""
        wait = self._reads.take(1, time.monotonic())
        if wait:
            await asyncio.sleep(wait)

    async def _prefetch(self) -> None:
        """Have keys at hand before the first request: an encrypted file takes a second to open."""
        for name in self._served.facts.placeholders:
            secret = secret_of(self._served.grant, name)
            known = self._upstream.providers.get(name)
            if secret is not None and (known is None or known.keyed):
                with contextlib.suppress(BridgeholdError):  # the request itself will say what is missing
                    await self._upstream.keeper.prefetch(self._served.facts.tenant, name, secret.name)

    async def _connection(self, wire: Wire) -> None:
        try:
            while await wire.begun() and await self._request(wire):
                pass
        except (GuestGone, BridgeholdError):
            return

    async def _request(self, wire: Wire) -> bool:
        """One request; whether another may follow on this connection."""
        target: Target | None = None
        try:
            async with self._served.buffers.hold(self._served.facts.owner, _BUFFER_BYTES):
                head = await wire.read_head()
            if head is None:
                return False
            await asyncio.sleep(self._requests.take(1, time.monotonic()))
            connection, request = parse_head(head, self._limits.head_bytes)
            target = check_head(request, self._own, self._limits.headers)
            if target.kind == "reverse":
                await self._reverse.serve(wire, connection, request, target)
            else:
                active = self._upstream.budgets.spending.demand_active
                outbound = Outbound(self._served, self._places, self._slow, wire, target, active)
                await outbound.serve(connection, request)
                return False
        except BadRequest as error:
            await self._refuse_raw(wire, error, target)
            return False
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _refuse_raw(self, wire: Wire, error: BadRequest, target: Target | None) -> None:
        event = await self._served.records.refused(
            host=target.host if target else "",
            method=target.method if target else "",
            path=target.path if target else "",
            rule=error.rule,
            reason=error.reason,
        )
        await self._slow()
        refusal = Refusal(status=error.status, rule=error.rule, reason=error.reason)
        await wire.send(raw_refusal(refusal, event))
        await wire.linger()


async def _readable(listener: socket.socket) -> None:
    """Until somebody wants to be accepted: who waits for that holds nothing of what all share."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    descriptor = listener.fileno()
    if descriptor < 0:
        return
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(descriptor)
