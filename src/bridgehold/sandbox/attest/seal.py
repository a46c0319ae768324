"""Seals a finished tree: it becomes the launcher's own, read-only, with a digest; no link is followed.

The tree was the host's to write, and the host is not trusted here, so every step goes by descriptor from
the folder above, without following links. Links are allowed only where they are the interpreter's; hard
links and special files are refused. Hashing takes seconds, so a forked child does it while the launcher
goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, DependencyError, InternalError, from_info
from bridgehold.sandbox.aside import Aside
from bridgehold.sandbox.values import SealReport

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LINKS = {
    "bin/python": re.compile(r"(/(?!\.{1,2}/)[^/\s]+)+/bin/python3(\.\d{1,2})?"),
    **dict.fromkeys(
        ("bin/python3", *(f"bin/python3.{minor}" for minor in range(10, 40))), re.compile("python")
    ),
    "lib64": re.compile(r"lib"),
}
"""The links that may stand in an environment, and what they may say."""
_MAX_FILES = 300_000
_MAX_DEPTH = 64
_MAX_REMOVED_DEPTH = 500
"""Of descriptors held at once while a tree is removed."""
Work = Callable[[int, str], SealReport]


class _Outcome(msgspec.Struct, frozen=True):
    report: SealReport | None = None
    error: ErrorInfo | None = None


class SealJob(Aside):
    """One tree being sealed, or emptied, by a child. `advance`, then `report`."""

    def __init__(self, top: int, path: str, work: Work) -> None:
        """`top`: the build folder, opened for reading; closed here. Raises `OSError`."""
        try:
            super().__init__(lambda: _outcome(top, path, work), keep={top})
        finally:
            os.close(top)

    def report(self, answer: bytes) -> SealReport:
        """Raises `DependencyError` naming the first entry that may not be there."""
        outcome = msgspec.json.decode(answer, type=_Outcome)
        if outcome.error is not None:
            raise from_info(outcome.error)
        if outcome.report is None:
            raise InternalError("the child that seals gave neither report nor error")
        return outcome.report


def _outcome(top: int, path: str, work: Work) -> bytes:
    """In the child."""
    try:
        outcome = _Outcome(report=work(top, path))
    except BridgeholdError as error:
        outcome = _Outcome(error=error.info())
    except OSError as error:
        what = work.__name__.replace("_", " ")
        outcome = _Outcome(error=DependencyError(f"can't {what}: {error}", where=path).info())
    return msgspec.json.encode(outcome)


def seal_tree(top: int, path: str) -> SealReport:
    """Take the tree of descriptor `top` over. Raises `DependencyError`."""
    digest = hashlib.sha256()
    counts = [0, 0]
    _folder(top, "", digest, counts, 0)
    return SealReport(path=path, digest="sha256:" + digest.hexdigest(), files=counts[0], bytes=counts[1])


def empty_tree(top: int, path: str) -> SealReport:
    """Remove everything below descriptor `top`, following nothing. The report counts what is gone."""
    return SealReport(path=path, digest="", files=_empty(top, 0), bytes=0)


def _empty(descriptor: int, depth: int) -> int:
    if depth > _MAX_REMOVED_DEPTH:
        raise DependencyError(f"folders more than {_MAX_REMOVED_DEPTH} deep")
    os.fchmod(descriptor, 0o700)
    removed = 0
    for name in os.listdir(descriptor):
        if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
            try:
                removed += _empty(inner, depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=descriptor)
        else:
            os.unlink(name, dir_fd=descriptor)
        removed += 1
    return removed


def _folder(descriptor: int, prefix: str, digest: hashlib._Hash, counts: list[int], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise DependencyError(f"folders more than {_MAX_DEPTH} deep", where=_shown(prefix))
    os.fchown(descriptor, os.getuid(), os.getgid())
    for name in sorted(os.listdir(descriptor)):
        path = prefix + name
        entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        counts[0] += 1
        if counts[0] > _MAX_FILES:
            raise DependencyError(f"more than {_MAX_FILES} files", where=_shown(path))
        if stat.S_ISLNK(entry.st_mode):
            _link(descriptor, name, path, digest)
        elif stat.S_ISDIR(entry.st_mode):
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
            try:
                digest.update(f"d {path}\0".encode("utf-8", "surrogateescape"))
                _folder(inner, path + "/", digest, counts, depth + 1)
            finally:
                os.close(inner)
        elif stat.S_ISREG(entry.st_mode) and entry.st_nlink == 1:
            counts[1] += _file(descriptor, name, path, digest)
        else:
            raise DependencyError("a special file or a hard link in the installed tree", where=_shown(path))
    os.fchmod(descriptor, 0o555)


def _link(folder: int, name: str, path: str, digest: hashlib._Hash) -> None:
    text = os.readlink(name, dir_fd=folder)
    if path not in _LINKS or not _LINKS[path].fullmatch(text):
        raise DependencyError("a symbolic link in the installed tree", where=_shown(path))
    os.chown(name, os.getuid(), os.getgid(), dir_fd=folder, follow_symlinks=False)
    digest.update(f"l {path} {text}\0".encode("utf-8", "surrogateescape"))


def _file(folder: int, name: str, path: str, digest: hashlib._Hash) -> int:
    descriptor = os.open(name, _OPEN, dir_fd=folder)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise DependencyError("a file changed under the launcher's eyes", where=_shown(path))
        os.fchown(descriptor, os.getuid(), os.getgid())
        executable = bool(facts.st_mode & 0o100)
        os.fchmod(descriptor, 0o555 if executable else 0o444)
        content = hashlib.sha256()
        while block := os.read(descriptor, 1 << 20):
            content.update(block)
        digest.update(
            f"f {path} {int(executable)} {content.hexdigest()}\0".encode("utf-8", "surrogateescape")
        )
        return facts.st_size
    finally:
        os.close(descriptor)


def _shown(path: str) -> str:
    """A hostile name for an error: bounded, printable, encodable."""
    return "".join(c if c.isprintable() else "?" for c in path[:300])
