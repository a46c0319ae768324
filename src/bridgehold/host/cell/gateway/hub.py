"""``/HUB/…``: models by name. Kept bytes are served; what is not kept is downloaded, proven and kept first.

Nothing that has not been checked against its digest goes into a sandbox, so a guest waits for the
whole file and then reads it at once. It sees a hub's own paths, read-only, with granted files alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.host.cell.gateway.admit import Refused
from bridgehold.host.cell.gateway.download import DownloadRequest, refused
from bridgehold.host.cell.gateway.exchange import until_guest_leaves
from bridgehold.host.cell.gateway.fetch import Fetch, explained
from bridgehold.host.cell.gateway.replies import Refusal, Replies
from bridgehold.host.cell.gateway.wire import GuestGone
from bridgehold.ids import digest_bytes
from bridgehold.policies.downloads import (
    decide_digest,
    decide_size,
    why_kind_refused,
)
from bridgehold.policies.names import path_matches
from bridgehold.protocol.values import Artifact

if TYPE_CHECKING:
    from bridgehold.host.cell.gateway.served import Served, Upstream
    from bridgehold.host.cell.gateway.wire import Wire
    from bridgehold.host.cell.store.downloads import FileFact, Listing
    from bridgehold.policies.buckets import TokenBucket

_LONGEST_NAME = 200
_AT_ONCE = 4
"""Downloads of one session that are under way together."""


class HubProxy:
    """Serves the hubs of one gateway. `downloaded` counts bytes that came over the network."""

    def __init__(self, served: Served, upstream: Upstream, parts: TokenBucket) -> None:
        """`parts`: how many of a listing's files are looked at a second, as of parts of bodies."""
        self._parts = parts
        self._served = served
        self._upstream = upstream
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._downloaded = 0

    async def serve(self, wire: Wire, replies: Replies, asked: DownloadRequest) -> None:
        """Raises `Refused` and typed errors before anything was answered, `GuestGone`."""
        listing = await until_guest_leaves(wire, self._listing(asked))
        looks = 1 if asked.wanted.file else 1 + len(asked.endpoint.files)
        await asyncio.sleep(self._parts.take(looks * len(listing.files), time.monotonic()))
        if not asked.wanted.file:
            await self._describe(replies, asked, listing)
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

    async def _describe(self, replies: Replies, asked: DownloadRequest, listing: Listing) -> None:
        """Of the tenant's bytes as any: the audit has it before the first goes out."""
        body = await asyncio.to_thread(_described, asked, listing)
        await self._served.records.read()
        made = Artifact(
            digest=digest_bytes(body), size_bytes=len(body), name=f"hub:{asked.wanted}"[:_LONGEST_NAME]
        )
        await self._upstream.downloads.note_read(
            self._served.facts.tenant,
            self._served.records.principal,
            made,
            0,
            len(body) if asked.method == "GET" else 0,
        )
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await replies.head(200, [*headers, ("x-repo-commit", listing.commit)])
        if asked.method == "GET":
            await replies.data(body)
        await replies.end()

    async def _listing(self, asked: DownloadRequest) -> Listing:
        wanted = asked.wanted
        tenant, name = self._served.facts.tenant, asked.hub.name
        async with self._upstream.downloads.alone(tenant, name, wanted.repo, wanted.revision):
            kept = await self._upstream.downloads.listing(tenant, name, wanted.repo, wanted.revision)
            if kept is not None and not (asked.fresh and not wanted.file):
                return kept
            made = await Fetch(self._served, self._upstream, asked).listing()
            if kept is not None and kept.commit == made.commit:
                made = msgspec.structs.replace(made, kept=kept.kept)
            try:
                await self._upstream.downloads.keep_listing(tenant, made)
            except BudgetError as error:
                raise explained(error) from None
            return made

    def _check(self, asked: DownloadRequest, fact: FileFact) -> None:
        """What the hub says of the file, against the policy, before anything is asked for."""
        grant = self._served.grant
        if fact.size >= 0 and (no := decide_size(grant, asked.endpoint, fact.size, 0)):
            raise refused(no)
        if fact.sha256 and (no := decide_digest(grant, asked.endpoint, fact.sha256)):
            raise refused(no, severity="high")

    async def _artifact(self, asked: DownloadRequest, listing: Listing, fact: FileFact) -> Artifact:
        file = asked.wanted.file
        tenant = self._served.facts.tenant
        async with self._free, self._upstream.downloads.alone(tenant, listing.repo, listing.commit, file):
            newest = await self._upstream.downloads.listing(
                tenant, asked.hub.name, listing.repo, listing.revision
            )
            if newest is None or newest.commit != listing.commit:  # another session asked anew meanwhile
                newest = listing
            found = await self._upstream.downloads.find(tenant, newest, file)
            if found is None:
                found = await self._download(asked, listing, fact)
                await self._upstream.downloads.note(tenant, listing, file, found)
        if no := decide_digest(self._served.grant, asked.endpoint, found.digest.removeprefix("sha256:")):
            raise refused(no, severity="high")
        return found

    async def _download(self, asked: DownloadRequest, listing: Listing, fact: FileFact) -> Artifact:
        """Bytes count from when they are asked for, so that several at once don't overdraw together."""
        room = asked.endpoint.total_bytes - self._downloaded
        expected = fact.size if fact.size >= 0 else min(asked.endpoint.file_bytes, max(0, room))
        if no := decide_size(self._served.grant, asked.endpoint, expected, self._downloaded):
            raise refused(no)
        self._downloaded += expected
        fetch = Fetch(self._served, self._upstream, asked)
        try:
            return await fetch.file(listing, fact, expected)
        finally:
            self._downloaded += fetch.received - expected

    async def _send(
        self, replies: Replies, asked: DownloadRequest, listing: Listing, fact: FileFact, artifact: Artifact
    ) -> None:
        size = artifact.size_bytes
        last = min(size, asked.last + 1 if asked.last is not None else size)
        ranged = asked.ranged and asked.first < last
        first, last = (asked.first, last) if ranged else (0, size)
        headers = _headers(listing, fact, last - first)
        if ranged:
            headers.append(("content-range", f"bytes {first}-{last - 1}/{size}"))
        facts, downloads = self._served.facts, self._upstream.downloads
        await self._served.records.read()
        principal = self._served.records.principal
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


def _described(asked: DownloadRequest, listing: Listing) -> bytes:
    """The revision as the guest may see it: the files that it may ask for."""
    siblings = [
        {"rfilename": file, **({"size": fact.size} if asked.sizes and fact.size >= 0 else {})}
        for file, fact in sorted(listing.files.items())
        if not why_kind_refused(file) and any(path_matches(glob, f"/{file}") for glob in asked.endpoint.files)
    ]
    return msgspec.json.encode({"id": listing.repo, "sha": listing.commit, "siblings": siblings})
