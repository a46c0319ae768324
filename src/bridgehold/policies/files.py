"""The operator's policies and tenants, from their folders: read whole, or refused.

That a file is not there must be certain before anything takes its place: a folder or a file that
can't be looked at, a link that leads nowhere, half a file and an empty one are refusals. Nothing is
kept between two readings, so that no reading is older than the file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.ids import Digest, digest_bytes, is_name
from bridgehold.policies import shipped
from bridgehold.policies.load import MAX_BYTES

Kind = Literal["policy", "tenant"]
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SUFFIX = ".toml"


class Text(msgspec.Struct, frozen=True):
    """One file's text and where it stands: a path, or ``shipped:NAME.toml``."""

    text: str
    file: str

    @property
    def digest(self) -> Digest:
        return digest_bytes(self.text.encode())


class PolicyFiles:
    """Two folders. One that was there and is gone is a refusal until the host is started anew."""

    def __init__(self, policies: Path, tenants: Path) -> None:
        self._folders: dict[Kind, Path] = {"policy": policies, "tenant": tenants}
        self._seen: set[Kind] = set()

    def read(self, kind: Kind, name: str) -> Text | None:
        """The operator's file of that name; of policies else the shipped one. None: there is neither.

        Raises `PolicyError` where that can't be told, or the file can't be read.
        """
        found = self._own(kind, name) if is_name(name) else None
        if found is None and kind == "policy":
            given = shipped.read(name)
            return Text(*given) if given is not None else None
        return found

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Names of the operator's own files, sorted. Raises `PolicyError`."""
        listed = self._listed(kind)
        return tuple(sorted(name.removesuffix(_SUFFIX) for name in listed if _is_file_name(name)))

    def faults(self, kind: Kind) -> Iterator[str]:
        """What in the folder can't be read, or would never be: ``PLACE: what is wrong``."""
        try:
            listed = self._listed(kind)
        except PolicyError as error:
            yield f"{error.where}: {error.message}"
            return
        for name in sorted(listed):
            if name.startswith("."):
                continue
            if kind == "tenant" and is_name(name) and (self._folders[kind] / name).is_dir():
                continue  # its own bridges
            if not _is_file_name(name):
                yield f"{self._folders[kind] / name}: nothing reads this: a {kind}'s file is NAME.toml"
                continue
            try:
                self._own(kind, name.removesuffix(_SUFFIX))
            except PolicyError as error:
                yield f"{error.where}: {error.message}"

    def _listed(self, kind: Kind) -> list[str]:
        folder = self._open(kind)
        if folder is None:
            return []
        try:
            return os.listdir(folder)  # noqa: PTH208 - of an open folder, so that it is the one that was opened
        finally:
            os.close(folder)

    def _open(self, kind: Kind) -> int | None:
        """The folder; None where there surely is none, and never was."""
        path = self._folders[kind]
        try:
            opened = os.open(path, _FLAGS | os.O_DIRECTORY)
        except OSError as error:
            gone = error.errno == errno.ENOENT and not path.is_symlink()
            if not gone or kind in self._seen:
                raise _unreadable(path, error) from error
            return None
        self._seen.add(kind)
        return opened

    def _own(self, kind: Kind, name: str) -> Text | None:
        folder = self._open(kind)
        if folder is None:
            return None
        path = self._folders[kind] / f"{name}{_SUFFIX}"
        try:
            if not _is_there(path.name, folder):
                return None
            return Text(_read(path, folder), str(path))
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(folder)


class Readings:
    """What one decision rests on: everything that was looked for, and what was found."""

    def __init__(self, files: PolicyFiles) -> None:
        self._files = files
        self._found: dict[tuple[Kind, str], Text | None] = {}

    def read(self, kind: Kind, name: str) -> Text | None:
        """As `PolicyFiles.read`, once: one decision sees one text of each name."""
        key = (kind, name)
        if key not in self._found:
            self._found[key] = self._files.read(kind, name)
        return self._found[key]

    def policy(self, name: str) -> tuple[str, str] | None:
        """As `compose` takes it: (text, file)."""
        found = self.read("policy", name)
        return None if found is None else (found.text, found.file)

    @property
    def found(self) -> Mapping[tuple[Kind, str], Text | None]:
        return MappingProxyType(self._found)

    def still_true(self) -> bool:
        """Whether reading everything again gives the same. Raises `PolicyError` as reading does."""
        return all(self._files.read(*key) == text for key, text in self._found.items())

    def sources(self) -> tuple[str, ...]:
        """``FILE sha256:…`` of every text, sorted."""
        texts = (text for text in self._found.values() if text is not None)
        return tuple(sorted(f"{text.file} {text.digest}" for text in texts))

    def digest(self) -> Digest:
        """Of `sources`: it changes with any byte of the chain and of the ceiling."""
        return digest_bytes(msgspec.json.encode(self.sources()))


def _is_file_name(name: str) -> bool:
    return name.endswith(_SUFFIX) and is_name(name.removesuffix(_SUFFIX))


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _read(path: Path, folder: int) -> str:
    """Raises `OSError`, and `PolicyError` for what is no whole text."""
    opened = os.open(path.name, _FLAGS, dir_fd=folder)
    try:
        before = os.fstat(opened)
        if not stat.S_ISREG(before.st_mode):
            raise PolicyError("is no regular file", where=str(path))
        if before.st_size > MAX_BYTES:
            raise PolicyError(f"longer than {MAX_BYTES} bytes", where=str(path))
        data = os.read(opened, MAX_BYTES + 1)
        after = os.fstat(opened)
    finally:
        os.close(opened)
    facts = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in (before, after)]
    if facts[0] != facts[1] or len(data) != after.st_size:
        raise PolicyError(
            "changes while it is read", where=str(path), hint="Write a new file beside it and rename it."
        )
    if not data:
        raise PolicyError(
            "is empty", where=str(path), hint="A file that says nothing on purpose holds a comment."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"is not UTF-8: {error.reason}", where=str(path)) from error


def _unreadable(path: Path, error: OSError) -> PolicyError:
    why = error.strerror or type(error).__name__
    if error.errno == errno.ENOENT:
        why = "a link that leads nowhere" if path.is_symlink() else "it was here and is gone"
    return PolicyError(
        f"can't be read: {why}",
        where=str(path),
        hint="Nothing runs under other rules meanwhile: mend it, then `bridgehold policy check`.",
    )
