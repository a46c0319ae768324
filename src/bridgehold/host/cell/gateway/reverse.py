"""``/PROVIDER/…``: check the placeholder, decide, write the intent, let the keeper ask, stream back."""

from __future__ import annotations

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import h11

from bridgehold.errors import BridgeholdError, BudgetError, SuspendedError
from bridgehold.host.cell.gateway.admit import Admitted, Head, Refused, admit, judge_head, parts_of
from bridgehold.host.cell.gateway.download import admit_download
from bridgehold.host.cell.gateway.exchange import Exchange
from bridgehold.host.cell.gateway.hub import HubProxy
from bridgehold.host.cell.gateway.parse import Target, declared
from bridgehold.host.cell.gateway.replies import Refusal, Replies
from bridgehold.host.cell.gateway.values import ProviderFacts
from bridgehold.host.cell.gateway.wire import Wire

if TYPE_CHECKING:
    from bridgehold.host.cell.gateway.served import Served, Slow, Upstream
    from bridgehold.policies.buckets import TokenBucket


_FEW = 5_000
_SMALL = 256 * 1024
_PART_BYTES = 64
"""Bytes that cost as much to judge as a bracket or separator."""
_BESIDE = ThreadPoolExecutor(max_workers=2, thread_name_prefix="judge")
"""For large bodies only: hostile ones wait behind each other, and small ones behind none."""


class ReverseProxy:
    """Serves the reverse-proxy requests of one gateway."""

    def __init__(self, served: Served, upstream: Upstream, parts: TokenBucket, slow: Slow) -> None:
        """`parts`: how many parts of bodies are judged a second; `slow`: before each refusal."""
        self._served = served
        self._upstream = upstream
        self._parts = parts
        self._slow = slow
        self._hub = HubProxy(served, upstream, parts)

    async def serve(
        self, wire: Wire, connection: h11.Connection, request: h11.Request, target: Target
    ) -> None:
        """Answer one request. Raises `GuestGone` and `BadRequest`; afterwards the connection may go on."""
        name, _, _ = target.path.removeprefix("/").partition("/")
        provider = self._upstream.providers.get(name)
        shape = provider.shape if provider else "openai"
        replies = Replies(wire, connection, shape, bodiless=request.method == b"HEAD")
        refusal = await self._served_or_refused(wire, replies, connection, request, target, (name, provider))
        if refusal is None:
            return
        if not declared(request, 1) and connection.their_state is h11.SEND_BODY:
            await wire.read_body(connection, 1)  # none: to its end, so that the connection may go on
        whole = connection.their_state is not h11.SEND_BODY
        await self._refuse(replies, refusal, target, name, provider, close=not whole)
        if not whole:
            await wire.drop_body(self._served.grant.limits.request_bytes)

    async def _served_or_refused(
        self,
        wire: Wire,
        replies: Replies,
        connection: h11.Connection,
        request: h11.Request,
        target: Target,
        named: tuple[str, ProviderFacts | None],
    ) -> Refusal | None:
        """Why not, before anything was answered; of the body all, some or nothing is read then."""
        grant, facts, provider = self._served.grant, self._served.facts, named[1]
        try:
            if provider is not None and provider.shape == "hub":
                wanted = admit_download(grant, facts, request, target, provider)
                await wire.read_body(connection, 0)  # it has none
                await self._hub.serve(wire, replies, wanted)
            else:
                head = judge_head(grant, facts, request, target, named)
                self._upstream.budgets.demand(facts.tenant, head.provider.name, grant.rate)
                await self._with_body(wire, replies, connection, request, head)
        except Refused as refused:
            return refused.refusal
        except SuspendedError as error:
            return Refusal(status=403, rule="tenant.state", reason=error.message, hint=error.hint)
        except BudgetError as error:
            return Refusal(status=429, rule=error.where, reason=error.message, hint=error.hint)
        except BridgeholdError as error:
            return Refusal(status=503, rule=f"gateway.{error.code}", reason=error.message, hint=error.hint)
        return None

    async def _with_body(
        self, wire: Wire, replies: Replies, connection: h11.Connection, request: h11.Request, head: Head
    ) -> None:
        bound = self._served.grant.limits.request_bytes
        async with self._served.buffers.hold(self._served.facts.owner, declared(request, bound)) as holding:
            body = await wire.read_body(connection, bound)
            if body is None:
                reason = f"a body of more than {bound} bytes"
                raise Refused(Refusal(status=413, rule="limits.request", reason=reason))
            holding.shrink(len(body))
            await self._forward(wire, replies, await self._admit(head, body))

    async def _refuse(
        self,
        replies: Replies,
        refusal: Refusal,
        target: Target,
        name: str,
        provider: ProviderFacts | None,
        *,
        close: bool = False,
    ) -> None:
        event = await self._served.records.refused(
            host=provider.host if provider else name,
            method=target.method,
            path=target.path,
            rule=refusal.rule,
            reason=refusal.reason,
            source=refusal.source,
            severity=refusal.severity,
        )
        await self._slow()
        await replies.refuse(refusal, event, close=close)

    async def _admit(self, head: Head, body: bytes) -> Admitted:
        """Judge the body once its session's bucket allows for it; a large one beside the loop."""
        beside = functools.partial(asyncio.get_running_loop().run_in_executor, _BESIDE)
        await self._take(len(body) // _PART_BYTES)
        small = len(body) <= _SMALL
        parts = parts_of(body) if small else await beside(parts_of, body)
        await self._take(parts)
        if small and parts <= _FEW:
            return admit(self._served.grant, head, body, parts)
        return await beside(admit, self._served.grant, head, body, parts)

    async def _take(self, parts: int) -> None:
        wait = self._parts.take(parts, time.monotonic())
        if wait:
            await asyncio.sleep(wait)

    async def _forward(self, wire: Wire, replies: Replies, admitted: Admitted) -> None:
        reservation = self._upstream.budgets.reserve(
            (self._served.facts.tenant, self._served.grant.bridge),
            admitted.provider.name,
            self._served.grant.rate,
            admitted.tokens,
            time.monotonic(),
            admitted.model,
            admitted.uses,
        )
        try:
            announced = await self._served.records.intent(
                provider=admitted.provider.name,
                host=admitted.provider.host,
                method=admitted.method,
                path=admitted.path,
                rule=admitted.rule,
                how="pass" if admitted.credential else "gateway",
                reserved=admitted.tokens,
                fees=reservation.fees,
                model=admitted.model,
            )
        except BaseException:
            reservation.give_back()
            raise
        exchange = Exchange(
            self._served, self._upstream.keeper, wire, replies, admitted, reservation, announced
        )
        await exchange.run()
