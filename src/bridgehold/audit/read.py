"""Reading the folder of journals as one: the last events, and following what is added."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bridgehold.audit import scan
from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.query import Query, of_kind, query
from bridgehold.audit.segments import Segment, instance_folders, read_lines


def read_all(audit: Path) -> Iterator[Entry]:
    """Every readable event, oldest first. Raises `AuditError` where a file can't be read."""
    for folder in instance_folders(audit):
        for segment in folder.segments():
            yield from _entries(segment.path, f"{folder.path.name}/{segment.path.name}")


Listing = Sequence[Sequence[Segment]]
"""The segments of each instance, the oldest first."""


def listed(audit: Path) -> Listing:
    """For several questions one after the other. Raises `AuditError` where a folder can't be read."""
    return [folder.segments() for folder in instance_folders(audit)]


def read_kind(
    audit: Path, kind: str, tenant: str = "", since: float = 0.0, listing: Listing | None = None
) -> Iterator[Entry]:
    """Every readable event of `kind`, or of a family of kinds (``egress``), oldest first.

    `tenant`: of this one alone; what is others' is passed over as bytes. `since`: of instances that have
    written after it, in seconds of the epoch: whole ones, since what ended then may have begun long before.
    `listing`: what there is, where that is known.
    """
    needle = of_kind(kind)
    whose = f'"tenant":"{tenant}"'.encode() if tenant else b""
    for segments in listed(audit) if listing is None else listing:
        if since and all(_written(segment.path) < since for segment in segments):
            continue
        for segment in segments:
            places = (line.place for line in scan.lines(segment.path, needle) if whose in line.data)
            for entry in scan.entries(audit, places):
                mine = not tenant or entry.tenant == tenant
                if mine and (entry.kind == kind or entry.kind.startswith(f"{kind}.")):
                    yield entry


def removed_at(audit: Path, tenant: str) -> str:
    """When the tenant was removed last, as lines have times: what is older is another's. Empty: never."""
    return removals(audit).get(tenant, "")


def removals(audit: Path, since: float = 0.0, listing: Listing | None = None) -> dict[str, str]:
    """The same of each that was removed. `since`, `listing`: see `read_kind`."""
    return {
        entry.text("subject"): entry.time  # the oldest first
        for entry in read_kind(audit, "admin.outcome", since=since, listing=listing)
        if entry.text("action") == "tenant.remove" and entry.fields.get("ok") is True
    }


def _written(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # it was taken away meanwhile
        return 0.0


def tail(audit: Path, last: int = 20) -> list[Entry]:
    """The `last` newest events, oldest first; reads no further back than it takes."""
    return list(query(audit, Query(limit=last))) if last > 0 else []


def follow(
    audit: Path, *, last: int = 20, until: Callable[[], bool] = lambda: False, every_s: float = 0.2
) -> Iterator[Entry]:
    """`tail`, and then every event that is added, through rotations and new instances.

    Blocks between looks, `every_s` seconds each, until `until()` is true.
    """
    newest, offset, number = _end(audit)
    seen: tuple[str, int] = ("", 0)
    for entry in tail(audit, last):
        seen = (entry.instance, entry.seq)
        yield entry
    while not until():
        moved = False
        for folder in instance_folders(audit):
            for segment in folder.segments():
                key = (folder.path.name, segment.number)
                if key < newest:
                    continue
                if key > newest:
                    newest, offset, number = key, 0, 1
                name = f"{folder.path.name}/{segment.path.name}"
                for begin, lines, _ in read_lines(segment.path, offset):
                    for line in lines:
                        found = parse_entry(line, f"{name}:{number}")
                        number += 1
                        if found is not None and not _is_old(found, seen):
                            moved = True
                            yield found
                    offset = begin + sum(map(len, lines)) + len(lines)
        if not moved:
            time.sleep(every_s)


def _end(audit: Path) -> tuple[tuple[str, int], int, int]:
    """The newest segment, the offset behind its last whole line, and that line's number plus one."""
    folders = instance_folders(audit)
    segments = folders[-1].segments() if folders else []
    if not segments:
        return ("", 0), 0, 1
    end, number = 0, 1
    for begin, lines, _ in read_lines(segments[-1].path):
        end = begin + sum(map(len, lines)) + len(lines)
        number += len(lines)
    return (folders[-1].path.name, segments[-1].number), end, number


def _is_old(entry: Entry, seen: tuple[str, int]) -> bool:
    return entry.instance == seen[0] and entry.seq <= seen[1]


def _entries(path: Path, name: str) -> Iterator[Entry]:
    number = 1
    for _, lines, _ in read_lines(path):
        for line in lines:
            entry = parse_entry(line, f"{name}:{number}")
            number += 1
            if entry is not None:
                yield entry
