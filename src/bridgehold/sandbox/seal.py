"""What an installer wrote becomes the launcher's own, read-only, with a digest: nothing of it is followed.

The tree was writable by a sandbox, so every step goes by descriptor from the folder above, without
following links. Links are allowed only where they are the interpreter's; hard links and special
files are refused.
"""

from __future__ import annotations

import hashlib
import os
import stat

from bridgehold.errors import DependencyError
from bridgehold.sandbox.values import SealReport

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LINKS = frozenset({"bin/python", "bin/python3", "lib64"})
_MAX_FILES = 300_000


def give(path: str, uid: int) -> None:
    """Make the (empty, host-made) build folder the installer's."""
    descriptor = os.open(path, _OPEN | os.O_DIRECTORY)
    try:
        os.fchown(descriptor, uid, uid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def seal(path: str, build_root: str) -> SealReport:
    """Take the tree at `path`, which must lie directly in `build_root`. Raises `DependencyError`."""
    parent, name = os.path.split(os.path.normpath(path))
    if os.path.realpath(parent) != os.path.realpath(build_root) or name in ("", ".", ".."):
        raise DependencyError(f"{path} is not a build folder", where=path)
    digest = hashlib.sha256()
    counts = [0, 0]
    root = os.open(parent, _OPEN | os.O_DIRECTORY)
    try:
        top = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=root)
        try:
            _folder(top, "", digest, counts)
        finally:
            os.close(top)
    finally:
        os.close(root)
    return SealReport(path=path, digest="sha256:" + digest.hexdigest(), files=counts[0], bytes=counts[1])


def _folder(descriptor: int, prefix: str, digest: hashlib._Hash, counts: list[int]) -> None:
    os.fchown(descriptor, os.getuid(), os.getgid())
    for name in sorted(os.listdir(descriptor)):
        path = prefix + name
        entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        counts[0] += 1
        if counts[0] > _MAX_FILES:
            raise DependencyError(f"more than {_MAX_FILES} files", where=path)
        if stat.S_ISLNK(entry.st_mode):
            _link(descriptor, name, path, digest)
        elif stat.S_ISDIR(entry.st_mode):
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
            try:
                digest.update(f"d {path}\0".encode("utf-8", "surrogateescape"))
                _folder(inner, path + "/", digest, counts)
            finally:
                os.close(inner)
        elif stat.S_ISREG(entry.st_mode) and entry.st_nlink == 1:
            counts[1] += _file(descriptor, name, path, digest)
        else:
            raise DependencyError("a special file or a hard link in the installed tree", where=path)
    os.fchmod(descriptor, 0o555)


def _link(folder: int, name: str, path: str, digest: hashlib._Hash) -> None:
    if path not in _LINKS:
        raise DependencyError("a symbolic link in the installed tree", where=path)
    text = os.readlink(name, dir_fd=folder)
    os.chown(name, os.getuid(), os.getgid(), dir_fd=folder, follow_symlinks=False)
    digest.update(f"l {path} {text}\0".encode("utf-8", "surrogateescape"))


def _file(folder: int, name: str, path: str, digest: hashlib._Hash) -> int:
    descriptor = os.open(name, _OPEN, dir_fd=folder)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise DependencyError("a file changed under the launcher's eyes", where=path)
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
