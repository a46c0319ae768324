"""Every write of ours: relative to an open folder, through no link, whole or not at all.

What a path's name means can change between two looks at it, wherever somebody else may write in one of
its folders. So a folder is opened once and everything in it is done by its descriptor; a new file has a
name that nobody can guess and must not exist; and what is replaced is the name, never what a link of
that name points to. All functions raise `OSError`, with the path.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def our_folder(path: Path, *, beneath: Path | None = None, of_anybody: bool = False) -> Iterator[int]:
    """A descriptor of the folder `path`, which nobody may change but us, root, and a group of ours.

    `beneath` is where its owner put it, links and all (`path` itself, if left out); below that no link is
    followed. In a sticky folder each user's files are that user's own. Raises `PermissionError` otherwise.
    `of_anybody`: what is done there is safe whoever owns it.
    """
    top = path if beneath is None else beneath
    descriptor = os.open(top, _FOLDER)
    try:
        for part in path.relative_to(top).parts:
            inner = _inner(descriptor, part, path)
            os.close(descriptor)
            descriptor = inner
        facts = os.fstat(descriptor)
        if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
            raise PermissionError(errno.EPERM, "anybody may change this folder", str(path))
        shared = facts.st_mode & stat.S_IWGRP and facts.st_gid in (os.getegid(), *os.getgroups())
        if not (of_anybody or shared or facts.st_uid in (os.geteuid(), 0)):
            raise PermissionError(errno.EPERM, f"the folder belongs to uid {facts.st_uid}", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(
    path: Path, *, mode: int = 0o644, beneath: Path | None = None, for_owner: bool = False
) -> Iterator[BinaryIO]:
    """A new file that takes `path`'s name, durably, if the block ends well; else nothing is left.

    `for_owner`: the folder may be a role's of ours, and what root writes there becomes that role's.
    """
    with our_folder(path.parent, beneath=beneath, of_anybody=for_owner) as descriptor:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path.name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        partial = f".{path.name[:100]}.{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(partial, os.O_RDWR | _NEW, 0o600, dir_fd=descriptor), "w+b") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                if for_owner and os.geteuid() == 0:
                    facts = os.fstat(descriptor)
                    os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
                os.fsync(file.fileno())
            os.replace(partial, path.name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            os.fsync(descriptor)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=descriptor)
            if isinstance(error, OSError) and error.filename in (None, partial):
                error.filename, error.filename2 = str(path), None
            raise


def replace(path: Path, data: bytes | str, *, mode: int = 0o644, beneath: Path | None = None) -> None:
    """`path` with `data` as its content, durably."""
    with replacing(path, mode=mode, beneath=beneath) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def create(path: Path, *, mode: int = 0o600) -> BinaryIO:
    """A new file, open for reading and writing. Raises `FileExistsError` over anything, links included."""
    with our_folder(path.parent) as descriptor:
        try:
            file = os.open(path.name, os.O_RDWR | _NEW, 0o600, dir_fd=descriptor)
        except OSError as error:
            error.filename = str(path)
            raise
        os.fchmod(file, mode)
        return os.fdopen(file, "w+b")


@contextlib.contextmanager
def arriving(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """As `create`, for what comes in pieces: unless all of it does, the file goes again.

    What the disk refuses names it.
    """
    file = create(path, mode=mode)
    try:
        with file:
            yield file
    except BaseException as error:
        with our_folder(path.parent) as descriptor, contextlib.suppress(OSError):
            os.unlink(path.name, dir_fd=descriptor)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def add_name(path: Path, target: Path) -> None:
    """`path`, where nothing stands, as one more name of the file `target`."""
    with our_folder(target.parent) as there, our_folder(path.parent) as here:
        os.link(target.name, path.name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)


def append(path: Path) -> io.BufferedRandom:
    """The plain file `path`, open for reading and for writing at its end."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    return io.BufferedRandom(io.FileIO(descriptor, "a+"))


def open_lock(path: Path) -> int:
    """A descriptor of the lock file `path`, made where there is none: a plain file of one name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.ELOOP, "no plain file of its own stands there", str(path))
    return descriptor


def make_folder(path: Path, *, mode: int = 0o755, new: bool = False) -> None:
    """The folder `path`, with those it lies in (0755). Made by descriptor from what was there.

    Root's umask takes nothing from a mode: roles with uids of their own pass these folders. Any other's does.
    `new`: raises `FileExistsError` where it is there already.
    """
    there = path
    while not there.is_dir() and there != there.parent:
        there = there.parent
    if there == path and new:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    descriptor = os.open(there, _FOLDER)
    try:
        parts = path.relative_to(there).parts
        for number, part in enumerate(parts, 1):
            last, made = number == len(parts), True
            exact = mode if last else 0o755
            try:
                os.mkdir(part, exact, dir_fd=descriptor)
            except FileExistsError:
                if new and last:
                    raise
                made = False
            except OSError as error:  # it names the part alone
                raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
            inner = _inner(descriptor, part, path)
            os.close(descriptor)
            descriptor = inner
            if made and os.geteuid() == 0:
                os.fchmod(descriptor, exact)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(path: Path, uid: int, gid: int, mode: int) -> None:
    """Owner (as root) and mode of a folder, socket or plain file; not of one with a second name.

    A link is followed only where nobody but us and root could have put it.
    """
    if path.is_symlink():
        try:
            with our_folder(path.parent):
                path = path.resolve()
        except PermissionError as error:
            raise OSError(errno.ELOOP, "a link stands there", str(path)) from error
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if stat.S_ISLNK(facts.st_mode) or (facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode)):
            raise OSError(errno.ELOOP, "a link stands there", str(path))
        held = f"/proc/self/fd/{descriptor}"  # the very thing that was looked at
        if os.geteuid() == 0:
            os.chown(held, uid, gid)
        os.chmod(held, mode)  # noqa: PTH101 - beside chown, which Path has not
    finally:
        os.close(descriptor)


def _inner(descriptor: int, part: str, path: Path) -> int:
    if part == "..":
        raise OSError(errno.EXDEV, "the path leaves its folder", str(path))
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(errno.ELOOP, "a link, or a file, stands for a folder", str(path)) from error
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
