"""What runs a bridge inside the sandbox: handlers on the main thread, a reader thread beside it.

The reader thread answers `common:ping` at once, whatever the main thread does, and passes a cancel
on as a real-time signal to the main thread: that interrupts a sleep, a read or a lock, which an
exception set on the thread state would not. The handler raises `Cancelled` only while a command's
own code runs; never while a frame is being written, or between commands.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from types import FrameType, GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn

from bridgehold_sdk import wire
from bridgehold_sdk.bridge import Bridge, Limits, Provider, Session, Tool, operations_of
from bridgehold_sdk.common import Common
from bridgehold_sdk.errors import Cancelled, ResultTooLarge, ToolError, UnknownCommand, WireError
from bridgehold_sdk.faults import describe, left_with_its_own
from bridgehold_sdk.interrupts import heed_swallowed, idle, swap_interrupts
from bridgehold_sdk.operations import perform
from bridgehold_sdk.plain import clean_text, to_plain
from bridgehold_sdk.streams import end_child, flush
from bridgehold_sdk.threads import begin_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CANCEL_SIGNAL = signal.SIGRTMIN + 6
"""Real-time, so that neither a framework nor a shell uses it for anything else."""
PROGRESS_INTERVAL = 0.05
ASK_AGAIN = 0.02
"""Seconds until a cancel that came to nothing is tried again."""
END_GRACE = 1.0
"""Seconds between the end of the host's stream and a hard exit."""


class Runtime:
    """Runs one bridge instance until the host says shutdown or its stream ends."""

    def __init__(
        self,
        bridge: Bridge,
        *,
        name: str,
        version: str,
        reader: wire.Reader,
        writer: wire.Writer,
        providers: Mapping[str, Provider] | None = None,
        worker_id: str = "",
        folder: str = "",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.bridge = bridge
        self.name = name
        self.version = version
        self.worker_id = worker_id
        self.folder = folder
        """The bridge's own files, for telling its refusals from its framework's errors."""
        self.operations = operations_of(type(bridge))
        self.providers: Mapping[str, Provider] = dict(providers or {})
        known = {name: value for name, value in (limits or {}).items() if name in Limits._fields}
        self.limits = Limits(**known)
        self.session = Session("", "", "", self.limits)
        self.started = time.time()
        self.command_count = 0
        self.error_count = 0
        self.framework: dict[str, Any] = {}
        self._common = Common(self)
        self._reader = reader
        self._writer = writer
        self._calls: queue.SimpleQueue[wire.Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._emitting = threading.Lock()
        """Held from the look for a running command until its chunk is written: none comes after its reply."""
        self._waiting: set[int] = set()
        self._cancelled: set[int] = set()
        self._current: int | None = None
        self._current_since = 0.0
        self._seq = 0
        self._armed = False
        self._shielded = False
        self._interrupted = False
        self._wanted = False
        self.interrupted = False
        """The running command was asked to stop, and was told."""
        self._callers: BaseException | None = None
        """What the caller's own code raised in it."""
        self._unheed: Callable[[], None] | None = None
        self._last_progress = 0.0
        self._tools: dict[str, Tool] = {}
        self._tool_calls: dict[int, queue.SimpleQueue[wire.Frame]] = {}
        self._tool_calls_made = 0
        self._status = 0
        self._main = threading.main_thread().ident or 0
        self._pid = os.getpid()

    def run(self) -> int:
        """Send `ready`, then serve; returns the exit status. To be called on the main thread."""
        self.bridge.attach(self)
        self.framework = to_plain(dict(self.bridge.framework()))
        signal.signal(CANCEL_SIGNAL, self._on_cancel_signal)
        self._writer.write(
            wire.ready(
                self.name,
                self.version,
                sorted(self.operations),
                ".".join(map(str, sys.version_info[:3])),
                sys.modules["bridgehold_sdk"].__version__,
                parts=self._writer.parts,
            )
        )
        begin_thread("bridgehold-reader", self._read)
        swap_interrupts(signal.default_int_handler, idle)
        while (call := self._calls.get()) is not None:
            self._serve(call)
            if self._common.shutting_down:
                return 0
        self._common.close_quietly()
        return self._status

    # The main thread.

    def _serve(self, call: wire.Frame) -> None:
        call_id = call["id"]
        with self._lock:
            self._waiting.discard(call_id)
            self._wanted = call_id in self._cancelled
            self._cancelled.discard(call_id)
            self._current = call_id
            self._current_since = time.monotonic()
            self.interrupted = False
            self._last_progress = 0.0
            self._seq = 0
        self._tools = self._offered(call.get("tools"))
        data = self._attempt(call_id, call.get("command"), call.get("args"))
        flush()  # before the reply, which says that the command has written all
        if self._unheed is not None:
            self._unheed()
            self._unheed = None
        with self._emitting, self._lock:
            self._current = None
            self._wanted = False
            for waiting in self._tool_calls.values():  # threads that outlive their command
                waiting.put({"error": {"code": "cancelled", "message": "its command has ended"}})
        self._callers = None
        self._writer.write_bytes(*data)

    def _attempt(self, call_id: int, command: object, args: object) -> list[Any]:
        """The reply's bytes, in pieces. Between the two assignments to `_armed`, a cancel may raise."""
        try:
            try:
                self._armed = True
                swap_interrupts(idle, signal.default_int_handler)
                if self._wanted:
                    self._interrupt()
                value = self._dispatch(command, args)
                if os.getpid() != self._pid:
                    end_child(None)  # a fork of the handler's came back here: the wire is its parent's
                return self._reply(call_id, value)
            finally:
                swap_interrupts(signal.default_int_handler, idle)
                self._armed = False
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a handler too
            swap_interrupts(signal.default_int_handler, idle)
            self._armed = False
            if os.getpid() != self._pid:
                end_child(error)
            self.error_count += 1
            said = describe(error, self.folder, callers=self._callers, interrupted=self.interrupted)
            left_with_its_own(error)  # it may be `sys.last_exc`
            return [wire.encode_fault(call_id, said, self._writer.max_bytes)]

    def _reply(self, call_id: int, value: Any) -> list[Any]:
        """The result; kept as an artifact where it is too large for a frame and the policy grants that."""
        if isinstance(value, wire.Parted):
            return wire.encode_parted(call_id, value, self._writer.max_bytes)
        try:
            return [wire.encode(wire.result(call_id, value), self._writer.max_bytes)]
        except ResultTooLarge:
            artifacts = self.bridge.artifacts
            if not artifacts.granted:
                raise
            import json

            data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
            kept = artifacts.put(data, name="result.json", media_type="application/json")
            reference = {"$artifact": kept["digest"], "size_bytes": kept["size_bytes"]}
            return [wire.encode(wire.result(call_id, reference), self._writer.max_bytes)]

    def _dispatch(self, command: object, args: object) -> Any:
        if not isinstance(command, str) or not isinstance(args, dict):
            raise WireError("a call has a command and an object of arguments")
        prefix, _, name = command.partition(":")
        if prefix == "common" and self._common.knows(name):
            return self._common.run(name, args)
        if prefix != self.name or name not in self.operations:
            raise UnknownCommand(f"{command[:200]!r} is no command of this bridge")
        self._common.require_open()
        self.command_count += 1
        fact = self.operations[name]
        value = perform(self.bridge, fact, args)
        if isinstance(value, GeneratorType):
            if not fact.stream:
                raise TypeError(f"operation {name!r} returned a generator; declare it with stream=True")
            value = self._stream(value)
        if isinstance(value, wire.Parted):
            return value
        return to_plain(value)

    def _stream(self, values: GeneratorType[Any, None, Any]) -> Any:
        with contextlib.closing(values):
            while True:
                try:
                    value = next(values)
                except StopIteration as end:
                    return end.value
                self.emit(value)

    def emit(self, data: object) -> None:
        """A chunk of the running command, from any thread of its; dropped where none runs."""
        plain = to_plain(data)
        with self._shield(), self._emitting:
            if self._current is not None:
                chunk = wire.chunk(self._current, self._seq, plain)
                self._writer.write_bytes(wire.encode(chunk, self._writer.max_bytes))
                self._seq += 1

    def progress(self, done: int, total: int, note: str) -> None:
        """Of the running command; dropped where none runs, or where the last is too recent."""
        now = time.monotonic()
        with self._shield():
            with self._lock:
                final = 0 < total <= done
                if self._current is None or (now - self._last_progress < PROGRESS_INTERVAL and not final):
                    return
                self._last_progress = now
                frame = wire.progress(
                    self._current, max(0, int(done)), max(0, int(total)), clean_text(str(note))[:500]
                )
            self._writer.write(frame)

    @property
    def result_bytes(self) -> int:
        """The bound of one frame, in bytes."""
        return self._writer.max_bytes

    @property
    def takes_parts(self) -> bool:
        """Whether bytes may go beside a result's JSON."""
        return self._writer.parts

    def note_callers(self, error: BaseException) -> None:
        """`error` came out of code of the caller's."""
        self._callers = error

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Of the running command."""
        return self._tools

    def _offered(self, tools: object) -> dict[str, Tool]:
        listed = tools if isinstance(tools, list) else []
        return {
            fact["name"]: Tool(fact["name"], fact["description"], fact["parameters"], self._call_tool)
            for fact in listed
        }

    def _call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """On any thread of the command's; the answer comes by the reader."""
        answer: queue.SimpleQueue[wire.Frame] = queue.SimpleQueue()
        plain = to_plain(arguments)
        with self._lock:
            if self._current is None:
                raise ToolError(name, "cancelled", "no command is running")
            current = self._current
            self._tool_calls_made += 1
            number = self._tool_calls_made
            self._tool_calls[number] = answer
        try:
            with self._shield():
                self._writer.write(wire.tool_call(current, number, name, plain))
            said = answer.get()
        finally:
            with self._lock:
                del self._tool_calls[number]
        if "error" in said:
            raise ToolError(name, str(said["error"].get("code")), str(said["error"].get("message")))
        return said.get("result")

    @contextlib.contextmanager
    def _shield(self) -> Iterator[None]:
        """No cancel or interrupt inside: half a frame would break the wire. It is raised afterwards."""
        if threading.get_ident() != self._main or self._shielded:
            yield
            return
        self._shielded = True
        self._interrupted = False
        swap_interrupts(signal.default_int_handler, self._note_interrupt)
        try:
            yield
        finally:
            swap_interrupts(self._note_interrupt, signal.default_int_handler)
            self._shielded = False
        if self._interrupted:
            raise KeyboardInterrupt
        if self._wanted and self._armed:
            self._interrupt()

    def _on_cancel_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._wanted and self._armed and not self._shielded:
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        self._wanted = False
        self.interrupted = True
        if self._unheed is None:
            self._unheed = heed_swallowed(Cancelled, self._ask_again)
        raise Cancelled

    def _ask_again(self) -> None:
        if self._current is not None:
            begin_thread("cancel-again", self._cancel_later, self._current)

    def _cancel_later(self, call_id: int) -> None:
        """Once the callback that swallowed it is over: nothing that is raised before is passed on."""
        time.sleep(ASK_AGAIN)
        self._cancel(call_id)

    def _note_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True

    # The reader thread.

    def _read(self) -> None:
        try:
            while (frame := self._reader.read()) is not None:
                self._accept(frame)
        except (WireError, ResultTooLarge, OSError) as error:
            os.write(2, f"bridgehold: the host's stream broke: {error}\n".encode())
            self._status = 1
        self._calls.put(None)
        with self._lock:
            running = self._current
        if running is not None:
            self._cancel(running)
        time.sleep(END_GRACE)
        os._exit(self._status)

    def _accept(self, frame: wire.Frame) -> None:
        call_id = frame.get("id")
        if isinstance(call_id, bool) or not isinstance(call_id, int) or call_id < 0:
            raise WireError("a frame without an id")
        if frame.get("type") == "cancel":
            self._cancel(call_id)
        elif frame.get("type") == "tool_reply":
            with self._lock:
                waiting = self._tool_calls.get(frame.get("call", -1))
            if waiting is not None:
                waiting.put(frame)
        elif frame.get("command") == "common:ping":
            self._writer.write(wire.result(call_id, self._common.ping(frame.get("args"))))
        elif frame.get("command") == "common:profile":
            begin_thread("profile", self._profile, call_id, frame.get("args"))
        elif frame.get("command") == "common:health" and self._busy():
            self._writer.write(wire.result(call_id, self._common.busy_health(*self._running())))
        else:
            with self._lock:
                self._waiting.add(call_id)
            self._calls.put(frame)

    def _profile(self, call_id: int, args: object) -> None:
        """Beside whatever runs."""
        from bridgehold_sdk.profile import sample

        seconds = args.get("seconds", 5.0) if isinstance(args, dict) else 5.0
        self._writer.write(wire.result(call_id, to_plain(sample(self._main, float(seconds)))))

    def _cancel(self, call_id: int) -> None:
        with self._lock:
            if self._current == call_id:
                self._wanted = True
                signal.pthread_kill(self._main, CANCEL_SIGNAL)
            elif call_id in self._waiting:
                self._cancelled.add(call_id)

    def _busy(self) -> bool:
        with self._lock:
            return self._current is not None or bool(self._waiting)

    def _running(self) -> tuple[int | None, float]:
        with self._lock:
            return self._current, time.monotonic() - self._current_since
