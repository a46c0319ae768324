"""The folders that binds may come from, and how their sources are opened: without a wait.

What a path leads through may be a file system whose server is slow, has stopped, or is a session owner's own
program (FUSE, NFS, an automounter). So the launcher opens what the kernel knows already, without a word to
any of them (RESOLVE_CACHED), and asks for what it knows of it (`syscalls.known_facts`). For all else there is
`OpenedAside`: a child opens it, and has some seconds for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from bridgehold import handed
from bridgehold.errors import DeniedError, InternalError, UnsupportedError
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.aside import Aside
from bridgehold.sandbox.launch import mounts
from bridgehold.sandbox.limits.shortage import shortage
from bridgehold.sandbox.values import Mount, SandboxSpec

SECONDS = 10.0
"""For a child to open what a launch is bound from."""
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS


class NotAtHandError(Exception):
    """What `spec` is bound from can't be opened without a wait: a child does, and then all is done again."""

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__()
        self.spec = spec


class Roots:
    """The folders that binds may come from, held open since the start: a later rename changes nothing."""

    def __init__(self, read_roots: Iterable[str], build_root: str) -> None:
        self._held: dict[str, int] = {}
        self._covered = ("", -1)
        self.build_root = build_root
        self._paths = tuple(dict.fromkeys([*read_roots, build_root]))
        self._real = {path: _real(path) for path in self._paths}
        self._at_hand: dict[str, int] = {}
        for path in self._paths:
            with contextlib.suppress(OSError):
                self._root(path, syscalls.RESOLVE_CACHED)

    def cover(self, folder: str) -> None:
        """`folder` is about to be mounted over: what lies below stays within reach. Raises `OSError`."""
        self._covered = (folder, os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def replace(self, real: Mapping[str, str]) -> None:
        """From now on these are the folders, beside the build root. `real`: each without links.

        One that stays is what it was: a link that leads elsewhere since changes nothing.
        """
        known = {path: self._real.get(path, real[path]) for path in real}
        self._real = {**known, self.build_root: self._real[self.build_root]}
        self._paths = tuple(self._real)
        for path in [path for path in self._held if path not in self._real]:
            os.close(self._held.pop(path))
        for path in self._paths:
            with contextlib.suppress(OSError):
                self._root(path, syscalls.RESOLVE_CACHED)

    def open(self, mount: Mount, spec: SandboxSpec) -> int:
        """An O_PATH descriptor of a bind's source in `spec`, resolved beneath its root.

        Raises `DeniedError` where a link leads out of the root or the source isn't there; `NotAtHandError`
        where it would have to be waited for.
        """
        known = self._at_hand.get(mount.source)
        if known is not None and known >= 0:
            return os.dup(known)
        try:
            if known is None:
                return self._open(mount.source, syscalls.RESOLVE_CACHED)
            error = OSError(-known, os.strerror(-known))
        except BlockingIOError:
            raise NotAtHandError(spec) from None
        except OSError as found:
            error = found
        raise DeniedError(
            f"the launcher can't bind {mount.source}: {error.strerror}",
            where=mount.source,
            hint="The source must exist below its root, with no link that leads out of it.",
        ) from error

    def aside(self, spec: SandboxSpec) -> OpenedAside:
        """A child that opens all that `spec` is bound from. Raises `OSError`."""
        sources = [mount.source for mount in spec.mounts if mount.kind == "ro_bind"]
        return OpenedAside(sources, lambda source: self._open(source, 0), keep=self._held.values())

    @contextlib.contextmanager
    def at_hand(self, opened: Mapping[str, int]) -> Iterator[None]:
        """Have `open` give these while this lasts, and close them."""
        self._at_hand = dict(opened)
        try:
            yield
        finally:
            for descriptor in self._at_hand.values():
                if descriptor >= 0:
                    os.close(descriptor)
            self._at_hand = {}

    def replaced(self, spec: SandboxSpec, files: Mapping[str, tuple[int, int]]) -> str:
        """The first source whose name is another file's than `files` has, or nobody's; empty: there is none.

        Raises `NotAtHandError`, and `OSError` where the machine is too short of something to look.
        """
        for mount in spec.mounts:
            before = files.get(mount.target)
            if mount.kind != "ro_bind" or before is None:
                continue
            try:
                descriptor = self.open(mount, spec)
            except DeniedError as error:
                if isinstance(error.__cause__, OSError) and shortage(error.__cause__):
                    raise error.__cause__ from None
                return mount.source
            try:
                if mounts.same_file(syscalls.known_facts(descriptor)) != before:
                    return mount.source
            finally:
                os.close(descriptor)
        return ""

    def open_build(self, path: str, *, flags: int = os.O_PATH) -> int:
        """A descriptor of a build folder: directly in the build root, no link and no mount."""
        parent, name = os.path.split(path)
        if parent != self.build_root.rstrip("/") or name in ("", ".", ".."):
            raise DeniedError(f"{path} is not a build folder", where=path)
        try:
            return syscalls.openat2(
                self._root(self.build_root, 0),
                name,
                flags | os.O_DIRECTORY,
                syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV,
            )
        except OSError as error:
            raise DeniedError(f"{path} is not a build folder: {error.strerror}", where=path) from error

    def _open(self, source: str, resolve: int) -> int:
        roots = sorted((root for root in self._paths if below(source, root)), key=len, reverse=True)
        if not roots:  # /usr and the allowed files of /etc: root's own, and links of root's
            return syscalls.openat2(-100, source, os.O_PATH, resolve)
        beneath = os.path.relpath(source, roots[0])
        return syscalls.openat2(self._root(roots[0], resolve), beneath, os.O_PATH, _BENEATH | resolve)

    def _root(self, path: str, resolve: int) -> int:
        if path not in self._held:
            real, (place, below_it) = self._real[path], self._covered
            resolve |= syscalls.RESOLVE_NO_SYMLINKS
            if below_it >= 0 and real != place and below(real, place):
                beneath = os.path.relpath(real, place)
                self._held[path] = syscalls.openat2(below_it, beneath, os.O_PATH, _BENEATH | resolve)
            else:
                self._held[path] = syscalls.openat2(-100, real, os.O_PATH, resolve)
        return self._held[path]


class OpenedAside(Aside):
    """Sources being opened by a child. `advance`, then `take`."""

    def __init__(self, sources: list[str], opener: Callable[[str], int], *, keep: Iterable[int]) -> None:
        self.deadline = time.monotonic() + SECONDS
        self._theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with ours:
                super().__init__(lambda: _opened(sources, opener, ours), keep={*keep, ours.fileno()})
        except OSError:
            self._theirs.close()
            raise

    def take(self, answer: bytes) -> dict[str, int]:
        """Source → a descriptor of it, the caller's from now on; or the negative number of the error."""
        found = msgspec.json.decode(answer, type=dict[str, int])
        self._theirs.setblocking(False)
        for source, number in found.items():
            if not number:
                _, given, _ = handed.receive(self._theirs, 1, 1)
                # Without room for one more here, the kernel gives none and drops it.
                found[source] = given[0] if given else -errno.EMFILE
        return found

    def close(self) -> int:
        """As `Aside.close`."""
        self._theirs.close()
        return super().close()

    def expire(self) -> UnsupportedError:
        """It is late."""
        return UnsupportedError(
            f"what is granted can't be opened within {SECONDS:g} s: a file system doesn't answer",
            hint="Look at what is mounted there (its server, its daemon), or take it out of the grant.",
            retry="later",
        )


def _opened(sources: list[str], opener: Callable[[str], int], to: socket.socket) -> bytes:
    """In the child. What each is was asked of its file system here: the launcher asks the kernel alone."""
    found: dict[str, int] = {}
    for source in sources:
        try:
            descriptor = opener(source)
            os.fstat(descriptor)
            socket.send_fds(to, [b"."], [descriptor])
            found[source] = 0
        except OSError as error:
            found[source] = -(error.errno or errno.EIO)
    return msgspec.json.encode(found)


def _real(path: str) -> str:
    """`path` without links, as far as it is there; as it is, where that isn't known within `SECONDS`."""
    job = Aside(lambda: os.fsencode(os.path.realpath(path)))
    poller, until = select.poll(), time.monotonic() + SECONDS
    poller.register(job.descriptor, select.POLLIN)
    try:
        while (answer := job.advance()) is None and (left := until - time.monotonic()) > 0:
            poller.poll(left * 1000)
    except InternalError:
        answer = None
    finally:
        job.reap(1.0)
    return path if answer is None else os.fsdecode(answer)


def below(path: str, root: str) -> bool:
    """Whether `path` is `root`, or lies below it (pure)."""
    return path == root or path.startswith(root.rstrip("/") + "/")
