"""Reading the folder of journals as one: the last events, and following what is added."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.segments import instance_folders, read_lines


def read_all(audit: Path) -> Iterator[Entry]:
    """Every readable event, oldest first. Raises `AuditError` where a file can't be read."""
    for folder in instance_folders(audit):
        for segment in folder.segments():
            yield from _entries(segment.path, f"{folder.path.name}/{segment.path.name}")


def tail(audit: Path, last: int = 20) -> list[Entry]:
    """The `last` newest events, oldest first; reads as few segments as it can."""
    found: deque[Entry] = deque()
    for folder in reversed(instance_folders(audit)):
        for segment in reversed(folder.segments()):
            name = f"{folder.path.name}/{segment.path.name}"
            found.extendleft(reversed(deque(_entries(segment.path, name), maxlen=last - len(found))))
            if len(found) >= last:
                return list(found)
    return list(found)


def follow(
    audit: Path, *, last: int = 20, until: Callable[[], bool] = lambda: False, every_s: float = 0.2
) -> Iterator[Entry]:
    """`tail`, and then every event that is added, through rotations and new instances.

    Blocks between looks, `every_s` seconds each, until `until()` is true.
    """
    positions = {
        (folder.path.name, segment.number): _end(segment.path)
        for folder in instance_folders(audit)
        for segment in folder.segments()
    }
    seen: tuple[str, int] = ("", 0)
    for entry in tail(audit, last):
        seen = (entry.instance, entry.seq)
        yield entry
    while not until():
        moved = False
        newest = max(positions, default=("", 0))
        for folder in instance_folders(audit):
            for segment in folder.segments():
                key = (folder.path.name, segment.number)
                if key < newest:
                    continue
                offset, number = positions.get(key, (0, 1))
                name = f"{folder.path.name}/{segment.path.name}"
                for begin, lines, _ in read_lines(segment.path, offset):
                    for line in lines:
                        entry_or_none = parse_entry(line, f"{name}:{number}")
                        number += 1
                        if entry_or_none is None or _is_old(entry_or_none, seen):
                            continue
                        moved = True
                        yield entry_or_none
                    positions[key] = (begin + sum(map(len, lines)) + len(lines), number)
        if not moved:
            time.sleep(every_s)


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


def _end(path: Path) -> tuple[int, int]:
    """(offset behind the last complete line, its line number plus one)."""
    end, number = 0, 1
    for begin, lines, _ in read_lines(path):
        end = begin + sum(map(len, lines)) + len(lines)
        number += len(lines)
    return end, number
