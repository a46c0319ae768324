"""Runs one of the operator's functions: ``python -m … FOLDER MODULE:FUNCTION PID-OF-THE-HOST``.

Requests and answers are lines of JSON. What the host supplies is the function's positional-only parameter,
which no argument of a guest can name: arguments come by keyword. What the function prints goes to standard
error, the host's log. It ends with the host, however that ends, and whatever a function is doing then.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bridgehold.host.process import harden

_THREADS = 16
_CONTEXT = "context"
_REMEDY = (
    "who calls is given as the one positional-only parameter: `def f(context, /, …)`; "
    "one of another name leaves `context` to the guest's own argument"
)


def main() -> None:
    folder, entry, parent = sys.argv[1:4]
    harden(parent=int(parent), last=signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, folder)
    lock = threading.Lock()
    function, failure = _load(entry)

    def serve(request: dict[str, Any]) -> None:
        answer = {"call": request["call"], "error": failure} if function is None else _run(function, request)
        with lock:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    pool = ThreadPoolExecutor(_THREADS)
    for line in sys.stdin:
        pool.submit(serve, json.loads(line))
    os._exit(0)  # nobody waits for what still runs


def _load(entry: str) -> tuple[Callable[..., Any] | None, str]:
    """The function, or what keeps it from being one."""
    module, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # noqa: BLE001 - the operator's own module may raise anything
        return None, f"{entry} can't be loaded: {type(error).__name__}: {error}"
    if not callable(found):
        return None, f"{entry} is no function"
    try:
        own, named = _parameters(found)
    except ValueError:  # of C functions
        return None, f"{entry} doesn't say what it takes"
    if len(own) > 1 or (not own and _CONTEXT in named):
        return None, f"{entry}: {_REMEDY}"
    return found, ""


def _parameters(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Names of what only the host can supply, and of all that a guest's arguments can bind to."""
    found = inspect.signature(function).parameters.values()
    own = [one.name for one in found if one.kind is one.POSITIONAL_ONLY]
    return own, [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _run(function: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    supplied = [request["context"]] if _parameters(function)[0] else []
    try:
        result = function(*supplied, **request["arguments"])
        json.dumps(result, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return {"call": request["call"], "error": f"{type(error).__name__}: {error}"}
    return {"call": request["call"], "result": result}


if __name__ == "__main__":
    main()
