"""What a caller and a host said to each other, as JSON lines: what `FakeHost` replays (pure).

The first line is the header. A ``call`` is followed by its ``event`` and ``answer`` lines and ends with one
``result``, ``error`` or ``cancelled``; lines of calls that overlap are told apart by the call's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bridgehold import reads
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import TranscriptError

VERSION = 1
MOST_BYTES = 64 * 1024 * 1024
MOST_LINES = 200_000
DEEPEST = 200
_AROUND = 2
"""Levels of a line around a value."""
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(rb"[^\[\]{}]")
_REMEDY = "Record it again: a transcript is written by `record()` or `--bridgehold-record`, not by hand."


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """One line of a transcript."""


class Header(Line, frozen=True, kw_only=True, tag="transcript"):
    """The first line of a transcript: its format's version, and what recorded it."""

    version: int
    bridgehold: str = ""
    """The version that recorded it."""


class Called(Line, frozen=True, kw_only=True, tag="call"):
    """A request of the caller's. Calls are numbered from 1, in the order in which they began."""

    call: int
    method: str
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """How people know it: ``toy:greet``, or the method."""
        operation = self.params.get("operation") if self.method == "run" else None
        return operation if isinstance(operation, str) else self.method


class ReceivedEvent(Line, frozen=True, kw_only=True, tag="event"):
    """A chunk, progress, or a call of one of the caller's tools."""

    call: int
    event: dict[str, Any]
    ms: int = 0
    """Since the call began, as in every line that has it."""


class Answered(Line, frozen=True, kw_only=True, tag="answer"):
    """What the caller's tool gave back: a result or an error's text."""

    call: int
    tool_call: int | str
    result: Any = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    ms: int = 0


class Ended(Line, frozen=True, kw_only=True, tag="result"):
    """The call `call` ended well with `value`, `ms` after it began."""

    call: int
    value: Any
    ms: int = 0


class Failed(Line, frozen=True, kw_only=True, tag="error"):
    """The call `call` ended with `error`, `ms` after it began."""

    call: int
    error: ErrorInfo
    ms: int = 0


class Stopped(Line, frozen=True, kw_only=True, tag="cancelled"):
    """The caller cancelled it."""

    call: int
    ms: int = 0


Step = ReceivedEvent | Answered | Ended | Failed | Stopped
_DECODER: msgspec.json.Decoder[Header | Called | Step] = msgspec.json.Decoder(Header | Called | Step)


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One call with all that followed it."""

    called: Called
    steps: tuple[Step, ...]
    where: str
    """``file:line`` of the call."""


def encode_line(line: Line) -> bytes:
    """One line of a transcript's file: JSON and a newline."""
    return msgspec.json.encode(line) + b"\n"


def load(file: Path | str) -> tuple[Exchange, ...]:
    """The exchanges of a transcript, in the order of their calls. Raises `TranscriptError`."""
    path = Path(file)
    data = reads.read_bytes(path, TranscriptError, most=MOST_BYTES)
    return parse(data.splitlines(), str(path))


def parse(lines: Iterable[bytes], file: str) -> tuple[Exchange, ...]:
    """As `load`. Every fault is named with ``file:line``."""
    begun: dict[int, tuple[Called, str, list[Step]]] = {}
    open_calls: set[int] = set()
    number = 0
    for number, raw in enumerate(lines, 1):
        where = f"{file}:{number}"
        line = _line(raw, where)
        if number > MOST_LINES:
            raise _fault(f"more than {MOST_LINES} lines", where)
        if number == 1:
            _check_header(line, where)
        elif isinstance(line, Header):
            raise _fault("a second header", where)
        elif isinstance(line, Called):
            if line.call != len(begun) + 1:
                raise _fault(f"call {line.call}, where call {len(begun) + 1} is next", where)
            begun[line.call] = (line, where, [])
            open_calls.add(line.call)
        else:
            if line.call not in open_calls:
                raise _fault(f"call {line.call} is not under way here", where)
            begun[line.call][2].append(line)
            if isinstance(line, Ended | Failed | Stopped):
                open_calls.discard(line.call)
    if number == 0:
        raise _fault("it is empty", f"{file}:1")
    if open_calls:
        call, where, _ = begun[min(open_calls)]
        raise _fault(f"call {call.call} ({call.name}) has no end", where)
    return tuple(
        Exchange(called=called, steps=tuple(steps), where=where) for called, where, steps in begun.values()
    )


def _line(raw: bytes, where: str) -> Header | Called | Step:
    try:
        if _deep(raw):
            raise _fault(f"a value nested more than {DEEPEST} deep", where)
        return _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _fault(f"no line of a transcript: {str(error)[:300]}", where) from None


def _deep(raw: bytes) -> bool:
    """Whether brackets nest too deep; those within texts are not counted."""
    depth = 0
    for bracket in _BRACKETS.sub(b"", _TEXTS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST + _AROUND:
            return True
    return False


def _check_header(line: Line, where: str) -> None:
    if not isinstance(line, Header):
        raise _fault("the first line is no header of a transcript", where)
    if line.version != VERSION:
        raise _fault(f"a transcript of version {line.version}; this Bridgehold reads {VERSION}", where)


def _fault(message: str, where: str) -> TranscriptError:
    return TranscriptError(message, where=where, hint=_REMEDY)
