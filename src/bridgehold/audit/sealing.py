"""Closing and signing old segments, and dropping their bodies: `audit seal`.

What is not whole is not sealed. A seal is on the disk before the segment that it describes is replaced, and
knows both states: so a crash leaves a segment with its bodies or without, and both are as they were sealed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.audit import scan, seals
from bridgehold.audit.chain import read_line
from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.sealed import SealFile, seal_path
from bridgehold.audit.seals import Seal
from bridgehold.audit.segments import InstanceFolder, Segment, instance_folders, read_lines
from bridgehold.error_texts import mending
from bridgehold.errors import AuditError, BusyError

SEALED = ".sealed"
"""Of the audit's folder: replaced behind each seal, so that a host that runs looks for new ones."""
_LOCK = ".sealing"
_HINT = (
    "`bridgehold audit verify` says what is wrong; nothing of this instance is sealed before that is known."
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which segments: those whose last line is older than `before` (a time as lines have it; empty: of any
    age), and not among the newest `keep`. `drop`: their bodies, too.
    """

    before: str = ""
    keep: int = 1
    drop: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one segment; `freed_bytes` of it."""

    place: str
    seal: Seal
    freed_bytes: int = 0


class _Read(msgspec.Struct):
    """A segment as it is, and as it will be."""

    lines: int = 0
    size: int = 0
    after: int = 0
    dropped: int = 0
    marks: bytearray = msgspec.field(default_factory=bytearray)


def due(audit: Path, wanted: Wanted) -> list[tuple[InstanceFolder, Segment]]:
    """The segments to seal, the oldest first: never the newest one of all, which may be written to."""
    every = [(folder, segment) for folder in instance_folders(audit) for segment in folder.segments()]
    found = []
    for folder, segment in every[: max(0, len(every) - max(1, wanted.keep))]:
        facts = read_line(scan.last_line(segment.path))
        if facts is not None and (not wanted.before or facts.time < wanted.before):
            found.append((folder, segment))
    return found


def seal_audit(
    audit: Path, wanted: Wanted, sign: Callable[[Seal], Seal], *, by: str, time: str
) -> Iterator[Done]:
    """Each segment as soon as it is done; those that are as wanted already are passed over.

    `sign` fills in key and signature; `by` and `time` stand in every seal. Raises `AuditError` at the first
    line that is not whole, `BusyError` where another one seals.
    """
    with _locked(audit):
        asked = due(audit, wanted)
        for folder in {folder.ordinal: folder for folder, _ in asked}.values():
            numbers = {segment.number for of, segment in asked if of == folder}
            check = InstanceCheck(folder.instance)
            for segment in folder.segments():
                if segment.number > max(numbers):
                    break
                drop = wanted.drop and segment.number in numbers
                before, first = _existing(audit, segment.path), check.count + 1
                read, now, then = _read(folder, segment, check, before, drop=drop)
                same = before is not None and then == (before.seal.now if drop else now)
                if segment.number not in numbers or (same and now == then):
                    continue
                seal = before.seal if before is not None and same else None
                if seal is None:
                    made = Seal(
                        instance=folder.instance,
                        segment=segment.number,
                        first=first,
                        last=check.count,
                        head=check.prev,
                        was=now if before is None else before.seal.was,
                        now=then,
                        dropped=read.dropped,
                        marks=seals.digest(bytes(read.marks)),
                        time=time,
                        by=by,
                        key="",
                    )
                    seal = sign(made)
                    _write(audit, seal_path(segment.path), seals.render(seal).encode("ascii") + read.marks)
                if now != then:
                    _drop(audit, segment.path, then)
                _write(audit, audit / SEALED, seals.render(seal).encode("ascii"))
                place = f"{folder.path.name}/{segment.path.name}"
                yield Done(place=place, seal=seal, freed_bytes=read.size - read.after)


def _existing(audit: Path, path: Path) -> SealFile | None:
    with (
        contextlib.suppress(OSError),
        writes.our_folder(path.parent, beneath=audit, of_anybody=True) as folder,
    ):
        for name in os.listdir(folder):  # noqa: PTH208 - of an open folder: what a crash left of a replaced file
            if name.startswith(f".{path.name}."):
                os.unlink(name, dir_fd=folder)
    return SealFile.beside(path)


def _read(
    folder: InstanceFolder, segment: Segment, check: InstanceCheck, before: SealFile | None, *, drop: bool
) -> tuple[_Read, str, str]:
    """What it holds, its digest, and its digest once it is as wanted. Raises `AuditError`."""
    name = f"{folder.path.name}/{segment.path.name}"
    found, now, then = _Read(), hashlib.sha256(), hashlib.sha256()
    check.stubs = before is not None and before.seal.dropped > 0
    for _, lines, rest in read_lines(segment.path):
        check.feed(lines, name, found.lines + 1)
        if before is not None:
            before.feed(lines)
        for line in lines:
            shown = seals.without_body(line) if drop else line
            now.update(line + b"\n")
            then.update(shown + b"\n")
            found.marks += seals.mark(shown) + b"\n"
            found.dropped += int(seals.is_stub(shown))
            found.size += len(line) + 1
            found.after += len(shown) + 1
        found.lines += len(lines)
        if not lines and rest:
            check.torn(len(rest), f"{name}:{found.lines + 1}")
    check.stubs = False
    fault = before.fault(b"", name) if before is not None else None
    if fault is not None:
        check.fault("seal_contradicted", *fault)
    if check.findings:
        first = check.findings[0]
        raise AuditError(f"{first.kind}: {first.reason}", where=first.place, hint=_HINT)
    return found, f"sha256:{now.hexdigest()}", f"sha256:{then.hexdigest()}"


def _drop(audit: Path, path: Path, digest: str) -> None:
    """The segment again, without bodies; nothing has changed unless all of it is as the seal says."""
    found = hashlib.sha256()
    with _replacing(audit, path) as write:
        for _, lines, _ in read_lines(path):
            for line in lines:
                shown = seals.without_body(line) + b"\n"
                found.update(shown)
                write(shown)
        if f"sha256:{found.hexdigest()}" != digest:
            raise AuditError("the segment changes while it is sealed", where=str(path), hint=_HINT)


def _write(audit: Path, path: Path, data: bytes) -> None:
    with _replacing(audit, path) as write:
        write(data)


@contextlib.contextmanager
def _replacing(audit: Path, path: Path) -> Iterator[Callable[[bytes], object]]:
    """As the journal's user and group, read-only; through no link that the journal laid: root seals."""
    try:
        with writes.replacing(path, mode=0o440, beneath=audit, for_owner=True) as file:
            yield file.write
    except OSError as error:
        hint = "Seal as the user whose host it is; for a service, as root."
        why = f"can't be written: {error.strerror}"
        raise AuditError(why, where=str(path), hint=mending(error, hint)) from error


@contextlib.contextmanager
def _locked(audit: Path) -> Iterator[None]:
    try:
        descriptor = writes.open_lock(audit / _LOCK)
    except OSError as error:
        hint = "Seal as the user whose host it is; for a service, as root."
        raise AuditError(f"can't be sealed: {error.strerror}", where=str(audit), hint=hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError("another one seals this audit", where=str(audit), retry="later") from None
    finally:
        os.close(descriptor)
