"""Private files: 0600, replaced atomically, owned by the folder's owner, never through a link.

As a service the command line runs as root and the keeper as a kernel uid of its own, in one
folder: so root gives what it writes to the folder's owner, and reads nothing that somebody else
put there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from bridgehold.errors import SecretError

_HINT = "The folder of secrets and its files belong to one user, with modes 0700 and 0600."


def read_private(path: Path, bound: int) -> bytes | None:
    """The file's bytes, or None where there is none. Raises `SecretError` if others could touch it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretError(f"can't be read: {error.strerror}", where=str(path), hint=_HINT) from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        owner = path.parent.stat().st_uid
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077 or facts.st_uid not in (owner, 0):
            raise SecretError("is open to others", where=str(path), hint=_HINT)
        data = file.read(bound + 1)
    if len(data) > bound:
        raise SecretError(f"has more than {bound} bytes", where=str(path))
    return data


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably. Raises `SecretError`."""
    with replacing(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


@contextlib.contextmanager
def replacing(path: Path, start: bytes = b"") -> Iterator[Path]:
    """A new private file beside `path`, holding `start`, that takes its place if the block ends well."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        owner = path.parent.stat().st_uid
        descriptor = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(start)
        yield partial
        with partial.open("rb") as file:
            os.fchmod(file.fileno(), 0o600)
            if os.getuid() == 0 and owner != 0:
                os.fchown(file.fileno(), owner, owner)
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise SecretError(f"can't be written: {error.strerror}", where=str(path), hint=_HINT) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time, over processes."""
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SecretError(f"can't be opened: {error.strerror}", where=str(path), hint=_HINT) from error
    try:
        owner = folder.stat().st_uid
        if os.getuid() == 0 and owner != 0:
            os.fchown(descriptor, owner, owner)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
