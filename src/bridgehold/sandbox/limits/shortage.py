"""A machine that is short of something, told apart from a fault of anybody's.

Any step of a start can meet it, in the launcher or in one of its helpers. It is known by the kernel's
error number, wherever in a chain of causes that stands, and by nothing else: so a step raises
what it raises, ``from`` the `OSError`, and `typed` says what it was. A start that met one is undone,
and the host tries again; no sandbox is ended for it but the one that was starting.
"""

from __future__ import annotations

import errno
import os

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, ShortageError, UnsupportedError, from_info
from bridgehold.sandbox import containers

ENOTSUPP = 524
"""What the kernel answers, without a name of its own, when no memory for compiled filters is left."""
SHORT_OF = {
    errno.EAGAIN: "processes, or memory for one",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room: storage, inodes, namespaces, terminals or watches",
    errno.EDQUOT: "room: a quota is used up",
    errno.ENFILE: "open files of the machine",
    errno.EMFILE: "open files of this process",
    errno.ENOBUFS: "memory for sockets",
    errno.ETOOMANYREFS: "descriptors in flight",
    errno.EUSERS: "user namespaces",
    ENOTSUPP: "memory for seccomp filters",
}
FAULTS = (BridgeholdError, OSError, MemoryError, RuntimeError, ValueError, LookupError, TypeError)
"""What one worker's start may raise; it ends that worker and no other. (`RuntimeError`: no thread.)"""
_NO_THREAD = "can't start new thread"
_MAX_TEXT = 300


def shortage(error: BaseException | None) -> int:
    """The error number of the shortage that is behind `error`; 0: there is none (pure)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in SHORT_OF:
            return error.errno
        if isinstance(error, MemoryError):
            return errno.ENOMEM
        if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
            return errno.EAGAIN
        error = error.__cause__
    return 0


def short_of(number: int, what: str, *, hint: str | None = None) -> ShortageError:
    """The typed error for an error number that means that the machine ran out of something."""
    return ShortageError(f"the machine is short of {SHORT_OF[number]}: {what}"[:_MAX_TEXT], hint=hint)


def typed(error: BaseException) -> BridgeholdError:
    """A fault of a start as the error that is answered (pure)."""
    number = shortage(error)
    if number and not isinstance(error, ShortageError):
        return short_of(number, error.message if isinstance(error, BridgeholdError) else str(error))
    if isinstance(error, BridgeholdError):
        return error
    return UnsupportedError(f"the sandbox did not start: {error}"[:_MAX_TEXT], hint=containers.hint(error))


def encode_failure(error: BaseException, where: str) -> bytes:
    """`error` as a helper of ours tells it to the launcher through a pipe: one short piece."""
    info = typed(error).info()
    message = f"{where}: {info.message}"[:_MAX_TEXT]
    return msgspec.json.encode(msgspec.structs.replace(info, message=message))


def decode_failure(data: bytes, otherwise: str) -> BridgeholdError:
    """What `encode_failure` told. Where it is nothing of that kind: `UnsupportedError` with `otherwise`."""
    try:
        return from_info(msgspec.json.decode(data, type=ErrorInfo))
    except msgspec.MsgspecError:
        return UnsupportedError(otherwise)


def named(complaint: str) -> int:
    """The error number of a shortage whose text ends `complaint`, as bubblewrap's do; 0: none (pure)."""
    words = complaint.strip()
    return next((number for number in SHORT_OF if words.endswith(os.strerror(number))), 0)
