"""A submitted bridge, tried before anybody approves it: in a sandbox of its tenant's that reaches nothing.

Its limits are those that it would have. Provider, key, folder, device and tool it has none, whatever its
policy grants: nothing of it is approved yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SessionClosed, SessionOpened
from bridgehold.bridges.frames import FaultFrame
from bridgehold.errors import BridgeholdError, CommandTimeoutError, CrashError
from bridgehold.host.cell.workers.calls import unbroken
from bridgehold.host.cell.workers.forks import ForkStart
from bridgehold.host.cell.workers.live import LiveWorker, Services
from bridgehold.host.cell.workers.starts import guarded, open_session
from bridgehold.host.cell.workers.translate import fault_error
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.closings import Closings
from bridgehold.policies import grant as grants
from bridgehold.policies.model import Grant, Rules
from bridgehold.policies.units import format_ms
from bridgehold.protocol.submissions import Tried

_KEPT_WEAKENINGS = ("no_cgroup", "shared_uid", "overcommit", "pth")
"""What the machine lacks, and how an environment is made: they open nothing."""
_COMMANDS = ("ping", "health", "get_capabilities", "get_stats")
_NOISY_LINES = 20
_MOST_MS = 20_000
_MOST_SECONDS = 120
"""Of a whole trial: few run at a time, of all tenants together."""


def confined(grant: Grant) -> Grant:
    """`grant` without anything to reach (pure)."""
    kept = msgspec.structs.replace(
        grant,
        endpoints=(),
        connects=(),
        secrets=(),
        read=(),
        devices=(),
        tools=Rules(),
        inline_keys="refuse",
        weakenings=tuple(one for one in grant.weakenings if one in _KEPT_WEAKENINGS),
        sandbox=msgspec.structs.replace(grant.sandbox, start="cold"),
        sources={},
        overruled={},
    )
    return msgspec.structs.replace(kept, digest=grants.digest(kept))


class Trial:
    """One per host."""

    def __init__(self, services: Services, starter: ForkStart, journal: JournalClient) -> None:
        self._services = services
        self._starter = starter
        self._journal = journal
        self._closings = Closings(journal, services.on_degraded)

    async def of(self, order: StartOrder, principal: str) -> tuple[Tried, ...]:
        """What was tried, in its order; after a failed start nothing more can be.

        Cancelled, or whatever fails: nothing is left running. Raises what is no fault of the bridge's.
        """
        opened = SessionOpened(
            tenant=order.grant.tenant,
            principal=principal,
            session=order.session,
            bridge=order.grant.bridge,
            grant=order.grant.digest,
            start="cold",  # and without a name: a tenant's own session may have any
        )
        await self._journal.append(opened)
        code, tried = "", list[Tried]()
        try:
            async with asyncio.timeout(_MOST_SECONDS) as deadline:
                async for one in self._tried(order):
                    tried.append(one)
            return tuple(tried)
        except TimeoutError:
            if not deadline.expired():
                raise
            return (*tried, Tried(name="ends", status="FAIL", detail=f"not over within {_MOST_SECONDS} s"))
        except BridgeholdError as error:
            code = error.code
            raise
        except BaseException:
            code = CrashError.code
            raise
        finally:
            closed = SessionClosed(
                tenant=opened.tenant,
                principal=principal,
                session=order.session,
                reason="the trial of a submitted bridge is over",
                code=code,
            )
            await unbroken(self._closings.write(closed))

    async def _tried(self, order: StartOrder) -> AsyncIterator[Tried]:
        try:
            worker = await self._starter.prepare(order)
        except BridgeholdError as error:
            if error.retry == "later":  # the machine's, or its admission's: another try may come to more
                raise
            yield Tried(name="starts", status="FAIL", detail=error.message[:300])
            return
        try:
            async for one in self._alive(worker):
                yield one
        finally:
            await unbroken(worker.end())

    async def _alive(self, worker: LiveWorker) -> AsyncIterator[Tried]:
        try:
            await guarded(worker, open_session(self._services, worker, worker.proven()))
        except BridgeholdError as error:
            yield Tried(name="starts", status="FAIL", detail=error.message[:300])
            return
        yield Tried(name="starts", status="PASS", detail="its class agrees with its manifest, attested")
        for command in _COMMANDS:
            try:
                yield await self._answers(worker, command)
            except BridgeholdError as error:
                yield Tried(name=f"answers {command}", status="FAIL", detail=error.message[:300])
                return
        noisy = len(worker.log.text().splitlines())
        yield Tried(
            name="is quiet",
            status="PASS" if noisy <= _NOISY_LINES else "CAUTION",
            detail=f"{noisy} lines in its log",
        )

    async def _answers(self, worker: LiveWorker, command: str) -> Tried:
        most = min(worker.order.grant.limits.command_ms, _MOST_MS)
        try:
            async with asyncio.timeout(most / 1000):
                reply = await worker.call(f"common:{command}", {}, deadline_ms=most)
        except TimeoutError:
            raise CommandTimeoutError(f"no answer within {format_ms(most)}") from None
        if isinstance(reply, FaultFrame):
            raise fault_error(reply, where=command)
        return Tried(name=f"answers {command}", status="PASS")
