"""What a program's caller gives it as it runs: input, signals, a terminal's size. Each runs on a thread."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridgehold_sdk import pieces

if TYPE_CHECKING:
    from bridgehold_sdk import Tool
    from bridgehold_sdk.programs import Program

SIGNALS_AFTER = 0.3
"""Seconds after which a program's caller is asked whether it has a signal for it."""


def _answer(program: Program, said: Mapping[str, Any]) -> bool:
    """One answer of whoever gives input; whether more is to be asked for.

    ``{"text" or "base64", "eof", "signal", "rows" and "columns"}``: each may be left out.
    """
    from bridgehold_sdk import program_requests

    if "rows" in said and (size := program_requests.checked_size(said)) is not None:
        program.resize(size)
    number = said.get("signal")
    if isinstance(number, int) and number in signal.valid_signals():
        program.send_signal(number)
    data = pieces.bytes_of(said)
    if data and not program.write(data):
        return False
    if said.get("eof"):
        program.end_input()
        return False
    return True


def write_all(program: Program, text: str) -> None:
    """On a thread: all of `text`, and an end."""
    program.write(text.encode("utf-8", "surrogatepass"))
    program.end_input()


def feed(program: Program, asked: Tool, done: threading.Event | None = None, wanted: int = -1) -> None:
    """On a thread: what `asked` gives until it says that there is no more.

    `done`: somebody says so, and the program may get more afterwards. `wanted`: readable once the program may
    read, if it ever does.
    """
    try:
        while wanted < 0 or os.read(wanted, 1):
            if wanted >= 0:
                os.close(wanted)
                wanted = -1
            if not _answer(program, asked()) or (done is not None and done.is_set()):
                break
    except Exception:  # noqa: BLE001 - whatever the caller's side fails at, there is no more input
        if done is None:
            program.end_input()


def pass_signals(program: Program, asked: Tool, done: threading.Event | None = None) -> None:
    """On a thread, of a program that takes its time: what else its caller has for it."""
    with contextlib.suppress(Exception):  # whatever the caller's side fails at, it sends none
        while not program.wait(SIGNALS_AFTER) and not (done is not None and done.is_set()):
            _answer(program, asked(signals=True))
