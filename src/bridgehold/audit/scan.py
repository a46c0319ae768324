"""Finding stored lines by bytes that must stand in them, in bounded memory, from either end.

A line is found as it is stored: the writer's spelling is the only one. What is found is a candidate; who
asked decodes it and judges its fields. Nothing is kept but one block of a segment and the places found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bridgehold.audit.chain import MAX_LINE, Head, read_line
from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.segments import instance_folders, open_segment
from bridgehold.errors import AuditError

_BLOCK = 256 * 1024


class Place(NamedTuple):
    """Where a line stands; `number` as of `Line`."""

    path: Path
    offset: int
    length: int
    number: int = 0


class Line(NamedTuple):
    """A stored line without its newline, and where it begins."""

    path: Path
    offset: int
    data: bytes
    number: int = 0
    """Of the line in its file, from 1 on; 0: not counted."""

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.path, self.offset, len(self.data), self.number)


def lines(
    path: Path, needle: bytes = b"", *, newest_first: bool = False, fold: bool = False
) -> Iterator[Line]:
    """The complete lines of a segment in which `needle` stands. Raises `AuditError`.

    `fold`: upper and lower case alike, where `needle` is lower case.
    """
    descriptor = open_segment(path)
    try:
        for block in _backward(descriptor) if newest_first else _forward(descriptor):
            found = _in_block(block, needle, fold=fold)
            for start, end in reversed(list(found)) if newest_first else found:
                yield Line(path, block.offset + start, bytes(block.data[start:end]))
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(path)) from error
    finally:
        os.close(descriptor)


def entries(audit: Path, found: Iterable[Place]) -> Iterator[Entry]:
    """The entries at these places, which are in the order of the files, read one by one."""
    path, descriptor, at, number = Path(), -1, 0, 1
    try:
        for file, offset, length, known in found:
            if file != path:
                if descriptor >= 0:
                    os.close(descriptor)
                path, descriptor, at, number = file, open_segment(file), 0, 1
            number = known or number + _newlines(descriptor, at, offset)
            at = offset
            entry = parse_entry(os.pread(descriptor, length, offset), f"{file.relative_to(audit)}:{number}")
            if entry is not None:
                yield entry
    except OSError as error:
        raise AuditError(f"can't read a segment: {error.strerror}", where=str(path)) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def durable_head(audit: Path) -> Head | None:
    """Where the audit stands on the disk: its last whole line, synced. None where it has no line."""
    for folder in reversed(instance_folders(audit)):
        for segment in reversed(folder.segments()):
            facts = read_line(last_line(segment.path, sync=True))
            if facts is not None:
                return Head(facts.instance, facts.seq, facts.hash)
    return None


def first_line(path: Path) -> bytes:
    """The first line of a segment; empty where it has none that is whole."""
    return _one(path, last=False)


def last_line(path: Path, *, sync: bool = False) -> bytes:
    """The last whole line of a segment; empty where it has none. `sync`: it is on the disk then."""
    found = _one(path, last=True)
    if sync:
        descriptor = open_segment(path)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise AuditError(f"can't sync it: {error.strerror}", where=str(path)) from error
        finally:
            os.close(descriptor)
    return found


def _one(path: Path, *, last: bool) -> bytes:
    return next((line.data for line in lines(path, newest_first=last)), b"")


class _Block(NamedTuple):
    """Whole lines with their newlines: the first `size` bytes of `data`, which stand at `offset`.

    `data` is one buffer for a whole segment, and good until the next block is asked for.
    """

    offset: int
    data: bytearray
    size: int


def _in_block(block: _Block, needle: bytes, *, fold: bool) -> Iterator[tuple[int, int]]:
    """Begin and end of each line of `block` in which `needle` stands."""
    data, size = block.data, block.size
    searched = data.lower() if fold else data
    at = 0
    while at < size:
        hit = searched.find(needle, at, size)
        if hit < 0:
            return
        start = data.rfind(b"\n", at, hit) + 1 or at
        end = data.find(b"\n", hit, size)
        yield start, end
        at = end + 1


def _read(descriptor: int, data: bytearray, at: int, size: int, offset: int) -> int:
    """So many bytes of the file from `offset` into `data` from `at` on; how many there were."""
    if len(data) < at + size:
        data.extend(bytes(at + size - len(data)))
    with memoryview(data) as view, view[at : at + size] as part:
        return os.preadv(descriptor, [part], offset)


def _forward(descriptor: int) -> Iterator[_Block]:
    """A line without measure is passed over."""
    data = bytearray(_BLOCK)
    offset = held = 0
    while got := _read(descriptor, data, held, _BLOCK, offset + held):
        size = held + got
        end = data.rfind(b"\n", 0, size) + 1
        if end:
            yield _Block(offset, data, end)
            data[: size - end] = data[end:size]
        offset, held = offset + end, size - end
        if held > MAX_LINE:
            offset, held = _behind(descriptor, offset + held), 0


def _behind(descriptor: int, offset: int) -> int:
    """Where the line after the one that goes on at `offset` begins, or the file's end."""
    while data := os.pread(descriptor, _BLOCK, offset):
        found = data.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(data)
    return offset


def _backward(descriptor: int) -> Iterator[_Block]:
    """As `_forward`, from the end."""
    data, carry = bytearray(_BLOCK), b""
    end = _last_newline(descriptor, os.fstat(descriptor).st_size)
    while end > 0:
        begin = max(0, end - _BLOCK)
        got = _read(descriptor, data, 0, end - begin, begin)
        data[got : got + len(carry)] = carry
        size = got + len(carry)
        cut = 0 if begin == 0 else data.find(b"\n", 0, size - 1) + 1
        if begin and not cut:  # one line goes on further to the front; past any measure only its end is kept
            carry, end = bytes(data[:size]) if size <= MAX_LINE + _BLOCK else b"\n", begin
            continue
        carry = bytes(data[:cut])
        if cut < size:
            data[: size - cut] = data[cut:size]
            yield _Block(begin + cut, data, size - cut)
        end = begin


def _last_newline(descriptor: int, end: int) -> int:
    """Where the last whole line ends."""
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _newlines(descriptor: int, begin: int, end: int) -> int:
    found = 0
    while begin < end and (data := os.pread(descriptor, min(_BLOCK, end - begin), begin)):
        found += data.count(b"\n")
        begin += len(data)
    return found
