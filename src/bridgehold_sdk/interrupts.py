"""SIGINT while a command runs, and between commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def idle(_number: int, _frame: FrameType | None) -> None:
    """A SIGINT between commands finds nothing to interrupt, as at a prompt."""


def swap_interrupts(old: object, new: Any) -> None:
    """On the main thread. A handler that the bridge has set, or a framework, stays."""
    if signal.getsignal(signal.SIGINT) == old:
        signal.signal(signal.SIGINT, new)


def heed_swallowed(kind: type[BaseException], swallowed: Callable[[], None]) -> Callable[[], None]:
    """Call `swallowed` where an exception of `kind` is raised and can't be passed on; returns what ends that.

    In `__del__` and in the callback of a weak reference (imports have one for their locks) the interpreter
    prints what was raised, and the code goes on as if nobody had asked it to stop. The code's own hook stays.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any, /) -> None:
        if unraisable.exc_type is kind:
            swallowed()
        else:
            before(unraisable)

    def end() -> None:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before

    sys.unraisablehook = hook
    return end
