"""What a new instance finds of the one before it: a torn tail to quarantine, a head to link to,
intents without an outcome to name.

Only what can't have been acknowledged is moved: bytes after the last newline, and from the first
zero byte (a page that never reached the disk) near the end. Complete lines are never touched,
however wrong they look: that is for `verify` to name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from bridgehold import writes
from bridgehold.audit import chain
from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS
from bridgehold.audit.segments import (
    TORN,
    InstanceFolder,
    Segment,
    instance_folders,
    open_segment,
    read_lines,
)

if TYPE_CHECKING:
    from pathlib import Path

_UNSYNCED_MOST = 16 * 1024 * 1024
"""How far from a segment's end unsynced bytes can lie: a few groups."""


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """The instance before, as its files tell. `ordinal` is 0 where there is none."""

    ordinal: int = 0
    head: chain.Head = chain.Head("", 0, chain.GENESIS)
    closed: bool = True
    quarantined_bytes: int = 0
    quarantined_file: str = ""
    unfinished: tuple[str, ...] = ()


class _Tail(msgspec.Struct, frozen=True):
    """The fields of a line that recovery reads."""

    kind: str
    seq: int = 0
    intent: str = ""
    unfinished: tuple[str, ...] = ()


_TAIL = msgspec.json.Decoder(_Tail)


def recover(audit: Path) -> Recovered:
    """Quarantine the last instance's torn tail and read its end. The caller holds the audit's lock."""
    folders = instance_folders(audit)
    if not folders:
        return Recovered()
    size, file = 0, ""
    for folder in reversed(folders):  # a start that died early leaves an instance without a line
        segments = folder.segments()
        if segments:
            moved, name = _quarantine(folder, segments[-1])
            size, file = size + moved, file or name
        for segment in reversed(segments):
            found = _read_end(segment, folder.instance)
            if found is None:
                continue
            head, kind, unfinished = found
            return Recovered(
                ordinal=folders[-1].ordinal,
                head=head,
                closed=kind == "journal.closed",
                quarantined_bytes=size,
                quarantined_file=file,
                unfinished=unfinished,
            )
    return Recovered(ordinal=folders[-1].ordinal, closed=False, quarantined_bytes=size, quarantined_file=file)


def torn_from(data: bytes) -> int:
    """Where the torn tail of `data` (the end of a segment) begins; its length if there is none."""
    zero = data.find(b"\0")
    end = len(data) if zero < 0 else zero
    return data.rfind(b"\n", 0, end) + 1


def _quarantine(folder: InstanceFolder, segment: Segment) -> tuple[int, str]:
    """Copy the torn tail to a file beside the segment, durably, and only then cut it off."""
    descriptor = open_segment(segment.path)
    try:
        size = os.fstat(descriptor).st_size
        offset = max(0, size - _UNSYNCED_MOST)
        data = os.pread(descriptor, size - offset, offset)
    finally:
        os.close(descriptor)
    torn = data[torn_from(data) :]
    if not torn:
        return 0, ""
    target = segment.path.with_name(segment.path.name + TORN)
    writes.replace(target, torn, mode=0o640)
    descriptor = os.open(segment.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size - len(torn))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return len(torn), f"{folder.path.name}/{target.name}"


def _read_end(segment: Segment, instance: str) -> tuple[chain.Head, str, tuple[str, ...]] | None:
    """Head, last kind and unfinished intents of a segment with at least one line."""
    unfinished: dict[str, None] = {}
    last: bytes = b""
    for _, lines, _ in read_lines(segment.path):
        for line in lines:
            _note(line, instance, unfinished)
        last = next((line for line in reversed(lines) if chain.read_line(line)), last)
    facts = chain.read_line(last)
    if facts is None:
        return None
    return chain.Head(instance, facts.seq, facts.hash), facts.kind, tuple(unfinished)


def _note(line: bytes, instance: str, unfinished: dict[str, None]) -> None:
    try:
        tail = _TAIL.decode(line)
    except msgspec.DecodeError:
        return
    if tail.kind == "segment.rotated":
        unfinished.update(dict.fromkeys(tail.unfinished))
    elif tail.kind in INTENT_KINDS:
        unfinished[chain.reference(instance, tail.seq)] = None
    elif tail.kind in OUTCOME_KINDS:
        unfinished.pop(tail.intent, None)
