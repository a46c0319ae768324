"""Runs one of the operator's functions: ``python -m … FOLDER MODULE:FUNCTION PID-OF-THE-HOST``.

A request is a line of JSON, an answer its number and JSON. What the host supplies is the function's
positional-only parameter, which no argument of a guest can name: arguments come by keyword. What the
function prints goes to standard error, the host's log, and what it reads is empty. Where the folder's
code is not what was loaded, no call is run: another process is begun for it. However a function
ends, its call has one answer; where there can be none, the process ends, and a process that a function
forks gives none in its name. It ends with the host, however that ends, and whatever a function is doing then.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from bridgehold.hardening import harden
from bridgehold.protocol.plain import error_text, to_plain

MOST_BYTES = 4 * 1024 * 1024
"""Of one answer."""
_THREADS = 16
_NO_ANSWER = 70
_CONTEXT = "context"
_REMEDY = (
    "who calls is given as the one positional-only parameter: `def f(context, /, …)`; "
    "one of another name leaves `context` to the guest's own argument"
)


def main() -> None:
    """The life of a process that runs one of the operator's functions: read requests, answer each."""
    folder, entry, parent = sys.argv[1:4]
    harden(parent=int(parent), last=signal.SIGKILL)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: os.closerange(answers, answers + 1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the one who waits at a terminal, and not for this
    sys.path.insert(0, folder)
    lock, files = threading.Lock(), _files(folder)
    function, failure = _load(entry)

    def serve(request: dict[str, Any]) -> None:
        try:
            answer: dict[str, Any] = {"changed": True}
            if _files(folder) == files:
                answer = {"error": failure} if function is None else _run(function, request)
            line = b"%d %b\n" % (request["call"], msgspec.json.encode(answer))
            with lock:
                _write(answers, line)
        except BaseException:  # noqa: BLE001 - nobody would ever hear of this call
            os._exit(_NO_ANSWER)

    try:
        pool = ThreadPoolExecutor(_THREADS)
        for line in requests:
            pool.submit(serve, json.loads(line))
        os._exit(0)  # nobody waits for what still runs
    except BaseException:  # noqa: BLE001 - and nobody who asks may be left waiting
        traceback.print_exc()
        os._exit(_NO_ANSWER)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _files(folder: str) -> set[tuple[str, int, int]]:
    """What the folder's code is like now: a call of another than was loaded is not run."""
    found = set()
    for path in Path(folder).rglob("*.py"):
        with contextlib.suppress(OSError):  # gone meanwhile
            facts = path.stat()
            found.add((str(path), facts.st_mtime_ns, facts.st_size))
    return found


def _load(entry: str) -> tuple[Callable[..., Any] | None, str]:
    """The function, or what keeps it from being one."""
    module, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except BaseException as error:  # noqa: BLE001 - the operator's own module may raise anything
        return None, f"{entry} can't be loaded: {error_text(error)}"
    if not callable(found):
        return None, f"{entry} is no function"
    if inspect.iscoroutinefunction(found):
        return None, f"{entry} is a coroutine function; write a plain one that calls `asyncio.run`"
    try:
        own, named = _parameters(found)
    except (ValueError, TypeError):  # of C functions
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
        answer = {"result": to_plain(function(*supplied, **request["arguments"]), "result")}
        if len(msgspec.json.encode(answer)) <= MOST_BYTES:
            return answer
        return {"error": f"result: more than {MOST_BYTES} bytes; give less, or where the rest is"}
    except BaseException as error:  # noqa: BLE001 - SystemExit too is an end of the function, not of this process
        return {"error": error_text(error)}


if __name__ == "__main__":
    main()
