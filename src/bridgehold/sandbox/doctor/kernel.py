"""Kernel, user namespaces, and the sysctls that take them away."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import signal
import time
from functools import partial

from bridgehold.sandbox import syscalls
from bridgehold.sandbox.doctor.acts import become, in_child, read, session_uid
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed

_OLDEST = (5, 6)
_WANTED = (5, 14)
_MANY = 1000
_PTRACE_ATTACH = 16
_PR_SET_DUMPABLE = 4


def version_of(release: str) -> tuple[int, int]:
    """(major, minor) of ``6.1.0-13-amd64``; (0, 0) where it is none (pure)."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def kernel(_: Context) -> Check:
    """Whether the kernel has what sandboxes need."""
    release = platform.release()
    descriptor = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    os.close(descriptor)
    found = version_of(release)
    if found < _OLDEST:
        return failed("kernel", f"{release} lacks openat2", "Use a distribution with kernel 5.14 or newer.")
    if found < _WANTED:
        return caution(
            "kernel",
            f"{release}: pidfds work; no cgroup.kill, so sessions are ended process by process",
            "Use kernel 5.14 or newer.",
        )
    return passed("kernel", f"{release}; pidfds work")


def user_namespaces(context: Context) -> Check:
    """Whether user namespaces can be made; by making one."""

    def make(uid: int) -> int:
        become(uid)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        return 0

    uids = [os.getuid()] if os.getuid() != 0 else [0, context.uid_first]
    for uid in uids:
        code = in_child(partial(make, uid))
        if code != 0:
            return failed(
                "user-namespaces",
                f"uid {uid} can't make a user namespace: {_name(code)}",
                "sysctl -w user.max_user_namespaces=65536; on Debian kernels also "
                "kernel.unprivileged_userns_clone=1; see the rows apparmor and systemd.",
            )
    return passed("user-namespaces", "made one as " + " and as ".join(f"uid {uid}" for uid in uids))


def namespace_count(_: Context) -> Check:
    """Whether the limit on namespaces leaves room for sessions."""
    text = read("/proc/sys/user/max_user_namespaces")
    if not text.isdigit():
        return failed("namespace-count", "user.max_user_namespaces can't be read", "Mount a whole /proc.")
    if int(text) == 0:
        return failed(
            "namespace-count", "user namespaces are off", "sysctl -w user.max_user_namespaces=65536"
        )
    if int(text) < _MANY:
        return caution(
            "namespace-count",
            f"only {text} user namespaces; each session needs two",
            "sysctl -w user.max_user_namespaces=65536",
        )
    return passed("namespace-count", f"{text} user namespaces; each session needs two")


def apparmor(context: Context) -> Check:
    """Whether AppArmor keeps an ordinary user from making namespaces."""
    text = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if text in ("", "0"):
        why = "no such restriction" if text == "" else "kernel.apparmor_restrict_unprivileged_userns is 0"
        return passed("apparmor", f"{why}; this process is {_confinement()}")

    def capable() -> int:
        become(os.getuid() or context.uid_first)
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        return 0

    code = in_child(capable)
    remedy = (
        "Give bwrap an AppArmor profile with `userns,` (the distribution's apparmor-profiles has one), or "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0."
    )
    if code != 0:
        return caution(
            "apparmor",
            f"unprivileged user namespaces lose their capabilities ({_name(code)}); the row sandbox shows "
            "whether bwrap's own profile makes up for it",
            remedy,
        )
    return passed("apparmor", "the restriction is on, and a namespace made here works all the same")


def _confinement() -> str:
    text = read("/proc/self/attr/apparmor/current") or read("/proc/self/attr/current")
    return f"confined as {text[:80]}" if text and not text.startswith("unconfined") else "unconfined"


def yama(context: Context) -> Check:
    """Attach to a process of the same uid that forbade it, as our own four processes do."""
    scope = read("/proc/sys/kernel/yama/ptrace_scope") or "absent"

    def attach() -> int:
        if os.getuid() == 0:
            become(session_uid(context)[0])
        libc = ctypes.CDLL(None, use_errno=True)
        target = os.fork()
        if target == 0:
            libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            time.sleep(5)
            os._exit(0)
        time.sleep(0.1)
        result = libc.ptrace(_PTRACE_ATTACH, target, None, None)
        code = ctypes.get_errno()
        os.kill(target, signal.SIGKILL)
        return 0 if result == 0 else code

    code = in_child(attach)
    if code == 0:
        return failed(
            "yama",
            "a process that is not dumpable could be traced by its own uid",
            "Check for a security module that grants ptrace.",
        )
    if code != errno.EPERM:
        return caution("yama", f"tracing ended with {_name(code)}", "Please report this.")
    return passed("yama", f"tracing a process that forbids it: EPERM (ptrace_scope {scope})")


def _name(code: int) -> str:
    return errno.errorcode.get(code, f"status {code}")


PROBES = (
    Probe(name="kernel", proves="The kernel is new enough and has pidfds.", run=kernel),
    Probe(
        name="user-namespaces",
        proves="A user namespace can be made, as root and as the uid that a session gets.",
        run=user_namespaces,
    ),
    Probe(
        name="namespace-count",
        proves="`user.max_user_namespaces` leaves room for sessions.",
        run=namespace_count,
    ),
    Probe(
        name="apparmor",
        proves="AppArmor's restriction of unprivileged user namespaces does not take their capabilities.",
        run=apparmor,
    ),
    Probe(
        name="yama",
        proves="A process that forbids tracing can't be traced by its own uid.",
        run=yama,
    ),
)
