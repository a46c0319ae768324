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
        """(microseconds of processor time, most bytes of memory) since its start, if they are known.

        cgroup v1 gives nanoseconds alone, v2 a table.
        """
        if len(self._files) != 3:
            return None
        try:
            cpu, peak = (os.pread(file, _BYTES, 0) for file in self._files[:2])
            name, *rest = cpu.split(None, 2)
            if not rest:
                return int(name) // 1000, int(peak)
            return (int(rest[0]), int(peak)) if name == b"usage_usec" else None
        except (OSError, ValueError):  # the cgroup is gone: the worker's end has its sums
            return None

    def killed(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory, as far as that is known.

        By memory.events, or v1's memory.oom_control.
        """
        if not self._files:
            return False
        try:
            words = os.pread(self._files[-1], _BYTES, 0).split()
            return int(dict(zip(words[::2], words[1::2], strict=False)).get(b"oom_kill", 0)) > 0
        except (OSError, ValueError):  # as above
            return False

    def close(self) -> None:
        """Nothing is read from here on."""
        for file in self._files:
            os.close(file)
        self._files = []
