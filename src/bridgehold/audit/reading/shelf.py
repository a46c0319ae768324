"""Where indexes lie, in a folder that is its reader's alone: one of each audit, the least used thrown away.

Each is built under a name of its own and then takes its place: who reads the one before is not disturbed.
Nothing here holds what the audit doesn't.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.audit.reading import store
from bridgehold.audit.reading.store import DisagreesError, Filling

_MOST_INDEXES = 16


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's indexes lie: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (
        (Path(base) if base else reads.home_of(environ, os.getuid()) / ".cache")
        / "bridgehold"
        / "audit-index"
    )


class Shelf:
    """The place of one audit's index."""

    def __init__(self, cache: Path, audit: Path) -> None:
        self._cache, self._audit = cache, audit
        self._name = _name_of(audit)

    def filled(self, *, build: bool) -> tuple[sqlite3.Connection, int] | None:
        """The index, as new as the disk, and how many events were added.

        None: there is none, and it isn't to be built. Raises `OSError` where it can't be ours.
        """
        if not build and not self._there():
            return None
        with self._locked():
            for path in self._there():
                with contextlib.suppress(sqlite3.Error, DisagreesError):
                    found = store.open_store(path)
                    try:
                        fresh = store.is_fresh(found, self._audit)
                        added = 0 if fresh else Filling(found).fill(self._audit)
                    except BaseException:
                        found.close()
                        raise
                    os.utime(path)
                    return found, added
            return self._build() if build else None

    def as_it_is(self) -> sqlite3.Connection | None:
        """The index as it was filled last, if there is one. Raises as `filled`, or as `store.open_store`."""
        if not self._there():
            return None
        with writes.our_folder(self._cache):
            return next((store.open_store(path) for path in self._there()), None)

    def rebuilt(self) -> tuple[sqlite3.Connection, int]:
        """Another one in its place."""
        with self._locked():
            return self._build()

    def _build(self) -> tuple[sqlite3.Connection, int]:
        path = self._cache / f"{self._name}.{secrets.token_hex(8)}.sqlite"
        with writes.replacing(path, mode=0o600) as file:
            made = store.new_store(Path(f"/proc/self/fd/{file.fileno()}"))
            try:
                added = Filling(made).fill(self._audit)
            finally:
                made.close()
        self._tidy(path)
        return store.open_store(path), added

    def _there(self) -> list[Path]:
        return sorted(self._cache.glob(f"{self._name}.*.sqlite"), key=_age)[:1]

    def _tidy(self, kept: Path) -> None:
        """Remove what this audit had before, what a killed build left, and the indexes used longest ago."""
        gone = list(self._cache.glob(f".{self._name}.*"))
        indexes = sorted(self._cache.glob("*.sqlite"), key=_age)
        gone += [path for path in indexes if path.name.startswith(self._name) and path != kept]
        gone += [path for path in indexes[_MOST_INDEXES:] if path != kept]
        for path in gone:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    Path(f"{path}{suffix}").unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        writes.make_folder(self._cache, mode=0o700)
        with writes.our_folder(self._cache):
            descriptor = writes.open_lock(self._cache / f"{self._name}.lock")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def forget(cache: Path, audit: Path) -> None:
    """Remove the indexes of this audit: they have what it has no more. The next question builds one anew.

    What is being built, or was when its builder was killed, goes first: it can't take its place any more.
    """
    name = _name_of(audit)
    for pattern in (f".{name}.*", f"{name}.*.sqlite*"):
        for path in cache.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


def _name_of(audit: Path) -> str:
    return hashlib.sha256(os.fsencode(audit.resolve())).hexdigest()[:32]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
