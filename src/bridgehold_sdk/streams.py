"""The two output streams of a session, and the end of a process that a command's code forked."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import types
from typing import NoReturn

from bridgehold_sdk.faults import left_with_its_own

STATUS_UNFLUSHED = 120
"""The interpreter's own, where its last flush fails."""


def flush() -> bool:
    """Whether all that was printed is in the pipes now: Python's own streams, what took their place, and C's
    standard output where `ctypes` was loaded. Never raises."""
    done = True
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    for stream in {id(one): one for one in (getattr(sys, name, None) for name in names)}.values():
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:  # noqa: BLE001 - the code may have put anything there
            done = False
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None:
        try:
            library = ctypes.CDLL(None)
            library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))  # of all, one that is read would block
        except BaseException:  # noqa: BLE001 - as above
            done = False
    return done


def remember_source(name: str, text: str) -> None:
    """The text of code that is in no file, for tracebacks and `inspect`: in the lines of the compiler."""
    import linecache  # not every bridge has such code

    lines = list(io.StringIO(text, newline=None))
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    linecache.cache[name] = (len(text), None, lines, name)


def note_last(error: BaseException) -> types.TracebackType | None:
    """Leave `error` where a debugger and exit hooks look, as an interpreter does; without frames of ours."""
    trace = left_with_its_own(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    sys.last_exc = error  # type: ignore[attr-defined]  # its only name from Python 3.12 on
    return trace


def exit_status(error: BaseException | None) -> int:
    """As the interpreter would end with `error`, which it prints as its own last act."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=getattr(sys, "stderr", None) or sys.__stderr__)
        return 1
    trace = note_last(error)
    if sys.excepthook is sys.__excepthook__ and _of_no_file(trace):
        import traceback  # it knows such source; the interpreter's own knows what else a name may have meant

        traceback.print_exception(type(error), error, trace)
    else:
        sys.excepthook(type(error), error, trace)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _of_no_file(trace: types.TracebackType | None) -> bool:
    """Whether a frame is of code whose text nothing but `linecache` has."""
    known = getattr(sys.modules.get("linecache"), "cache", {})
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith("<") and name in known:
            return True
        trace = trace.tb_next
    return False


def finish(status: int) -> int:
    """As the interpreter ends: threads are waited for, exit hooks run, streams are flushed."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what the interpreter itself calls
    atexit._run_exitfuncs()  # noqa: SLF001 - as above
    return status if flush() else status or STATUS_UNFLUSHED


def end_child(error: BaseException | None) -> NoReturn:
    """The end of a forked process whose code returned, or raised `error`: as at home, with that status."""
    status = 1
    try:
        status = finish(exit_status(error))
    finally:
        os._exit(status)
