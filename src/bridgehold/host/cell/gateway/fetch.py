"""One download from a hub: a durable intent, the keeper's answer into an upload, its proof, an outcome."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from bridgehold.errors import BridgeholdError, BudgetError, DeniedError
from bridgehold.host.cell.gateway.admit import Refused
from bridgehold.host.cell.gateway.replies import Refusal
from bridgehold.host.cell.store.downloads import PART_BYTES, FileFact, Listing, Upload, read_listing
from bridgehold.keeper.follow import FOLLOWED
from bridgehold.keeper.protocol import UpstreamRequest
from bridgehold.policies.downloads import decide_digest, is_commit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from bridgehold.host.cell.gateway.download import DownloadRequest
    from bridgehold.host.cell.gateway.records import Announced
    from bridgehold.host.cell.gateway.served import Served, Upstream
    from bridgehold.keeper.client import UpstreamResponse
    from bridgehold.protocol.values import Artifact

T = TypeVar("T")
_LISTING_BYTES = 2 * 1024 * 1024
_DEADLINE_MS = 1_800_000
_UNKNOWN, _DENIED = 404, (401, 403)


class Fetch:
    """Used once. `received` is how many bytes have come."""

    def __init__(self, served: Served, upstream: Upstream, asked: DownloadRequest) -> None:
        self._served = served
        self._upstream = upstream
        self._asked = asked
        self._status = 0
        self._digest = ""
        self._followed = ""
        self._scrubbed = 0
        self.received = 0

    async def listing(self) -> Listing:
        """What the hub says of the revision. Raises `Refused`."""
        wanted = self._asked.wanted
        path = f"/api/models/{wanted.repo}/revision/{wanted.revision}"

        async def take(response: UpstreamResponse) -> Listing:
            found = bytearray()
            async for chunk in self._body(response, _LISTING_BYTES):
                found += chunk
            made = await asyncio.to_thread(
                read_listing, self._asked.hub.name, wanted.repo, wanted.revision, bytes(found)
            )
            if is_commit(wanted.revision) and made.commit != wanted.revision:
                raise _broken("hub.commit", f"the hub gave the commit {made.commit}, not {wanted.revision}")
            return made

        async with self._served.buffers.hold(self._served.facts.owner, _LISTING_BYTES):
            return await self._recorded(path, (("blobs", "true"),), take)

    async def file(self, listing: Listing, fact: FileFact, most: int) -> Artifact:
        """The file of the listing's commit, of at most `most` bytes, proven and kept. Raises `Refused`."""
        wanted, facts = self._asked.wanted, self._served.facts
        path = f"/{listing.repo}/resolve/{listing.commit}/{wanted.file}"

        async def take(response: UpstreamResponse) -> Artifact:
            told = {name: value.strip().strip('"') for name, value in response.headers}
            if told.get("x-repo-commit", listing.commit) != listing.commit:
                raise _broken("hub.commit", f"the hub gave another commit than {listing.commit}")
            async with await self._upstream.downloads.begin(facts.tenant, fact.size) as upload:
                await self._into(upload, response, most)
                self._prove(upload, fact, told.get("x-linked-etag", ""))
                name = f"hub:{listing.repo}@{listing.commit[:12]}/{wanted.file}"
                return await upload.keep(name, self._served.records.principal)

        async with self._served.buffers.hold(facts.owner, 2 * PART_BYTES):
            return await self._recorded(path, (), take)

    async def _into(self, upload: Upload, response: UpstreamResponse, most: int) -> None:
        part = bytearray()
        async for chunk in self._body(response, most):
            part += chunk
            if len(part) >= PART_BYTES:
                await upload.write(bytes(part[:PART_BYTES]))
                del part[:PART_BYTES]
        await upload.write(bytes(part))

    async def _body(self, response: UpstreamResponse, most: int) -> AsyncIterator[bytes]:
        async for chunk in response.body():
            self.received += len(chunk)
            if self.received > most:
                raise _broken("hub.size", f"the hub sent more than the {most} bytes that were expected")
            yield chunk

    def _prove(self, upload: Upload, fact: FileFact, linked: str) -> None:
        """The bytes against everything that was said of them. Raises `Refused`, which drops them."""
        self._digest = f"sha256:{upload.sha256}"
        if fact.size >= 0 and upload.size != fact.size:
            raise _broken("hub.size", f"{upload.size} bytes came of {fact.size}")
        expected = {fact.sha256, linked if len(linked) == 64 else ""} - {""}
        if expected and expected != {upload.sha256}:
            raise _broken("hub.digest", f"sha256 {upload.sha256} came, not {' or '.join(sorted(expected))}")
        if not expected and fact.git and fact.size >= 0 and upload.git != fact.git:
            raise _broken("hub.digest", f"git's blob {upload.git} came, not {fact.git}")
        if no := decide_digest(self._served.grant, self._asked.endpoint, upload.sha256):
            raise Refused(
                Refusal(status=403, rule=no.rule, reason=no.reason, source=no.source, severity="high")
            )

    async def _recorded(
        self,
        path: str,
        query: tuple[tuple[str, str], ...],
        take: Callable[[UpstreamResponse], Awaitable[T]],
    ) -> T:
        """Ask for `path` between a durable intent and an outcome that is written whatever happens."""
        asked, started = self._asked, time.monotonic()
        owner = (self._served.facts.tenant, self._served.grant.bridge)
        reservation = self._upstream.budgets.reserve(
            owner, asked.hub.name, self._served.grant.rate, 0, started
        )
        try:
            announced = await self._served.records.intent(
                provider=asked.hub.name,
                host=asked.hub.host,
                method="GET",
                path=path,
                rule=asked.rule,
                how="gateway" if asked.hub.keyed else "none",
            )
        except BaseException:
            reservation.give_back()
            raise
        reservation.settle(0)
        code = "cancelled"
        try:
            made = await self._ask(path, query, announced, take)
            code = ""
            return made
        except Refused as no:
            code = no.refusal.rule
            raise
        except BridgeholdError as error:
            made_plain = explained(error)
            code = made_plain.refusal.rule
            raise made_plain from None
        finally:
            outcome = self._served.records.outcome(
                announced,
                started=started,
                status=self._status,
                request_bytes=0,
                response_bytes=self.received,
                code=code,
                scrubbed=self._scrubbed,
                digest=self._digest,
                followed=self._followed,
            )
            await asyncio.shield(outcome)

    async def _ask(
        self,
        path: str,
        query: tuple[tuple[str, str], ...],
        announced: Announced,
        take: Callable[[UpstreamResponse], Awaitable[T]],
    ) -> T:
        asked, facts = self._asked, self._served.facts
        request = UpstreamRequest(
            tenant=facts.tenant,
            session=facts.session,
            provider=asked.hub.name,
            method="GET",
            path=path,
            query=query,
            secret=asked.secret,
            intent=announced.reference,
            deadline_ms=_DEADLINE_MS,
            command=announced.intent.command,
            principal=announced.intent.principal,
        )
        async with await self._upstream.keeper.request(request, b"") as response:
            self._status = response.status
            self._followed = next((value for name, value in response.headers if name == FOLLOWED), "")
            try:
                self._check_status(response.status)
                return await take(response)
            finally:
                self._scrubbed = response.done.scrubbed

    def _check_status(self, status: int) -> None:
        if status == 200:
            return
        wanted, name = self._asked.wanted, self._asked.hub.name
        if status == _UNKNOWN:
            raise Refused(Refusal(status=404, rule="hub.unknown", reason=f"{name} knows no {wanted}"))
        if status in _DENIED:
            raise Refused(
                Refusal(
                    status=403,
                    rule="hub.denied",
                    reason=f"{name} gives no {wanted} with this key (status {status})",
                    hint="A private or gated repo wants a token that may read it: `bridgehold secrets set`.",
                )
            )
        raise _broken("hub.status", f"{name} answered with status {status}")


def _broken(rule: str, reason: str) -> Refused:
    """The hub, or what stands between, does not do what it said."""
    severity = "high" if rule in ("hub.digest", "hub.commit") else "normal"
    return Refused(Refusal(status=502, rule=rule, reason=reason, severity=severity))


def explained(error: BridgeholdError) -> Refused:
    """What went wrong on the way, as a refusal that the guest can read."""
    if isinstance(error, DeniedError):
        where, severity, status = error.where or "denied", "high", 403
    else:
        where, severity, status = error.code, "normal", 507 if isinstance(error, BudgetError) else 502
    rule = "host.artifacts" if isinstance(error, BudgetError) else f"keeper.{where}"
    return Refused(
        Refusal(status=status, rule=rule, reason=error.message, hint=error.hint, severity=severity)
    )
