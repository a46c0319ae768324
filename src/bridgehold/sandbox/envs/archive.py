"""The structure of a zip archive: one reading for every reader, or it is refused.

A zip file can mean one thing to a reader of its central directory (Python, this scan) and another
to one that streams its local headers (some installers). So the two must agree: entries lie end to
end from the first byte, each local header says what the directory says, and nothing follows.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from bridgehold.sandbox.envs.values import GIB, MIB, Finding

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_END = struct.Struct("<4sHHHHIIH")
_ENCRYPTED, _STREAMED, _UTF8 = 0x1, 0x8, 0x800
_DESCRIPTOR_SIZES = (12, 16, 20, 24)
_IN_ZIP64 = 0xFFFFFFFF
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_NAME = 1_000
_MAX_PART = 255


class ScanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one wheel may unpack to."""

    members: int = 60_000
    unpacked_bytes: int = 6 * GIB
    ratio: int = 200
    """Unpacked to packed, for members and archives that unpack to more than `ratio_from` bytes."""
    ratio_from: int = 32 * MIB
    metadata_bytes: int = 1 * MIB
    record_bytes: int = 16 * MIB


def structure_faults(file: BinaryIO, archive: zipfile.ZipFile, limits: ScanLimits) -> Iterator[Finding]:
    """What makes this archive mean different things to different readers, or unpack too large."""
    infos = archive.infolist()
    if len(infos) > limits.members:
        yield Finding(rule="bomb", file="", detail=f"{len(infos)} members, at most {limits.members}")
        return
    yield from _sizes(infos, limits)
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size))
    end = _END.unpack(file.read(_END.size).rjust(_END.size, b"\0"))
    directory_size, directory_at, comment = end[5], end[6], end[7]
    if end[0] != b"PK\5\6" or comment or directory_at + directory_size + _END.size != size:
        yield Finding(rule="archive", file="", detail="the archive does not end with its own directory")
        return
    if end[4] != len(infos):
        yield Finding(rule="archive", file="", detail="the directory's count is not its number of entries")
    yield from _entries(file, infos, directory_at)


def _sizes(infos: Sequence[zipfile.ZipInfo], limits: ScanLimits) -> Iterator[Finding]:
    unpacked = sum(info.file_size for info in infos)
    packed = sum(info.compress_size for info in infos)
    if unpacked > limits.unpacked_bytes:
        yield Finding(
            rule="bomb", file="", detail=f"unpacks to {unpacked} bytes, at most {limits.unpacked_bytes}"
        )
    for name, big, small in [
        ("", unpacked, packed),
        *((i.filename, i.file_size, i.compress_size) for i in infos),
    ]:
        if big > limits.ratio_from and big > limits.ratio * max(small, 1):
            yield Finding(rule="bomb", file=name, detail=f"{small} bytes unpack to {big}")


def _entries(file: BinaryIO, infos: Sequence[zipfile.ZipInfo], directory_at: int) -> Iterator[Finding]:
    """Each entry against its local header, end to end from 0 to the directory."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    expected: tuple[int, ...] = (0,)
    for info in ordered:
        if info.header_offset not in expected:
            yield Finding(rule="archive", file=info.filename, detail="bytes before it belong to no entry")
            return
        file.seek(info.header_offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            yield Finding(rule="archive", file=info.filename, detail="no local header where it should begin")
            return
        _, _, flags, method, _, _, crc, packed, unpacked, name_size, extra_size = _LOCAL.unpack(head)
        name = file.read(name_size).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        same_sizes = flags & _STREAMED or (
            crc == info.CRC
            and packed in (info.compress_size, _IN_ZIP64)
            and unpacked in (info.file_size, _IN_ZIP64)
        )
        if name != info.orig_filename or method != info.compress_type or not same_sizes:
            yield Finding(
                rule="archive", file=info.filename, detail="its local header contradicts the directory"
            )
        after = info.header_offset + _LOCAL.size + name_size + extra_size + info.compress_size
        expected = tuple(after + more for more in _DESCRIPTOR_SIZES) if flags & _STREAMED else (after,)
    if directory_at not in expected:
        yield Finding(rule="archive", file="", detail="bytes before the directory belong to no entry")


def name_faults(infos: Sequence[zipfile.ZipInfo]) -> Iterator[Finding]:
    """Names that leave the archive's folder, mean two things, or are no plain files."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for info in infos:
        name = info.orig_filename
        yield from _one_name(info, name)
        folded = name.rstrip("/").casefold()
        if folded in seen:
            rule = "duplicate" if seen[folded] == name else "case"
            yield Finding(rule=rule, file=name, detail=f"also there as {seen[folded]}")
        seen[folded] = name
        parts = name.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(folder.casefold(), folder) != folder:
                yield Finding(
                    rule="case", file=name, detail=f"{folder} is also there as {folders[folder.casefold()]}"
                )
    for folded, folder in folders.items():
        if folded in seen and not seen[folded].endswith("/"):
            yield Finding(rule="duplicate", file=folder, detail="a file and a folder of one name")


def _one_name(info: zipfile.ZipInfo, name: str) -> Iterator[Finding]:
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or "\\" in name or ":" in parts[0] or any(p in ("", ".", "..") for p in parts):
        yield Finding(rule="path", file=name, detail="not a plain path below the archive's folder")
    if any(ord(c) < 32 or ord(c) == 127 for c in name) or "\ufffd" in name:
        yield Finding(
            rule="path",
            file=name.encode("ascii", "backslashreplace").decode(),
            detail="control characters in the name",
        )
    if len(name) > _MAX_NAME or any(len(part.encode()) > _MAX_PART for part in parts):
        yield Finding(rule="path", file=name[:_MAX_PART], detail="a name too long for a file system")
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield Finding(rule="special", file=name, detail="a link or special file")
    if mode & (stat.S_ISUID | stat.S_ISGID) and kind != stat.S_IFDIR:
        yield Finding(rule="special", file=name, detail="a setuid or setgid bit")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        yield Finding(rule="archive", file=name, detail="encrypted, or packed by an unusual method")
