"""Bytes by digest, per tenant, with a quota: what outlives a session.

A file is written beside its place and renamed into it, so that what is there is whole; its name is what
its bytes hash to. No other tenant's bytes are found, whatever digest is asked for. One change of a tenant's
at a time is let in by who calls (`SerialChanges`): a part that is appended while its upload is hashed
would make a file that is not what its name says.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bridgehold import writes
from bridgehold.errors import BudgetError, LimitError, NotFoundError, UsageError
from bridgehold.ids import is_digest, parse_name
from bridgehold.policies.units import format_size
from bridgehold.protocol.values import Artifact
from bridgehold.tasks import begin_task

T = TypeVar("T")
MOST_UPLOADS = 64
"""Under way at once, of one tenant."""
MOST_ARTIFACTS = 10_000
"""Of one tenant: each has files of its own, however few its bytes are."""
PART_BYTES = 8 * 1024 * 1024
LISTINGS = "hub"
"""The folder of a tenant's kept listings, below that of its artifacts."""
_LONGEST_NAME = 200
_STALE_SECONDS = 3600.0
_META = ".json"
_UPLOAD_BYTES = 12
_UPLOAD = re.compile(rf"[0-9a-f]{{{_UPLOAD_BYTES * 2}}}")


class SerialChanges:
    """One change of a tenant's at a time, to its end, even where who asked is gone: a thread goes on."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def take(
        self, tenant: str, change: Callable[[], Coroutine[None, None, T]], *, unasked: bool = True
    ) -> T:
        """Do `change` when the tenant's changes before it are done. A cancelled caller does not cancel it.

        Without `unasked` it does, as long as its turn has not come: nothing waits for who is gone.
        """
        begun = False

        async def alone() -> T:
            nonlocal begun
            async with self._locks.setdefault(tenant, asyncio.Lock()):
                begun = True
                return await change()

        task = begin_task(alone(), self._tasks)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not (begun or unasked):
                task.cancel()
            raise


class ArtifactStore:
    """All tenants' artifacts below one folder. Its methods block: call them from a thread."""

    def __init__(
        self, folder: Path, quota_bytes: int, ceiling: Callable[[str], int | None] = lambda _: None
    ) -> None:
        """`ceiling`: a tenant's own, below the quota that each has; None: it has none."""
        self._folder = folder
        self._ceiling = ceiling
        self.quota = quota_bytes

    def begin(self, tenant: str) -> str:
        """An upload; `append` fills it, `finish` keeps it."""
        folder = self._of(tenant)
        writes.make_folder(folder, mode=0o700)
        under_way = [path for path in folder.glob("*.part") if not _removed_if_stale(path)]
        if len(under_way) >= MOST_UPLOADS:
            raise BudgetError(f"{MOST_UPLOADS} uploads of {tenant} are under way")
        if sum(1 for _ in folder.glob(f"*{_META}")) >= MOST_ARTIFACTS:
            raise BudgetError(
                f"{tenant} keeps {MOST_ARTIFACTS} artifacts already",
                hint="Remove some: `bridgehold artifacts rm`.",
            )
        upload = secrets.token_hex(_UPLOAD_BYTES)
        writes.create(folder / f"{upload}.part").close()
        return upload

    def append(self, tenant: str, upload: str, data: bytes) -> int:
        """The upload's bytes so far. Raises `LimitError`, `BudgetError`; the upload is forgotten then."""
        path = self._part(tenant, upload)
        if len(data) > PART_BYTES:
            path.unlink(missing_ok=True)
            raise LimitError(f"a part has at most {format_size(PART_BYTES)}")
        try:
            self.make_room(tenant, len(data))
        except BudgetError:
            path.unlink(missing_ok=True)
            raise
        with writes.append(path) as file:
            file.write(data)
        return path.stat().st_size

    def finish(self, tenant: str, upload: str, *, name: str = "", media_type: str = "") -> Artifact:
        """Keep it. The same bytes are kept once, under their first name."""
        path = self._part(tenant, upload)
        if len(name) > _LONGEST_NAME or not (name.isprintable() and media_type.isprintable()):
            path.unlink(missing_ok=True)
            raise UsageError(f"a name has at most {_LONGEST_NAME} printable characters", where="name")
        with writes.append(path) as file:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        target = self._of(tenant) / digest
        made = Artifact(
            digest=f"sha256:{digest}",
            size_bytes=path.stat().st_size,
            name=name,
            media_type=media_type[:_LONGEST_NAME],
            created=time.time(),
        )
        if target.exists():
            path.unlink()
            return self.stat(tenant, made.digest)
        writes.replace(target.with_suffix(_META), msgspec.json.encode(made), mode=0o600)
        path.rename(target)
        return made

    def drop(self, tenant: str, upload: str) -> None:
        """Forget an upload that nobody goes on with."""
        self._part(tenant, upload).unlink(missing_ok=True)

    def put(self, tenant: str, data: bytes, *, name: str = "", media_type: str = "") -> Artifact:
        """All at once."""
        upload = self.begin(tenant)
        for start in range(0, len(data), PART_BYTES):
            self.append(tenant, upload, data[start : start + PART_BYTES])
        return self.finish(tenant, upload, name=name, media_type=media_type)

    def read(self, tenant: str, digest: str, offset: int = 0, length: int = PART_BYTES) -> bytes:
        """At most `PART_BYTES` from `offset` on; empty at the end. `NotFoundError` where there is none."""
        if offset < 0 or not 0 < length <= PART_BYTES:
            raise UsageError(f"1 byte to {format_size(PART_BYTES)} from an offset", where="length")
        with self._kept(tenant, digest).open("rb") as file:
            file.seek(min(offset, os.fstat(file.fileno()).st_size))
            return file.read(length)

    def stat(self, tenant: str, digest: str) -> Artifact:
        """What is known of an artifact. Raises `NotFoundError`."""
        path = self._kept(tenant, digest)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(path.with_suffix(_META).read_bytes(), type=Artifact)
        return Artifact(digest=digest, size_bytes=path.stat().st_size)

    def list(self, tenant: str) -> list[Artifact]:
        """The newest last."""
        folder = self._of(tenant)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        found = [self.stat(tenant, f"sha256:{name}") for name in names if is_digest(f"sha256:{name}")]
        return sorted(found, key=lambda one: (one.created, one.digest))

    def remove(self, tenant: str, digest: str) -> Artifact:
        """Remove an artifact; what it was. Raises `NotFoundError`."""
        found = self.stat(tenant, digest)
        path = self._kept(tenant, digest)
        path.unlink(missing_ok=True)
        path.with_suffix(_META).unlink(missing_ok=True)
        return found

    def forget(self, tenant: str) -> None:
        """Remove all that is kept of a tenant, uploads included."""
        shutil.rmtree(self._of(tenant), ignore_errors=True)

    def make_room(self, tenant: str, more: int) -> None:
        """See that `more` bytes fit; kept listings go for it, the oldest first. Raises `BudgetError`."""
        own = self._ceiling(tenant)
        most = self.quota if own is None else min(own, self.quota)
        missing = self.used(tenant) + more - most
        for path in self.listings(tenant) if missing > 0 else []:
            missing -= path.stat().st_size
            path.unlink(missing_ok=True)
            if missing <= 0:
                return
        if missing > 0:
            place = "`[host] artifacts` in config.toml" if own is None else "the tenant's ceiling `artifacts`"
            raise BudgetError(
                f"the artifacts of {tenant} would take more than {format_size(most)}",
                hint=f"Remove some (`bridgehold artifacts`), or raise {place}.",
            )

    def listings(self, tenant: str) -> builtins.list[Path]:
        """Files beside the artifacts that say what a hub's revisions were: the oldest first."""
        found = (self._of(tenant) / LISTINGS).glob(f"*{_META}")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def used(self, tenant: str) -> int:
        """Bytes of the tenant's, uploads and kept listings included."""
        folder = self._of(tenant)
        return sum(
            entry.stat(follow_symlinks=False).st_size
            for place in (folder, folder / LISTINGS)
            if place.is_dir()
            for entry in os.scandir(place)
            if entry.is_file(follow_symlinks=False)
        )

    def _of(self, tenant: str) -> Path:
        return self._folder / parse_name(tenant, "tenant")

    def _kept(self, tenant: str, digest: str) -> Path:
        if is_digest(digest):
            path = self._of(tenant) / digest.removeprefix("sha256:")
            if path.is_file():
                return path
        hint = "`bridgehold artifacts list` shows what a tenant keeps."
        raise NotFoundError(f"no artifact {digest[:80]!r} here", hint=hint)

    def _part(self, tenant: str, upload: str) -> Path:
        if _UPLOAD.fullmatch(upload):
            path = self._of(tenant) / f"{upload}.part"
            if path.is_file():
                return path
        raise NotFoundError(f"no upload {upload[:40]!r} here")


def _removed_if_stale(path: Path) -> bool:
    """An upload that nobody went on with is gone after an hour."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            path.unlink()
            return True
    return False
