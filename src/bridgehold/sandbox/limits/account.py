"""What the kernel charged a worker so far, read where it stands: two small files that are kept open.

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
        """From now on these: cpu, and memory's peak; or none."""
        self.close()
        self._files = descriptors

    def cpu_and_peak(self) -> tuple[int, int] | None:
        """(microseconds of processor time, most bytes of memory) since its start, if they are known."""
        if len(self._files) != 2:
            return None
        try:
            cpu, peak = (os.pread(file, _BYTES, 0) for file in self._files)
            return parse_cpu(cpu), int(peak)
        except (OSError, ValueError):  # the cgroup is gone: the worker's end has its sums
            return None

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
