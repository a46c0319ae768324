"""Errors as text, and of text: lines for a log, what the system said, what a terminal may be shown."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

from bridgehold.errors import BridgeholdError, ConfigError, InternalError, ShortageError, UsageError

_REMEDY = "  remedy "
_ROOM = "Make room on the disk, or raise the quota."
_WRITABLE = "Mount it writable, or set BRIDGEHOLD_HOME to a folder that is."


def to_log_text(error: BridgeholdError) -> str:
    """An error as lines for a log: what, where, and the remedy (pure)."""
    where = f" ({error.where})" if error.where else ""
    remedy = f"{_REMEDY}{error.hint}\n" if error.hint else ""
    return f"bridgehold: {error.message}{where}\n{remedy}"


def placed(error: BridgeholdError) -> str:
    """``PLACE: what is wrong`` (pure). The message of several faults begins with the first one's place."""
    known = not error.where or error.message.startswith(error.where)
    return error.message if known else f"{error.where}: {error.message}"


def from_log_text(text: str) -> tuple[str, str]:
    """(what, remedy) of lines that hold what `to_log_text` says, among others (pure)."""
    lines = text.splitlines()
    remedy = next((line.removeprefix(_REMEDY) for line in lines if line.startswith(_REMEDY)), "")
    kept = [line.removeprefix("bridgehold: ") for line in lines if not line.startswith(_REMEDY)]
    return "\n".join(kept), remedy


OUTPUT, ERRORS = "standard output", "standard error"


def from_os(error: OSError) -> BridgeholdError:
    """What the system refused, as one of ours: a shortage, a file's place, or the way out."""
    why, where = error.strerror or type(error).__name__, _shown(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ShortageError(why, where=where, hint=_ROOM)
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return ShortageError(why, where=where)
    if where in (OUTPUT, ERRORS):
        return UsageError(f"what is written there fails: {why}", where=where, hint="Look where it leads.")
    if where:
        hint = "Use a folder of your own: set BRIDGEHOLD_HOME, or run as the user whose it is."
        return ConfigError(why, where=where, hint=hint)
    return UsageError(f"reading or writing failed: {why}", hint="Look where the streams lead.")


def mending(error: OSError, otherwise: str) -> str:
    """The remedy of a write that failed: the disk's, where that is why, or `otherwise` (pure)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _ROOM
    return _WRITABLE if error.errno == errno.EROFS else otherwise


def at_border(error: BaseException, what: str) -> BridgeholdError:
    """What nobody has typed, as its caller is told: files that the machine refuses the host, or a defect.

    A caller may be anybody: it is told no path of the host's.
    """
    if not isinstance(error, OSError) or error.errno not in _MACHINES:
        return InternalError(what)
    kind = ShortageError if error.errno in _SHORT else ConfigError
    hint = "An operator finds the file in the host's log; nothing is wrong with the request."
    return kind(f"the host can't use its own files: {os.strerror(error.errno)}", hint=hint)


_SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_MACHINES = (*_SHORT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def _shown(filename: object) -> str:
    if isinstance(filename, bytes):
        return filename.decode(errors="backslashreplace")
    return "" if filename is None or isinstance(filename, int) else str(filename)


class Escapes(dict[int, str]):
    """For `str.translate`: each character that a terminal could act on, as `escape` writes it."""

    def __init__(self, escape: Callable[[str], str], keep: str = "") -> None:
        super().__init__({ord(character): character for character in keep})
        self._escape = escape

    def __missing__(self, code: int) -> str:
        character = chr(code)
        shown = character if character.isprintable() else self._escape(character)
        if len(self) < _MOST_ESCAPES:
            self[code] = shown
        return shown


_MOST_ESCAPES = 1 << 16
"""Characters that are remembered: a guest may write any of a million."""
_HARMLESS = Escapes(lambda character: repr(character)[1:-1], keep="\n\t")


def harmless(text: str) -> str:
    """A guest's `text` with what a terminal could act on spelled out; lines and tabs stay."""
    return text.translate(_HARMLESS)


def defect_of(error: BaseException, where: str) -> BridgeholdError:
    """What whoever waits is told of an error that is none of ours; its place goes to our log, with a file's.

    Without its text, which may quote what it met.
    """
    what = f"{type(error).__name__} in {where}"
    more = f": {error}" if isinstance(error, OSError) else ""
    trace = "".join(traceback.format_tb(error.__traceback__))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"bridgehold: {what}{more}\n{trace}")
    return at_border(error, what)
