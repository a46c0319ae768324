"""What was downloaded from hubs, kept for its tenant: files as artifacts, and which revision has which.

A file is asked for once: the next load reads the artifact and needs no network. A listing says what a
revision is: its commit, and of each file that may come in the size and the digest that the hub names.
Listings lie beside the tenant's artifacts, where no guest writes, and count in their quota.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path
from typing import Protocol, Self

import msgspec

from bridgehold import writes
from bridgehold.audit.events import ArtifactChanged, ArtifactRead, Event
from bridgehold.errors import BudgetError, NotFoundError, ProviderError
from bridgehold.host.cell.store.artifacts import LISTINGS, ArtifactStore, SerialChanges
from bridgehold.ids import parse_name
from bridgehold.policies.downloads import why_kind_refused
from bridgehold.protocol.values import Artifact

PART_BYTES = 4 * 1024 * 1024
_MOST_LISTINGS = 1_000
"""Of one tenant; the oldest goes for another."""
_MOST_FILES = 5_000
_LONGEST_FILE = 1_024
_NAME = 200
_HEX40 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class FileFact(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub says of a file. What it does not say is -1 or empty."""

    size: int = -1
    sha256: str = ""
    git: str = ""
    """SHA-1 of git's blob: what a hub names for files that it keeps in git itself."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of a repo, as the hub described it once."""

    provider: str
    repo: str
    revision: str
    commit: str
    files: dict[str, FileFact]
    kept: dict[str, str] = {}
    """By file, the artifact's digest, where the hub named no SHA-256 beforehand."""


class _Large(msgspec.Struct):
    sha256: str = ""
    size: int = -1


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    blobId: str | None = None  # noqa: N815 - the hub's word
    lfs: _Large | None = None


class _Described(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


def read_listing(provider: str, repo: str, revision: str, document: bytes) -> Listing:
    """From the hub's JSON (pure). Raises `ProviderError` for what makes no sense.

    A file that no path can ask for, or whose kind never comes in, is left out.
    """
    try:
        found = msgspec.json.decode(document, type=_Described)
        known = _HEX40.fullmatch(found.sha) is not None
    except (msgspec.DecodeError, ValueError, RecursionError):
        known = False
    if not known:
        raise ProviderError(f"{provider} describes {repo}@{revision} in no form that is known")
    files = {
        one.rfilename: _fact(one)
        for one in islice(found.siblings, _MOST_FILES)
        if len(one.rfilename) <= _LONGEST_FILE
        and one.rfilename.isascii()
        and one.rfilename.isprintable()
        and not why_kind_refused(one.rfilename)
    }
    return Listing(provider=provider, repo=repo, revision=revision, commit=found.sha, files=files)


def _fact(one: _Sibling) -> FileFact:
    size = one.lfs.size if one.lfs is not None else -1 if one.size is None else one.size
    sha256, git = one.lfs.sha256 if one.lfs is not None else "", one.blobId or ""
    return FileFact(
        size=size if 0 <= size < 2**50 else -1,
        sha256=sha256 if _HEX64.fullmatch(sha256) else "",
        git=git if _HEX40.fullmatch(git) and one.lfs is None else "",
    )


class Audit(Protocol):
    """Where changes of artifacts are written."""

    async def append(self, event: Event, *, durable: bool = True) -> object:
        """See `JournalClient.append`."""


class Upload:
    """A file on its way in: hashed as it comes, kept only by `keep`."""

    def __init__(self, downloads: Downloads, tenant: str, upload: str, size: int) -> None:
        self._downloads = downloads
        self._tenant = tenant
        self._upload = upload
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def git(self) -> str:
        """The git blob id of the bytes so far, in hexadecimal."""
        return self._git.hexdigest()

    async def write(self, data: bytes) -> None:
        """At most `PART_BYTES` at once. Raises `BudgetError` past the tenant's quota."""

        async def write() -> None:
            await asyncio.to_thread(self._write, data)

        await self._downloads.changes.take(self._tenant, write)
        self.size += len(data)

    def _write(self, data: bytes) -> None:
        self._downloads.store.append(self._tenant, self._upload, data)
        self._sha256.update(data)
        self._git.update(data)

    async def keep(self, name: str, principal: str) -> Artifact:
        """The bytes are whole and decided: they become an artifact of the tenant's."""

        async def keep() -> Artifact:
            store = self._downloads.store
            kind = "application/octet-stream"
            made = await asyncio.to_thread(
                store.finish, self._tenant, self._upload, name=name[:_NAME], media_type=kind
            )
            event = ArtifactChanged(
                tenant=self._tenant,
                principal=principal,
                action="kept",
                digest=made.digest,
                size_bytes=made.size_bytes,
                name=made.name,
            )
            await self._downloads.audit.append(event)
            return made

        return await self._downloads.changes.take(self._tenant, keep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async def drop() -> None:
            with contextlib.suppress(NotFoundError):  # it was kept, or went with the quota
                await asyncio.to_thread(self._downloads.store.drop, self._tenant, self._upload)

        await self._downloads.changes.take(self._tenant, drop)


class Downloads:
    """One per host."""

    def __init__(
        self,
        store: ArtifactStore,
        changes: SerialChanges,
        folder: Path,
        audit: Audit,
        *,
        demand: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        """`folder`: that of the store. `demand` raises where the tenant may keep nothing."""
        self._demand = demand
        self.store = store
        self.changes = changes
        self.audit = audit
        self._folder = folder
        self._busy: dict[str, tuple[asyncio.Lock, int]] = {}

    async def listing(self, tenant: str, provider: str, repo: str, revision: str) -> Listing | None:
        """What is kept of it; None where nothing is."""
        return await asyncio.to_thread(_read, self._place(tenant, provider, repo, revision))

    async def keep_listing(self, tenant: str, listing: Listing) -> None:
        """Keep which files a revision has, so that a hub is not asked again. Raises `BudgetError`."""
        self._demand(tenant)
        place = self._place(tenant, listing.provider, listing.repo, listing.revision)

        async def keep() -> None:
            await asyncio.to_thread(_write, self.store, tenant, place, listing)

        await self.changes.take(tenant, keep)

    async def find(self, tenant: str, listing: Listing, file: str) -> Artifact | None:
        """The artifact that is this file, if the tenant has it."""
        fact = listing.files.get(file)
        known = fact.sha256 if fact is not None else ""
        digest = f"sha256:{known}" if known else listing.kept.get(file, "")
        if not digest:
            return None
        with contextlib.suppress(NotFoundError):
            return await asyncio.to_thread(self.store.stat, tenant, digest)
        return None

    async def begin(self, tenant: str, size: int) -> Upload:
        """`size` as the hub says it: git's own digest holds it."""
        self._demand(tenant)

        async def begin() -> str:
            return await asyncio.to_thread(self.store.begin, tenant)

        return Upload(self, tenant, await self.changes.take(tenant, begin), size)

    async def note(self, tenant: str, listing: Listing, file: str, artifact: Artifact) -> None:
        """Remember which artifact the file is, where the listing does not say it."""
        if listing.files[file].sha256:
            return
        newest = await self.listing(tenant, listing.provider, listing.repo, listing.revision)
        if newest is not None and newest.commit == listing.commit:
            kept = {**newest.kept, file: artifact.digest}
            with contextlib.suppress(
                BudgetError
            ):  # the file is kept; the hub is asked once more for its name
                await self.keep_listing(tenant, msgspec.structs.replace(newest, kept=kept))

    async def note_read(self, tenant: str, principal: str, artifact: Artifact, first: int, last: int) -> None:
        """The audit has it before the first byte goes out."""
        event = ArtifactRead(
            tenant=tenant,
            principal=principal,
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            name=artifact.name,
            offset=first,
            length=last - first,
        )
        await self.audit.append(event)

    async def parts(self, tenant: str, artifact: Artifact, first: int, last: int) -> AsyncIterator[bytes]:
        """The bytes from `first` to before `last`. Raises `NotFoundError` where they are gone."""
        while first < last:
            length = min(PART_BYTES // 4, last - first)
            data = await asyncio.to_thread(self.store.read, tenant, artifact.digest, first, length)
            if not data:
                raise NotFoundError("the artifact was removed meanwhile")
            first += len(data)
            yield data

    @contextlib.asynccontextmanager
    async def alone(self, *key: str) -> AsyncIterator[None]:
        """One at a time for each `key`: what two sessions want at once is downloaded once."""
        name = "\n".join(key)
        lock, users = self._busy.get(name, (asyncio.Lock(), 0))
        self._busy[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy[name]
            if users == 1:
                del self._busy[name]
            else:
                self._busy[name] = (lock, users - 1)

    def _place(self, tenant: str, provider: str, repo: str, revision: str) -> Path:
        name = hashlib.sha256("\n".join((provider, repo, revision)).encode()).hexdigest()
        return self._folder / parse_name(tenant, "tenant") / LISTINGS / f"{name}.json"


def _read(place: Path) -> Listing | None:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError, ValueError):
        return None


def _write(store: ArtifactStore, tenant: str, place: Path, listing: Listing) -> None:
    writes.make_folder(place.parent, mode=0o700)
    others = store.listings(tenant)
    for old in others[: max(0, len(others) - _MOST_LISTINGS + 1)]:
        old.unlink(missing_ok=True)
    data = msgspec.json.encode(listing)
    store.make_room(tenant, len(data))
    writes.replace(place, data, mode=0o600)
