"""What of the audit has left already, for one sink: the journal's own files are the queue."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bridgehold.audit import chain, scan
from bridgehold.audit.segments import InstanceFolder, Segment, instance_folders, open_segment
from bridgehold.errors import AuditError

MOST_BYTES = 1024 * 1024
MOST_LINES = 500


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Everything before it has arrived: `offset` bytes of a segment, whose last line there is `seq`."""

    folder: str = ""
    segment: int = 0
    offset: int = 0
    seq: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Lines (without newlines) that follow each other in one file; each up to number `behind` has arrived."""

    file: str
    behind: int
    lines: tuple[bytes, ...]
    after: Cursor


Settled = Mapping[str, int]
"""File → so many bytes of it are on the disk: it had them a second ago. Nothing else of the newest file is
known to be; of all older ones, everything is."""


def next_batch(audit: Path, cursor: Cursor, settled: Settled, most: int = MOST_LINES) -> Batch | None:
    """What is to leave next, in the order of the audit, at most so many lines; None where nothing waits.

    Raises `AuditError`.

    Where a segment has other bytes than it had (a seal dropped bodies), the next line is found by its number.
    """
    left = list(_from(audit, cursor))
    for folder, segment in left:
        here = (folder.path.name, segment.number) == (cursor.folder, cursor.segment)
        file = f"{folder.path.name}/{segment.path.name}"
        seq = cursor.seq if folder.path.name == cursor.folder else 0
        end = settled.get(file, 0) if segment is left[-1][1] else None
        found = _lines(segment.path, cursor.offset if here else 0, seq, end, most)
        if found is not None:
            offset, lines, last = found
            after = Cursor(folder=folder.path.name, segment=segment.number, offset=offset, seq=last)
            return Batch(file=file, behind=seq, lines=lines, after=after)
    return None


def waiting(audit: Path, cursor: Cursor) -> int:
    """How many events have not left, as the last line of each instance says."""
    count = 0
    for folder in instance_folders(audit):
        if folder.path.name < cursor.folder:
            continue
        newest = next((facts for facts in map(_last, reversed(folder.segments())) if facts is not None), None)
        if newest is not None:
            count += max(0, newest.seq - (cursor.seq if folder.path.name == cursor.folder else 0))
    return count


def sizes(audit: Path) -> dict[str, int]:
    """Of the newest segment: what may be on the disk in a second."""
    for folder in reversed(instance_folders(audit)):
        for segment in reversed(folder.segments()):
            with contextlib.suppress(OSError):
                return {f"{folder.path.name}/{segment.path.name}": segment.path.stat().st_size}
    return {}


def _last(segment: Segment) -> chain.LineFacts | None:
    return chain.read_line(scan.last_line(segment.path))


def _from(audit: Path, cursor: Cursor) -> Iterator[tuple[InstanceFolder, Segment]]:
    for folder in instance_folders(audit):
        if folder.path.name < cursor.folder:
            continue
        for segment in folder.segments():
            if folder.path.name > cursor.folder or segment.number >= cursor.segment:
                yield folder, segment


def _lines(
    path: Path, offset: int, seq: int, settled: int | None, most: int
) -> tuple[int, tuple[bytes, ...], int] | None:
    """Where the lines behind `seq` end, the lines, and the number of the last of them."""
    descriptor = open_segment(path)
    try:
        size = os.fstat(descriptor).st_size
        end = size if settled is None else min(size, settled)
        if offset and not _follows(descriptor, offset, end, seq):
            offset = 0
        while offset < end:
            data = os.pread(descriptor, min(end - offset, MOST_BYTES + chain.MAX_LINE), offset)
            lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1][:MOST_LINES]
            if not lines:
                return None
            kept, last = [], seq
            for line in lines:
                facts = chain.head_of(line)
                number = int(facts[2]) if facts is not None else 0
                if number and number <= seq:
                    offset += len(line) + 1
                    continue
                kept.append(line)
                last = number or last
                if len(kept) == most or sum(map(len, kept)) > MOST_BYTES:
                    break
            if kept:
                return offset + sum(map(len, kept)) + len(kept), tuple(kept), last
        return None
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(path)) from error
    finally:
        os.close(descriptor)


def _follows(descriptor: int, offset: int, end: int, seq: int) -> bool:
    """Whether the line behind `seq` begins at `offset`, or nothing does yet."""
    if offset > end:
        return False
    if os.pread(descriptor, 1, offset - 1) != b"\n":
        return False
    if offset == end:
        return True
    return os.pread(descriptor, 128, offset).find(b',"seq":%d,' % (seq + 1), 0, 64) > 0
