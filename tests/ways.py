"""A way to a test's folder for other users of the machine."""

from __future__ import annotations

import tempfile
from pathlib import Path


def open_way(folder: Path) -> None:
    """Let everybody enter `folder` and what pytest has made above it; the machine's own /tmp stays as it is."""
    top = Path(tempfile.gettempdir())
    for one in (folder, *folder.parents):
        if one == top or not one.is_relative_to(top):
            return
        one.chmod(0o755)
