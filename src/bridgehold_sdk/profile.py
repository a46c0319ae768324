"""Where a worker's time goes: samples of the main thread's stack, taken by the thread that asks."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import FrameType
from typing import Any

_INTERVAL = 0.005
_FRAMES = 60
_LONGEST = 60.0
_STACKS = 200
_LINES = 30


def sample(thread: int, seconds: float) -> dict[str, Any]:
    """``{"seconds", "samples", "stacks", "lines"}``; each row has ``samples`` and its ``share``."""
    stacks: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    begun = time.monotonic()
    count = 0
    while time.monotonic() - begun < min(seconds, _LONGEST):
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, for this very use
        if frame is not None:
            names = _names(frame)
            stacks[";".join(names)] += 1
            lines[names[-1]] += 1
            count += 1
        time.sleep(_INTERVAL)
    return {
        "seconds": time.monotonic() - begun,
        "samples": count,
        "stacks": _rows(stacks, "stack", count, _STACKS),
        "lines": _rows(lines, "line", count, _LINES),
    }


def _rows(found: Counter[str], name: str, count: int, most: int) -> list[dict[str, Any]]:
    return [
        {name: text, "samples": number, "share": number / count} for text, number in found.most_common(most)
    ]


def _names(frame: FrameType | None) -> list[str]:
    """From the outside in, ``function (module:line)``."""
    names: list[str] = []
    while frame is not None and len(names) < _FRAMES:
        module = str(frame.f_globals.get("__name__", "?"))
        names.append(f"{frame.f_code.co_name} ({module}:{frame.f_lineno})")
        frame = frame.f_back
    return names[::-1]
