"""SIGINT while a command runs, and between commands."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


def idle(_number: int, _frame: FrameType | None) -> None:
    """A SIGINT between commands finds nothing to interrupt, as at a prompt."""


def swap_interrupts(old: object, new: Any) -> None:
    """On the main thread. A handler that the bridge has set, or a framework, stays."""
    if signal.getsignal(signal.SIGINT) == old:
        signal.signal(signal.SIGINT, new)
