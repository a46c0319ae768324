"""What is handed on as a file that has no name."""

from __future__ import annotations

import os


def in_memory(data: bytes) -> int:
    """A descriptor of a file that has no name, at its start."""
    file = os.memfd_create("cell", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(file), "wb") as writing:
        writing.write(data)
    os.lseek(file, 0, os.SEEK_SET)
    return file
