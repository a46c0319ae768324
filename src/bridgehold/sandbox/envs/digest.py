"""The digest of a tree: names, kinds, links, the executable bit and every byte, and nothing else.

Owners, times and other mode bits don't count, so that a tree keeps its digest when the launcher
seals it; `sandbox.seal` computes the same figure while it takes the tree over. Every step goes by
descriptor from the folder above and follows no link.

Beside the digest stand facts: what each inode looked like while its bytes were read. Where they are
still the same, so are the bytes, and nothing needs to be read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

import msgspec

from bridgehold.errors import EnvironmentBuildError
from bridgehold.ids import Digest
from bridgehold.sandbox.envs.values import TreeSummary

MAX_ENTRIES = 300_000
MAX_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BLOCK = 1 << 20

Inode = tuple[int, int, int, int, int, int, int]
"""Number, mode, links, owner, size, time of the last change of its bytes and of the inode, in ns."""


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a tree as it was read: its path (empty: the tree's own), what it adds to the digest."""

    path: str
    line: str
    inode: Inode


def tree_facts(tree: str) -> tuple[TreeSummary, tuple[Fact, ...]]:
    """The digest of the folder `tree`, and each entry's facts, a folder before what lies in it.

    Raises `EnvironmentBuildError` at special files, hard links, what changes while it is read, or more
    entries than an environment has.
    """
    walk = _Walk()
    try:
        top = os.open(tree, _OPEN | os.O_DIRECTORY)
        try:
            walk.folder(top, "", 0)
        finally:
            os.close(top)
    except OSError as error:
        raise EnvironmentBuildError(
            f"the tree can't be read: {error.strerror or error}", where=str(tree)
        ) from error
    summary = TreeSummary(digest=digest_of(walk.facts), files=len(walk.facts) - 1, bytes=walk.bytes)
    return summary, tuple(walk.facts)


def digest_of(facts: Iterable[Fact]) -> Digest:
    """The digest that the entries' lines make (pure)."""
    found = hashlib.sha256()
    for fact in facts:
        found.update(fact.line.encode("utf-8", "surrogateescape"))
    return Digest("sha256:" + found.hexdigest())


def disturbed(tree: str, facts: Iterable[Fact]) -> str | None:
    """The first entry that is not as `facts` say; None: all are. Reads no file.

    New and lost entries show at their folder, whose own times they change. Raises `OSError`.
    """
    folders: list[tuple[str, int]] = []
    device = os.lstat(tree).st_dev
    try:
        for fact in facts:
            folder, _, name = fact.path.rpartition("/")
            while folders and folders[-1][0] != folder and fact.path:
                os.close(folders.pop()[1])
            try:
                if fact.path:
                    seen = os.stat(name, dir_fd=folders[-1][1], follow_symlinks=False)
                else:
                    seen = os.lstat(tree)
            except FileNotFoundError:
                return fact.path
            if _inode(seen) != fact.inode or seen.st_dev != device:  # or something is mounted over it
                return fact.path
            if stat.S_ISDIR(seen.st_mode):
                beside = folders[-1][1] if fact.path else None
                opened = os.open(name if fact.path else tree, _OPEN | os.O_DIRECTORY, dir_fd=beside)
                folders.append((fact.path, opened))
        return None
    finally:
        for _, descriptor in folders:
            os.close(descriptor)


def folders_of(facts: Iterable[Fact]) -> Iterator[str]:
    """Paths of the folders among `facts`, the tree itself among them (pure)."""
    return (fact.path for fact in facts if stat.S_ISDIR(fact.inode[1]))


class _Walk:
    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.bytes = 0

    def folder(self, descriptor: int, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise EnvironmentBuildError(f"folders nest deeper than {MAX_DEPTH}", where=path)
        before = os.fstat(descriptor)
        self._add(path, folder_line(path) if path else "", before)
        for name in sorted(os.listdir(descriptor)):
            inner_path = f"{path}/{name}" if path else name
            facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(facts.st_mode):
                self._add(inner_path, link_line(inner_path, os.readlink(name, dir_fd=descriptor)), facts)
            elif stat.S_ISDIR(facts.st_mode):
                inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
                try:
                    self.folder(inner, inner_path, depth + 1)
                finally:
                    os.close(inner)
            else:
                self._file(descriptor, name, inner_path)
        self._require_same(before, descriptor, path)

    def _file(self, folder: int, name: str, path: str) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=folder)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1:
                raise EnvironmentBuildError("a special file or a hard link", where=path)
            content = hashlib.sha256()
            while block := os.read(descriptor, _BLOCK):
                content.update(block)
            self._require_same(before, descriptor, path)
        finally:
            os.close(descriptor)
        self.bytes += before.st_size
        executable = bool(before.st_mode & 0o100)
        self._add(path, file_line(path, content.hexdigest(), executable=executable), before)

    def _require_same(self, before: os.stat_result, descriptor: int, path: str) -> None:
        if _inode(os.fstat(descriptor)) != _inode(before):
            raise EnvironmentBuildError("changes while it is read", where=path)

    def _add(self, path: str, line: str, facts: os.stat_result) -> None:
        if len(self.facts) > MAX_ENTRIES:
            raise EnvironmentBuildError(f"more than {MAX_ENTRIES} files", where=path)
        self.facts.append(Fact(path, line, _inode(facts)))


def _inode(facts: os.stat_result) -> Inode:
    return (
        facts.st_ino,
        facts.st_mode,
        facts.st_nlink,
        facts.st_uid,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )


def folder_line(path: str) -> str:
    """What a folder adds to the digest of its tree; the other two likewise (pure)."""
    return f"d {path}\0"


def link_line(path: str, text: str) -> str:
    """What a symbolic link adds to the digest of a tree."""
    return f"l {path} {text}\0"


def file_line(path: str, sha256: str, *, executable: bool) -> str:
    """What a file adds to the digest of a tree."""
    return f"f {path} {int(executable)} {sha256}\0"
