"""A fork of the zygote on its way to be a session's worker. It never returns to the zygote's code.

At two gates it waits until the launcher has seen it: where it was forked, and in the session's cgroup.
Then it joins the session's namespaces, forks once more to be in their pid namespace, takes the
session's uid, and drops everything. What it does here protects nobody from a hostile framework:
the namespaces are others' work, and the launcher proves the result from outside.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from typing import Any, Callable, Dict, List

from . import boot, interpreter, kernel, renew, sources

NAMESPACES = 7
MAX_DESCRIPTORS = 32
"""Frames in, frames out, log, gate, report, standard output, the session's seven namespaces (the user's
first), and on cgroup v1 the files by which the fork moves itself into its cgroup."""
_FORKED, _MOVED, _JOINED, _FAILED, _RELEASE = b"F", b"M", b"J", b"E", b"R"
REPORT = 4
"""Which of an order's descriptors the fork reports to."""
_STATUS_FAILED = 4


Setter = Callable[[int], Any]
"""Of a thread pool that is loaded."""


def become_worker(order: Dict[str, Any], descriptors: List[int], parent: int, setters: List[Setter]) -> None:
    """Join, fork, drop, renew, serve; never returns.

    `parent` is a pipe that ends when the zygote has let go of all `descriptors`.
    """
    report = -1
    try:
        report = descriptors[REPORT]
        os.read(parent, 1)
        os.close(parent)
        frames_in, frames_out, log, gate, report, output, *others = descriptors
        _pass(gate, report, _FORKED)
        for entry in others[NAMESPACES:]:
            os.write(entry, b"0")
        _pass(gate, report, _MOVED)
        for namespace in others[:NAMESPACES]:
            kernel.setns(namespace, 0)  # each is the launcher's to allow, and no more than these
        if os.fork():
            os.close(report)  # its end is the worker's word alone: this process takes a while to be gone
            os._exit(0)
        os.setsid()
        wire = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, boot.FIRST_FREE_FD) for fd in (frames_in, frames_out)]
        os.dup2(output, 1)
        os.dup2(log, 2)
        kernel.close_all_but({report, *wire})
        _limit(order["rlimits"])
        _drop(order["uid"])
        os.write(report, _JOINED)
        os.close(report)
        report = -1
        renew.renew(order["environment"], order["threads"], setters)
        os.chdir(order["working_directory"])
        interpreter.set_up()
        sources.use(boot.BRIDGE)
        boot.leave(boot.serve(*wire))
    except BaseException as error:  # noqa: BLE001 - a fork must end here, whatever it was
        if report >= 0 and isinstance(error, OSError):
            tell_failure(report, error)
        os.write(2, f"bridgehold: the fork failed: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(_STATUS_FAILED)


def tell_failure(report: int, error: OSError) -> None:
    """Say which shortage of the machine it was, if it was one."""
    os.write(report, _FAILED + str(error.errno or 0).encode())


def _pass(gate: int, report: int, done: bytes) -> None:
    """Say what is done, and wait for the launcher to have seen it."""
    os.write(report, done)
    if os.read(gate, 2) != _RELEASE:
        os._exit(_STATUS_FAILED)


def _limit(limits: Dict[str, int]) -> None:
    for number, wanted in limits.items():
        _, hard = resource.getrlimit(int(number))
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(int(number), (value, value))


def _drop(uid: int) -> None:
    """The session's uid, no capability: nothing here can be taken back."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # the change of uid took it: its own /proc would be root's
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdout.flush()
