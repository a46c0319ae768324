"""A session's log: what its guest wrote to stdout and stderr, bounded in memory, cuts marked."""

from __future__ import annotations

from collections import deque


class SessionLog:
    """Keeps the newest `limit` bytes. Never grows beyond it, whatever the guest writes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: deque[bytes] = deque()
        self._size = 0
        self.dropped = 0
        """Bytes that were cut from the beginning."""

    def write(self, data: bytes) -> None:
        if len(data) > self._limit:
            self.dropped += len(data) - self._limit
            data = data[-self._limit :]
        self._parts.append(data)
        self._size += len(data)
        while self._size > self._limit:
            oldest = self._parts.popleft()
            excess = self._size - self._limit
            if len(oldest) > excess:
                self._parts.appendleft(oldest[excess:])
                self.dropped += excess
                self._size -= excess
            else:
                self.dropped += len(oldest)
                self._size -= len(oldest)

    def text(self) -> str:
        """The log as text; undecodable bytes and control characters but newline and tab are escaped."""
        body = b"".join(self._parts).decode("utf-8", "backslashreplace")
        shown = "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in body)
        return f"[… {self.dropped} bytes cut]\n{shown}" if self.dropped else shown
