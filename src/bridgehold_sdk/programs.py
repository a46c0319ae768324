"""Programs as child processes of a session: streams live and apart, input as it comes, the true end.

A program gets a process group of its own. What it leaves behind when it ends goes on as at home, until the
session ends with all that is in it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.plain import clean_text

Piece = Callable[[str, bytes], None]
"""Takes what a program wrote: the stream's name, and bytes."""
_READ_BYTES = 64 * 1024
_LIVE_SECONDS = 0.02
"""Between two pieces at the least, but for the first."""
KEPT_BYTES = 128 * 1024
"""Of each stream in a result: the first and the last half."""
_STREAM_FIRST = 20
"""Where descriptors of ours lie, above those that a program expects."""
_KEY = re.compile(r"(?i)(?:^|_)(?:api_?)?(?:key|token|secret|password|passwd|credentials?|auth)s?(?:$|_)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_VARIABLES = 256


def checked_environment(given: Mapping[str, Any] | None) -> dict[str, str]:
    """The variables that a caller asks for. `InvalidInput` for a name that is none, or a key's."""
    found: dict[str, str] = {}
    for name, value in (given or {}).items():
        if not _NAME.fullmatch(name) or len(name) > 200 or not isinstance(value, str) or "\0" in value:
            raise InvalidInput(f"{name[:80]!r} is no environment variable of text")
        if _KEY.search(name):
            raise InvalidInput(f"{name[:80]} looks like a key's name, and keys aren't given to code")
        found[name] = value
    if len(found) > _MOST_VARIABLES:
        raise InvalidInput(f"{len(found)} environment variables; at most {_MOST_VARIABLES}")
    return found


def checked_folder(path: str) -> str:
    """The working folder that a caller asks for; empty: the session's. `InvalidInput` where there is none."""
    if path and ("\0" in path or not os.path.isdir(path)):
        raise InvalidInput(f"there is no folder {path[:200]!r}")
    return path


class Ended(NamedTuple):
    """How a program ended: its exit status, or the number of the signal that ended it."""

    status: int
    signal: int


class Program:
    """A child process that was started, and this side's ends of its streams."""

    def __init__(self, pid: int, outputs: Mapping[int, str], stdin: int, terminal: bool = False) -> None:
        """`outputs`: descriptors to read, each with its stream's name. `stdin`: to write to; -1: none."""
        self.pid = pid
        self.outputs = dict(outputs)
        self.stdin = stdin
        self.terminal = terminal
        self.ended: Ended | None = None
        self.over, over = os.pipe()
        """Readable once it has ended."""
        self._lock = threading.Lock()
        self._reaper = threading.Thread(target=self._reap, args=(over,), name="program", daemon=True)
        self._reaper.start()

    def _reap(self, over: int) -> None:
        status = 0
        with contextlib.suppress(ChildProcessError):  # the code has waited for all of its children
            status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        with self._lock:
            self.ended = Ended(code, 0) if code >= 0 else Ended(128 - code, -code)
        os.close(over)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within `seconds`."""
        self._reaper.join(seconds)
        return self.ended is not None

    def send_signal(self, number: int) -> None:
        """To its process group; nothing where it has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self.ended is None:
                os.killpg(self.pid, number)

    def write(self, data: bytes) -> bool:
        """Write all of `data` to its input, waiting as it reads; whether anybody is left to read."""
        try:
            while data:
                data = data[os.write(self.stdin, data) :]
        except OSError:
            return False
        return True

    def close_input(self) -> None:
        """The program reads the end of its input; at a terminal, the sign for it."""
        with self._lock:
            stdin, self.stdin = self.stdin, -1
        if stdin >= 0 and self.terminal:
            with contextlib.suppress(OSError):
                os.write(stdin, b"\x04")
        elif stdin >= 0:
            os.close(stdin)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; nothing where it has none."""
        if self.terminal:
            resize(next(iter(self.outputs)), rows, columns)

    def pump(self, tell: Piece) -> Ended:
        """Tell what it writes until it has ended. Raised through: it is killed."""
        __tracebackhide__ = True
        waiting: list[tuple[str, bytearray]] = []
        size, due = 0, 0.0

        def flush() -> None:
            nonlocal size, due
            for name, data in waiting:
                tell(name, bytes(data))
            waiting.clear()
            size, due = 0, time.monotonic() + _LIVE_SECONDS

        poll = select.poll()
        for descriptor in (*self.outputs, self.over):
            poll.register(descriptor, select.POLLIN)
        left = set(self.outputs)
        over = False
        try:
            while left:
                wait = max(0.0, due - time.monotonic()) * 1000 if waiting else None
                ready = poll.poll(0 if over else wait)
                if over and not ready:
                    break  # what still holds its streams is not the program
                for descriptor, _ in ready:
                    if descriptor == self.over:
                        over = True
                        poll.unregister(self.over)
                        continue
                    data = _read(descriptor)
                    if not data:
                        poll.unregister(descriptor)
                        left.discard(descriptor)
                        continue
                    name = self.outputs[descriptor]
                    if waiting and waiting[-1][0] == name:
                        waiting[-1][1].extend(data)
                    else:
                        waiting.append((name, bytearray(data)))
                    size += len(data)
                if waiting and (size >= _READ_BYTES or time.monotonic() >= due):
                    flush()
            flush()
            os.read(self.over, 1)  # its streams may end before it does
            assert self.ended is not None  # noqa: S101 - set before `over` is closed
            return self.ended
        except BaseException:
            self.send_signal(signal.SIGKILL)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Close this side's ends."""
        self.terminal = False
        self.close_input()
        for descriptor in (*self.outputs, self.over):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:  # a terminal whose last holder is gone
        return b""


def resize(descriptor: int, rows: int, columns: int) -> None:
    """Set a terminal's size, in characters."""
    size = struct.pack("HHHH", max(1, min(rows, 9999)), max(1, min(columns, 9999)), 0, 0)
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)


@contextlib.contextmanager
def _ends(
    terminal: tuple[int, int] | None, *, with_input: bool
) -> Iterator[tuple[list[int], dict[int, str], int]]:
    """The child's three descriptors; ours to read, with their names; ours to write, or -1.

    The child's are closed here afterwards; ours where the block fails.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if terminal is not None:
            main, side = os.openpty()
            ours, theirs = [_up(main)], [_up(side)]
            ours.append(fcntl.fcntl(ours[0], fcntl.F_DUPFD_CLOEXEC, _STREAM_FIRST))
            resize(ours[0], *terminal)
            yield [theirs[0]] * 3, {ours[0]: "stdout"}, ours[1]
            return
        for _ in range(2):
            read, write = os.pipe()
            ours.append(_up(read))
            theirs.append(_up(write))
        if with_input:
            read, write = os.pipe()
            ours.append(_up(write))
            theirs.insert(0, _up(read))
        else:
            theirs.insert(0, _up(os.open(os.devnull, os.O_RDONLY)))
        yield theirs, {ours[0]: "stdout", ours[1]: "stderr"}, ours[2] if with_input else -1
    except BaseException:
        for descriptor in ours:
            os.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)


def pipe() -> tuple[int, int]:
    """One whose ends no program that is started inherits."""
    read, write = os.pipe()
    return _up(read), _up(write)


def _up(descriptor: int) -> int:
    """The same, above what a program expects of its first descriptors."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STREAM_FIRST)
    os.close(descriptor)
    return moved


def fork(child: Callable[[], None], *, with_input: bool) -> Program:
    """A copy of this process that runs `child`, which must not come back."""
    with _ends(None, with_input=with_input) as (theirs, outputs, stdin):
        pid = os.fork()
        if pid == 0:
            try:
                _take(theirs, (*outputs, stdin))
                child()
            finally:
                os._exit(1)
        return Program(pid, outputs, stdin)


def start(
    argv: Sequence[str],
    *,
    folder: str = "",
    environment: Mapping[str, str] | None = None,
    with_input: bool = False,
    terminal: tuple[int, int] | None = None,
) -> Program:
    """A program by its name or path; `InvalidInput` where there is none. `terminal`: its rows and columns."""
    if not argv or any("\0" in one for one in argv):
        raise InvalidInput("a command is a program's name and its arguments, as a list of text")
    variables = {**os.environ, **({"TERM": "xterm-256color"} if terminal else {}), **(environment or {})}
    failed, tell = os.pipe()
    tell = _up(tell)
    try:
        with _ends(terminal, with_input=with_input) as (theirs, outputs, stdin):
            pid = os.fork()
            if pid == 0:
                try:
                    _take(theirs, tuple({*outputs, stdin}), control=terminal is not None)
                    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                        signal.signal(number, signal.SIG_DFL)
                    if folder:
                        os.chdir(folder)
                    os.execvpe(argv[0], list(argv), variables)  # noqa: S606 - what it is for
                except OSError as error:
                    os.write(tell, f"{error.errno}".encode())
                finally:
                    os._exit(127)
            os.close(tell)
            tell = -1
            failure = os.read(failed, 16)
            if failure:
                os.waitpid(pid, 0)
                raise InvalidInput(f"{argv[0][:200]!r} can't be started: {os.strerror(int(failure))}")
            return Program(pid, outputs, stdin, terminal is not None)
    finally:
        os.close(failed)
        if tell >= 0:
            os.close(tell)


def _take(theirs: Sequence[int], ours: Sequence[int], *, control: bool = False) -> None:
    """In the child: its own session and group, its streams, an interpreter's signals."""
    os.setsid()
    for number, descriptor in enumerate(theirs):
        os.dup2(descriptor, number)
    for descriptor in {*theirs, *ours}:
        if descriptor > 2:
            os.close(descriptor)
    if control:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Kept:
    """The first and the last half of what is added, up to `limit` bytes; the middle is counted and cut."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._half = limit // 2
        self._head, self._tail = bytearray(), bytearray()
        self.cut = 0

    def add(self, data: bytes) -> None:
        """Keep it, or a part."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        extra = len(self._tail) - self._half
        if extra > self._half:
            self.cut += extra
            del self._tail[:extra]

    def text(self) -> str:
        """What is kept, with a mark in the place of what is not."""
        extra = len(self._tail) - self._half
        if extra > 0:
            self.cut += extra
            del self._tail[:extra]
        if not self.cut:
            return shown(bytes(self._head + self._tail))
        return f"{shown(bytes(self._head))}\n… {self.cut} bytes cut …\n{shown(bytes(self._tail))}"


def shown(data: bytes) -> str:
    """As text; what is none is spelled out."""
    return data.decode("utf-8", "backslashreplace")


def piece_of(data: bytes) -> dict[str, str]:
    """Bytes as a piece carries them: text where they are, base64 otherwise."""
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def bytes_of(said: Mapping[str, Any]) -> bytes:
    """The opposite. `InvalidInput` for base64 that is none."""
    text = said.get("text")
    if isinstance(text, str):
        return clean_text(text).encode("utf-8")
    try:
        return base64.b64decode(str(said.get("base64") or ""), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("no base64") from None


def feed(program: Program, said: Mapping[str, Any]) -> bool:
    """One answer of whoever gives input; whether more is to be asked for.

    ``{"text" or "base64", "eof", "signal", "size": [rows, columns]}``: each may be left out.
    """
    number, size = said.get("signal"), said.get("size")
    if isinstance(number, int) and number in signal.valid_signals():
        program.send_signal(number)
    if isinstance(size, list) and len(size) == 2 and all(isinstance(one, int) for one in size):
        program.resize(*size)
    data = bytes_of(said)
    if data and not program.write(data):
        return False
    if said.get("eof"):
        program.close_input()
        return program.terminal
    return True
