"""Where the audit's lines lie: one folder of journals, one folder per instance, numbered segments.

``AUDIT/00000007-i-0123456789ab/00000001.jsonl``. The ordinal orders the instances for people and
for `verify`; the chain itself orders them by what each first line says of the one before.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from bridgehold.audit.chain import MAX_LINE
from bridgehold.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_INSTANCE = re.compile(r"([0-9]{8})-(i-[0-9a-z]{12})")
_SEGMENT = re.compile(r"([0-9]{8})\.jsonl")
_CHUNK = 4 * 1024 * 1024
LOCK = ".lock"
RESERVE = ".reserve"
TORN = ".torn"


class Segment(NamedTuple):
    """One file of an instance's journal."""

    number: int
    path: Path


_SEAL = re.compile(r"([0-9]{8})\.jsonl\.seal")
_TORN = re.compile(r"[0-9]{8}\.jsonl\.torn")


class InstanceFolder(NamedTuple):
    """The journal of one host instance; `ordinal` orders instances by their start."""

    ordinal: int
    instance: str
    path: Path

    def segments(self) -> list[Segment]:
        """The segments by number. Raises `AuditError` where the folder can't be read."""
        found = []
        for name in _names(self.path):
            match = _SEGMENT.fullmatch(name)
            if match:
                found.append(Segment(int(match[1]), self.path / name))
        return sorted(found)

    def seals(self) -> list[int]:
        """Numbers of the segments that have a seal beside them, or had when they were there."""
        return sorted(int(match[1]) for name in _names(self.path) if (match := _SEAL.fullmatch(name)))

    def torn(self) -> list[Path]:
        """Quarantined tails."""
        return sorted(self.path / name for name in _names(self.path) if _TORN.fullmatch(name))


def instance_folders(audit: Path) -> list[InstanceFolder]:
    """The instances below `audit` by ordinal; anything else there is ignored, links included."""
    return look(audit)[0]


def found_in(audit: Path) -> tuple[list[InstanceFolder], list[str]]:
    """As `look`. Raises `AuditError` for a folder that holds no audit."""
    folders, strays = look(audit)
    if not folders and not strays:
        raise AuditError(
            "no audit in this folder",
            where=str(audit),
            hint="Name the folder that holds folders such as 00000001-i-0123456789ab.",
        )
    return folders, strays


def look(audit: Path) -> tuple[list[InstanceFolder], list[str]]:
    """The instances below `audit`, and what bears an instance's name and is no folder (a link, say)."""
    found: list[InstanceFolder] = []
    strays: list[str] = []
    for name in _names(audit):
        match = _INSTANCE.fullmatch(name)
        if match is None:
            continue
        try:
            is_folder = stat.S_ISDIR((audit / name).lstat().st_mode)
        except OSError:
            is_folder = False
        if is_folder:
            found.append(InstanceFolder(int(match[1]), match[2], audit / name))
        else:
            strays.append(name)
    return sorted(found), sorted(strays)


def folder_name(ordinal: int, instance: str) -> str:
    """The name of an instance's folder: eight digits, so that names sort by age, and its id."""
    return f"{ordinal:08d}-{instance}"


def segment_name(number: int) -> str:
    """The name of a segment's file: eight digits, so that names sort by number."""
    return f"{number:08d}.jsonl"


def digest_of(path: Path) -> str:
    """Of a file's bytes. Raises `AuditError` where it isn't a regular file that can be read."""
    digest = hashlib.sha256()
    descriptor = open_segment(path)
    try:
        while data := os.read(descriptor, _CHUNK):
            digest.update(data)
    except OSError as error:
        raise AuditError(f"can't read it: {error.strerror}", where=str(path)) from error
    finally:
        os.close(descriptor)
    return f"sha256:{digest.hexdigest()}"


def open_segment(path: Path) -> int:
    """A descriptor for reading a regular file: no link is followed and no pipe waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AuditError("a segment is not a regular file", where=str(path))
    return descriptor


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Batches of (offset of the first line, complete lines without newline, rest).

    `rest` is what stands after the last newline of the batch; only the last batch's is a torn tail,
    and the last batch has no lines: its offset is where complete lines end. A line much longer than
    `MAX_LINE` comes as a batch of its own, cut to one byte more than that, which is no valid line.
    """
    descriptor = open_segment(path)
    try:
        yield from _batches(descriptor, offset)
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(path)) from error
    finally:
        os.close(descriptor)


def _batches(descriptor: int, offset: int) -> Iterator[tuple[int, list[bytes], bytes]]:
    rest = b""
    while data := os.pread(descriptor, _CHUNK, offset + len(rest)):
        lines = (rest + data).split(b"\n")
        tail = lines.pop()
        end = offset + len(rest) + len(data) - len(tail)
        yield offset, lines, tail
        offset, rest = end, tail
        if len(rest) > MAX_LINE:
            rest = rest[: MAX_LINE + 1]
            end = _skip_line(descriptor, offset + len(tail))
            if end < 0:
                break
            yield offset, [rest], b""
            offset, rest = end, b""
    yield offset, [], rest


def _skip_line(descriptor: int, offset: int) -> int:
    """Where the line after the one that goes on at `offset` begins; -1 if it has none. No hole is read."""
    while (offset := behind_hole(descriptor, offset)) >= 0 and (data := os.pread(descriptor, _CHUNK, offset)):
        found = data.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(data)
    return -1


def behind_hole(descriptor: int, offset: int) -> int:
    """`offset`, or where data goes on behind the hole that it lies in; -1 where none does."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1
        raise


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, of which most are matched and dropped
    except OSError as error:
        raise AuditError(
            f"can't read the audit's folder: {error.strerror}",
            where=str(folder),
            hint="Name the folder that holds the instances, and read it as a user who may.",
        ) from error
