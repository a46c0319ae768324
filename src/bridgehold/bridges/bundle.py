"""A bridge as it is submitted: files as values, plainly named and bounded, with one digest (pure).

It crosses from the host to its supervisor, and lies in quarantine, in this form alone: there is no link in
it to follow, no owner, no mode and no special file, and what it hashes to is what was approved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from bridgehold.errors import LimitError, UsageError
from bridgehold.ids import Digest

MIB = 1024 * 1024
MOST_FILES = 300
MOST_BYTES = 16 * MIB
"""Of its files together."""
MOST_PACKED = 16 * MIB
"""Of the archive that it comes in, and of its encoded form."""
MOST_PARTS = 8
LONGEST_PATH = 200
WHEELS = "wheels"
"""The folder of wheels that a bridge brings itself."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
_COMPILED = (".pyc", ".pyo")
_FORM = "zip of a bridge's folder: bridge.toml at its top, plain names, files only."


class BundleFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file: its path below the bridge's folder, and its bytes."""

    path: str
    data: bytes


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All files of a bridge, by path."""

    files: Annotated[tuple[BundleFile, ...], msgspec.Meta(max_length=MOST_FILES)]

    def get(self, path: str) -> bytes | None:
        """The bytes of one file; None where there is none."""
        return next((file.data for file in self.files if file.path == path), None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(file.data) for file in self.files)


def bundle(files: Iterable[tuple[str, bytes]]) -> Bundle:
    """The files in their order of paths, checked. Raises `UsageError`, `LimitError`."""
    found = Bundle(files=tuple(BundleFile(path, data) for path, data in sorted(files)))
    check(found)
    return found


def digest(of: Bundle) -> Digest:
    """Of paths and bytes, whatever the order and the archive's form."""
    found = hashlib.sha256()
    for file in sorted(of.files, key=lambda one: one.path):
        found.update(f"{file.path}\0{hashlib.sha256(file.data).hexdigest()}\n".encode())
    return Digest("sha256:" + found.hexdigest())


def encode(of: Bundle) -> bytes:
    """As bytes, for a file or a descriptor."""
    return msgspec.msgpack.encode(of)


def decode(data: bytes) -> Bundle:
    """Checked as any. Raises `UsageError`, `LimitError`."""
    try:
        found = msgspec.msgpack.decode(data, type=Bundle)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError("this is no bundle of a bridge") from error
    check(found)
    return found


def check(of: Bundle) -> None:
    """Raises `LimitError` for too much of it, `UsageError` for what is no plain path or there twice."""
    if len(of.files) > MOST_FILES or of.size > MOST_BYTES:
        raise LimitError(f"a bridge has at most {MOST_FILES} files of {MOST_BYTES // MIB} MiB together")
    faults = list(_faults([file.path for file in of.files]))
    if faults:
        raise UsageError("; ".join(faults[:8]), hint=f"What is taken is a {_FORM}")


def _hides(path: str, parts: list[str], paths: list[str]) -> bool:
    """Whether Python takes it for a module before, or without, the source of that name."""
    native = path.endswith(".so") and "/".join((*parts[:-1], parts[-1].partition(".")[0] + ".py")) in paths
    return native or "__pycache__" in map(str.lower, parts) or path.lower().endswith(_COMPILED)


def _modules(parts: list[str]) -> Iterator[tuple[str, str]]:
    """Each module that Python may find at a path, as a folder or a file, and its home there."""
    name = parts[-1]
    if not name.endswith((".py", ".so")):
        return
    stem = name.partition(".")[0] if name.endswith(".so") else name.removesuffix(".py")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth]), "/".join(parts[:depth]) + "/"
    if stem != "__init__":
        yield "/".join((*parts[:-1], stem)), "/".join(parts)


def _faults(paths: list[str]) -> Iterator[str]:
    """A name is ASCII: two that a file system or an eye takes for one are not both there."""
    seen: dict[str, str] = {}
    homes: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        shown = path[:LONGEST_PATH].encode("ascii", "backslashreplace").decode()
        parts = path.split("/")
        if len(path) > LONGEST_PATH or len(parts) > MOST_PARTS or not all(map(_PART.fullmatch, parts)):
            yield f"{shown!r} is no plain path"
            continue
        if _hides(path, parts, paths):
            yield f"{shown!r} may be run in place of the source that is read"
            continue
        if seen.setdefault(path.lower(), shown) != path or paths.count(path) > 1:
            yield f"{shown!r} is also there as {seen[path.lower()]!r}"
        for module, own in _modules(parts):
            if (home := homes.setdefault(module.lower(), own)) != own:
                yield f"{home!r} and {own!r} are two homes of one module: Python takes one of them"
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(folder.lower(), folder) != folder:
                yield f"{folder!r} is also there as {folders[folder.lower()]!r}"
    yield from (f"{seen[one]!r} is a file and a folder" for one in folders if one in seen)
