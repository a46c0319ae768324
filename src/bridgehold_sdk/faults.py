"""Exceptions to bounded, structured errors. Nothing here raises, whatever the exception is made of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bridgehold_sdk.errors import (
    Cancelled,
    InvalidInput,
    NotPlain,
    ResourceNotFound,
    ResultTooLarge,
    UnknownCommand,
)
from bridgehold_sdk.plain import clean_text
from bridgehold_sdk.providers import causes, provider_code

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 8_000
MAX_FRAMES = 40
_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (Cancelled, "cancelled"),
    (ResourceNotFound, "not_found"),
    (ResultTooLarge, "limit"),
    (UnknownCommand, "unknown_command"),
    (InvalidInput, "invalid_input"),
    (ModuleNotFoundError, "missing_module"),
    (MemoryError, "memory"),
    (NotPlain, "application"),
)
_SDK = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INTERRUPTS = "_on_cancel_signal"
"""Of `runtime`: where a signal leaves the code that it interrupts."""


def describe(
    error: BaseException,
    bridge_folder: str = "",
    *,
    alive: bool = True,
    callers: BaseException | None = None,
    interrupted: bool = True,
) -> dict[str, Any]:
    """``{"type", "message", "traceback", "code", "alive"}`` for the wire.

    A `ValueError` or `TypeError` that the bridge's own file raises (`bridge_folder`) is read as a
    refusal of the arguments; the same from deeper in a framework is ``application``. `callers`: what
    the caller's own code raised (`Bridge.callers_code`): that, and what came of it, is ``application``,
    whatever it is called. `interrupted`: the command was cancelled; a `Cancelled` without that is the code's.
    """
    return {
        "type": _guarded(lambda: _cut(class_name(type(error)), 200), "Exception"),
        "message": _guarded(lambda: _message(error, interrupted), "<unprintable>"),
        "traceback": _guarded(lambda: _trace(error), ""),
        "code": _guarded(lambda: _code(error, bridge_folder, callers, interrupted), "application"),
        "alive": alive,
    }


def class_name(kind: type) -> str:
    """The class's own name, whatever its metaclass says of it."""
    return clean_text(str(type.__dict__["__name__"].__get__(kind)))


def _guarded(part: Callable[[], str], instead: str) -> str:
    """An exception is foreign code, down to its attributes: what that raises is no reason to end."""
    try:
        return part()
    except BaseException:  # noqa: BLE001 - no cancel is raised here, so it is the exception's own doing
        return instead


def _code(error: BaseException, bridge_folder: str, callers: BaseException | None, interrupted: bool) -> str:
    if issubclass(type(error), Cancelled):
        return "cancelled" if interrupted else "application"
    if callers is not None and any(one is callers for one in causes(error)):
        return "application"
    for kind, code in _CODES:
        if issubclass(type(error), kind):
            return code
    if issubclass(type(error), (ValueError, TypeError)) and bridge_folder:
        origin = _origin(error.__traceback__)
        if origin.startswith(bridge_folder.rstrip(os.sep) + os.sep):
            return "invalid_input"
    return provider_code(error) or "application"


def _origin(trace: TracebackType | None) -> str:
    """The file of the frame that raised."""
    origin = ""
    while trace is not None:
        origin = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return origin


def _message(error: BaseException, interrupted: bool) -> str:
    kind = type(error)  # `isinstance` would ask the exception itself
    if issubclass(kind, ModuleNotFoundError) and (name := getattr(error, "name", None)):
        return _cut(f"no module named {_text(name)!r} in the bridge's environment", MAX_MESSAGE)
    if issubclass(kind, SystemExit):
        return _cut(_exit_text(getattr(error, "code", None)), MAX_MESSAGE)
    if issubclass(kind, Cancelled) and interrupted:
        return "the command was cancelled; the session lives"
    return _cut(_text(error), MAX_MESSAGE) or class_name(kind)


def _exit_text(status: object) -> str:
    """As a shell would see it: text is printed at the end, and its status is 1."""
    if status is None or isinstance(status, int):
        return f"the code ended with exit status {int(status or 0)}"
    return f"the code ended with exit status 1: {_text(status)}"


def _text(value: object) -> str:
    return _guarded(lambda: clean_text(str(value)), "<unprintable>")


def _trace(error: BaseException) -> str:
    """As Python prints it, from the first frame that is news: causes, notes and groups included."""
    trace = shown_from(error.__traceback__)
    import traceback  # faults are rare, starts are not

    try:
        lines = traceback.format_exception(type(error), error, trace, limit=-MAX_FRAMES)
    except BaseException:  # noqa: BLE001 - formatting calls foreign __str__, loaders and properties
        lines = _bare(trace)
    return _middle(clean_text("".join(lines)), MAX_TRACEBACK)


def _bare(trace: TracebackType | None) -> list[str]:
    """The last frames by place alone, which asks nothing of foreign code."""
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n')
        trace = trace.tb_next
    return ["Traceback (most recent call last):\n", *frames[-MAX_FRAMES:]]


def shown_from(trace: TracebackType | None) -> TracebackType | None:
    """`trace` without its first frames that are ours, and those by which we interrupted it: as at home."""
    while trace is not None and _hidden(trace):
        trace = trace.tb_next
    last = trace
    while last is not None and last.tb_next is not None:
        code = last.tb_next.tb_frame.f_code
        if code.co_name == _INTERRUPTS and code.co_filename.startswith(_SDK):
            last.tb_next = None
        last = last.tb_next
    return trace


def left_with_its_own(error: BaseException) -> TracebackType | None:
    """Take our first frames out of what `error` carries, for hooks and whoever looks later; what is left."""
    trace = shown_from(vars(BaseException)["__traceback__"].__get__(error))  # its class may say anything
    BaseException.with_traceback(error, trace)
    return trace


def _hidden(trace: TracebackType) -> bool:
    """Frames of ours, and those that say ``__tracebackhide__ = True``: no news for who wrote the code."""
    code = trace.tb_frame.f_code
    if code.co_filename.startswith(_SDK):
        return True
    marked = "__tracebackhide__" in code.co_varnames  # of a function: other frames' names may be any object
    return marked and trace.tb_frame.f_locals.get("__tracebackhide__") is True


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _middle(text: str, limit: int) -> str:
    """The beginning and the end of `text`; the end says what went wrong."""
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 40
    return f"{text[:head]}\n… {len(text) - head - tail} characters cut …\n{text[-tail:]}"
