"""What a guest wrote to its standard output and error: a session's log, and what one command wrote.

Both are bounded in memory, and say what was cut. A command's output is the bytes that were in the pipes
between its call and its end, whoever inside wrote them; the log has the newest of all.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from bridgehold.error_info import Output
from bridgehold.error_texts import harmless
from bridgehold.policies.buckets import TokenBucket

LAST_OUTPUT = "The bridge's last output:"
"""How a hint goes on with the end of a log."""
Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
OUTPUT_BYTES = 256 * 1024
"""Kept of each stream of a command: the first and the last half."""
LIVE_BYTES_PER_SECOND = 1024 * 1024
"""Of a command's output, sent while it runs; a second's worth may come at once. The rest is counted."""
LIVE_SECONDS = 0.05
"""Between two pieces at the least, but for the first."""
_PIECE_BYTES = 64 * 1024
_SECONDS_SAVED = 4
_WIDEST = 4
"""Bytes of a character."""
_DECODER = codecs.getincrementaldecoder("utf-8")
_MARK = "[… {} bytes cut]\n"


class OutputPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a running command's output, for its caller."""

    stream: Stream
    text: str
    cut: int = 0
    """Bytes of the stream before it that were not sent."""


class SessionLog:
    """Keeps the newest `limit` bytes in one piece: a guest that writes byte by byte costs no more."""

    def __init__(self, limit: int, rate: int = 0) -> None:
        """`rate`: bytes a second that are kept at the most; four seconds' worth at once. 0: all."""
        self._limit = limit
        self._kept = bytearray()
        self._rate = TokenBucket(rate, _SECONDS_SAVED * rate) if rate else None
        self._skipped = 0
        self.tap: Callable[[Stream, bytes], None] | None = None
        """Who else is given what is written: the command that runs, or the caller of ``python -c``."""
        self.dropped = 0
        """Bytes that were cut from the beginning."""

    def __len__(self) -> int:
        return len(self._kept)

    def shorten(self, limit: int) -> None:
        """Nothing more comes: keep the newest `limit` bytes."""
        self.tap = None
        self._limit = limit
        self.write(b"")

    def newest(self, most: int) -> bytes:
        """So many of the last bytes."""
        return bytes(self._kept[-most:])

    def write(self, data: bytes, stream: Stream = "stderr") -> None:
        """Keep what the guest wrote, within its rate; the rest is counted."""
        if self.tap is not None:
            self.tap(stream, data)
        kept = self._within_rate(data)
        if self._skipped and kept:
            self._kept += _MARK.format(self._skipped).encode()
            self._skipped = 0
        self._skipped += len(data) - len(kept)
        self._kept += kept
        excess = len(self._kept) - self._limit
        if excess > 0:
            del self._kept[:excess]
            self.dropped += excess

    def text(self, newest: int | None = None) -> str:
        """The log as text; undecodable bytes and control characters but newline and tab are escaped.

        `newest`: only so many characters of its end; the rest is not looked at.
        """
        kept = self._kept if newest is None else self._kept[-_WIDEST * newest :]
        shown = harmless(kept.decode("utf-8", "backslashreplace"))
        first = _MARK.format(self.dropped) if self.dropped else ""
        whole = first + shown + (_MARK.format(self._skipped) if self._skipped else "")
        return whole if newest is None else whole[-newest:]

    def _within_rate(self, data: bytes) -> bytes:
        if self._rate is None:
            return data
        now = time.monotonic()
        kept = data[: max(0, int(self._rate.saved(now)))]
        self._rate.take(len(kept), now)
        return kept


class _Kept:
    """The first and the last half of `limit` bytes; the middle is counted and cut."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.cut = 0

    def add(self, data: bytes) -> None:
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:
            self._trim()

    def text(self) -> str:
        self._trim()
        if not self.cut:
            return (self._head + self._tail).decode("utf-8", "backslashreplace")
        head, tail = (part.decode("utf-8", "backslashreplace") for part in (self._head, self._tail))
        return f"{head}\n… {self.cut} bytes cut …\n{tail}"

    def _trim(self) -> None:
        extra = len(self._tail) - self._half
        if extra > 0:
            self.cut += extra
            del self._tail[:extra]


class CommandOutput:
    """What one command writes, from its call to its end. `finish` once."""

    def __init__(
        self,
        limit: int = OUTPUT_BYTES,
        listener: Callable[[OutputPiece], object] | None = None,
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        """`limit`: bytes that are kept of each stream.

        `listener`: gets pieces as they are written, on the running loop; none while `full` says so.
        """
        self._limit = limit
        self._kept: dict[Stream, _Kept] = {}
        self._listener = listener
        self._full = full
        rate = LIVE_BYTES_PER_SECOND
        self._live = TokenBucket(rate, rate) if listener is not None else None
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {}
        self._waiting: list[tuple[Stream, bytearray]] = []
        self._waiting_bytes = 0
        self._unsent: dict[Stream, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def write(self, stream: Stream, data: bytes) -> None:
        """Pass on what the guest wrote while the command runs."""
        if self._over:
            return
        if stream not in self._kept:
            self._kept[stream] = _Kept(self._limit)
            self._decoders[stream] = _DECODER("backslashreplace")
            self._unsent[stream] = 0
        self._kept[stream].add(data)
        if self._live is not None:
            self._tell(stream, data, self._live)

    def flush(self) -> None:
        """Send what waits, before something else that its caller is to see after it."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for stream, data in waiting:
            self._send(stream, data)

    def finish(self) -> Output:
        """What it wrote. Nothing is taken from here on."""
        self._over = True
        if not self._kept:
            return Output()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        for stream in self._kept:
            self._send(stream, b"", final=True)
        nothing = _Kept(0)
        out, err = (self._kept.get(stream, nothing) for stream in STREAMS)
        texts = out.text(), err.text()
        return Output(stdout=texts[0], stderr=texts[1], stdout_cut=out.cut, stderr_cut=err.cut)

    def _tell(self, stream: Stream, data: bytes, live: TokenBucket) -> None:
        now = time.monotonic()
        room = max(0, int(live.saved(now)))
        taken = data[:room] if room >= min(len(data), _PIECE_BYTES) else b""
        live.take(len(taken), now)
        if taken:
            if self._waiting and self._waiting[-1][0] == stream and not self._unsent[stream]:
                self._waiting[-1][1].extend(taken)
            else:
                self._waiting.append((stream, bytearray(taken)))
            self._waiting_bytes += len(taken)
        if len(taken) < len(data):
            self.flush()
            self._unsent[stream] += len(data) - len(taken)
        elif self._timer is None or self._waiting_bytes >= _PIECE_BYTES:
            self.flush()
        if self._timer is None:
            self._rest()

    def _rest(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LIVE_SECONDS, self._rested)

    def _rested(self) -> None:
        self._timer = None
        if self._waiting:
            self.flush()
            self._rest()

    def _send(self, stream: Stream, data: bytes | bytearray, *, final: bool = False) -> None:
        if self._listener is None:
            return
        if self._full() and not final:
            self._unsent[stream] += len(data)
            return
        text = self._decoders[stream].decode(bytes(data), final)
        if text or (final and self._unsent[stream]):
            self._listener(OutputPiece(stream=stream, text=text, cut=self._unsent[stream]))
            self._unsent[stream] = 0
