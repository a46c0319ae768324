"""``/PROVIDER/…``: check the placeholder, decide, write the intent, let the keeper ask, stream back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import h11
import msgspec

from bridgehold.audit.events import EgressOutcome
from bridgehold.errors import BridgeholdError, BudgetError, DeniedError, SecretError
from bridgehold.host.gateway.credentials import presented
from bridgehold.host.gateway.parse import Target, parse_query
from bridgehold.host.gateway.replies import Refusal, Replies
from bridgehold.host.gateway.shapes import rules_of, wanted_tokens
from bridgehold.host.gateway.usage import UsageTap
from bridgehold.host.gateway.values import ProviderFacts
from bridgehold.host.gateway.wire import GuestGone, Wire
from bridgehold.host.keeper.protocol import UpstreamRequest
from bridgehold.host.keeper.slots import AUTH_QUERY, forwarded_headers
from bridgehold.policies.content import NO_BODY, UNREADABLE, BodyFacts, body_facts
from bridgehold.policies.decide import decide_egress, secret_of
from bridgehold.policies.names import normalise_path

if TYPE_CHECKING:
    from bridgehold.host.budgets import Reservation
    from bridgehold.host.gateway.gateway import Gateway
    from bridgehold.host.keeper.client import UpstreamResponse

_BRACKETS = 100_000
_SEPARATORS = 500_000
"""A JSON body with more of them is not parsed: parsing holds up every other session."""


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may go out, but for its budget."""

    provider: ProviderFacts
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    rule: str
    secret: str
    credential: str
    model: str
    tokens: int

    def __repr__(self) -> str:
        return f"Admitted({self.method} {self.provider.name}{self.path})"


class ReverseProxy:
    """Serves the reverse-proxy requests of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def serve(
        self, wire: Wire, connection: h11.Connection, request: h11.Request, target: Target
    ) -> None:
        """Answer one request. Raises `GuestGone` and `BadRequest`; afterwards the connection may go on."""
        name, _, _ = target.path.removeprefix("/").partition("/")
        provider = self._gateway.providers.get(name)
        replies = Replies(wire, connection, provider.shape if provider else "openai")
        size = _declared(request, self._gateway.grant.limits.request_bytes)
        try:
            async with self._gateway.buffers.hold(self._gateway.facts.session, size) as holding:
                body = await self._read(wire, connection)
                holding.shrink(len(body))
                admitted = self._admit(request, target, name, provider, body)
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
        self, replies: Replies, refusal: Refusal, target: Target, name: str, provider: ProviderFacts | None
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
        await replies.refuse(refusal, event)

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

    def _admit(
        self, request: h11.Request, target: Target, name: str, provider: ProviderFacts | None, body: bytes
    ) -> Admitted:
        """Every check that needs no clock and no file. Raises `Refused`, `BadRequest`."""
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers]
        query = parse_query(target.query)
        credential = self._check_credential(name, headers, query)
        try:
            path = normalise_path("/" + target.path.removeprefix("/").partition("/")[2])
        except DeniedError as error:
            raise Refused(Refusal(status=403, rule="names.path", reason=error.message)) from None
        value, facts = _parse(body, provider.shape if provider else "openai")
        decision = decide_egress(self._gateway.grant, name, target.method, path, facts)
        if not decision.allowed:
            raise Refused(
                Refusal(status=403, rule=decision.rule, reason=decision.reason, source=decision.source)
            )
        if provider is None:
            raise Refused(
                Refusal(
                    status=403,
                    rule="providers",
                    reason=f"no provider {name[:63]!r} is configured",
                    hint="Add `[providers.NAME]` to config.toml.",
                )
            )
        secret = secret_of(self._gateway.grant, name)
        if secret is None and not credential:
            raise Refused(
                Refusal(
                    status=403,
                    rule="secrets",
                    reason=f"no secret is granted for {name}",
                    hint=f"Name it in the policy: [secrets.{name}] provider = {name!r}.",
                )
            )
        sent = body if value is None else msgspec.json.encode(value)
        kept = forwarded_headers(headers)
        if value is not None:
            kept = (
                *(pair for pair in kept if pair[0] != "content-type"),
                ("content-type", "application/json"),
            )
        model = value.get("model") if isinstance(value, dict) else None
        return Admitted(
            provider=provider,
            method=target.method,
            path=_without_version(path, provider.version),
            query=_kept_query(query, provider),
            headers=kept,
            body=sent,
            rule=decision.rule,
            secret=secret.name if secret else "",
            credential=credential,
            model=model[:100] if isinstance(model, str) else "",
            tokens=wanted_tokens(provider.shape, value, len(sent)),
        )

    def _check_credential(
        self, name: str, headers: list[tuple[str, str]], query: list[tuple[str, str]]
    ) -> str:
        """The guest's own key where the policy passes it on; otherwise empty. Raises `Refused`."""
        found = presented(name, self._gateway.facts.placeholders, headers, query)
        if found.verdict == "ok":
            return ""
        if found.verdict == "own_key" and self._gateway.grant.inline_keys == "pass":
            return found.credential
        refusals = {
            "missing": Refusal(
                status=401,
                rule="placeholder.missing",
                reason="no placeholder came with the request",
                hint="Use the api_key that the bridge was given for this provider.",
            ),
            "own_key": Refusal(
                status=401,
                rule="placeholder.own-key",
                reason="a key came that is not this session's placeholder",
                severity="high",
                hint="Keys are put in by the gateway: `bridgehold secrets set`.",
            ),
            "foreign": Refusal(
                status=403,
                rule="placeholder.provider",
                reason="this placeholder belongs to another provider",
                severity="high",
            ),
            "unknown": Refusal(
                status=403,
                rule="placeholder.session",
                reason="this placeholder belongs to another session, or to one that has ended",
                severity="high",
            ),
            "mixed": Refusal(
                status=403,
                rule="placeholder.mixed",
                reason="more than one key came with the request",
                severity="high",
            ),
        }
        raise Refused(refusals[found.verdict])

    async def _forward(self, wire: Wire, replies: Replies, admitted: Admitted) -> None:
        gateway = self._gateway
        reservation = gateway.budgets.reserve(
            gateway.facts.tenant,
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
            )
        except BaseException:
            reservation.give_back()
            raise
        exchange = Exchange(gateway, wire, replies, admitted, reservation, intent, command)
        await exchange.run()


class Exchange:
    """One request under way: from its durable intent to its outcome, whatever comes between."""

    def __init__(
        self,
        gateway: Gateway,
        wire: Wire,
        replies: Replies,
        admitted: Admitted,
        reservation: Reservation,
        intent: str,
        command: str,
    ) -> None:
        self._gateway = gateway
        self._wire = wire
        self._replies = replies
        self._admitted = admitted
        self._reservation = reservation
        self._intent = intent
        self._command = command
        self._started = time.monotonic()
        self._status = 0
        self._scrubbed = 0
        self._tap: UsageTap | None = None

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
            async with asyncio.timeout(self._gateway.limits.request_ms / 1000):
                await self._until_guest_leaves()
        except TimeoutError:
            return await self._broke(
                Refusal(status=504, rule="gateway.timeout", reason="the answer took too long")
            )
        except DeniedError as error:
            refusal = Refusal(
                status=403,
                rule=f"keeper.{error.where or 'denied'}",
                reason=error.message,
                severity="high",
                hint=error.hint,
            )
            return await self._broke(refusal, audited=True)
        except SecretError as error:
            refusal = Refusal(status=403, rule="secrets", reason=error.message, hint=error.hint)
            return await self._broke(refusal)
        except BridgeholdError as error:
            refusal = Refusal(status=502, rule=f"keeper.{error.code}", reason=error.message, hint=error.hint)
            return await self._broke(refusal)
        return ""

    async def _until_guest_leaves(self) -> None:
        gone = asyncio.Event()
        with self._wire.watch_end(gone):
            work = asyncio.ensure_future(self._ask())
            leaving = asyncio.ensure_future(gone.wait())
            try:
                await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise GuestGone("it closed before the answer was complete")
                await work
            finally:
                for task in (work, leaving):
                    task.cancel()
                await asyncio.wait({work, leaving})
                if not work.cancelled():
                    work.exception()  # seen, also where the guest left first

    async def _ask(self) -> None:
        admitted, facts = self._admitted, self._gateway.facts
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
            intent=self._intent,
            deadline_ms=self._gateway.limits.request_ms,
        )
        async with await self._gateway.keeper.request(request, admitted.body) as response:
            await self._pass_on(response)

    async def _pass_on(self, response: UpstreamResponse) -> None:
        self._status = response.status
        content_type = next((v for n, v in response.headers if n == "content-type"), "")
        self._tap = UsageTap(self._admitted.provider.shape, content_type)
        try:
            await self._replies.head(response.status, response.headers)
            async for chunk in response.body():
                self._tap.feed(chunk)
                await self._replies.data(chunk)
            await self._replies.end()
        finally:
            self._scrubbed = response.done.scrubbed

    async def _broke(self, refusal: Refusal, *, audited: bool = False) -> str:
        """Tell the guest, if its answer has not begun; otherwise the connection is cut. The code."""
        event = self._intent
        if audited:
            event = await self._gateway.records.refused(
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
        if self._intent == "":
            return
        intent, self._intent = self._intent, ""
        admitted, tap = self._admitted, self._tap
        if tap is None:  # nothing came back: a request that never arrived has used no tokens
            usage, estimated = None, False
        else:
            usage, estimated = tap.result(len(admitted.body))
            if self._status >= 400 and estimated:
                usage, estimated = None, False
        used = (usage.input_tokens + usage.output_tokens) if usage else 0
        self._reservation.settle(used)
        await self._gateway.records.outcome(
            EgressOutcome(
                tenant=self._gateway.facts.tenant,
                principal=self._gateway.facts.principal,
                session=self._gateway.facts.session,
                command=self._command,
                intent=intent,
                provider=admitted.provider.name,
                host=admitted.provider.host,
                method=admitted.method,
                path=admitted.path,
                status=self._status,
                request_bytes=len(admitted.body),
                response_bytes=self._replies.sent,
                ms=int((time.monotonic() - self._started) * 1000),
                model=admitted.model,
                input_tokens=usage.input_tokens if usage else 0,
                output_tokens=usage.output_tokens if usage else 0,
                estimated=estimated,
                background=not self._command,
                code=code,
                scrubbed=self._scrubbed,
            )
        )


def _declared(request: h11.Request, bound: int) -> int:
    """Bytes to hold for the body: its declared length, or the bound where it says none."""
    for name, value in request.headers:
        if name == b"content-length":
            return min(int(value), bound)
        if name == b"transfer-encoding":
            return bound
    return 0


def _parse(body: bytes, shape: str) -> tuple[object | None, BodyFacts]:
    """The JSON value that is decided on and sent on, if the body is one, and its facts (pure).

    What goes out is encoded anew from what was decided on: a key that stands twice, or anything
    else that two parsers read in two ways, is gone by then.
    """
    if not body:
        return None, NO_BODY
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > _BRACKETS or body.count(b",") + body.count(b":") > _SEPARATORS:
        return None, BodyFacts(unreadable="more values than are judged")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None, UNREADABLE
    return value, body_facts(shape, value)


def _without_version(path: str, version: str) -> str:
    """`path` without a leading version segment that the provider's base URL already has."""
    return path.removeprefix(f"/{version}") if version and path.startswith(f"/{version}/") else path


def _kept_query(query: list[tuple[str, str]], provider: ProviderFacts) -> tuple[tuple[str, str], ...]:
    """The query without auth slots. Raises `Refused` for a parameter that the shape doesn't know."""
    allowed = rules_of(provider.shape).queries
    kept = tuple((name, value) for name, value in query if name.lower() not in AUTH_QUERY)
    for name, _ in kept:
        if allowed is not None and name not in allowed:
            raise Refused(
                Refusal(
                    status=403, rule="gateway.query", reason=f"the query parameter {name[:60]!r} is not known"
                )
            )
    return kept
