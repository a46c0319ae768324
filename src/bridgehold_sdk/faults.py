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
from bridgehold_sdk.providers import provider_code

if TYPE_CHECKING:
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


def describe(error: BaseException, bridge_folder: str = "", *, alive: bool = True) -> dict[str, Any]:
    """``{"type", "message", "traceback", "code", "alive"}`` for the wire.

    A `ValueError` or `TypeError` that the bridge's own file raises (`bridge_folder`) is read as a
    refusal of the arguments; the same from deeper in a framework is ``application``.
    """
    return {
        "type": _cut(type(error).__name__, 200),
        "message": _message(error),
        "traceback": _trace(error),
        "code": _code(error, bridge_folder),
        "alive": alive,
    }


def _code(error: BaseException, bridge_folder: str) -> str:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, (ValueError, TypeError)) and bridge_folder:
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


def _message(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _cut(f"no module named {error.name!r} in the bridge's environment", MAX_MESSAGE)
    if isinstance(error, SystemExit):
        return _cut(f"the code called exit with status {_text(error.code)}", MAX_MESSAGE)
    if isinstance(error, Cancelled):
        return "the command was cancelled; the session lives"
    return _cut(_text(error), MAX_MESSAGE) or type(error).__name__


def _text(value: object) -> str:
    try:
        return clean_text(str(value))
    except Exception:  # noqa: BLE001 - the exception's own __str__ is foreign code
        return "<unprintable>"


def shown_trace(error: BaseException) -> TracebackType | None:
    """Its frames from the first on that is not ours."""
    trace = error.__traceback__
    while trace is not None and _hidden(trace):
        trace = trace.tb_next
    return trace


def _trace(error: BaseException) -> str:
    trace = shown_trace(error)
    import traceback  # faults are rare, starts are not

    try:
        lines = traceback.format_exception(type(error), error, trace, limit=-MAX_FRAMES)
    except Exception:  # noqa: BLE001 - formatting calls foreign __str__ and __getattr__
        return ""
    return _middle(clean_text("".join(lines)), MAX_TRACEBACK)


def _hidden(trace: TracebackType) -> bool:
    """Frames of ours, and those that say ``__tracebackhide__ = True``: no news for who wrote the code."""
    frame = trace.tb_frame
    return frame.f_code.co_filename.startswith(_SDK) or frame.f_locals.get("__tracebackhide__") is True


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _middle(text: str, limit: int) -> str:
    """The beginning and the end of `text`; the end says what went wrong."""
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 40
    return f"{text[:head]}\n… {len(text) - head - tail} characters cut …\n{text[-tail:]}"
