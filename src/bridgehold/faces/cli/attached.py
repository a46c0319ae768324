"""A program in a sandbox, attached to this process's streams: what it writes, what it reads, its signals."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self, TypeVar

import msgspec

from bridgehold.client.once import Once
from bridgehold.config.layout import default_layout
from bridgehold.error_texts import ERRORS, OUTPUT, from_os, harmless
from bridgehold.errors import BridgeholdError, HostUnavailableError, ProtocolError

_READ_BYTES = 64 * 1024
_PATIENCE_S = 15.0
"""How long one question for input is left open: a tool of a caller's has 30 s."""
_MOST_WAITING = 4_096
"""Pieces of output that wait to be written."""
T = TypeVar("T", bound=msgspec.Struct)
_STREAMS = {"stdout": 1, "stderr": 2}
_NAMES = {1: OUTPUT, 2: ERRORS}


class _Piece(msgspec.Struct, frozen=True):
    """Of a program's output: the sandbox's own word."""

    stream: Literal["stdout", "stderr"]
    text: str = ""
    base64: bytes = b""


def read_word(said: object, kind: type[T]) -> T:
    """What a sandbox says, as what it should be. Raises `ProtocolError`."""
    try:
        return msgspec.convert(said, type=kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the session's word on its program is none: {error}") from None


@contextlib.contextmanager
def running_host() -> Iterator[Once]:
    """The host that runs, or a private one for the block."""
    layout = default_layout()
    with contextlib.ExitStack() as stack:
        try:
            host = Once.open(layout.socket)
        except HostUnavailableError:
            from bridgehold.client.private import PrivateHost

            stack.callback(PrivateHost.start(layout).stop)
            host = Once.open(layout.socket)
        yield stack.enter_context(host)


def is_null(descriptor: int) -> bool:
    """Whether nothing can come from it."""
    with contextlib.suppress(OSError):
        return os.fstat(descriptor).st_rdev == Path(os.devnull).stat().st_rdev
    return True


class Written:
    """Writes what the program does, on a thread: a pager that waits keeps none of the host's answers waiting.

    To a terminal nothing is written that it could act on, but what `show` leaves.
    """

    def __init__(self, show: Callable[[bytes], bytes] | None = None) -> None:
        self._show = show or _spelled
        self._waiting: queue.Queue[tuple[int, bytes] | None] = queue.Queue(_MOST_WAITING)
        self._failed: OSError | None = None
        self._shown = {number: os.isatty(number) for number in _STREAMS.values()}
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the command's."""
        if self._failed is not None:
            raise self._failed
        if event.get("type") != "chunk":
            return
        piece = read_word(event["data"], _Piece)
        number = _STREAMS[piece.stream]
        data = piece.text.encode() or piece.base64
        if self._shown[number]:
            data = self._show(data)
        self._waiting.put((number, data))

    def __enter__(self) -> Written:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises `ShortageError` or `UsageError` for what could not be written, unless nobody read it."""
        self._waiting.put(None)
        self._thread.join()
        if kind is None and self._failed is not None and self._failed.errno != errno.EPIPE:
            raise from_os(self._failed)

    def _write(self) -> None:
        while (item := self._waiting.get()) is not None:
            number, data = item
            try:
                while data and self._failed is None:
                    data = data[os.write(number, data) :]
            except OSError as error:
                error.filename = None if error.errno == errno.EPIPE else _NAMES[number]
                self._failed = error


def _spelled(data: bytes) -> bytes:
    return harmless(data.decode("utf-8", "backslashreplace")).encode()


class Input:
    """Answers what the program's side asks for, on threads: input once it is read, and an interrupt.

    The first interrupt is the program's, the next one ours.
    """

    heard = signal.SIGINT

    def __init__(self, host: Once, written: Written, *, empty: bool) -> None:
        """`empty`: there is no input."""
        self._host = host
        self._written = written
        self._empty = empty
        self._inputs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._signals: queue.Queue[dict[str, Any]] = queue.Queue()
        self._woken, self._wake = os.pipe()
        self._interrupts = 0
        self._before: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the command's."""
        if event.get("type") == "tool_call":
            (self._signals if event["arguments"].get("signals") else self._inputs).put(event)
        else:
            self._written(event)

    def __enter__(self) -> Self:
        for work in (self._give_input, self._give_signals):
            threading.Thread(target=work, daemon=True).start()
        self._before = signal.signal(self.heard, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(self.heard, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self._awake()

    def _awake(self) -> None:
        os.write(self._wake, b"i")

    def _give_input(self) -> None:
        while True:
            asked = self._inputs.get()
            result: dict[str, Any] = {}
            if self._empty or select.select([0], [], [], _PATIENCE_S)[0]:
                data = b"" if self._empty else os.read(0, _READ_BYTES)
                self._empty = not data
                result = {"base64": base64.b64encode(data).decode("ascii"), "eof": not data}
            self._reply(asked, result)

    def _give_signals(self) -> None:
        while True:
            asked = self._signals.get()
            woken = select.select([self._woken], [], [], _PATIENCE_S)[0] and os.read(self._woken, 1)
            self._reply(asked, self._said() if woken else {})

    def _said(self) -> dict[str, Any]:
        """What the program's side is told of the signal."""
        return {"signal": int(signal.SIGINT)}

    def _reply(self, asked: dict[str, Any], result: dict[str, Any]) -> None:
        with contextlib.suppress(BridgeholdError, OSError):
            told = {"command": asked["command"], "call": asked["call"], "result": result}
            self._host.send("tool.reply", told)
