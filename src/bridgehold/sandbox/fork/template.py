"""The mounts that forks begin with, and a cover over the zygote's own /proc (docs/adr/0004).

A zygote has every capability over its sessions' user namespaces, since its uid owns them. Through a
/proc that shows them it could read what they hold. So once it is warm, a copy of its mount namespace
is kept for the forks, and its own /proc is covered for good. It can name no session then: it has no
/proc, may not call ``pidfd_open``, and holds no descriptor that it was not given.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import msgspec

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.limits import shortage

_READY = b"R"
_MAX_REPORT = 4096
_SECONDS = 10.0
_COVER_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


class _Ends(msgspec.Struct, frozen=True, kw_only=True):
    told: int
    go: int


class Template:
    """A copy of a zygote's mount namespace under way, by a helper that runs nothing but this. `step` it."""

    def __init__(self, zygote_fd: int) -> None:
        """`zygote_fd`: a pidfd. Forks; raises `OSError` with nothing left."""
        self._deadline = time.monotonic() + _SECONDS
        self._taken = -1
        with contextlib.ExitStack() as stack:
            self._report, told = os.pipe()
            stack.callback(os.close, told)
            stack.callback(os.close, self._report)
            go, self._go = os.pipe()
            stack.callback(os.close, go)
            stack.callback(os.close, self._go)
            os.set_blocking(self._report, False)
            self.helper = os.fork()
            if self.helper == 0:
                _help(zygote_fd, _Ends(told=told, go=go))
            stack.pop_all()
        os.close(told)
        os.close(go)

    def step(self) -> int | None:
        """The descriptor of the mount namespace that shells are made from, the caller's from then on; None:
        not yet. Raises `UnsupportedError` as soon as there will be none."""
        try:
            heard = os.read(self._report, _MAX_REPORT)
            if heard != _READY:
                raise shortage.decode_failure(heard.removeprefix(_READY), "no mounts for forks: no answer")
            if self._taken < 0:
                self._taken = os.open(f"/proc/{self.helper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                os.write(self._go, _READY)
                return None
        except BlockingIOError:
            if time.monotonic() > self._deadline:
                raise UnsupportedError("no mounts for forks: not in time", retry="later") from None
            return None
        except OSError as error:
            raise UnsupportedError(f"no mounts for forks: {error}") from error
        taken, self._taken = self._taken, -1
        return taken

    def close(self) -> int:
        """Whatever has come of it. Its helper, which dies now, is the caller's to reap."""
        for descriptor in (self._report, self._go, self._taken):
            if descriptor >= 0:
                os.close(descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.helper, signal.SIGKILL)
        return self.helper


def _help(zygote_fd: int, ends: _Ends) -> None:
    try:
        syscalls.close_all_but({ends.told, ends.go, zygote_fd})
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.setns(zygote_fd, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # or the launcher may not open its namespace
        own = os.open("self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        os.write(ends.told, _READY)
        if os.read(ends.go, 2) != _READY:
            os._exit(1)
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/proc", "tmpfs", _COVER_FLAGS, "size=4k,nr_inodes=1,mode=0555")
        os.write(ends.told, _READY)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - a forked child must end here, whatever it was
        with contextlib.suppress(OSError):
            os.write(ends.told, shortage.encode_failure(error, "no mounts for forks"))
        os._exit(126)
