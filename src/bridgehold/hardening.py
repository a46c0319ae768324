"""What each of our own processes does first: no core, not dumpable, dies with its parent; its streams."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import os
import resource
import select
import signal
import sys
import threading
from typing import NoReturn

from bridgehold.errors import UnsupportedError

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_AT_ONCE, _TAKEN_MS = select.PIPE_BUF, 50
"""A pipe that is writable takes so many bytes without a wait."""
BROKEN_PIPE = 141
"""Exit status of a command whose reader has gone."""


def open_standard() -> None:
    """Descriptors 0, 1 and 2 are open from here on: no other file gets their numbers, whoever closed them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def prepare_streams() -> None:
    """The three streams are there, and take any text."""
    open_standard()
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Heedless(io.FileIO):
    """A stream of which nobody may be there to read: what is written costs its writer neither an error nor
    a wait. What a reader doesn't take within `_TAKEN_MS` is lost, up to when it takes something again."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._stuck = False

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer there
        left = memoryview(data).cast("B")
        with contextlib.suppress(OSError, ValueError):  # it is closed, or its reader is gone
            while left and self._has_room():
                left = left[os.write(self.fileno(), left[:_AT_ONCE]) :]
        return len(data)

    def _has_room(self) -> bool:
        poller = select.poll()
        poller.register(self.fileno(), select.POLLOUT)
        self._stuck = not poller.poll(0 if self._stuck else _TAKEN_MS)
        return not self._stuck


def speak_heedless() -> None:
    """From here on what this process, and what runs in it, says on its two streams keeps nobody waiting."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            _Heedless(number), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        setattr(sys, name, stream)


def drop_output() -> None:
    """What is still buffered reaches nobody: the interpreter's end must not try it again."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(null, number)
    os.close(null)


def open_descriptors() -> int:
    """Let this process open as many files as its hard limit says; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def harden(
    *, parent: int | None, die_with_parent: bool = True, last: signal.Signals = signal.SIGTERM
) -> None:
    """Forbid core files and ptrace by others; end when `parent` (a pid) ends, by the signal `last`.

    With None it is not looked whether the parent has ended already: for who notices by other means.
    Raises `UnsupportedError` where the kernel refuses, so that nothing runs half-protected.
    """
    open_standard()
    speak_heedless()
    gc.freeze()  # a full collection looks at what is there from the start, and all callers wait for it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))  # a shell's `ulimit` would be a full disk
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise UnsupportedError("this kernel refuses PR_SET_DUMPABLE")
    if not die_with_parent:
        return
    if libc.prctl(_PR_SET_PDEATHSIG, last, 0, 0, 0) != 0:
        raise UnsupportedError("this kernel refuses PR_SET_PDEATHSIG")
    if parent is not None and os.getppid() != parent:  # it ended before the signal was asked for
        raise SystemExit(0)


def hear_no_more(*numbers: signal.Signals) -> None:
    """The loop that heard these signals is about to close: one that comes meanwhile is nobody's any more.

    It would be written to a socket that is closed, and Python would say so with a traceback.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def harden_journal() -> None:
    """As `harden`, and: files for its group at most, a full disk as an error, no Ctrl-C of a terminal's.

    The end of its sockets tells it the same as its parent's end.
    """
    os.umask(0o027)
    harden(parent=None)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the limit shows as EFBIG, which is handled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to pass on


def leave(status: int) -> NoReturn:
    """End this process as the interpreter does: threads are waited for, exit functions run, streams flushed.

    But what lies in memory is left to the kernel: to take hundreds of modules apart costs a quarter of what
    it cost to load them, and whoever ended the host waits for it.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what the interpreter's own end calls
    atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed when this began
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
