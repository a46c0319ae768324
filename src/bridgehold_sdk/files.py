"""A session's files, for whoever calls its bridge: `class MyBridge(Files, Bridge)` offers the operations.

They do what the session's own code could do, with its rights and within its limits. Paths are the sandbox's,
from its working folder on; a name that is no text is told in base64 as `raw`, and taken so with ``raw=True``.
No link at a path's end is followed where something is replaced, moved or removed; no bytes are read of a
device, a pipe or a socket.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Any

from bridgehold_sdk.bridge import operation
from bridgehold_sdk.errors import InvalidInput, ResourceNotFound
from bridgehold_sdk.threads import begin_thread
from bridgehold_sdk.wire import Parted

MOST_ENTRIES = 10_000
"""Of one listing."""
MOST_DEPTH = 32
PART_BYTES = 4 * 1024 * 1024
"""Of one read, or write, at the most; a result may have less."""
_LONGEST = 4096
_LONG = 256 * 1024
"""Bytes that are hashed in a thread of their own."""
_AROUND = 256
"""Bytes of a result beside its base64."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))


class Files:
    """``files_list`` and its kin, as operations; a bridge.toml declares those that it offers."""

    result_bytes: int
    takes_parts: bool
    _writing: tuple[bytes, int, Any, Any] = (b"", 0, None, None)
    """Of the file that is written: name, bytes so far, their hash, and the thread that adds to it."""

    @operation(effect="read")
    def files_list(
        self, path: str = "", depth: int = 1, raw: bool = False, most: int = MOST_ENTRIES
    ) -> dict[str, Any]:
        """What lies in a folder, and `depth` levels below; no link is followed."""
        with _told(path):
            top = _path(path, raw) or b"."
            found: list[dict[str, Any]] = []
            left = max(1, min(most, MOST_ENTRIES))
            for entry in _walk(top, max(1, min(depth, MOST_DEPTH))):
                if len(found) == left:
                    return {"entries": found, "truncated": True}
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it went meanwhile
                    found.append(_fact(entry))
            return {"entries": found, "truncated": False}

    @operation(effect="read")
    def files_stat(self, path: str, raw: bool = False) -> dict[str, Any]:
        """What lies at a path."""
        with _told(path):
            return _fact(_path(path, raw))

    @operation(effect="read")
    def files_read(
        self, path: str, offset: int = 0, length: int = PART_BYTES, raw: bool = False
    ) -> dict[str, Any] | Parted:
        """Bytes of a file from `offset` on, at most `length`, and how many it has now."""
        most = self.result_bytes if self.takes_parts else self.result_bytes * 3 // 4
        length = max(0, min(length, PART_BYTES, most - _AROUND))
        with _told(path), _opened(_path(path, raw)) as descriptor:
            pieces, done = [], 0
            while done < length and (piece := os.pread(descriptor, length - done, offset + done)):
                pieces.append(piece)
                done += len(piece)
            size = os.fstat(descriptor).st_size
        data = b"".join(pieces)
        said = {"offset": offset, "size_bytes": size, "end": len(data) < length}
        if self.takes_parts:
            return Parted(said, data)
        return {**said, "base64": base64.b64encode(data).decode("ascii")}

    @operation(effect="run")
    def files_write(
        self,
        path: str,
        base64: str | bytearray,
        offset: int = 0,
        last: bool = True,
        raw: bool = False,
        mode: int = 0o644,
    ) -> dict[str, Any]:
        """The next part of a file; with its last it appears at its path, in the place of what was there."""
        place = _path(path, raw)
        if os.path.basename(place) in (b"", b".", b".."):
            raise InvalidInput(f"{path[:200]!r} names no file")
        data = base64 if isinstance(base64, bytearray) else _decoded(base64)
        part = os.path.join(os.path.dirname(place), b"." + os.path.basename(place)[:200] + b".part")
        with _told(path):
            if os.path.isdir(place) and not os.path.islink(place):
                raise InvalidInput(f"{path[:200]!r} is a folder")
            if offset == 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
                if folder := os.path.dirname(place):
                    os.makedirs(folder, exist_ok=True)
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(part, flags | (os.O_CREAT | os.O_EXCL if offset == 0 else 0), 0o600)
            try:
                _append(descriptor, data, offset)
                hashed = self._hashed(part, data, offset, last=last)
                if not last:
                    return {"size_bytes": offset + len(data)}
                os.fchmod(descriptor, mode & 0o777)
                digest = f"sha256:{hashed.hexdigest()}" if hashed is not None else _digest(part)
                os.replace(part, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
            finally:
                os.close(descriptor)
            return {"size_bytes": offset + len(data), "digest": digest}

    def _hashed(self, part: bytes, data: bytes | bytearray, offset: int, *, last: bool) -> Any:
        """The hash of all parts so far, of the file that is written now; None where another came between.

        One that isn't the last is hashed while the next is on its way.
        """
        if offset == 0:
            import hashlib  # rarely needed, and every start would pay

            self._writing = (part, 0, hashlib.sha256(), None)
        name, end, hashed, under_way = self._writing
        if under_way is not None:
            under_way.join()
        if (name, end) != (part, offset):
            return None
        under_way = None if last else _beside(hashed.update, data)
        if under_way is None:
            hashed.update(data)
        self._writing = (b"", 0, None, None) if last else (part, offset + len(data), hashed, under_way)
        return hashed

    @operation(effect="run")
    def files_mkdir(self, path: str, raw: bool = False) -> dict[str, Any]:
        """Make a folder, and those that it lies in; one that is there already is no error."""
        with _told(path):
            place = _path(path, raw)
            os.makedirs(place, exist_ok=True)
            return _fact(place)

    @operation(effect="run")
    def files_rename(self, path: str, to: str, raw: bool = False) -> dict[str, Any]:
        """Give a file or folder another path; a file that is there is replaced."""
        with _told(path):
            place = _path(to, raw)
            os.replace(_path(path, raw), place)
            return _fact(place)

    @operation(effect="run")
    def files_remove(self, path: str, recursive: bool = False, raw: bool = False) -> dict[str, Any]:
        """Remove a file, a link, an empty folder; with `recursive` a folder with all that is in it."""
        with _told(path):
            place = _path(path, raw)
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                os.unlink(place)
            elif recursive:
                import shutil  # rarely needed, and every start would pay

                shutil.rmtree(place)
            else:
                os.rmdir(place)
            return {"removed": True}


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """The kernel's refusals in a caller's words."""
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise ResourceNotFound("file", path[:200]) from None
        raise InvalidInput(f"{path[:200]!r}: {error.strerror or error}") from None
    except OverflowError:
        raise InvalidInput(f"{path[:200]!r}: no file has such a place") from None


def _path(path: str, raw: bool) -> bytes:
    place = _decoded(path) if raw else path.encode("utf-8", "surrogateescape")
    if b"\0" in place or len(place) > _LONGEST:
        raise InvalidInput("no path: at most 4,096 bytes, none of them zero")
    return place


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("no base64") from None


@contextlib.contextmanager
def _opened(place: bytes) -> Iterator[int]:
    """A regular file, for reading: looked at before anything of it is, so that no pipe is waited for."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput("no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _beside(update: Any, data: bytes | bytearray) -> Any:
    """A thread that runs `update` with what is long; None where it is short, or there is no room for one."""
    if len(data) < _LONG:
        return None
    try:
        return begin_thread("bridgehold-hash", update, data)
    except RuntimeError:
        return None


def _append(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    if os.lseek(descriptor, 0, os.SEEK_END) != offset:
        raise InvalidInput(f"{offset} is not where the next part begins")
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(descriptor, view[done:])


def _digest(place: bytes) -> str:
    import hashlib  # as above

    found = hashlib.sha256()
    with open(place, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


def _walk(top: bytes, depth: int) -> Iterator[bytes]:
    """Paths of what lies below `top`, a folder before what is in it; each folder's in the order of names."""
    with os.scandir(top) as entries:
        first = itertools.islice(entries, MOST_ENTRIES + 1)
        listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in first)
    for name, folder in listed:
        place = name if top == b"." else os.path.join(top, name)
        yield place
        if folder and depth > 1:
            with contextlib.suppress(PermissionError, FileNotFoundError, NotADirectoryError):
                yield from _walk(place, depth - 1)


def _fact(place: bytes) -> dict[str, Any]:
    found = os.lstat(place)
    kind = next((name for of, name in _KINDS if of(found.st_mode)), "other")
    said = {
        "path": place.decode("utf-8", "backslashreplace"),
        "kind": kind,
        "size_bytes": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "modified": found.st_mtime_ns / 1e9,
    }
    try:
        place.decode("utf-8")
    except UnicodeDecodeError:
        said["raw"] = base64.b64encode(place).decode("ascii")
    if kind == "link":
        said["target"] = os.readlink(place).decode("utf-8", "backslashreplace")
    return said
