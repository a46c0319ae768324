"""The digest of a tree: names, kinds, links, the executable bit and every byte, and nothing else.

Owners, times and other mode bits don't count, so that a tree keeps its digest when the launcher
seals it; `sandbox.seal` computes the same figure while it takes the tree over. Every step goes by
descriptor from the folder above and follows no link.
"""

from __future__ import annotations

import hashlib
import os
import stat

from bridgehold.errors import EnvironmentBuildError
from bridgehold.ids import Digest
from bridgehold.sandbox.envs.values import TreeSummary

MAX_ENTRIES = 300_000
MAX_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BLOCK = 1 << 20


def tree_digest(tree: str | int) -> TreeSummary:
    """Digest of the folder `tree` (a path, or a descriptor, which stays open).

    Raises `EnvironmentBuildError` at special files, hard links, or more entries than an environment has.
    """
    walk = _Walk()
    try:
        top = os.dup(tree) if isinstance(tree, int) else os.open(tree, _OPEN | os.O_DIRECTORY)
        try:
            walk.folder(top, "", 0)
        finally:
            os.close(top)
    except OSError as error:
        raise EnvironmentBuildError(
            f"the tree can't be read: {error.strerror or error}", where=str(tree)
        ) from error
    return TreeSummary(
        digest=Digest("sha256:" + walk.digest.hexdigest()), files=walk.entries, bytes=walk.bytes
    )


class _Walk:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.entries = 0
        self.bytes = 0

    def folder(self, descriptor: int, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise EnvironmentBuildError(f"folders nest deeper than {MAX_DEPTH}", where=prefix)
        for name in sorted(os.listdir(descriptor)):
            path = prefix + name
            self.entries += 1
            if self.entries > MAX_ENTRIES:
                raise EnvironmentBuildError(f"more than {MAX_ENTRIES} files", where=path)
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                self._add(link_line(path, os.readlink(name, dir_fd=descriptor)))
            elif stat.S_ISDIR(mode):
                inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
                try:
                    self._add(folder_line(path))
                    self.folder(inner, path + "/", depth + 1)
                finally:
                    os.close(inner)
            else:
                self._file(descriptor, name, path)

    def _file(self, folder: int, name: str, path: str) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=folder)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                raise EnvironmentBuildError("a special file or a hard link", where=path)
            content = hashlib.sha256()
            while block := os.read(descriptor, _BLOCK):
                content.update(block)
        finally:
            os.close(descriptor)
        self.bytes += facts.st_size
        self._add(file_line(path, content.hexdigest(), executable=bool(facts.st_mode & 0o100)))

    def _add(self, line: str) -> None:
        self.digest.update(line.encode("utf-8", "surrogateescape"))


def folder_line(path: str) -> str:
    """What a folder adds to the digest of its tree; the other two likewise (pure)."""
    return f"d {path}\0"


def link_line(path: str, text: str) -> str:
    return f"l {path} {text}\0"


def file_line(path: str, sha256: str, *, executable: bool) -> str:
    return f"f {path} {int(executable)} {sha256}\0"
