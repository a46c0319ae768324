"""Programs of a session, for whoever calls its bridge: `class MyBridge(Processes, Bridge)` has them.

A program or command runs while its caller waits. A process goes on behind the commands that follow, until the
session ends at the latest: the newest part of what it writes is kept, and read by its offset.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bridgehold_sdk import pieces
from bridgehold_sdk.bridge import operation
from bridgehold_sdk.errors import InvalidInput, ResourceNotFound
from bridgehold_sdk.program_input import feed, pass_signals, write_all
from bridgehold_sdk.threads import begin_thread

if TYPE_CHECKING:
    from bridgehold_sdk import Tool
    from bridgehold_sdk.programs import Program

MOST_PROCESSES = 16
"""Of one session, those that have ended among them; the oldest of these makes room."""
KEPT_BYTES = 256 * 1024
"""Of each stream of a process: what is older is counted, and gone."""
PART_BYTES = 256 * 1024
MOST_WAITED = 1.0
"""Seconds that one operation waits for a process: those that follow it wait with it."""
MOST_ATTACHED = 30.0
"""Seconds that one attachment lasts; the last answer to what it has asked may take these, too."""
_PAUSE = 0.1
"""Seconds between two looks at whether the last answer is there."""
STREAMS = ("stdout", "stderr")
_DATA = ("text", "base64", "lost")


class Processes:
    """``program``, ``command``, ``process_start`` and its kin; a bridge.toml declares what it offers."""

    tools: Mapping[str, Tool]
    emit: Any

    @operation(effect="run", stream=True)
    def program(
        self,
        kind: str,
        text: str,
        args: Sequence[str] = (),
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> dict[str, Any]:
        """Run a program in a process of its own; what it writes comes as chunks, and a part in the result."""
        __tracebackhide__ = True
        from bridgehold_sdk import program_requests, programs
        from bridgehold_sdk.python_program import Invocation

        folder, environment = program_requests.checked_folder(cwd), program_requests.checked_environment(env)
        what = Invocation(kind, text, list(args), folder, environment)
        asked = self.tools.get("stdin") if stdin is None else None
        if asked is None:
            return self._watched(programs.fork(what.become, with_input=stdin is not None), stdin, None)
        seen, what.wanted = programs.pipe()
        started = programs.fork(what.become, with_input=True)
        os.close(what.wanted)
        return self._watched(started, None, asked, seen)

    @operation(effect="run", stream=True)
    def command(
        self,
        argv: Sequence[str],
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        terminal: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Start a program by its name or path; what it writes comes as chunks, and a part in the result."""
        __tracebackhide__ = True
        from bridgehold_sdk import program_requests, programs

        asked = self.tools.get("stdin") if stdin is None else None
        started = programs.start(
            argv,
            folder=program_requests.checked_folder(cwd),
            environment=program_requests.checked_environment(env),
            with_input=stdin is not None or asked is not None,
            terminal=program_requests.checked_size(terminal),
        )
        return self._watched(started, stdin, asked)

    @operation(effect="run")
    def process_start(
        self,
        argv: Sequence[str],
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        terminal: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Start a program that goes on behind the commands that follow."""
        from bridgehold_sdk import program_requests, programs

        known = self._known()
        ended = [number for number, one in known.items() if one.over]
        if len(known) >= MOST_PROCESSES and not ended:
            raise InvalidInput(f"{len(known)} processes run in this session already; end one first")
        started = programs.start(
            argv,
            folder=program_requests.checked_folder(cwd),
            environment=program_requests.checked_environment(env),
            with_input=True,
            terminal=program_requests.checked_size(terminal),
        )
        if len(known) >= MOST_PROCESSES:
            del known[ended[0]]
        number = max(known, default=0) + 1
        known[number] = Process(number, argv, started)
        return known[number].facts()

    @operation(effect="read")
    def process_list(self) -> dict[str, Any]:
        """The processes of the session, and those that have ended of late."""
        return {"processes": [one.facts() for one in self._known().values()]}

    @operation(effect="read")
    def process_read(
        self,
        process: int,
        stream: str = "stdout",
        offset: int = 0,
        length: int = PART_BYTES,
        wait_ms: int = 0,
    ) -> dict[str, Any]:
        """What it wrote from `offset` on. With `wait_ms` it waits that long for more, or for its end."""
        if stream not in STREAMS:
            raise InvalidInput(f"{stream[:40]!r} is no stream; there are stdout and stderr")
        wait = min(max(wait_ms, 0) / 1000, MOST_WAITED)
        return self._process(process).read(stream, offset, max(0, min(length, PART_BYTES)), wait)

    @operation(effect="read")
    def process_wait(self, process: int, wait_ms: int = 0) -> dict[str, Any]:
        """How it is, once it has ended or `wait_ms` have passed."""
        one = self._process(process)
        one.wait(min(max(wait_ms, 0) / 1000, MOST_WAITED))
        return one.facts()

    @operation(effect="run", stream=True)
    def process_attach(
        self,
        process: int,
        offset: int = 0,
        stderr_offset: int = 0,
        wait_ms: int = int(MOST_ATTACHED * 1000),
    ) -> dict[str, Any]:
        """Tell what it writes as chunks, and give it its caller's input, until it ends or for a while."""
        __tracebackhide__ = True
        wait = min(max(wait_ms, 0) / 1000, MOST_ATTACHED)
        return self._process(process).attach(
            self.emit, self.tools.get("stdin"), {"stdout": offset, "stderr": stderr_offset}, wait
        )

    @operation(effect="run")
    def process_write(
        self, process: int, text: str | None = None, base64: str | None = None, eof: bool = False
    ) -> dict[str, Any]:
        """Write to its input what it takes now: how many bytes. `eof`: after all of it, an end."""
        one = self._process(process)
        data = pieces.bytes_of({"text": text, "base64": base64})
        taken = one.program.offer(data, MOST_WAITED / 4)
        if taken is None:
            raise InvalidInput(f"process {process} takes no input any more")
        if eof and taken == len(data):
            one.program.end_input()
        return {"written": taken}

    @operation(effect="run")
    def process_signal(self, process: int, signal: int | str = 15) -> dict[str, Any]:
        """Send a signal, by its number or name, to it and to what it has started."""
        one = self._process(process)
        one.program.send_signal(_signal(signal))
        return one.facts()

    @operation(effect="run")
    def process_resize(self, process: int, rows: int, columns: int) -> dict[str, Any]:
        """Give its terminal another size."""
        from bridgehold_sdk import program_requests

        one = self._process(process)
        size = program_requests.checked_size({"rows": rows, "columns": columns})
        if size is None or not one.program.resize(size):
            raise InvalidInput(f"process {process} has no terminal")
        return one.facts()

    def _known(self) -> dict[int, Process]:
        found: dict[int, Process] = self.__dict__.setdefault("_processes", {})
        return found

    def _process(self, number: int) -> Process:
        found = self._known().get(number)
        if found is None:
            raise ResourceNotFound("process", str(number))
        return found

    def _watched(
        self, started: Program, stdin: str | None, asked: Tool | None, wanted: int = -1
    ) -> dict[str, Any]:
        """What came of a program: fed with `stdin`, or by the caller's own tool, and told as it writes."""
        __tracebackhide__ = True
        kept = {name: pieces.Kept() for name in STREAMS}

        def tell(stream: str, data: bytes) -> None:
            kept[stream].add(data)
            self.emit({"stream": stream, **pieces.piece_of(data)})

        if stdin is not None:
            begin_thread("stdin", write_all, started, stdin)
        elif asked is not None:
            begin_thread("stdin", feed, started, asked, None, wanted)
            if "signals" in asked.parameters.get("properties", ()):
                begin_thread("signals", pass_signals, started, asked)
        ended = started.pump(tell)
        shown = {name: one.text() for name, one in kept.items()}
        cut = any(one.cut for one in kept.values())
        return {"status": ended.status, "signal": ended.signal, **shown, "truncated": cut}


class Process:
    """A program that goes on, and what it has written."""

    def __init__(self, number: int, argv: Sequence[str], program: Program) -> None:
        self.number = number
        self.program = program
        self.over = False
        """It has ended, and all that it wrote is here."""
        self._argv = [one[:200] for one in argv[:20]]
        self._written = {name: _Newest() for name in STREAMS}
        self._changed = threading.Condition()
        try:
            begin_thread("process", self._pump)
        except RuntimeError:
            program.send_signal(signal.SIGKILL)
            program.close()
            raise InvalidInput("this session has no room for another process") from None

    def _pump(self) -> None:
        with contextlib.suppress(Exception):
            self.program.pump(self._tell)
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def _tell(self, stream: str, data: bytes) -> None:
        with self._changed:
            self._written[stream].add(data)
            self._changed.notify_all()

    def facts(self) -> dict[str, Any]:
        """As an answer carries them."""
        with self._changed:
            written = {name: one.end for name, one in self._written.items()}
        said = {"process": self.number, "argv": self._argv, "terminal": self.program.terminal >= 0}
        return {**said, "written": written, **self._state()}

    def _state(self) -> dict[str, Any]:
        ended = self.program.ended if self.over else None
        return {
            "running": not self.over,
            "status": None if ended is None else ended.status,
            "signal": 0 if ended is None else ended.signal,
        }

    def wait(self, seconds: float) -> None:
        """Until it is over, or `seconds` have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self.over, seconds)

    def attach(self, emit: Any, asked: Tool | None, at: dict[str, int], seconds: float) -> dict[str, Any]:
        """Its output from `at` on as chunks; what `asked` says as input, signals and size."""
        done, until = threading.Event(), time.monotonic() + seconds
        helpers = [
            begin_thread("attached", work, self.program, asked, done)
            for work in (feed, pass_signals)
            if asked is not None
        ]
        try:
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    done.set()
                with self._changed:
                    self._changed.wait_for(
                        lambda: self.over or any(self._written[name].end > at[name] for name in STREAMS),
                        left if left > 0 else _PAUSE,
                    )
                told = False
                for stream in STREAMS:
                    part = self.read(stream, at[stream], PART_BYTES, 0)
                    if part["next"] > at[stream]:
                        told, at[stream] = True, part["next"]
                        emit({"stream": stream, **{name: part[name] for name in _DATA if name in part}})
                asking = left > -MOST_ATTACHED and any(one.is_alive() for one in helpers)
                if not told and (self.over or (left <= 0 and not asking)):
                    return {**self.facts(), "next": at["stdout"], "stderr_next": at["stderr"]}
        finally:
            done.set()

    def read(self, stream: str, offset: int, length: int, wait: float) -> dict[str, Any]:
        """`length` bytes from `offset` on, or from the oldest that is kept; what is between is `lost`."""
        newest = self._written[stream]
        with self._changed:
            self._changed.wait_for(lambda: self.over or newest.end > offset, wait)
            if not 0 <= offset <= newest.end:
                raise InvalidInput(f"its {stream} has {newest.end} bytes so far")
            begin = max(offset, newest.end - len(newest.kept))
            first = begin - newest.end + len(newest.kept)
            data = bytes(newest.kept[first : first + length])
            following = begin + len(data)
            end = self.over and following == newest.end
        said = {"offset": begin, "next": following, "lost": begin - offset, "end": end}
        return {**pieces.piece_of(data), **said, **self._state()}


class _Newest:
    """The newest bytes of a stream."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.end = 0

    def add(self, data: bytes) -> None:
        self.end += len(data)
        self.kept += data
        del self.kept[:-KEPT_BYTES]


def _signal(given: int | str) -> signal.Signals:
    try:
        if isinstance(given, str):
            return signal.Signals[given if given.startswith("SIG") else f"SIG{given}"]
        return signal.Signals(given)
    except (KeyError, ValueError):
        raise InvalidInput(f"{str(given)[:40]!r} is no signal") from None
