"""Who a private host was started by: told when it serves, seen to go, and told where others keep it."""

from __future__ import annotations

import contextlib
import os
import threading

import msgspec

READY, KEPT = b"1", b"+"
"""What is written to it: the host listens; it stays, because others are connected to it."""
_PIECE = 64 * 1024


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors that it gave; -1 where there is none."""

    lifeline: int = -1
    """Reaches its end with it, however that comes."""
    ready: int = -1
    stderr: int = -1
    """The end to read of what the host's processes write to standard error, which its owner reads while it
    lives: the pipe breaks under nobody who writes."""

    def say(self, word: bytes) -> None:
        """It may be gone."""
        if self.ready >= 0:
            with contextlib.suppress(OSError):
                os.write(self.ready, word)

    def is_gone(self) -> None:
        """From now on its part of standard error is read here, for nobody: who writes is not to wait."""
        if self.stderr >= 0:
            threading.Thread(target=self._drop, name="bridgehold-stderr", daemon=True).start()

    def _drop(self) -> None:
        while os.read(self.stderr, _PIECE):
            pass
