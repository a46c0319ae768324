"""How one host takes the place of another: listening sockets and the lock outlive their supervisor.

The host asks its supervisor for another one; that asks the version that is installed now whether it could
start. If so the host leaves: it accepts nobody more, lets what runs finish, and refuses the rest as "not
begun". Once all its processes are gone, the supervisor becomes the new version (`execve`), with the sockets
in its hands, where meanwhile whoever connects waits. Nothing is ever written, counted or run by two hosts.

Sockets come to a supervisor as from systemd (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`), from whom they
may have come in the first place: then they last longer than any host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from bridgehold import handed, writes
from bridgehold.config.layout import Layout
from bridgehold.errors import ConfigError, HostUnavailableError, UnsupportedError
from bridgehold.host.startup import (
    ANOTHER,
    CHECK_SECONDS,
    DESERTED,
    GO,
    LONGEST_FILE,
    LONGEST_REASON,
    READY,
    RELEASE,
    REREAD,
    USED,
    WRITE,
)
from bridgehold.ids import whole_number
from bridgehold.sandbox import syscalls

CHECK = "--check"
"""Of the command line that started the host: start nothing, say whether one could."""
_LAST_STEP_SECONDS, _ANOTHERS_SECONDS = 0.5, 20.0
_FIRST_DESCRIPTOR = 3
_OUT_OF_THE_WAY = 64
_LONGEST_NUMBER = 20
_NAMES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_OURS, _LOCK = "bridgehold", "bridgehold-lock"
"""Names of descriptors that a supervisor gives to the next; systemd's have others."""


class Inherited(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets and the lock that a supervisor inherits from systemd or from the supervisor before it."""

    host: socket.socket | None = None
    http: socket.socket | None = None
    lock: int = -1
    lasting: bool = False
    """Somebody else holds the sockets too: they stay when this one ends for good."""


def take(environ: MutableMapping[str, str], pid: int, first: int = _FIRST_DESCRIPTOR) -> Inherited:
    """The descriptors that `environ` says `pid` was given, from `first` on; it says so no longer.

    Raises `ConfigError` for a socket that is none of ours.
    """
    said = [environ.pop(name, "") for name in _NAMES]
    try:
        count = whole_number(said[1])
    except ValueError:
        count = 0
    if said[0] != str(pid) or not count:
        return Inherited()
    names = said[2].split(":")
    host: socket.socket | None = None
    http: socket.socket | None = None
    lock, lasting = -1, False
    for number in range(count):
        name = names[number] if number < len(names) else ""
        os.set_inheritable(first + number, False)
        if name == _LOCK:
            lock = first + number
            continue
        lasting = lasting or name != _OURS
        found = socket.socket(fileno=first + number)
        if found.type != socket.SOCK_STREAM or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(
                f"descriptor {first + number} ({name}) is no listening stream socket", hint=_UNIT
            )
        if found.family == socket.AF_UNIX:
            host = found
        else:
            http = found
    return Inherited(host=host, http=http, lock=lock, lasting=lasting)


@contextlib.contextmanager
def held_lock(layout: Layout, given: int, *, private: bool = False) -> Iterator[int]:
    """The layout's lock, held: `given` by the supervisor before this one, or taken.

    `private`: for a host that ends with a command; one of another command's may have something to finish.
    """
    path = layout.run / "host.lock"
    try:
        descriptor = given if given >= 0 else writes.open_lock(path)
    except OSError as error:
        hint = "Look who put something else in its place; remove it."
        if isinstance(error, PermissionError):
            hint = f"Let uid {os.geteuid()} write it, or set BRIDGEHOLD_HOME to a folder of your own."
        raise ConfigError(
            f"the host's lock can't be opened: {error.strerror}", where=str(path), hint=hint
        ) from error
    try:
        _take(descriptor, _ANOTHERS_SECONDS if private else _LAST_STEP_SECONDS)
    except BlockingIOError as error:
        os.close(descriptor)
        raise HostUnavailableError(
            "a host is already running on this layout",
            where=str(layout.socket),
            hint="Use it (every command finds it by its socket), or stop it with `bridgehold stop`.",
            retry="no",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(lock: int, seconds: float) -> None:
    """Its holder may be about to end. Raises `BlockingIOError`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def host_listener(layout: Layout, given: Inherited) -> socket.socket:
    """The host's: as it was given, if it is the layout's, or made. It stays open here for as long as this."""
    if given.host is not None:
        if given.host.getsockname() == str(layout.socket):
            return given.host
        if given.lasting:
            raise ConfigError(
                f"the socket unit listens on {given.host.getsockname()}, and the host's place is another",
                where=str(layout.socket),
                hint="Set its `ListenStream=` to this path.",
            )
        given.host.close()
    return listen_at(layout.socket, 0o666)  # its folder is 0711; peer uid or token decide who may do what


def listen_at(path: Path, mode: int) -> socket.socket:
    """A listening unix socket at `path`, in place of an old one, with `mode` from its first moment.

    Raises `OSError`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    before = os.umask(0o777 & ~mode)  # born with its mode; nobody connects before `listen`
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"can't make the host's socket: {error.strerror or error}",
            where=str(path),
            hint="A socket's path has at most 107 bytes; choose a shorter BRIDGEHOLD_HOME.",
        ) from error
    finally:
        os.umask(before)
    listener.listen(128)  # the host widens it
    return listener


_UNIT = "The socket unit gives one `ListenStream=` of the host's path, and at most one of HTTP's address."


def command_line(argv: Sequence[str], original: Sequence[str], executable: str) -> list[str]:
    """How this process was started: what starts the version that is installed now (pure but for one look).

    A script is started by its own first line, which a new installation may have changed.
    """
    if original[1:2] == argv[:1] and os.access(argv[0], os.X_OK):
        return [str(Path(argv[0]).absolute()), *argv[1:]]
    return [executable, *original[1:]]


class OriginalMounts:
    """The mounts that the supervisor was started among; as root it hides folders from itself later."""

    def __init__(self) -> None:
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Put this process back among those mounts and into its first working folder. Raises `OSError`."""
        if os.getuid() == 0:
            syscalls.setns(self._mounts, syscalls.CLONE_NEWNS)
        os.fchdir(self._folder)

    def close(self) -> None:
        """Let go of the two descriptors."""
        os.close(self._folder)
        os.close(self._mounts)


class Check:
    """The version that is installed now, asked whether it could start. Watch `pidfd`, then ask `reason`."""

    def __init__(self, command: Sequence[str], outside: OriginalMounts) -> None:
        def begin() -> None:
            signal.alarm(CHECK_SECONDS)
            outside.enter()

        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open until it has been read
        try:
            self._process = subprocess.Popen(
                [*command, CHECK],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                preexec_fn=begin,  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            self._said.close()
            raise UnsupportedError(f"{command[0]}: {error.strerror}") from error
        self.pidfd = os.pidfd_open(self._process.pid)

    def reason(self) -> str:
        """Why it couldn't; empty: it could."""
        status = self._process.wait()
        os.close(self.pidfd)
        with self._said as file:
            file.seek(0)
            said = file.read(LONGEST_REASON).decode(errors="replace").strip()
        if status == -signal.SIGALRM:
            return f"it gave no answer within {CHECK_SECONDS} s; the machine may be busy: try again"
        return "" if status == 0 else said or f"status {status}"

    def give_up(self) -> None:
        """End the version that is being tried, and read what it said."""
        self._process.kill()
        self.reason()


def become(command: Sequence[str], given: Inherited, outside: OriginalMounts) -> NoReturn:
    """Run `command` in this process's place, with the sockets and the lock. Raises `OSError`."""
    theirs = "" if given.lasting else _OURS
    kept = [(given.lock, _LOCK)]
    kept += [(found.fileno(), theirs) for found in (given.host, given.http) if found is not None]
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for one, _ in kept]
    environment = {
        **os.environ,
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(kept)),
        "LISTEN_FDNAMES": ":".join(name for _, name in kept),
    }
    outside.enter()
    for number, descriptor in enumerate(moved, _FIRST_DESCRIPTOR):
        os.dup2(descriptor, number)
    os.execve(command[0], list(command), environment)  # noqa: S606 - no shell is wanted


class Replacing:
    """The supervisor's side of `SupervisorLink`: one question at a time, asked of `command`."""

    def __init__(
        self,
        channel: socket.socket,
        command: Sequence[str],
        outside: OriginalMounts,
        *,
        ready: Callable[[], None] | None,
        leave: Callable[[], None],
        kept: Callable[[], None] = lambda: None,
        write: Callable[[bytes], bytes],
        release: Callable[[bytes, int], bytes] = lambda _said, _descriptor: b"",
        reread: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """`ready`: called once the host listens; `leave`: as soon as it is to leave; `kept`: where it
        stays though its owner is gone. `write`: a file that the
        host asks for; its answer. `release`: likewise of a bridge, with the descriptor that came, or -1.
        `reread`: the configuration, which the host says nothing of."""
        self.agreed = False
        """The host leaves, and another takes its place."""
        self.serves = self.deserted = False
        """It listens; and a private one's owner is gone, and so is everybody else."""
        self._channel = channel
        self._command = command
        self._outside = outside
        self._ready = ready
        self._kept = kept
        self._leave = leave
        self._write = write
        self._release = release
        self._reread = reread
        self._check: Check | None = None
        self._asked = b""
        """The number of the question that is being checked."""
        self._open = True

    def watch(self, poller: select.poll) -> None:
        """Have `poller` tell when the host asks to be replaced."""
        poller.register(self._channel, select.POLLIN)

    def takes(self, descriptor: int, poller: select.poll) -> bool:
        """Whether it was one of ours that could be read; then it has been."""
        if descriptor == self._channel.fileno():
            if self._open:
                self._hear(poller)
        elif self._check is not None and descriptor == self._check.pidfd:
            poller.unregister(descriptor)
            reason, self._check = self._check.reason(), None
            self._answer(self._asked, reason.encode() or GO, poller)
            if not reason:
                self.agreed = True
                self._leave()
        else:
            return False
        return True

    def close(self) -> None:
        """End a check under way, and the channel to the host."""
        if self._check is not None:
            self._check.give_up()
        self._channel.close()

    def _hear(self, poller: select.poll) -> None:
        given: list[int] = []
        try:
            said, given, _ = handed.receive(self._channel, 4 * LONGEST_FILE, 1, handed.NOW)
        except BlockingIOError:
            return
        except OSError:  # it died with an answer unread
            said = b""
        try:
            self._take(said, given[0] if given else -1, poller)
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _take(self, said: bytes, descriptor: int, poller: select.poll) -> None:
        verb, _, rest = said.partition(b" ")
        number, _, rest = rest.partition(b" ")
        if not said:
            self._lose(poller)
        elif verb == WRITE:
            self._answer(number, self._write(rest), poller)
        elif verb == RELEASE:
            self._answer(number, self._release(rest, descriptor), poller)
        elif verb == REREAD:
            self._answer(number, self._reread(), poller)
        elif verb == READY:
            self.serves = True
            if self._ready is not None:
                self._ready()
        elif verb == USED:
            self._kept()
        elif verb == DESERTED:
            self.deserted = True
        elif verb == ANOTHER and not self._command:
            self._answer(number, b"it is a private host, and ends with whoever started it", poller)
        elif verb == ANOTHER and self._check is None:
            try:
                self._check = Check(self._command, self._outside)
            except UnsupportedError as error:
                self._answer(number, error.message.encode(), poller)
                return
            self._asked = number
            poller.register(self._check.pidfd, select.POLLIN)

    def _answer(self, number: bytes, said: bytes, poller: select.poll) -> None:
        """Without waiting: who leaves answers unread, so that none fits in, is heard no longer."""
        try:
            self._channel.send(b"%b %b" % (number[:_LONGEST_NUMBER], said), socket.MSG_DONTWAIT)
        except OSError:
            self._lose(poller)

    def _lose(self, poller: select.poll) -> None:
        if self._open:
            self._open = False
            poller.unregister(self._channel)
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)  # its number stays taken: `poller` may still tell it
