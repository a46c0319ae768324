"""One request under way: from its durable intent to its outcome, whatever comes between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, TypeVar

from bridgehold.errors import (
    AuditError,
    BridgeholdError,
    BudgetError,
    BusyError,
    DeniedError,
    SecretError,
    SuspendedError,
)
from bridgehold.host.cell.gateway.admit import Admitted
from bridgehold.host.cell.gateway.records import Announced
from bridgehold.host.cell.gateway.redirects import led_within
from bridgehold.host.cell.gateway.replies import Refusal, Replies
from bridgehold.host.cell.gateway.wire import GuestGone, Wire
from bridgehold.keeper.protocol import REDIRECT, UNREACHED, UpstreamRequest
from bridgehold.keeper.shapes import Usage
from bridgehold.keeper.usage import NOTHING, Unasked, UsageTap, is_stream

T = TypeVar("T")
_NOT_BEGUN = (BusyError, BudgetError, SuspendedError, AuditError)

if TYPE_CHECKING:
    from bridgehold.host.cell.gateway.served import Keeper, Served
    from bridgehold.keeper.budgets import Reservation
    from bridgehold.keeper.client import UpstreamResponse


class _RedirectedError(Exception):
    """The provider redirects to where its guest may not follow: nothing that the guest has tried."""

    def __init__(self, refused: DeniedError) -> None:
        super().__init__(refused.message)
        self.refused = refused


async def until_guest_leaves(wire: Wire, asking: Coroutine[None, None, T]) -> T:
    """What `asking` gives; where the guest closes its end first, `asking` is ended, and `GuestGone`."""
    gone = asyncio.Event()
    with wire.watch_end(gone):
        work = asyncio.ensure_future(asking)
        leaving = asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise GuestGone("it closed before the answer was complete")
            return await work
        finally:
            for task in (work, leaving):
                task.cancel()
            await asyncio.wait({work, leaving})
            if not work.cancelled():
                work.exception()  # seen, also where the guest left first


class Exchange:
    """Asks the keeper, streams back, and writes the outcome exactly once."""

    def __init__(
        self,
        served: Served,
        keeper: Keeper,
        wire: Wire,
        replies: Replies,
        admitted: Admitted,
        reservation: Reservation,
        announced: Announced,
    ) -> None:
        self._served = served
        self._keeper = keeper
        self._wire = wire
        self._replies = replies
        self._admitted = admitted
        self._reservation = reservation
        self._announced = announced
        self._recorded = False
        self._started = time.monotonic()
        self._status = 0
        self._scrubbed = 0
        self._tap: UsageTap | None = None
        self._answered = 0
        """The provider's own status, once its head is there."""
        self._sent = False
        """Whether the provider may have seen the request: once asked for, unless the keeper knows better."""

    async def run(self) -> None:
        """Raises `GuestGone` where the guest left or the provider broke off in the middle."""
        code = "cancelled"
        try:
            code = await self._exchange()
        except GuestGone:
            code = "guest_gone"
            raise
        finally:
            await asyncio.shield(self._record(code))

    async def _exchange(self) -> str:
        try:
            async with asyncio.timeout(self._served.limits.request_ms / 1000):
                await until_guest_leaves(self._wire, self._ask())
        except TimeoutError:
            return await self._broke(
                Refusal(status=504, rule="gateway.timeout", reason="the answer took too long")
            )
        except _RedirectedError as error:
            refusal = Refusal(
                status=403, rule="gateway.redirect", reason=error.refused.message, hint=error.refused.hint
            )
            return await self._broke(refusal, audited=True)
        except DeniedError as error:
            refusal = Refusal(
                status=403,
                rule=f"keeper.{error.where or 'denied'}",
                reason=error.message,
                severity="high",
                hint=error.hint,
            )
            return await self._broke(refusal, audited=True)
        except BridgeholdError as error:
            return await self._broke(_refusal_of(error))
        return ""

    async def _ask(self) -> None:
        admitted, facts = self._admitted, self._served.facts
        request = UpstreamRequest(
            tenant=facts.tenant,
            session=facts.session,
            provider=admitted.provider.name,
            method=admitted.method,
            path=admitted.path,
            query=admitted.query,
            headers=admitted.headers,
            body_bytes=len(admitted.body),
            secret=admitted.secret,
            how="pass" if admitted.credential else "gateway",
            credential=admitted.credential,
            intent=self._announced.reference,
            deadline_ms=self._served.limits.request_ms,
            tokens=self._reservation.tokens,
            fees=self._reservation.fees,
            command=self._announced.intent.command,
            principal=self._announced.intent.principal,
        )
        self._sent = True
        try:
            response = await self._keeper.request(request, admitted.body)
        except BridgeholdError as error:
            self._sent = not never_sent(error)
            raise
        async with response:
            await self._pass_on(response)

    async def _pass_on(self, response: UpstreamResponse) -> None:
        self._status = self._answered = response.status
        content_type = next((v for n, v in response.headers if n == "content-type"), "")
        self._tap = UsageTap(self._admitted.provider.shape, content_type)
        headers = self._followable(response)
        left_out = Unasked() if self._admitted.unasked and is_stream(content_type) else None
        if left_out is not None:
            headers = [(name, value) for name, value in headers if name != "content-length"]
        try:
            await self._replies.head(response.status, headers)
            async for chunk in response.body():
                self._tap.feed(chunk)
                await self._replies.data(chunk if left_out is None else left_out.feed(chunk))
            self._tap.end()
            if left_out is not None:
                await self._replies.data(left_out.end())
            await self._replies.end()
        finally:
            self._scrubbed = response.done.scrubbed

    def _followable(self, response: UpstreamResponse) -> Iterable[tuple[str, str]]:
        admitted = self._admitted
        placeholder = self._served.facts.placeholders.get(admitted.provider.name, "")
        try:
            return led_within(self._served.grant, admitted, placeholder, response.status, response.headers)
        except DeniedError as error:
            raise _RedirectedError(error) from None

    async def _broke(self, refusal: Refusal, *, audited: bool = False) -> str:
        """Tell the guest, if its answer has not begun; otherwise the connection is cut. The code."""
        event = self._announced.reference
        if audited:
            event = await self._served.records.refused(
                host=self._admitted.provider.host,
                method=self._admitted.method,
                path=self._admitted.path,
                rule=refusal.rule,
                reason=refusal.reason,
                severity=refusal.severity,
            )
        if self._replies.started:
            await self._record(refusal.rule)
            raise GuestGone("the provider broke off within its answer")
        self._status = refusal.status
        await self._replies.refuse(refusal, event)
        return refusal.rule

    async def _record(self, code: str) -> None:
        if self._recorded:
            return
        self._recorded = True
        admitted = self._admitted
        counted = self._tap.counted if self._tap is not None else NOTHING
        answered = 0 < self._answered < 300
        open_ended = len(admitted.body) if admitted.open_ended else 0
        charged, fees = self._reservation.end(counted, self._answered, sent=self._sent, open_ended=open_ended)
        said = counted.said or Usage(
            input_tokens=len(admitted.body) // 4 if answered else 0, output_tokens=counted.seen
        )
        await self._served.records.outcome(
            self._announced,
            started=self._started,
            status=self._status,
            request_bytes=len(admitted.body),
            response_bytes=self._replies.sent,
            code=code,
            model=admitted.model,
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            estimated=answered and counted.said is None,
            charged=charged,
            fees=fees,
            unsent=not self._sent,
            scrubbed=self._scrubbed,
        )


def _refusal_of(error: BridgeholdError) -> Refusal:
    """What the keeper refuses, as the guest is told (pure)."""
    status, rule = 502, f"keeper.{error.code}"
    if isinstance(error, BudgetError):  # by the keeper's own account
        status, rule = 429, error.where
    elif isinstance(error, SuspendedError):
        status, rule = 403, "tenant.state"
    elif isinstance(error, SecretError):
        status, rule = 403, "secrets"
    return Refusal(status=status, rule=rule, reason=error.message, hint=error.hint)


def never_sent(error: BridgeholdError) -> bool:
    """Whether no byte of the request can have reached the provider (pure).

    A key that is revoked while it is in use ends a request that may be well under way. Whoever is busy has
    taken nothing on. Who redirects has answered.
    """
    if isinstance(error, SecretError):
        return error.retry != "same"
    if isinstance(error, DeniedError):
        return error.where != REDIRECT
    return error.where == UNREACHED or isinstance(error, _NOT_BEGUN)
