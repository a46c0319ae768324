"""A bridge's folder as the archive that the host takes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from bridgehold import reads
from bridgehold.bridges.bundle import MOST_PACKED
from bridgehold.bridges.laid import read_folder
from bridgehold.errors import UsageError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


def packed(source: Path) -> bytes:
    """A folder as a zip of its files, the same bytes each time; a zip as it is.

    Hidden files and what Python compiled are left out. Raises `UsageError`, `LimitError`.
    """
    if not source.is_dir():
        return reads.read_bytes(
            source, UsageError, most=MOST_PACKED, hint="A bridge's folder, or a zip of it."
        )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in read_folder(source).files:
            entry = zipfile.ZipInfo(file.path, _EPOCH)
            entry.external_attr, entry.compress_type = _MODE, zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.data)
    return data.getvalue()
