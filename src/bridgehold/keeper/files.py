"""Private files: 0600, replaced atomically, owned by the folder's owner, never through a link.

As a service the command line runs as root and the keeper as a kernel uid of its own, in one
folder: so root gives what it writes to the folder's owner, and reads nothing that somebody else
put there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bridgehold import writes
from bridgehold.error_texts import mending
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
    with replacing(path, data):
        pass


@contextlib.contextmanager
def replacing(path: Path, start: bytes = b"") -> Iterator[Path]:
    """A new private file, holding `start`, that takes `path`'s place if the block ends well.

    The path given is that of its descriptor: the folder's owner may be another role, and could put
    something else under any name there while root writes.
    """
    try:
        with writes.replacing(path, mode=0o600, for_owner=True) as file:
            file.write(start)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")
    except OSError as error:
        why = f"can't be written: {error.strerror}"
        raise SecretError(why, where=str(path), hint=mending(error, _HINT)) from error


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """One writer at a time, over processes."""
    path = folder / name
    try:
        writes.make_folder(folder, mode=0o700)
        descriptor = writes.open_lock(path)
    except OSError as error:
        why = f"can't be opened: {error.strerror}"
        raise SecretError(why, where=str(path), hint=mending(error, _HINT)) from error
    try:
        owner = folder.stat().st_uid
        if os.getuid() == 0 and owner != 0:
            os.fchown(descriptor, owner, owner)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
