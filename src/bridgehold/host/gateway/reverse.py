"""``/PROVIDER/…``: check the placeholder, decide, write the intent, let the keeper ask, stream back."""

from __future__ import annotations

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import h11

from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.host.gateway.admit import Admitted, Refused, admit, judge_head, parts_of
from bridgehold.host.gateway.exchange import Exchange
from bridgehold.host.gateway.hub import HubProxy, admit_download
from bridgehold.host.gateway.parse import Target, declared
from bridgehold.host.gateway.replies import Refusal, Replies
from bridgehold.host.gateway.values import ProviderFacts
from bridgehold.host.gateway.wire import Wire

if TYPE_CHECKING:
    from bridgehold.host.gateway.gateway import Gateway


_FEW = 5_000
_BESIDE = ThreadPoolExecutor(max_workers=2, thread_name_prefix="judge")
"""For large bodies only: hostile ones wait behind each other, and small ones behind none."""


class ReverseProxy:
    """Serves the reverse-proxy requests of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._hub = HubProxy(gateway)

    async def serve(
        self, wire: Wire, connection: h11.Connection, request: h11.Request, target: Target
    ) -> None:
        """Answer one request. Raises `GuestGone` and `BadRequest`; afterwards the connection may go on."""
        name, _, _ = target.path.removeprefix("/").partition("/")
        provider = self._gateway.providers.get(name)
        shape = provider.shape if provider else "openai"
        replies = Replies(wire, connection, shape, bodiless=request.method == b"HEAD")
        try:
            judge_head(self._gateway.grant, self._gateway.facts, request, target, provider)
        except Refused as refused:
            empty = not declared(request, 1)
            if empty:
                await self._read(wire, connection)  # to its end, so that the connection may go on
            await self._refuse(replies, refused.refusal, target, name, provider, close=not empty)
            if not empty:
                await wire.drop_body(connection, self._gateway.grant.limits.request_bytes)
            return
        size = declared(request, self._gateway.grant.limits.request_bytes)
        try:
            async with self._gateway.buffers.hold(self._gateway.facts.owner, size) as holding:
                body = await self._read(wire, connection)
                holding.shrink(len(body))
                if provider is not None and provider.shape == "hub":
                    asked = admit_download(self._gateway, request, target, provider, body)
                    await self._hub.serve(wire, replies, asked)
                    return
                admitted = await self._admit(request, target, (name, provider), body)
                await self._forward(wire, replies, admitted)
        except Refused as refused:
            await self._refuse(replies, refused.refusal, target, name, provider)
        except BudgetError as error:
            refusal = Refusal(status=429, rule=error.where, reason=error.message, hint=error.hint)
            await self._refuse(replies, refusal, target, name, provider)
        except BridgeholdError as error:
            refusal = Refusal(status=503, rule=f"gateway.{error.code}", reason=error.message, hint=error.hint)
            await self._refuse(replies, refusal, target, name, provider)

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
        event = await self._gateway.records.refused(
            host=provider.host if provider else name,
            method=target.method,
            path=target.path,
            rule=refusal.rule,
            reason=refusal.reason,
            source=refusal.source,
            severity=refusal.severity,
        )
        await self._gateway.slow_refusals()
        await replies.refuse(refusal, event, close=close)

    async def _read(self, wire: Wire, connection: h11.Connection) -> bytes:
        bound = self._gateway.grant.limits.request_bytes
        found = bytearray()
        too_long = False
        async for piece in wire.body(connection):
            if len(found) + len(piece) > bound:
                too_long = True  # read on, so that the refusal arrives; the body's time bounds it
                found.clear()
            if not too_long:
                found += piece
        if too_long:
            raise Refused(
                Refusal(status=413, rule="limits.request", reason=f"a body of more than {bound} bytes")
            )
        return bytes(found)

    async def _admit(
        self, request: h11.Request, target: Target, provider: tuple[str, ProviderFacts | None], body: bytes
    ) -> Admitted:
        """Judge the request; a body of many parts waits its turn, and is judged beside the loop."""
        gateway = self._gateway
        parts = parts_of(body)
        if parts <= _FEW:
            return admit(gateway.grant, gateway.facts, request, target, provider, body)
        await asyncio.sleep(gateway.parts.take(parts, time.monotonic()))
        judge = functools.partial(admit, gateway.grant, gateway.facts, request, target, provider, body)
        return await asyncio.get_running_loop().run_in_executor(_BESIDE, judge)

    async def _forward(self, wire: Wire, replies: Replies, admitted: Admitted) -> None:
        gateway = self._gateway
        reservation = gateway.budgets.reserve(
            (gateway.facts.tenant, gateway.grant.bridge),
            admitted.provider.name,
            gateway.grant.rate,
            admitted.tokens,
            time.monotonic(),
        )
        try:
            intent, command = await gateway.records.intent(
                provider=admitted.provider.name,
                host=admitted.provider.host,
                method=admitted.method,
                path=admitted.path,
                rule=admitted.rule,
                how="pass" if admitted.credential else "gateway",
                reserved=admitted.tokens,
            )
        except BaseException:
            reservation.give_back()
            raise
        exchange = Exchange(gateway, wire, replies, admitted, reservation, intent, command)
        await exchange.run()
