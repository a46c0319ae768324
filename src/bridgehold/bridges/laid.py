"""A bundle's files on disk: laid down in a new folder, and read again as they lie there."""

from __future__ import annotations

import os
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.bridges.bundle import MOST_FILES, Bundle, bundle
from bridgehold.errors import LimitError, UsageError


def lay_down(folder: Path, found: Bundle) -> None:
    """The files in the new folder `folder`, durably. Raises `OSError`; what is half there is the caller's."""
    writes.make_folder(folder, new=True)
    for file in found.files:
        path = folder / file.path
        writes.make_folder(path.parent)
        with writes.create(path, mode=0o644) as opened:
            opened.write(file.data)
            opened.flush()
            os.fsync(opened.fileno())
    writes.sync_folder(folder)


def read_folder(folder: Path) -> Bundle:
    """The files below `folder`, but for hidden ones and what Python compiled. No link is followed.

    Raises `UsageError` for anything but files and folders, `LimitError` for too much.
    """
    found: list[tuple[str, bytes]] = []
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name.startswith(".") or path.name == "__pycache__":
                continue
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise UsageError("neither a file nor a folder", where=str(path))
            if path.is_dir():
                waiting.append(path)
                continue
            if len(found) >= MOST_FILES:
                raise LimitError(f"a bridge has at most {MOST_FILES} files", where=str(folder))
            found.append((str(path.relative_to(folder)), reads.read_bytes(path, UsageError)))
    return bundle(found)
