"""``/HUB/…``: models by name. Kept bytes are served; what is not kept is downloaded, proven and kept first.

Nothing that has not been checked against its digest goes into a sandbox, so a guest waits for the
whole file and then reads it at once. It sees a hub's own paths, read-only, with granted files alone.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import h11
import msgspec

from bridgehold.errors import BridgeholdError, DeniedError
from bridgehold.host.gateway.admit import Refused, check_credential
from bridgehold.host.gateway.exchange import until_guest_leaves
from bridgehold.host.gateway.fetch import Fetch
from bridgehold.host.gateway.parse import Target, parse_query
from bridgehold.host.gateway.replies import Refusal, Replies
from bridgehold.host.gateway.values import ProviderFacts
from bridgehold.host.gateway.wire import GuestGone
from bridgehold.policies.decide import secret_of
from bridgehold.policies.downloads import (
    Wanted,
    decide_digest,
    decide_download,
    decide_size,
    hub_of,
    parse_wanted,
    why_kind_refused,
)
from bridgehold.policies.names import path_matches

if TYPE_CHECKING:
    from bridgehold.host.artifacts import Artifact
    from bridgehold.host.downloads import FileFact, Listing
    from bridgehold.host.gateway.gateway import Gateway
    from bridgehold.host.gateway.wire import Wire
    from bridgehold.policies.model import Decision, Endpoint

_RANGE = re.compile(rb"bytes=([0-9]{1,15})-([0-9]{0,15})")
_AT_ONCE = 4
"""Downloads of one session that are under way together."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be served."""

    wanted: Wanted
    hub: ProviderFacts
    endpoint: Endpoint
    method: str
    rule: str
    secret: str
    fresh: bool
    """``Cache-Control: no-cache``: the hub is asked what the revision is now."""
    first: int = 0
    last: int | None = None
    """Of a range: the first byte, and the last one if it is named."""
    ranged: bool = False
    sizes: bool = False
    """``blobs=true``: of a revision's files, their sizes too."""


def admit_download(
    gateway: Gateway, request: h11.Request, target: Target, hub: ProviderFacts, body: bytes
) -> Asked:
    """Raises `Refused`, and `BadRequest` for a query that can be read in two ways."""
    grant = gateway.grant
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers]
    query = parse_query(target.query)
    if check_credential(grant, gateway.facts, hub.name, headers, query):
        raise Refused(
            Refusal(status=401, rule="placeholder.own-key", reason="a hub takes no key of a guest's")
        )
    if target.method not in ("GET", "HEAD") or body:
        raise Refused(Refusal(status=403, rule="hub.method", reason="a hub is only read: GET and HEAD"))
    if [pair for pair in query if pair != ("blobs", "true")]:
        raise Refused(Refusal(status=403, rule="gateway.query", reason="a hub takes no query but blobs=true"))
    try:
        wanted = parse_wanted("/" + target.path.removeprefix("/").partition("/")[2])
    except DeniedError as error:
        rule = error.where if error.where.startswith("hub.") else "names.path"
        raise Refused(Refusal(status=403, rule=rule, reason=error.message, hint=error.hint)) from None
    decision = decide_download(grant, hub.name, wanted)
    endpoint = hub_of(grant, hub.name)
    if not decision.allowed or endpoint is None:
        raise refused(decision)
    secret = secret_of(grant, hub.name)
    if secret is None and hub.keyed:
        hint = f'Name it in the policy: [secrets.{hub.name}]; or auth = "none" for [providers.{hub.name}].'
        raise Refused(
            Refusal(status=403, rule="secrets", reason=f"no secret is granted for {hub.name}", hint=hint)
        )
    first, last, ranged = _range(request)
    return Asked(
        wanted=wanted,
        hub=hub,
        endpoint=endpoint,
        method=target.method,
        rule=decision.rule,
        secret=secret.name if secret else "",
        fresh=("cache-control", "no-cache") in headers,
        first=first,
        last=last,
        ranged=ranged,
        sizes=bool(query),
    )


def _range(request: h11.Request) -> tuple[int, int | None, bool]:
    """One range of bytes from a named place on; anything else is answered with the whole, as may be."""
    found = [_RANGE.fullmatch(value) for name, value in request.headers if name == b"range"]
    if len(found) != 1 or found[0] is None:
        return 0, None, False
    return int(found[0][1]), int(found[0][2]) if found[0][2] else None, True


def refused(decision: Decision, *, severity: str = "normal") -> Refused:
    return Refused(
        Refusal(
            status=403,
            rule=decision.rule,
            reason=decision.reason,
            source=decision.source,
            severity=severity,
        )
    )


class HubProxy:
    """Serves the hubs of one gateway. `downloaded` counts bytes that came over the network."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._downloaded = 0

    async def serve(self, wire: Wire, replies: Replies, asked: Asked) -> None:
        """Raises `Refused` and typed errors before anything was answered, `GuestGone`."""
        listing = await until_guest_leaves(wire, self._listing(asked))
        if not asked.wanted.file:
            await _describe(replies, asked, listing)
            return
        fact = listing.files.get(asked.wanted.file)
        if fact is None:
            reason = f"{asked.wanted.repo} has no {asked.wanted.file[:200]} at {listing.commit}"
            raise Refused(Refusal(status=404, rule="hub.entry", reason=reason))
        self._check(asked, fact)
        if asked.method == "HEAD":
            await replies.head(200, _headers(listing, fact, fact.size))
            await replies.end()
            return
        artifact = await until_guest_leaves(wire, self._artifact(asked, listing, fact))
        await self._send(replies, asked, listing, fact, artifact)

    async def _listing(self, asked: Asked) -> Listing:
        gateway, wanted = self._gateway, asked.wanted
        tenant, name = gateway.facts.tenant, asked.hub.name
        async with gateway.downloads.alone(tenant, name, wanted.repo, wanted.revision):
            kept = await gateway.downloads.listing(tenant, name, wanted.repo, wanted.revision)
            if kept is not None and not (asked.fresh and not wanted.file):
                return kept
            made = await Fetch(gateway, asked).listing()
            if kept is not None and kept.commit == made.commit:
                made = msgspec.structs.replace(made, kept=kept.kept)
            await gateway.downloads.keep_listing(tenant, made)
            return made

    def _check(self, asked: Asked, fact: FileFact) -> None:
        """What the hub says of the file, against the policy, before anything is asked for."""
        grant = self._gateway.grant
        if fact.size >= 0 and (no := decide_size(grant, asked.endpoint, fact.size, 0)):
            raise refused(no)
        if fact.sha256 and (no := decide_digest(grant, asked.endpoint, fact.sha256)):
            raise refused(no, severity="high")

    async def _artifact(self, asked: Asked, listing: Listing, fact: FileFact) -> Artifact:
        gateway, file = self._gateway, asked.wanted.file
        tenant = gateway.facts.tenant
        async with self._free, gateway.downloads.alone(tenant, listing.repo, listing.commit, file):
            newest = await gateway.downloads.listing(tenant, asked.hub.name, listing.repo, listing.revision)
            found = await gateway.downloads.find(tenant, newest or listing, file)
            if found is None:
                found = await self._download(asked, listing, fact)
                await gateway.downloads.note(tenant, listing, file, found)
        if no := decide_digest(gateway.grant, asked.endpoint, found.digest.removeprefix("sha256:")):
            raise refused(no, severity="high")
        return found

    async def _download(self, asked: Asked, listing: Listing, fact: FileFact) -> Artifact:
        """Bytes count from when they are asked for, so that several at once don't overdraw together."""
        room = asked.endpoint.total_bytes - self._downloaded
        expected = fact.size if fact.size >= 0 else min(asked.endpoint.file_bytes, max(0, room))
        if no := decide_size(self._gateway.grant, asked.endpoint, expected, self._downloaded):
            raise refused(no)
        self._downloaded += expected
        fetch = Fetch(self._gateway, asked)
        try:
            return await fetch.file(listing, fact, expected)
        finally:
            self._downloaded += fetch.received - expected

    async def _send(
        self, replies: Replies, asked: Asked, listing: Listing, fact: FileFact, artifact: Artifact
    ) -> None:
        size = artifact.size_bytes
        last = min(size, asked.last + 1 if asked.last is not None else size)
        ranged = asked.ranged and asked.first < last
        first, last = (asked.first, last) if ranged else (0, size)
        headers = _headers(listing, fact, last - first)
        if ranged:
            headers.append(("content-range", f"bytes {first}-{last - 1}/{size}"))
        facts, downloads = self._gateway.facts, self._gateway.downloads
        await self._gateway.records.read()
        principal = self._gateway.records.principal
        await downloads.note_read(facts.tenant, principal, artifact, first, last)
        await replies.head(206 if ranged else 200, headers)
        try:
            async for part in downloads.parts(facts.tenant, artifact, first, last):
                await replies.data(part)
        except BridgeholdError as error:  # too late for a refusal: the answer has begun
            raise GuestGone(error.message) from error
        await replies.end()


def _headers(listing: Listing, fact: FileFact, length: int) -> list[tuple[str, str]]:
    headers = [
        ("content-type", "application/octet-stream"),
        ("x-repo-commit", listing.commit),
        ("accept-ranges", "bytes"),
    ]
    if tag := fact.sha256 or fact.git:
        headers.append(("etag", f'"{tag}"'))
    if length >= 0:
        headers.append(("content-length", str(length)))
    return headers


async def _describe(replies: Replies, asked: Asked, listing: Listing) -> None:
    """The revision as the guest may see it: the files that it may ask for."""
    siblings = [
        {"rfilename": file, **({"size": fact.size} if asked.sizes and fact.size >= 0 else {})}
        for file, fact in sorted(listing.files.items())
        if not why_kind_refused(file) and any(path_matches(glob, f"/{file}") for glob in asked.endpoint.files)
    ]
    document = {"id": listing.repo, "sha": listing.commit, "siblings": siblings}
    body = msgspec.json.encode(document)
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    await replies.head(200, [*headers, ("x-repo-commit", listing.commit)])
    if asked.method == "GET":
        await replies.data(body)
    await replies.end()
