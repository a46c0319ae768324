"""How much a session's frames may hold. What would be more is refused before it is made."""

from __future__ import annotations

from typing import Any

from bridgehold_sdk import InvalidInput

MAX_ROWS = 1_000_000
MAX_COLUMNS = 2_000
MAX_CELLS = 10_000_000
MAX_BYTES = 256 << 20
"""Of one frame or array in memory, texts included."""
MAX_SESSION_BYTES = 512 << 20
MAX_KEPT = 200
PAGE_BYTES = 4 << 20
"""Of one answer."""


def check_shape(rows: int, columns: int, what: str) -> None:
    """Rows, columns and cells of a frame that is to be made."""
    for count, most, name in (
        (rows, MAX_ROWS, "rows"),
        (columns, MAX_COLUMNS, "columns"),
        (rows * columns, MAX_CELLS, "cells"),
    ):
        if count > most:
            raise InvalidInput(f"{what} would have {count} {name}; a frame has at most {most}")


def frame_bytes(frame: Any) -> int:
    """Bytes in memory, texts and index included."""
    return int(frame.memory_usage(deep=True).sum())


def check_bytes(size: int, held: int, what: str) -> None:
    """The size of what is to be kept, beside what the session holds."""
    if size > MAX_BYTES:
        raise InvalidInput(f"{what} takes {size} bytes; one frame or array takes at most {MAX_BYTES}")
    if held + size > MAX_SESSION_BYTES:
        raise InvalidInput(
            f"{what} takes {size} bytes beside the {held} of this session; together {MAX_SESSION_BYTES} "
            "are the most: delete some"
        )
