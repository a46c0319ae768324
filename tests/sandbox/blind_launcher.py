"""The launcher, real in everything, that can't read what it is told: ``blind_launcher.py FILE …``.

FILE holds a part of a path. Of each file below /proc and /sys whose path has it, the kernel answers EIO.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bridgehold.sandbox import procfs
from bridgehold.sandbox.launcher import main as launcher


def blind(told: Path, real: Callable[..., str]) -> Callable[..., str]:
    def read(path: str | os.PathLike[str], **named: int) -> str:
        part = told.read_text()
        if part and part in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, **named)

    return read


def main() -> int:
    procfs.read = blind(Path(sys.argv.pop(1)), procfs.read)  # type: ignore[assignment]  # of one's own arguments
    return launcher.main()


if __name__ == "__main__":
    raise SystemExit(main())
