"""A session's log: what its guest wrote to stdout and stderr, bounded in memory, cuts marked."""

from __future__ import annotations

from collections.abc import Callable

from bridgehold.errors import harmless

LAST_OUTPUT = "The bridge's last output:"
"""How a hint goes on with the end of a log."""


class SessionLog:
    """Keeps the newest `limit` bytes in one piece: a guest that writes byte by byte costs no more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.tap: Callable[[bytes], None] | None = None
        """Who else is given what is written, such as the caller of ``python -c``."""
        self.dropped = 0
        """Bytes that were cut from the beginning."""

    def __len__(self) -> int:
        return len(self._kept)

    def write(self, data: bytes) -> None:
        self._kept += data
        if self.tap is not None:
            self.tap(data)
        excess = len(self._kept) - self._limit
        if excess > 0:
            del self._kept[:excess]
            self.dropped += excess

    def text(self) -> str:
        """The log as text; undecodable bytes and control characters but newline and tab are escaped."""
        body = self._kept.decode("utf-8", "backslashreplace")
        shown = harmless(body)
        return f"[… {self.dropped} bytes cut]\n{shown}" if self.dropped else shown
