"""The pipes of one worker, seen from the host: hostile bytes, bounded and made frames.

They pass `bridges.wire` before anything is believed, and frames beyond the rate are not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from bridgehold.bridges.frames import (
    CallFrame,
    GuestFrame,
    HostFrame,
    StrayFrame,
)
from bridgehold.bridges.wire import FrameReader, pieces
from bridgehold.errors import BridgeholdError, CrashError, ProtocolError
from bridgehold.host.cell.workers.raw import RawReader
from bridgehold.host.shares.fair import FrameBudget
from bridgehold.host.shares.logs import SessionLog, Stream
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.model import MIB, Limits, Rate

_Reading = tuple[bytes, bool, Generator[None, None, Sequence[object]]]
"""What was read, whether it goes on with a part, and the frames that are made of it."""
_READ_BYTES = 65_536
"""As much as a pipe holds."""
_WIDE_BYTES = 16 * _READ_BYTES
"""What one holds, and is read at once, that has carried more than that: of a file, most often."""
_WIDE_SESSIONS = 8
"""That many have such pipes; others' hold a quarter. They count for one account, which the machine bounds
(`fs.pipe-user-pages-soft`, 64 MiB for an ordinary user's): past it, new ones hold next to nothing."""
_BYTES_PER_SECOND, _BYTES_AT_ONCE = 4 * MIB, 32 * MIB
"""Of frames, per session: the worst text of 8 MiB takes 0.2 s to judge, and all sessions share the loop."""
_PART_COST = 16
"""Bytes of a frame's part count as one of JSON: nothing looks through them."""
_OUTPUT_PER_SECOND, _OUTPUT_AT_ONCE = 32 * MIB, 64 * MIB
"""Of stdout and stderr together, per session: what is read, whatever of it is kept. Frames wait, too."""
_OUTPUT_COST = 16 * 1024
"""What a read counts at the least: who writes byte by byte is read in larger pieces, later."""
_wide: set[GuestPipes] = set()
"""Those of this process."""
_DRAIN_READS = 32
_HALF_FRAME_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


class GuestPipes:
    """The pipes of a worker, non-blocking, driven by the host's loop; owns the descriptors."""

    def __init__(
        self,
        descriptors: Sequence[int],
        *,
        limits: Limits,
        rate: Rate,
        log: SessionLog,
        on_frame: Callable[[GuestFrame | StrayFrame], None],
        on_end: Callable[[BridgeholdError | None], None],
        budget: FrameBudget,
        zygote: bool = False,
    ) -> None:
        """`descriptors`: frames to the guest, frames from it, its standard error, its standard output."""
        self._budget = budget
        self._half_frame: asyncio.TimerHandle | None = None
        self._to_guest, self._from_guest, *outputs = descriptors
        self._outputs: dict[int, Stream] = dict(zip(outputs, ("stderr", "stdout"), strict=False))
        """By descriptor; standard output has none of its own in a zygote."""
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self.reader = FrameReader(max_frame=limits.response_bytes, zygote=zygote)
        self._request_bytes = limits.request_bytes
        self.takes_parts = False
        """The guest's own word, with `ready`."""
        self._frames = TokenBucket(rate.frames_per_second, 2 * rate.frames_per_second)
        self._bytes = TokenBucket(_BYTES_PER_SECOND, _BYTES_AT_ONCE)
        self._output_rate = TokenBucket(_OUTPUT_PER_SECOND, _OUTPUT_AT_ONCE)
        self._log = log
        self._on_end = on_end
        self._source: FrameReader | RawReader = self.reader
        self._deliver: Callable[[Any], None] = on_frame
        """Who gets what `_source` finds: our frames, or a foreign script's bytes."""
        self._full: Callable[[], bool] | None = None
        self._due = self._output_due = 0.0
        """When frames, and output, are within their rates again: not read before."""
        self._width = _READ_BYTES
        """Bytes that a pipe of frames holds."""
        self._charged = 0
        """Bytes that the host's budget counts."""
        self._last_input = False
        self._pending: deque[memoryview] = deque()
        self._unsent = 0
        """Bytes of it."""
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = False
        self._broken = False
        """The guest broke the wire: it is not read any more."""
        self._turning = False
        """A long frame is being read."""
        self._loop.add_reader(self._from_guest, self._read_frames)
        self._written = select.poll()
        for descriptor in self._outputs:
            self._written.register(descriptor, select.POLLIN)
            self._loop.add_reader(descriptor, self._read_output, descriptor)

    @property
    def buffered(self) -> int:
        """Bytes held that came from, or go to, this guest."""
        return self._source.buffered + self._unsent

    def become_raw(
        self, reader: RawReader, on_body: Callable[[bytes], None], full: Callable[[], bool]
    ) -> None:
        """From here on the pipes are a foreign script's, and our own frames are over.

        `full`: whether who gets its bytes has no room; it is not read meanwhile, and waits as at home.
        """
        self._source, self._deliver, self._full = reader, on_body, full

    def wait_while(self, full: Callable[[], bool] | None) -> None:
        """Frames are not read while `full` says so: whoever gets a stream of them sets the guest's pace."""
        self._full = full

    def charge(self, size: int) -> None:
        """Count `size` bytes more than were read."""
        now = time.monotonic()
        self._due = max(self._due, now + self._bytes.take(size, now))

    def finish_input(self) -> None:
        """The guest reads the end of its input after what is still under way to it."""
        self._last_input = True
        if not self._closed and not self._pending:
            self._end_input()

    def _end_input(self) -> None:
        """The descriptor's number stays ours until `close`: another pipe's could take it."""
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self._to_guest, inheritable=False)
        os.close(null)

    async def send(self, said: HostFrame | bytes) -> None:
        """Queue a frame, or a script's bytes as they are, and wait until the guest has taken it.

        The caller bounds the time. Of a call the reader expects an answer as soon as it is queued; whoever
        leaves while a large frame is made has sent nothing.
        """
        found: tuple[bytes, ...] = (said,) if isinstance(said, bytes) else ()
        if not isinstance(said, bytes):
            steps = pieces(said, max_bytes=self._request_bytes, parts=self.takes_parts)
            while not found:  # as `steps.in_turns`, which each command would pass
                try:
                    next(steps)
                    await asyncio.sleep(0)
                except StopIteration as end:
                    found = end.value
        if self._closed or self._last_input:
            raise CrashError("the worker is gone")
        if isinstance(said, CallFrame):
            self.reader.expect(said.id)
        for data in found:
            if len(data) > _READ_BYTES:
                self._widen()
            self._pending.append(memoryview(data))
            self._unsent += len(data)
        self._drained.clear()
        self._write()
        await self._drained.wait()
        if self._closed:
            raise CrashError("the worker ended while a frame was being sent")

    def _widen(self) -> None:
        """Have the pipes of frames hold more, where the machine lets it: the loop has fewer turns then."""
        if self._width == _READ_BYTES:
            self._width = _WIDE_BYTES if len(_wide) < _WIDE_SESSIONS else _WIDE_BYTES // 4
            if self._width == _WIDE_BYTES:
                _wide.add(self)
            for descriptor in (self._to_guest, self._from_guest):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, self._width)

    def close(self) -> None:
        """Close both pipes; what waits on them fails."""
        if self._closed:
            return
        self._closed = True
        _wide.discard(self)
        self._pending.clear()
        self._unsent = 0
        self._budget.hold(self, 0)
        if self._half_frame is not None:
            self._half_frame.cancel()
        self._drained.set()
        for descriptor in (self._from_guest, *self._outputs):
            self._loop.remove_reader(descriptor)
        self._loop.remove_writer(self._to_guest)
        self._drain_raw()
        self.drain_output()
        for descriptor in self._outputs:
            self._written.unregister(descriptor)
        for descriptor in (self._to_guest, self._from_guest, *self._outputs):
            os.close(descriptor)

    def _write(self) -> None:
        try:
            while self._pending:
                data = self._pending[0]
                sent = os.write(self._to_guest, data[: self._width])
                self._unsent -= sent
                if sent == len(data):
                    self._pending.popleft()
                else:
                    self._pending[0] = data[sent:]
        except BlockingIOError:
            self._loop.add_writer(self._to_guest, self._write)
            return
        except OSError:
            self._pending.clear()
            self._unsent = 0
        self._loop.remove_writer(self._to_guest)
        self._drained.set()
        if self._last_input:
            self._end_input()

    def _read_frames(  # noqa: PLR0912, PLR0915 - each further call is one more in every command
        self, under_way: _Reading | None = None
    ) -> None:
        """Read once, or go on with a long frame: it takes turns with all other work, and nothing more of its
        guest's is read meanwhile."""
        now = time.monotonic()
        if under_way is None:
            wait = self._due - now
            if (self._full is not None and self._full()) or (self._source.buffered and self._budget.spent):
                wait = max(wait, _PAUSE_SECONDS)
            if wait > 0:  # not reading is the whole enforcement: the pipe fills, the guest blocks
                self._pause(self._from_guest, self._read_frames, wait)
                return
            part = self.reader.within_part
            if part:
                self._widen()
            try:
                data = os.read(self._from_guest, self._width if part else _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._from_guest)
                self._on_end(None)
                return
            under_way = data, part, self.reader.steps(data)
        elif self._closed:
            return
        data, part, steps = under_way
        try:
            if self._source is not self.reader:
                found: Sequence[object] = self._source.feed(data)
            else:
                try:
                    next(steps)
                except StopIteration as end:
                    found = end.value
                else:
                    self._turn(under_way)
                    return
            if self._turning:
                self._turning, self._charged = False, -1
                self._loop.add_reader(self._from_guest, self._read_frames)
            owed = self._frames.take(max(1, len(found)), now)
            of_part = self.reader.of_part if part else 0
            cost = len(data) - of_part + of_part // _PART_COST
            self._due = now + max(owed, self._bytes.take(cost, now))
            if self._source.buffered != self._charged or self._half_frame is not None:
                self._charged = self._source.buffered
                self._budget.hold(self, self._charged)
                self._watch_half_frame()
            if found:
                self.drain_output()  # what was written before these frames is seen before them
            deliver = self._deliver
            for one in found:
                deliver(one)
            owed = self._output_due - time.monotonic()
            if owed > 0 and not self._closed:  # once a drain: a flood beside it can't hold frames up for good
                self._pause(self._from_guest, self._read_frames, owed)
        except ProtocolError as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 - a defect that a frame meets ends its sender: nobody waits for it
            self._give_up(ProtocolError(f"{type(error).__name__} in the host, over a frame"))

    def _turn(self, under_way: _Reading) -> None:
        if not self._turning:
            self._turning = True
            self._loop.remove_reader(self._from_guest)
            if self._half_frame is not None:
                self._half_frame.cancel()
                self._half_frame = None
            # Frames that are read side by side are there as values together: what is not begun waits.
            self._budget.hold(self, self._charged + self.reader.values_bytes)
        self._loop.call_soon(self._read_frames, under_way)

    def _give_up(self, error: ProtocolError) -> None:
        self._broken = True
        self._budget.hold(self, 0)
        self._loop.remove_reader(self._from_guest)
        self._on_end(error)

    def _drain_raw(self) -> None:
        """What a script wrote before it ended, and nobody had read yet: at most one pipe's capacity.

        A frame that the host meets a defect over is its script's loss alone: the end goes on.
        """
        if self._source is self.reader or self._broken:  # nothing counts after what can't be read
            return
        with contextlib.suppress(Exception):
            for _ in range(_DRAIN_READS):
                data = os.read(self._from_guest, _READ_BYTES)
                if not data:
                    return
                for body in self._source.feed(data):
                    self._deliver(body)

    def _watch_half_frame(self) -> None:
        """Half a frame and then nothing holds memory: it has a deadline of its own."""
        if not self._source.buffered:
            if self._half_frame is not None:
                self._half_frame.cancel()
                self._half_frame = None
        elif self._half_frame is None:
            seen = self._source.frames
            self._half_frame = self._loop.call_later(_HALF_FRAME_SECONDS, self._judge_half_frame, seen)

    def _judge_half_frame(self, seen: int) -> None:
        self._half_frame = None
        if self._closed or not self._source.buffered:
            return
        full = self._full is not None and self._full()
        if self._source.frames != seen or self._budget.spent or full:
            self._watch_half_frame()
            return
        self._give_up(ProtocolError(f"half a frame, and then nothing for {_HALF_FRAME_SECONDS:g} s"))

    def _read_output(self, descriptor: int) -> None:
        """Whatever of it is kept, it is read: nothing that prints waits for a log's rate.

        A flood does wait, past a rate at which reading it costs the host some hundredths of a processor.
        """
        wait = self._output_rate.wait(1, time.monotonic())
        if self._full is not None and self._full():
            wait = max(wait, _PAUSE_SECONDS)
        if wait > 0:
            self._pause(descriptor, partial(self._read_output, descriptor), wait)
        elif self._take_output(descriptor):
            self._loop.remove_reader(descriptor)

    def _take_output(self, descriptor: int) -> bool:
        """Read once; whether it has ended. A pipe holds no more than that: its guest can't make it larger."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if data:
            self._log.write(data, self._outputs[descriptor])
            now = time.monotonic()
            self._output_due = now + self._output_rate.take(max(len(data), _OUTPUT_COST), now)
        return not data

    def drain_output(self) -> None:
        """Read what the guest had written up to now."""
        for descriptor, _ in self._written.poll(0):
            with contextlib.suppress(Exception):  # as in `_drain_raw`: calls and ends wait for what follows
                self._take_output(descriptor)

    def _pause(self, descriptor: int, callback: Callable[[], None], seconds: float) -> None:
        self._loop.remove_reader(descriptor)

        def resume() -> None:
            if not self._closed and not (self._broken and descriptor == self._from_guest):
                self._loop.add_reader(descriptor, callback)

        self._loop.call_later(min(seconds, 1.0), resume)
