"""A private host: the same processes as a service's, started by a client and ended with it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Self

from bridgehold.config.layout import HOME_VARIABLE, Layout
from bridgehold.error_texts import from_log_text
from bridgehold.errors import HostUnavailableError

if TYPE_CHECKING:
    from concurrent.futures import Future

_READY_SECONDS = 30.0
_STOP_SECONDS = 20.0
_KEPT = 4_000
_PIECE = 64 * 1024
_STAYS = b"+"
"""What its supervisor says, after that it listens, where others keep it (`supervisor.owner`)."""


class _Stderr:
    """What a host's processes, and an operator's functions, write to standard error: read as it comes, or
    whoever writes would wait once the pipe is full, the host's loop too. Its beginning is kept."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="bridgehold-stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while data := os.read(self._stream.fileno(), _PIECE):
                self._kept += data[: _KEPT - len(self._kept)]

    def so_far(self) -> str:
        """What has come by now."""
        return self._kept.decode(errors="replace").strip()

    def text(self) -> str:
        """Once nobody writes any more, or a second later."""
        self._thread.join(1.0)
        return self.so_far()


class PrivateHost:
    """Holds the write end of a lifeline: when the client ends, however it ends, the host ends too, as soon as
    nobody else is connected to it."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: int, word: int, said: _Stderr) -> None:
        self._process = process
        self._lifeline = lifeline
        self._word = word
        self._stderr = said

    @property
    def pid(self) -> int:
        """Its supervisor's."""
        return self._process.pid

    @classmethod
    def start(
        cls, layout: Layout, environ: Mapping[str, str] | None = None, given_up: int | None = None
    ) -> Self:
        """Start a host on `layout` and wait until it listens. Raises `HostUnavailableError`.

        `environ`: its environment; this process's, if left out. `given_up`: can be read once nobody waits.
        """
        lifeline_read, lifeline_write = os.pipe()
        ready_read, ready_write = os.pipe()
        stderr_read, stderr_write = os.pipe()
        # -P: nothing is imported from the folder that one stands in, which may be anybody's.
        argv = [sys.executable, "-P", "-m", "bridgehold.supervisor.main"]
        argv += ["--lifeline", str(lifeline_read), "--ready", str(ready_write), "--stderr", str(stderr_read)]
        argv += ["--config", str(layout.config), "--state", str(layout.state), "--run", str(layout.run)]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stderr=stderr_write,
            pass_fds=(lifeline_read, ready_write, stderr_read),
            start_new_session=True,
            env={key: value for key, value in (environ or os.environ).items() if key != HOME_VARIABLE},
        )
        for theirs in (lifeline_read, ready_write, stderr_write):
            os.close(theirs)
        said = _Stderr(os.fdopen(stderr_read, "rb", 0))
        waited = [ready_read] if given_up is None else [ready_read, given_up]
        readable, _, _ = select.select(waited, [], [], _READY_SECONDS)
        if given_up in readable:
            process.terminate()
        elif readable and os.read(ready_read, 1):
            return cls(process, lifeline_write, ready_read, said)
        os.close(ready_read)
        late = not (readable or said.so_far())  # what an end leaves half begun says is no reason
        os.close(lifeline_write)
        raise _start_failure(process, said, late=late)

    @classmethod
    async def begin(cls, layout: Layout, environ: Mapping[str, str] | None = None) -> Self:
        """As `start`; whoever is cancelled meanwhile leaves none behind."""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(1, "bridgehold-start")
        given_up, give_up = os.pipe()
        starting = pool.submit(cls.start, layout, environ, given_up)
        starting.add_done_callback(lambda _: os.close(given_up))
        pool.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_stop_late)
            raise
        finally:
            os.close(give_up)

    def stop(self) -> None:
        """End the host and wait until its processes and sandboxes are gone.

        Where somebody else is connected to it, it ends after that one, and nobody waits here.
        """
        os.close(self._lifeline)
        with os.fdopen(self._word, "rb", 0) as word:
            heard, _, _ = select.select([word], [], [], _STOP_SECONDS)
            if heard and word.read(1) == _STAYS:
                threading.Thread(target=self._process.wait, daemon=True).start()
                return
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.text()


def _stop_late(started: Future[Any]) -> None:
    """Of one that nobody waits for any more."""
    if not started.cancelled() and started.exception() is None:
        threading.Thread(target=started.result().stop, name="bridgehold-stop").start()


def _start_failure(process: subprocess.Popen[bytes], stderr: _Stderr, *, late: bool) -> HostUnavailableError:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    if process.returncode is None:
        process.kill()
        process.wait()
    said = stderr.text()
    if late:
        return HostUnavailableError(
            f"a private host was not ready within {_READY_SECONDS:.0f} s, and was ended",
            hint="The machine is busy or slow: try again, or run `bridgehold serve` and wait for its line.",
            retry="later",
        )
    what, remedy = from_log_text(said)
    return HostUnavailableError(
        f"a private host could not start: {what or f'status {process.returncode}'}",
        hint=remedy or "`bridgehold doctor` shows what this machine lacks.",
        retry="no",
    )
