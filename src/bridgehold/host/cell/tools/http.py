"""Tools that are endpoints of the operator's: a POST of the arguments, through the keeper.

The address is a `[providers.NAME]` of the configuration. So its name is resolved and pinned, private
ranges are refused and the tenant's key is put in as for any provider, and no bridge sees either. As any
request to a provider it needs the policy's leave for the key, counts in the tenant's budgets and
ceilings, and is an `egress.intent` before and an `egress.outcome` after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.errors import (
    ApplicationError,
    BridgeholdError,
    DeniedError,
    LimitError,
    NotFoundError,
)
from bridgehold.host.cell.gateway.exchange import never_sent
from bridgehold.host.cell.gateway.records import Announced, Records
from bridgehold.host.cell.gateway.values import Attribution, ProviderFacts, SessionFacts
from bridgehold.host.cell.tools.values import ToolContext, ToolMeans, ToolSpec
from bridgehold.keeper.budgets import Budgets, Reservation
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.protocol import UpstreamRequest
from bridgehold.keeper.shapes import each_answer, most_tokens, names_bound
from bridgehold.keeper.usage import NOTHING, UsageTap
from bridgehold.policies.content import ParsedRequest, body_facts
from bridgehold.policies.decide import decide_tool, tool_secret_of
from bridgehold.steps import in_turns

_MOST_BYTES = 4 * 1024 * 1024
_LONGEST_MODEL = 100
_JSON = (("content-type", "application/json"), ("accept", "application/json"))


_SMALL = 16 * 1024
Place = tuple[str, str, bool]
"""A tool's provider, the path below its base URL, and whether its arguments name the model that answers."""


class HttpTools:
    """Calls endpoints through the keeper."""

    def __init__(
        self, keeper: KeeperClient, budgets: Budgets, providers: Mapping[str, ProviderFacts]
    ) -> None:
        self._keeper = keeper
        self._budgets = budgets
        self._providers = providers
        self._places: Mapping[str, Place] = {}

    def replace(self, places: Mapping[str, Place]) -> None:
        """By tool, where it is."""
        self._places = places

    async def call(
        self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext, means: ToolMeans
    ) -> object:
        """POST the arguments to the tool's address, through the keeper."""
        if tool.name not in self._places:
            raise NotFoundError(f"the tool {tool.name} is not offered any more")
        name, path, names_model = self._places[tool.name]
        provider, grant = self._providers.get(name), means.grant
        secret = tool_secret_of(grant, name)
        if provider is None or secret is None:
            hint = f"Name it in the policy: [secrets.{name}] provider = {name!r}."
            raise DeniedError(f"no secret is granted for {name}", where="secrets", hint=hint)
        body = msgspec.json.encode(arguments)
        named = arguments.get("model")
        model = named[:_LONGEST_MODEL] if isinstance(named, str) else ""
        if not names_model and not self._budgets.spending.dearer(name, model):
            model = ""  # the address says which: the guest's word makes nothing cheaper
        generates = provider.shape != "custom" or self._budgets.spending.priced(name)
        asked = ParsedRequest(path=path, body=arguments)
        if len(body) <= _SMALL:
            facts = body_facts(provider.shape, asked, ("*",))
        else:  # many values take a while, and everybody's loop goes on
            facts = await asyncio.to_thread(body_facts, provider.shape, asked, ("*",))
        reserved = most_tokens(provider.shape, arguments, len(body), facts) if generates else 0
        uses = self._budgets.spending.prices.said(
            provider.shape, name, each_answer(provider.shape, arguments, facts.uses)
        )
        reservation = self._budgets.reserve(
            (context.tenant, grant.bridge),
            name,
            grant.rate,
            reserved,
            time.monotonic(),
            model or None,
            uses,
        )
        records = Records(
            SessionFacts(tenant=context.tenant, session=context.session),
            lambda: Attribution(context.command, context.principal),
            means.events,
            kept=self._keeper.keeps_account,
        )
        try:
            announced = await records.intent(
                provider=name,
                host=provider.host,
                method="POST",
                path=path,
                rule=decide_tool(grant, tool.name).rule,
                how="tool",
                reserved=reserved,
                fees=reservation.fees,
                model=model,
            )
        except BaseException:
            reservation.give_back()
            raise
        request = UpstreamRequest(
            tenant=context.tenant,
            session=context.session,
            provider=name,
            method="POST",
            path=path,
            headers=_JSON,
            body_bytes=len(body),
            secret=secret.name,
            how="tool",
            intent=announced.reference,
            deadline_ms=tool.timeout_ms,
            tokens=reserved,
            fees=reservation.fees,
            command=context.command,
            principal=context.principal,
        )
        open_ended = len(body) if generates and not names_bound(provider.shape, arguments) else 0
        under_way = _EndpointCall(self._keeper, records, announced, reservation, provider.shape, open_ended)
        return await under_way.run(tool.name, request, body)


class _EndpointCall:
    """One request under way, to its outcome."""

    def __init__(
        self,
        keeper: KeeperClient,
        records: Records,
        announced: Announced,
        reservation: Reservation,
        shape: str,
        open_ended: int,
    ) -> None:
        """`open_ended`: as of `charge`."""
        self._keeper = keeper
        self._records = records
        self._announced = announced
        self._reservation = reservation
        self._shape = shape
        self._open_ended = open_ended
        self._tap: UsageTap | None = None
        self._found = bytearray()
        self._status = 0
        self._sent = True

    async def run(self, tool: str, request: UpstreamRequest, body: bytes) -> object:
        """What the endpoint says. Raises typed errors."""
        started, code = time.monotonic(), "cancelled"
        try:
            await self._ask(tool, request, body)
            code = ""
        except BridgeholdError as error:
            self._sent = not never_sent(error)
            code = f"keeper.{error.code}"
            raise
        finally:
            await asyncio.shield(self._record(started, code, len(body)))
        if not 200 <= self._status < 300:
            raise ApplicationError(f"the tool {tool} answered with status {self._status}")
        try:
            return await in_turns(strict_turns.steps(bytes(self._found))) if self._found else None
        except strict.StrictError as error:
            raise ApplicationError(f"the tool {tool} answered with what can't be sent: {error}") from None

    async def _ask(self, tool: str, request: UpstreamRequest, body: bytes) -> None:
        async with await self._keeper.request(request, body) as response:
            self._status = response.status
            kind = next((value for name, value in response.headers if name == "content-type"), "")
            tap = self._tap = UsageTap(self._shape, kind)
            async for piece in response.body():
                self._found += piece
                tap.feed(piece)
                if len(self._found) > _MOST_BYTES:
                    raise LimitError(f"the tool {tool} answered with more than {_MOST_BYTES} bytes")
            tap.end()

    async def _record(self, started: float, code: str, sent: int) -> None:
        counted = self._tap.counted if self._tap is not None else NOTHING
        charged, fees = self._reservation.end(
            counted, self._status, sent=self._sent, open_ended=self._open_ended
        )
        await self._records.outcome(
            self._announced,
            started=started,
            status=self._status,
            request_bytes=sent,
            response_bytes=len(self._found),
            code=code,
            input_tokens=counted.said.input_tokens if counted.said else 0,
            output_tokens=counted.said.output_tokens if counted.said else 0,
            charged=charged,
            fees=fees,
            model=self._announced.intent.model,
            unsent=not self._sent,
        )
