"""What the journal does first: no core file, not dumpable, files for its group at most, no orphan."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from bridgehold.errors import UnsupportedError

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Raises `UnsupportedError` where the kernel refuses, so that nothing runs half-protected.

    The parent's end sends SIGTERM, and the sockets' EOF says the same where that signal came early.
    """
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, int(signal.SIGTERM))):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise UnsupportedError(f"this kernel refuses prctl option {option}")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the limit shows as EFBIG, which is handled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to pass on
