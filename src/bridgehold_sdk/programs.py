"""Programs as child processes of a session: streams live and apart, input as it comes, the true end.

A program gets a process group of its own. What it leaves behind when it ends goes on as at home, until the
session ends with all that is in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.program_requests import Size
from bridgehold_sdk.threads import begin_thread

Piece = Callable[[str, bytes], None]
"""Takes what a program wrote: the stream's name, and bytes."""
_READ_BYTES = 64 * 1024
_LIVE_SECONDS = 0.02
"""Between two pieces at the least, but for the first."""
_STREAM_FIRST = 20
"""Where descriptors of ours lie, above those that a program expects."""
_TIOCSCTTY = 0x540E
_OURS: set[int] = set()
"""This side's ends of all that runs."""


def _let_go() -> None:
    """In a copy of this process, which would hold them open."""
    for descriptor in _OURS - {-1}:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _OURS.clear()


os.register_at_fork(after_in_child=_let_go)


class Ended(NamedTuple):
    """How a program ended: its exit status, or the number of the signal that ended it."""

    status: int
    signal: int


class Program:
    """A child process that was started, and this side's ends of its streams."""

    def __init__(self, pid: int, outputs: Mapping[int, str], stdin: int, *, terminal: bool = False) -> None:
        """`outputs`: descriptors to read, each with its stream's name. `stdin`: to write to; -1: none.

        `terminal`: its streams are one, of a terminal's.
        """
        self.pid = pid
        self.outputs = dict(outputs)
        self.stdin = stdin
        self.terminal = next(iter(outputs)) if terminal else -1
        self.ended: Ended | None = None
        self.over, over = pipe()
        """Readable once it has ended."""
        _OURS.update((*outputs, stdin, self.over, over))
        self._lock = threading.Lock()
        try:
            self._reaper = begin_thread("program", self._reap, over)
        except RuntimeError:  # no thread: nobody would see its end
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            _OURS.difference_update((*outputs, stdin, self.over, over))
            for descriptor in (self.over, over):
                os.close(descriptor)
            raise InvalidInput("this session has no room for another process") from None

    def _reap(self, over: int) -> None:
        status = 0
        with contextlib.suppress(ChildProcessError):  # the code has waited for all of its children
            status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        with self._lock:
            self.ended = Ended(code, 0) if code >= 0 else Ended(128 - code, -code)
        _OURS.discard(over)
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
        while data:
            taken = self.offer(data, _LIVE_SECONDS * 10)
            if taken is None:
                return False
            data = data[taken:]
        return True

    def offer(self, data: bytes, seconds: float) -> int | None:
        """Write what it takes within `seconds`: how many bytes. None: nobody is left to read."""
        taken, until = 0, time.monotonic() + seconds
        while taken < len(data):
            descriptor, poll = self.stdin, select.poll()
            if descriptor < 0:
                return None
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                break
            with self._lock:
                if self.stdin != descriptor:
                    return None
                os.set_blocking(descriptor, False)
                try:
                    taken += os.write(descriptor, data[taken : taken + _READ_BYTES])
                except BlockingIOError:
                    break
                except OSError:
                    return None
        return taken

    def end_input(self) -> None:
        """The program reads the end of its input; at a terminal, as if Ctrl-D were typed."""
        if self.terminal >= 0:
            self.write(b"\x04")
        else:
            self.close_input()

    def close_input(self) -> None:
        """Close this side's end."""
        with self._lock:
            stdin, self.stdin = self.stdin, -1
        if stdin >= 0:
            _OURS.discard(stdin)
            os.close(stdin)

    def resize(self, size: Size) -> bool:
        """Give its terminal another size; whether it has one."""
        with self._lock:
            if self.terminal < 0 or self.stdin < 0:
                return False
            _set_size(self.stdin, size)
        return True

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
        self.close_input()
        for descriptor in (*self.outputs, self.over):
            _OURS.discard(descriptor)
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError as error:
        if error.errno == errno.EIO:  # of a terminal that nobody has open any more
            return b""
        raise


def _set_size(descriptor: int, size: Size) -> None:
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


@contextlib.contextmanager
def _ends(
    *, with_input: bool, terminal: Size | None = None
) -> Iterator[tuple[list[int], dict[int, str], int]]:
    """The child's three descriptors; ours to read, with their names; ours to write, or -1.

    The child's are closed here afterwards; ours where the block fails.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if terminal is not None:
            try:
                own, other = os.openpty()
            except OSError as error:
                raise InvalidInput(f"there is no terminal left in this sandbox: {error.strerror}") from None
            ours.append(_up(own))
            theirs.append(_up(other))
            _set_size(ours[0], terminal)
            ours.append(fcntl.fcntl(ours[0], fcntl.F_DUPFD_CLOEXEC, _STREAM_FIRST))
            theirs *= 3
            yield theirs, {ours[0]: "stdout"}, ours[1]
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
        for descriptor in {*theirs}:
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


def _forked() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise InvalidInput(f"this session has no room for another process: {error.strerror}") from None


def fork(child: Callable[[], None], *, with_input: bool) -> Program:
    """A copy of this process that runs `child`, which must not come back."""
    with _ends(with_input=with_input) as (theirs, outputs, stdin):
        pid = _forked()
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
    with_input: bool,
    terminal: Size | None = None,
) -> Program:
    """A program by its name or path; `InvalidInput` where there is none."""
    if not argv or any("\0" in one for one in argv):
        raise InvalidInput("a command is a program's name and its arguments, as a list of text")
    kind = {} if terminal is None else {"TERM": "xterm-256color"}
    variables = {**os.environ, **kind, **(environment or {})}
    failed, tell = os.pipe()
    tell = _up(tell)
    try:
        with _ends(with_input=with_input, terminal=terminal) as (theirs, outputs, stdin):
            pid = _forked()
            if pid == 0:
                try:
                    _take(theirs, (*outputs, stdin))
                    if terminal is not None:
                        fcntl.ioctl(0, _TIOCSCTTY, 0)
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
            return Program(pid, outputs, stdin, terminal=terminal is not None)
    finally:
        os.close(failed)
        if tell >= 0:
            os.close(tell)


def _take(theirs: Sequence[int], ours: Sequence[int]) -> None:
    """In the child: its own session and group, its streams, an interpreter's signals."""
    os.setsid()
    for number, descriptor in enumerate(theirs):
        os.dup2(descriptor, number)
    for descriptor in {*theirs, *ours}:
        if descriptor > 2:
            os.close(descriptor)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
