"""A folder of advisories that an operator has: OSV files, read within bounds. Nothing is fetched.

The files may come from anywhere. One that can't be read is named, never passed over: what it says is not
known, so whoever blocks by advisories blocks then too.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from bridgehold import reads
from bridgehold.errors import DependencyError
from bridgehold.sandbox.supply.osv import Advisory, NoAdvisoryError, parse_advisory

MAX_FILES = 300_000
MAX_DEPTH = 8
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_BYTES = 2 * 1024 * 1024 * 1024
MAX_HELD = 20_000
"""Advisories about the packages that were asked for."""
_TOLD = 20
_HINT = "`[supply] advisories` in config.toml names a folder of OSV files (*.json)."
_AHEAD = timedelta(days=1)
"""A time further ahead says nothing about how old a folder is."""


class Unread(msgspec.Struct, frozen=True):
    """A file that can't be read as an advisory."""

    file: str
    why: str


class Advisories(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder says about some packages."""

    folder: str
    by_name: dict[str, tuple[Advisory, ...]] = {}
    files: int = 0
    """Advisories that were read, whatever they are about."""
    newest: str = ""
    """When the newest of them was last changed, as it says itself; empty: none says."""
    unread: tuple[Unread, ...] = ()
    """The first 20 of `unread_count`."""
    unread_count: int = 0

    def age_days(self, now: datetime) -> int | None:
        """Whole days since the newest was changed; None where none says when."""
        at = _time(self.newest)
        return None if at is None else max(0, (now - at).days)


def read_advisories(folder: Path, names: Collection[str], now: datetime) -> Advisories:
    """The advisories below `folder` about the packages `names` (canonical).

    Raises `DependencyError` where it is no folder, or holds more than is read.
    """
    by_name: dict[str, list[Advisory]] = {name: [] for name in names}
    unread: list[Unread] = []
    files, size, held, faults = 0, 0, 0, 0
    newest, newest_text = datetime.min.replace(tzinfo=UTC), ""
    for path, why in _files(folder):
        data, fault = (b"", why) if why else _read(path)
        size += len(data)
        if size > MAX_BYTES:
            raise _too_much(folder, f"{MAX_BYTES} bytes")
        try:
            advisory = None if fault else parse_advisory(data, str(path), by_name)
        except NoAdvisoryError as error:
            fault = str(error)
        if fault:
            faults += 1
            if len(unread) < _TOLD:
                unread.append(Unread(str(path), fault))
            continue
        files += 1
        if advisory is None:
            continue
        at = _time(advisory.modified)
        if at is not None and newest < at <= now + _AHEAD:
            newest, newest_text = at, advisory.modified
        for name in {one.name for one in advisory.affected} & by_name.keys():
            by_name[name].append(advisory)
            held += 1
            if held > MAX_HELD:
                raise _too_much(folder, f"{MAX_HELD} advisories about the packages of what is built")
    return Advisories(
        folder=str(folder),
        by_name={name: tuple(found) for name, found in by_name.items() if found},
        files=files,
        newest=newest_text,
        unread=tuple(unread),
        unread_count=faults,
    )


def fingerprint(folder: Path) -> str:
    """Another text once a file below `folder` was added, removed or changed. Raises as `read_advisories`."""
    found = []
    for path, why in _files(folder):
        try:
            seen = path.lstat()
            found.append(
                f"{path}\0{why}\0{seen.st_ino}\0{seen.st_size}\0{seen.st_mtime_ns}\0{seen.st_ctime_ns}"
            )
        except OSError as error:
            found.append(f"{path}\0{error.errno}")
    return str(hash(tuple(found)))


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file of an advisory by name, and why it is not read: a link below `folder` isn't followed."""
    count = 0
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as entries:
                listed = sorted(entries, key=lambda one: one.name)
        except OSError as error:
            if place == folder:
                why = error.strerror or str(error)
                raise DependencyError(
                    f"the advisories can't be read: {why}", where=str(folder), hint=_HINT
                ) from error
            yield place, error.strerror or str(error)
            continue
        for entry in listed:
            count += 1
            if count > MAX_FILES:
                raise _too_much(folder, f"{MAX_FILES} files")
            path = Path(entry.path)
            if entry.is_symlink():
                yield path, "is a link"
            elif entry.is_dir(follow_symlinks=False):
                if depth + 1 > MAX_DEPTH:
                    yield path, f"lies more than {MAX_DEPTH} folders deep"
                else:
                    waiting.append((path, depth + 1))
            elif entry.name.endswith(".json"):
                yield path, ""


def _read(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or why there are none."""
    try:
        return reads.read_bytes(path, DependencyError, most=MAX_FILE_BYTES), ""
    except DependencyError as error:
        return b"", error.message


def _too_much(folder: Path, most: str) -> DependencyError:
    hint = "Give those of PyPI alone, as OSV's export has them by ecosystem."
    return DependencyError(f"the advisories are more than {most}", where=str(folder), hint=hint)


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
