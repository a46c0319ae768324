"""Work that a child of the launcher's does, since it may take long: the launcher's loop never waits for it.

What is hostile sets how long it takes to look at: a list that grows, a file system whose server has stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator

from bridgehold.errors import InternalError
from bridgehold.sandbox import syscalls

_PIECE = 1 << 16


class Aside:
    """One piece of work. `advance` whenever `descriptor` is readable, or now and then; `close` in the end."""

    def __init__(self, work: Callable[[], bytes | Iterator[bytes]], *, keep: Collection[int] = ()) -> None:
        """Forks. `work` runs in the child, which has none of the launcher's descriptors but those of `keep`;
        it gives its answer whole, or piece by piece.

        Raises `OSError` with nothing left.
        """
        self._data = b""
        self._pidfd = -1
        launcher = os.getpid()
        with contextlib.ExitStack() as stack:
            self.descriptor, answer = os.pipe()
            stack.callback(os.close, self.descriptor)
            stack.callback(os.close, answer)
            os.set_blocking(self.descriptor, False)
            self.child = os.fork()
            if self.child == 0:
                _work(work, {*keep, answer}, answer, launcher)
            try:
                self._pidfd = os.pidfd_open(self.child)
            except OSError:
                os.kill(self.child, signal.SIGKILL)  # ours, and not reaped yet: once it is dead, as an orphan
                raise
            stack.pop_all()
        os.close(answer)

    def advance(self) -> bytes | None:
        """The answer, once it is whole. Raises `InternalError` where there will be none."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.descriptor, _PIECE):
                self._data += part
            if not self._data:
                raise InternalError("a child of the launcher's ended without an answer")
            return self._data
        return None

    def so_far(self) -> bytes:
        """What has come of the answer, where it is late."""
        with contextlib.suppress(InternalError):
            self.advance()
        return self._data

    def reap(self, seconds: float) -> None:
        """`close`, and wait for the child's end, but no longer: one that doesn't die is left as an orphan."""
        self._kill()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.poll(seconds * 1000)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.close(), os.WNOHANG)

    def close(self) -> int:
        """Whatever has come of it. The child, which dies now, is the caller's to reap."""
        self._kill()
        os.close(self._pidfd)
        os.close(self.descriptor)
        return self.child

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _work(work: Callable[[], bytes | Iterator[bytes]], keep: set[int], answer: int, launcher: int) -> None:
    """The forked child: never returns."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(125)
        syscalls.close_all_but(keep)
        said = work()
        for piece in (said,) if isinstance(said, bytes) else said:
            view = memoryview(piece)
            while view:
                view = view[os.write(answer, view) :]
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a forked child must end here, whatever it was
        os._exit(126)
