"""What a zygote loads before it is forked, by the host's word alone: modules, one provider call, weights.

The bridge's code has no part in it. Whatever leaves a thread behind is named, since a process with
more than one can't be forked.
"""

from __future__ import annotations

import gc
import importlib
import os
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

from . import calls, quiesce, threads, weights

_MAX_TEXT = 300
_QUIESCE_SECONDS = 1.0
_LOOK_SECONDS = 0.01


def warm(frame: Dict[str, Any]) -> Dict[str, Any]:
    """Do what the frame says. The answer's `reason` says why nothing can be forked; empty where it can."""
    begun = time.monotonic()
    done: List[str] = []
    threaded: List[str] = []
    reason = ""
    for what, act, argument in _steps(frame):
        before = threads.count()
        try:
            act(argument)
        except BaseException as error:  # noqa: BLE001 - an import may raise anything, SystemExit included
            reason = f"{what} failed: {type(error).__name__}: {error}"
            break
        done.append(what)
        if threads.count() > before and not _quiesced():
            threaded.append(what)
    gc.collect()
    if not _quiesced() and not reason:
        reason = f"{threads.count() - 1} threads are left by {', '.join(threaded) or 'what was loaded'}"
    if not reason and _children():
        reason = "a child process is left by what was loaded"
    return {
        "type": "warmed",
        "modules": done,
        "threads": threads.count(),
        "threaded": [name[:_MAX_TEXT] for name in threaded],
        "reason": reason[:_MAX_TEXT],
        "ms": int((time.monotonic() - begun) * 1000),
    }


def _quiesced() -> bool:
    """Whether the threads that a step made are gone after a moment, idle pools' included."""
    quiesce.quiesce()
    deadline = time.monotonic() + _QUIESCE_SECONDS
    while threads.count() > 1 and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return threads.count() == 1


def _children() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _steps(frame: Dict[str, Any]) -> Iterator[Tuple[str, Callable[[str], Any], str]]:
    """What to do, by which act, with which argument, in order."""
    for name in frame.get("modules", ()):
        yield name, importlib.import_module, name
    for name in frame.get("calls", ()):
        yield f"a call of {name}", calls.CALLS[name], frame.get("gateway", "")
    for path in frame.get("weights", ()):
        yield f"weights {path}", weights.load, path
