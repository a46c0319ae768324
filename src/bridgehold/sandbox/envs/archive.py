"""A wheel's zip archive, read strictly: what could mean two things to two readers is refused.

A zip file says most things twice (a local header before each entry, a directory at the end), names may
be told a third time in extra fields, and readers differ in what they believe. So here every statement
must be there once, or be the same each time: entries lie end to end from the first byte, local headers
and directory agree in every field, nothing precedes, follows or lies between. This is the only reader of
wheels: what it yields is what gets installed.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from bridgehold.sandbox.envs.values import GIB, MIB, Finding

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sBBHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_EXTRA = struct.Struct("<HH")
_ZIP64 = struct.Struct("<HHQQ")
_UTF8, _LEVEL = 0x800, 0x6
_STORED, _DEFLATED = 0, 8
_NEWEST = 45
"""What zip64 needs; later versions are encryption and methods that are not taken."""
_SYSTEMS = {0: "DOS", 3: "Unix"}
_IN_ZIP64 = 0xFFFFFFFF
_PLAIN_EXTRAS = {0x5455: "times", 0x7875: "owner", 0x000A: "NTFS times"}
"""Extra fields that say nothing about a member's name, bytes or kind."""
_KNOWN_EXTRAS = {0x0001: "zip64", 0x7075: "Unicode path", 0x6375: "Unicode comment", 0x9901: "encryption"}
_BLOCK = 1 << 20
_MAX_NAME = 1_000
_MAX_PARTS = 32
_MAX_FOLDERS = 60_000
"""Each of them, and each one's name, is held in memory while a wheel is looked at."""
_MAX_PART = 255
_MAX_DIRECTORY = 32 * MIB


class ScanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one wheel may unpack to."""

    members: int = 60_000
    unpacked_bytes: int = 6 * GIB
    ratio: int = 200
    """Unpacked to packed, for members and archives that unpack to more than `ratio_from` bytes."""
    ratio_from: int = 32 * MIB
    metadata_bytes: int = 1 * MIB
    record_bytes: int = 16 * MIB


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: a folder if its name ends with a slash."""

    name: str
    size: int
    packed: int
    deflated: bool
    crc: int
    mode: int
    """As Unix has it, kind included; 0 where the archive doesn't say."""
    begins: int
    """Offset of its packed bytes."""

    @property
    def is_folder(self) -> bool:
        """Whether the member is a folder and has no bytes."""
        return self.name.endswith("/")


class ArchiveFaultError(Exception):
    """The archive is not read any further. Stays in this room: it becomes a finding."""

    def __init__(self, file: str, detail: str, rule: str = "archive") -> None:
        super().__init__(detail)
        self.finding = Finding(rule=rule, file=file, detail=detail)


class Archive:
    """The members of a zip file, in the directory's order."""

    def __init__(self, file: BinaryIO, limits: ScanLimits) -> None:
        """Raises `ArchiveFaultError` at the first field that is not as it must be."""
        self._file = file
        count, begins, size = _find_directory(file, limits)
        file.seek(begins)
        heads = list(_directory(file.read(size), count))
        self.members = tuple(_place(file, heads, begins))

    def blocks(self, member: Member) -> Iterator[bytes]:
        """The member's bytes. Raises `ArchiveFaultError` where they are not as many, or not those, said."""
        self._file.seek(member.begins)
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
        left, size, crc = member.packed, 0, 0
        while left or (inflate is not None and not inflate.eof):
            packed = b"" if inflate is None else inflate.unconsumed_tail
            if not packed and left:
                packed = self._file.read(min(left, _BLOCK))
                left -= len(packed)
                if not packed:
                    raise ArchiveFaultError(member.name, "ends before its bytes do")
            try:
                block = packed if inflate is None else inflate.decompress(packed, _BLOCK)
            except zlib.error as error:
                raise ArchiveFaultError(member.name, "its packed bytes are none of its method") from error
            if not packed and not block:
                break  # and zlib, which may keep the end of a full block to itself, has nothing left either
            size += len(block)
            crc = zlib.crc32(block, crc)
            if size > member.size:
                break
            yield block
            if inflate is not None and inflate.eof:
                break
        if inflate is not None and (not inflate.eof or inflate.unused_data or left):
            raise ArchiveFaultError(member.name, "its packed bytes end elsewhere than its packed size says")
        if size != member.size or crc != member.crc:
            raise ArchiveFaultError(member.name, "its bytes are not as the size and checksum say")

    def read(self, member: Member) -> bytes:
        """All bytes of a member. Raises `ArchiveFaultError` where they are not what the directory says."""
        return b"".join(self.blocks(member))


def _find_directory(file: BinaryIO, limits: ScanLimits) -> tuple[int, int, int]:
    """(number of entries, offset, size) of the directory, which must end the file."""
    total = file.seek(0, 2)
    file.seek(max(0, total - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size:
        raise ArchiveFaultError("", "too short for an archive")
    magic, disk, first_disk, here, count, size, begins, comment = _END.unpack(end)
    if magic != b"PK\5\6" or comment:
        raise ArchiveFaultError(
            "", "the archive does not end with its own directory (comment, or bytes after it)"
        )
    if disk or first_disk or here != count:
        raise ArchiveFaultError("", "the directory counts more than one disk, or its entries twice")
    if count == 0xFFFF or begins + size + _END.size != total:
        raise ArchiveFaultError(
            "", "bytes between the directory and its end (zip64, or what belongs to nothing)"
        )
    if count > limits.members:
        raise ArchiveFaultError("", f"{count} members, at most {limits.members}", "bomb")
    if size > _MAX_DIRECTORY:
        raise ArchiveFaultError("", f"a directory of {size} bytes, at most {_MAX_DIRECTORY}", "bomb")
    return count, begins, size


class _Head(msgspec.Struct, frozen=True):
    """What the directory says of one entry; `shared` is what its local header must say too."""

    name: bytes
    shared: tuple[int, ...]
    """Version, flags, method, time, date, checksum, packed size, size."""
    mode: int
    begins: int


def _directory(data: bytes, count: int) -> Iterator[_Head]:
    at = 0
    for number in range(1, count + 1):
        if len(data) - at < _CENTRAL.size or data[at : at + 4] != b"PK\1\2":
            raise ArchiveFaultError("", f"the directory has no entry {number} of {count}")
        fields = _CENTRAL.unpack_from(data, at)
        system, shared = fields[2], fields[3:11]
        name_size, extra_size, comment_size, disk, _, attributes, begins = fields[11:]
        at += _CENTRAL.size
        name, extra = data[at : at + name_size], data[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size
        shown = _shown(name)
        _check_flags(shown, shared)
        _check_extra(shown, extra, "directory")
        if comment_size or disk:
            raise ArchiveFaultError(shown, "a comment, or a disk, of its own in the directory")
        if system not in _SYSTEMS:
            raise ArchiveFaultError(shown, f"made on system {system}: its mode is read in two ways")
        yield _Head(name, shared, attributes >> 16, begins)
        if bool(attributes & 0x10) and not name.endswith(b"/"):
            raise ArchiveFaultError(shown, "a folder by its attributes and a file by its name")
    if at != len(data):
        raise ArchiveFaultError("", "the directory's count is not its number of entries")


def _check_flags(shown: str, shared: tuple[int, ...]) -> None:
    version, flags, method, _, _, _, packed, size = shared
    if version > _NEWEST:
        raise ArchiveFaultError(shown, f"needs a reader of version {version}, which others may refuse")
    if flags & ~(_UTF8 | _LEVEL):
        what = {0x1: "encrypted", 0x8: "sizes after its bytes (a data descriptor)"}.get(
            flags & 0x9, "unknown"
        )
        raise ArchiveFaultError(shown, f"flags {flags:#x}: {what}")
    if method not in (_STORED, _DEFLATED):
        raise ArchiveFaultError(shown, f"packed by method {method}: an unusual one")
    if _IN_ZIP64 in (packed, size):
        raise ArchiveFaultError(shown, "its size stands in a zip64 field")
    if method == _STORED and packed != size:
        raise ArchiveFaultError(shown, "stored, and of two sizes")


def _check_extra(shown: str, extra: bytes, where: str, zip64: bytes = b"") -> bool:
    """Whether `zip64` is there: how that field must be, where it may be."""
    at, found = 0, False
    while at < len(extra):
        if len(extra) - at < _EXTRA.size:
            raise ArchiveFaultError(shown, f"half an extra field in its {where}")
        kind, size = _EXTRA.unpack_from(extra, at)
        field = extra[at : at + _EXTRA.size + size]
        at += _EXTRA.size + size
        if at > len(extra):
            raise ArchiveFaultError(shown, f"half an extra field in its {where}")
        found |= bool(zip64) and field == zip64
        if kind not in _PLAIN_EXTRAS and not (zip64 and field == zip64):
            name = _KNOWN_EXTRAS.get(kind, "unknown")
            raise ArchiveFaultError(shown, f"the extra field {kind:#06x} ({name}) in its {where}")
    return found


def _place(file: BinaryIO, heads: Sequence[_Head], directory: int) -> Iterator[Member]:
    """Each entry's local header against the directory, end to end from 0 to `directory`."""
    places: dict[int, int] = {}
    at = 0
    for head in sorted(heads, key=lambda one: one.begins):
        shown = _shown(head.name)
        file.seek(head.begins)
        local = file.read(_LOCAL.size)
        if head.begins != at:
            raise ArchiveFaultError(shown, "bytes before it belong to no entry, or to two")
        if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
            raise ArchiveFaultError(shown, "no local header where it should begin")
        _, *said, name_size, extra_size = _LOCAL.unpack(local)
        name, extra = file.read(name_size), file.read(extra_size)
        sizes = tuple(said[6:])
        far = sizes == (_IN_ZIP64, _IN_ZIP64)
        packed, size = head.shared[6:]
        zip64 = _ZIP64.pack(1, 16, size, packed)  # some writers always add it; it must say the same
        if not _check_extra(shown, extra, "local header", zip64) and far:
            raise ArchiveFaultError(shown, "its local header says no size")
        if name != head.name or tuple(said[:6]) != head.shared[:6] or not (far or sizes == head.shared[6:]):
            raise ArchiveFaultError(shown, "its local header contradicts the directory")
        places[head.begins] = head.begins + _LOCAL.size + name_size + extra_size
        at = places[head.begins] + packed
    if at != directory:
        raise ArchiveFaultError("", "bytes before the directory belong to no entry")
    for head in heads:
        _, flags, method, _, _, crc, packed, size = head.shared
        yield Member(
            name=_decode(head.name, flags),
            size=size,
            packed=packed,
            deflated=method == _DEFLATED,
            crc=crc,
            mode=head.mode,
            begins=places[head.begins],
        )


def _decode(name: bytes, flags: int) -> str:
    """Without its flag a name has an encoding of the reader's choice, unless it is ASCII."""
    try:
        return name.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise ArchiveFaultError(_shown(name), "a name in an encoding that is not said", "path") from None


def size_faults(members: Sequence[Member], limits: ScanLimits) -> Iterator[Finding]:
    """What unpacks to more than it may."""
    size = sum(member.size for member in members)
    packed = sum(member.packed for member in members)
    if size > limits.unpacked_bytes:
        yield Finding(
            rule="bomb", file="", detail=f"unpacks to {size} bytes, at most {limits.unpacked_bytes}"
        )
    for name, big, small in [("", size, packed), *((one.name, one.size, one.packed) for one in members)]:
        if big > limits.ratio_from and big > limits.ratio * max(small, 1):
            yield Finding(rule="bomb", file=name, detail=f"{small} bytes unpack to {big}")


def name_faults(members: Sequence[Member]) -> Iterator[Finding]:
    """Names that leave the archive's folder, mean two things, or are no plain files."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for member in members:
        name = member.name
        yield from _one_name(member)
        folded = name.rstrip("/").casefold()
        if folded in seen:
            rule = "duplicate" if seen[folded] == name else "case"
            yield Finding(rule=rule, file=name, detail=f"also there as {seen[folded]}")
        seen[folded] = name
        parts = name.rstrip("/").split("/")
        if len(parts) > _MAX_PARTS:
            yield Finding(rule="path", file=name, detail=f"folders more than {_MAX_PARTS - 1} deep")
            continue
        if len(folders) > _MAX_FOLDERS:
            yield Finding(rule="bomb", file=name, detail=f"more than {_MAX_FOLDERS} folders")
            return
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(folder.casefold(), folder) != folder:
                yield Finding(
                    rule="case", file=name, detail=f"{folder} is also there as {folders[folder.casefold()]}"
                )
    for folded, folder in folders.items():
        if folded in seen and not seen[folded].endswith("/"):
            yield Finding(rule="duplicate", file=folder, detail="a file and a folder of one name")


def _one_name(member: Member) -> Iterator[Finding]:
    name = member.name
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or "\\" in name or ":" in parts[0] or any(p in ("", ".", "..") for p in parts):
        yield Finding(rule="path", file=name, detail="not a plain path below the archive's folder")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        shown = name.encode("ascii", "backslashreplace").decode()
        yield Finding(rule="path", file=shown, detail="control characters in the name")
    if len(name) > _MAX_NAME or any(len(part.encode()) > _MAX_PART for part in parts):
        yield Finding(rule="path", file=name[:_MAX_PART], detail="a name too long for a file system")
    kind = stat.S_IFMT(member.mode)
    if kind not in (0, stat.S_IFDIR if member.is_folder else stat.S_IFREG):
        yield Finding(
            rule="special", file=name, detail="a link or special file, or another kind than its name"
        )
    if member.mode & (stat.S_ISUID | stat.S_ISGID) and not member.is_folder:
        yield Finding(rule="special", file=name, detail="a setuid or setgid bit")
    if member.is_folder and member.size:
        yield Finding(rule="archive", file=name, detail="a folder with bytes")


def _shown(name: bytes) -> str:
    return name[:_MAX_PART].decode("ascii", "backslashreplace")
