"""The mounts that forks begin with, and a cover over the zygote's own /proc (docs/adr/0004).

A zygote has every capability over its sessions' user namespaces, since its uid owns them. Through a
/proc that shows them it could read what they hold. So once it is warm, a copy of its mount namespace
is kept for the forks, and its own /proc is covered for good. It can name no session then: it has no
/proc, may not call ``pidfd_open``, and holds no descriptor that it was not given.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.limits import shortage

_READY = b"R"
_MAX_REPORT = 4096
_COVER_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


class _Ends(msgspec.Struct, frozen=True, kw_only=True):
    told: int
    go: int


def take_template(zygote_fd: int) -> int:
    """A descriptor of the mount namespace that shells are made from. Raises `UnsupportedError`.

    `zygote_fd`: a pidfd. The helper lives for a few milliseconds and runs nothing but this.
    """
    with contextlib.ExitStack() as stack:
        report, told = os.pipe()
        stack.callback(os.close, told)
        stack.callback(os.close, report)
        go, go_told = os.pipe()
        stack.callback(os.close, go)
        stack.callback(os.close, go_told)
        helper = os.fork()
        if helper == 0:
            _help(zygote_fd, _Ends(told=told, go=go))
        stack.pop_all()
    os.close(told)
    os.close(go)
    template = -1
    heard = b""
    failure: OSError | None = None
    try:
        heard = os.read(report, _MAX_REPORT)
        if heard == _READY:
            template = os.open(f"/proc/{helper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            os.write(go_told, _READY)
            heard = os.read(report, _MAX_REPORT)
    except OSError as error:
        failure = error
    finally:
        os.close(report)
        os.close(go_told)
        os.waitpid(helper, 0)
    if heard != _READY or failure is not None:
        if template >= 0:
            os.close(template)
        if failure is not None:
            raise UnsupportedError(f"no mounts for forks: {failure}") from failure
        raise shortage.decode_failure(heard.removeprefix(_READY), "no mounts for forks: no answer")
    return template


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
