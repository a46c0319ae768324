"""What a new instance finds of the one before it: a torn tail to quarantine, a head to link to,
intents without an outcome to name.

Only what can't have been acknowledged is moved: bytes after the last newline, and from the first
zero byte (a page that never reached the disk) near the end. Complete lines are never touched,
however wrong they look: that is for `verify` to name.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from bridgehold import writes
from bridgehold.audit import chain
from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS
from bridgehold.audit.segments import (
    TORN,
    InstanceFolder,
    Segment,
    digest_of,
    instance_folders,
    open_segment,
    read_lines,
)
from bridgehold.audit.tally import in_turns
from bridgehold.errors import AuditError

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
    quarantined: dict[str, str] = {}
    unfinished: tuple[str, ...] = ()


class _Tail(msgspec.Struct, frozen=True):
    """The fields of a line that recovery reads."""

    kind: str
    seq: int = 0
    tenant: str = ""
    intent: str = ""
    unfinished: tuple[str, ...] = ()
    unfinished_count: int = 0


class _Timed(msgspec.Struct, frozen=True):
    time: str


_LAST_BYTES = 2 * chain.MAX_LINE
_TIMED = msgspec.json.Decoder(_Timed)
_TAIL = msgspec.json.Decoder(_Tail)


def recover(audit: Path) -> Recovered:
    """Quarantine the last instance's torn tail and read its end. The caller holds the audit's lock."""
    folders = instance_folders(audit)
    if not folders:
        return Recovered()
    size = 0
    quarantined: dict[str, str] = {}
    for folder in reversed(folders):  # a start that died early leaves an instance without a line
        segments = folder.segments()
        if segments:
            size += _quarantine(folder, segments[-1])
        for path in folder.torn():  # also what a start moved that died before it could say so
            with contextlib.suppress(AuditError):  # a link, say: `verify` tells of it
                quarantined[f"{folder.path.name}/{path.name}"] = digest_of(path)
        for segment in reversed(segments):
            end = _read_end(segment, folder.instance)
            if end is None:
                continue
            return Recovered(
                ordinal=folders[-1].ordinal,
                head=end[0],
                closed=end[1] == "journal.closed",
                quarantined_bytes=size,
                quarantined=quarantined,
                unfinished=_unfinished(folder),
            )
    return Recovered(
        ordinal=folders[-1].ordinal, closed=False, quarantined_bytes=size, quarantined=quarantined
    )


def torn_from(data: bytes) -> int:
    """Where the torn tail of `data` (the end of a segment) begins; its length if there is none."""
    zero = data.find(b"\0")
    end = len(data) if zero < 0 else zero
    return data.rfind(b"\n", 0, end) + 1


def _quarantine(folder: InstanceFolder, segment: Segment) -> int:
    """Copy the torn tail to a file beside the segment, durably, and only then cut it off. Its size."""
    descriptor = open_segment(segment.path)
    try:
        size = os.fstat(descriptor).st_size
        offset = max(0, size - _UNSYNCED_MOST)
        data = os.pread(descriptor, size - offset, offset)
    finally:
        os.close(descriptor)
    torn = data[torn_from(data) :]
    if not torn:
        return 0
    target = segment.path.with_name(segment.path.name + TORN)
    writes.replace(target, torn, mode=0o640)
    descriptor = os.open(segment.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size - len(torn))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return len(torn)


def newest(audit: Path) -> float:
    """The time of the last event, in seconds of the epoch; 0 where there is none that can be read."""
    return _newest(audit)[0]


def hosts_time(audit: Path, now: float) -> float:
    """Which time it is by the clock that the audit is written by, where the machine's says `now`.

    The last line's time is by that clock, its file's by the machine's: so far the one is before the other.
    """
    last, written = _newest(audit)
    return max(now + max(0.0, last - written), last)


def _newest(audit: Path) -> tuple[float, float]:
    """The last event's time, and by the machine's clock when it was written."""
    with contextlib.suppress(AuditError, OSError):
        for folder in reversed(instance_folders(audit)):
            for segment in reversed(folder.segments()):
                for line in reversed(_last_lines(segment)):
                    found = chain.decode(_TIMED, line)
                    with contextlib.suppress(ValueError):
                        if found is not None:
                            at = datetime.fromisoformat(found.time).timestamp()
                            return at, segment.path.lstat().st_mtime
    return 0.0, 0.0


def _last_lines(segment: Segment) -> list[bytes]:
    """Complete ones, and what of the first of them is there."""
    descriptor = open_segment(segment.path)
    try:
        begin = max(0, os.fstat(descriptor).st_size - _LAST_BYTES)
        return os.pread(descriptor, _LAST_BYTES, begin).split(b"\n")[:-1]
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(segment.path)) from error
    finally:
        os.close(descriptor)


def _read_end(segment: Segment, instance: str) -> tuple[chain.Head, str] | None:
    """Head and last kind of a segment with at least one line."""
    last: bytes = b""
    for _, lines, _ in read_lines(segment.path):
        last = next((line for line in reversed(lines) if chain.read_line(line)), last)
    facts = chain.read_line(last)
    return (chain.Head(instance, facts.seq, facts.hash), facts.kind) if facts is not None else None


def _unfinished(folder: InstanceFolder) -> tuple[str, ...]:
    """References of the instance's intents without an outcome, from the last segment that names them all.

    As `in_turns` of their tenants, as far as those segments say whose they are.
    """
    segments = folder.segments()
    start = next((at for at in range(len(segments) - 1, 0, -1) if _names_all(segments[at])), 0)
    unfinished: dict[str, str] = {}
    for segment in segments[start:]:
        for _, lines, _ in read_lines(segment.path):
            for line in lines:
                _note(line, folder.instance, unfinished)
    return in_turns(unfinished)


def _names_all(segment: Segment) -> bool:
    """Whether its first line names every intent that was in flight when it was begun."""
    for _, lines, _ in read_lines(segment.path):
        first = chain.decode(_TAIL, lines[0]) if lines else None
        return (
            first is not None
            and first.kind == "segment.rotated"
            and first.unfinished_count == len(first.unfinished)
        )
    return False


def _note(line: bytes, instance: str, unfinished: dict[str, str]) -> None:
    tail = chain.decode(_TAIL, line)
    if tail is None:
        return
    if tail.kind == "segment.rotated":
        unfinished.update(dict.fromkeys(tail.unfinished, ""))
    elif tail.kind in INTENT_KINDS:
        unfinished[chain.reference(instance, tail.seq)] = tail.tenant
    elif tail.kind in OUTCOME_KINDS:
        unfinished.pop(tail.intent, None)
    elif tail.kind == "channel.ended":
        for reference in tail.unfinished:
            unfinished.pop(reference, None)
