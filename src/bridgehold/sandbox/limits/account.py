"""What the kernel charged a worker so far, read where it stands: small files that are kept open.

A request to the launcher would cost each command more than what it asks for.
"""

from __future__ import annotations

import os

_BYTES = 1024


class AccountReader:
    """Reads one worker's account from the launcher's descriptors for it, which are its own from here on."""

    def __init__(self) -> None:
        self._files: list[int] = []

    def open(self, descriptors: list[int]) -> None:
        """From now on these: cpu, memory's peak, what was killed; or the last alone; or none."""
        self.close()
        self._files = descriptors

    def cpu_and_peak(self) -> tuple[int, int] | None:
        """(microseconds of processor time, most bytes of memory) since its start, if they are known."""
        if len(self._files) != 3:
            return None
        try:
            cpu, peak = (os.pread(file, _BYTES, 0) for file in self._files[:2])
            return parse_cpu(cpu), int(peak)
        except (OSError, ValueError):  # the cgroup is gone: the worker's end has its sums
            return None

    def killed(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory, as far as that is known."""
        try:
            return bool(self._files) and parse_kills(os.pread(self._files[-1], _BYTES, 0)) > 0
        except (OSError, ValueError):  # as above
            return False

    def close(self) -> None:
        """Nothing is read from here on."""
        for file in self._files:
            os.close(file)
        self._files = []


def parse_cpu(text: bytes) -> int:
    """Microseconds: cgroup v1 gives nanoseconds alone, v2 a table. Raises `ValueError`."""
    key, _, rest = text.partition(b" ")
    if not rest:
        return int(text) // 1000
    if key != b"usage_usec":
        raise ValueError("cpu.stat does not begin with usage_usec")
    return int(rest.split(None, 1)[0])


def parse_kills(text: bytes) -> int:
    """Processes that were killed, of memory.events or v1's memory.oom_control. Raises `ValueError`."""
    words = text.split()
    return int(dict(zip(words[::2], words[1::2], strict=False)).get(b"oom_kill", 0))
