"""The namespaces that a fork joins, made by the launcher's own code ahead of it (docs/adr/0004).

Three processes, each living for a moment. The *helper* enters the session's cgroup and the zygote's
namespaces, where it alone has capabilities. Its child takes the zygote's uid and unshares a user
namespace, whose owner is then the zygote's uid: that, and nothing else, lets a fork of the zygote
join. The helper maps it, since only a process of the parent namespace may. The grandchild is pid 1
of the rest: it mounts, bounds, drops everything and becomes a blocked ``cat``, which holds no memory
of the launcher's, has its orphans reaped by the kernel, and ends when the launcher does.

The zygote is stopped meanwhile, since its uid owns what is being made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct

import msgspec

from bridgehold.sandbox import syscalls
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.guest_files import HIDDEN, held_place, is_proc_file
from bridgehold.sandbox.launch import network
from bridgehold.sandbox.launch.staging import TERMINALS, inodes
from bridgehold.sandbox.limits import shortage
from bridgehold.sandbox.limits.rlimits import apply_rlimits, lift_shared_rlimits
from bridgehold.sandbox.values import GUEST_UID, Mount, SandboxSpec

_DONE = b"R"
_GO = b"G"
_INIT = "/usr/bin/cat"
_MAX_REPORT = 4096
_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)
_COVERS = ("sys", "sysrq-trigger", "irq", "bus")
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_OWN_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV


class ShellPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The namespaces that are made for one fork before it joins them."""

    spec: SandboxSpec
    uid: int
    """The session's."""
    zygote_fd: int
    """A pidfd of the zygote, whose namespaces are the parents."""
    template: int
    """The mount namespace to begin with."""
    zygote_uid: int
    seccomp: bytes
    rlimits: dict[int, int]


class Shell:
    """One set of namespaces under way. Readable `waits_for` means `advance` is due."""

    def __init__(self, plan: ShellPlan, cgroup: SessionCgroup) -> None:
        """Forks the helper. From here on a failure needs `abort`, and then the end of the cgroup.

        Raises `OSError` with nothing left."""
        self._report = self.death_watch = self._helper_fd = -1
        self.helper = 0
        self._heard = b""
        launcher = os.getpid()
        self._report, told = os.pipe()
        try:
            death_watch, self.death_watch = os.pipe()
        except OSError:
            os.close(told)
            self._close()
            raise
        try:
            self.helper = os.fork()
            if self.helper == 0:
                _help(plan, cgroup, _Ends(launcher=launcher, death_watch=death_watch, told=told))
            self._helper_fd = os.pidfd_open(self.helper)
        except OSError:
            if self.helper:  # ours, and not reaped yet: once it is dead, as an orphan
                os.kill(self.helper, signal.SIGKILL)
            self._close()
            raise
        finally:
            os.close(told)
            os.close(death_watch)

    @property
    def waits_for(self) -> int:
        """The report, and after that the helper's end, for which the quota of its cgroup may have it wait."""
        return self._report if self._report >= 0 else self._helper_fd

    def advance(self) -> bool:
        """One step; true once the shell stands and its helper is gone. Raises what that told."""
        if self._report >= 0:
            part = os.read(self._report, _MAX_REPORT)
            self._heard += part
            if not part or len(self._heard) >= _MAX_REPORT:
                os.close(self._report)
                self._report = -1
            return False
        if not os.waitpid(self.helper, os.WNOHANG)[0]:
            return False
        self.helper = 0
        self._close(death_watch=False)
        if self._heard != _DONE:
            raise shortage.decode_failure(
                self._heard.removeprefix(_DONE), "no namespaces for a fork: its helper died"
            )
        return True

    def keep_death_watch(self) -> int:
        """The descriptor on whose life the shell's init depends: the caller's from now on."""
        death_watch, self.death_watch = self.death_watch, -1
        return death_watch

    def abort(self) -> tuple[int, int]:
        """Kill the helper. It (0: it is gone) and its pidfd are the caller's: to reap, and to close."""
        helper, descriptor = self.helper, self._helper_fd
        if helper:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            self._helper_fd = -1
        self.helper = 0
        self._close()
        return (helper, descriptor) if helper else (0, -1)

    def _close(self, *, death_watch: bool = True) -> None:
        for descriptor in (self._report, self._helper_fd, self.death_watch if death_watch else -1):
            if descriptor >= 0:
                os.close(descriptor)
        self._report = self._helper_fd = -1
        self.death_watch = -1 if death_watch else self.death_watch


class _Ends(msgspec.Struct, frozen=True, kw_only=True):
    launcher: int
    death_watch: int
    told: int


def _help(plan: ShellPlan, cgroup: SessionCgroup, ends: _Ends) -> None:
    """The helper: never returns. It is in its cgroup before anything else."""
    try:
        _die_with(ends.launcher)
        cgroup.enter()
        ready, ready_told = os.pipe()
        go, go_told = os.pipe()
        own = {ends.death_watch, ends.told, ready, ready_told, go, go_told, plan.zygote_fd, plan.template}
        syscalls.close_all_but(own)
        lift_shared_rlimits()
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.setns(plan.zygote_fd, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
        syscalls.setns(plan.template, syscalls.CLONE_NEWNS)
        child = os.fork()
        if child == 0:
            for descriptor in (proc, ready, go_told, plan.zygote_fd, plan.template):
                os.close(descriptor)
            _unshare(plan, ends, ready_told, go)
        os.close(ready_told)
        if os.read(ready, 1) == _GO:
            # The session's uid as a guest's, and as 0 the zygote's own unused one: devpts asks for a root.
            extents = f"0 0 1\n{GUEST_UID} {plan.uid} 1\n".encode()
            for name in ("gid_map", "uid_map"):
                table = os.open(f"{child}/{name}", os.O_WRONLY, dir_fd=proc)
                os.write(table, extents)
                os.close(table)
            os.write(go_told, _GO)
        os.waitpid(child, 0)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - a forked child must end here, whatever it was
        _fail(ends.told, "helper", error)


def _unshare(plan: ShellPlan, ends: _Ends, ready: int, go: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(plan.zygote_uid, plan.zygote_uid, plan.zygote_uid)
        os.setresuid(plan.zygote_uid, plan.zygote_uid, plan.zygote_uid)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # or the helper may not open its maps
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready, _GO)
        os.close(ready)
        if os.read(go, 2) != _GO:
            os._exit(1)
        os.close(go)
        syscalls.unshare(_NAMESPACES)
        if os.fork() == 0:
            _become_init(plan, ends)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - as above
        _fail(ends.told, "namespaces", error)


def _become_init(plan: ShellPlan, ends: _Ends) -> None:
    try:
        _mount_own(plan.spec)
        for path, value in (("user/max_user_namespaces", "0"), *network.SETTINGS):
            network.write(f"/proc/sys/{path}", value)
        _cover_proc()
        socket.sethostname(plan.spec.hostname)
        _raise_loopback()
        apply_rlimits(plan.rlimits)
        os.setresgid(GUEST_UID, GUEST_UID, GUEST_UID)
        os.setresuid(GUEST_UID, GUEST_UID, GUEST_UID)
        syscalls.drop_capabilities()
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the session are reaped by the kernel
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(ends.death_watch, 0)
        os.dup2(null, 1)
        os.dup2(null, 2)
        syscalls.close_all_but({ends.told})
        os.chdir("/")
        syscalls.load_filter(plan.seccomp)
        os.write(ends.told, _DONE)  # closes at exec: the report's end
        os.execve(_INIT, [_INIT], {})  # noqa: S606 - no shell is wanted
    except BaseException as error:  # noqa: BLE001 - as above
        _fail(ends.told, "init", error)


def own_mounts(spec: SandboxSpec) -> tuple[Mount, ...]:
    """What a fork must not share with its zygote, in the order of mounting (pure)."""
    own = [mount for mount in spec.mounts if mount.kind in ("proc", "tmpfs")]
    return (*own, *filter(is_proc_file, spec.mounts))


def _mount_own(spec: SandboxSpec) -> None:
    for mount in own_mounts(spec):
        if mount.kind == "proc":
            syscalls.mount("proc", mount.target, "proc", _OWN_FLAGS | syscalls.MS_NOEXEC)
            continue
        if is_proc_file(mount):  # from the sandbox's root, whose flags it takes: read-only, without devices
            syscalls.mount(held_place(mount), mount.target, None, syscalls.MS_BIND)
            continue
        size = f"size={mount.size_bytes},nr_inodes={inodes(mount.size_bytes)}"
        options = f"{size},mode={mount.mode:04o},uid={GUEST_UID},gid={GUEST_UID}"
        syscalls.mount("tmpfs", mount.target, "tmpfs", _OWN_FLAGS, options)
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    syscalls.mount("devpts", "/dev/pts", "devpts", flags, TERMINALS)


def _cover_proc() -> None:
    """As bubblewrap does: read-only what of /proc is the machine's; and some of it not at all."""
    for name in (*_COVERS, *HIDDEN):
        path = f"/proc/{name}"
        if os.access(path, os.F_OK):
            source = path if name in _COVERS else os.devnull
            syscalls.mount(source, path, None, syscalls.MS_BIND | syscalls.MS_REC)
            flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
            syscalls.mount("none", path, None, flags | _OWN_FLAGS | syscalls.MS_NOEXEC)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _die_with(launcher: int) -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(125)


def _fail(told: int, where: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        os.write(told, shortage.encode_failure(error, f"no namespaces for a fork: {where}"))
    os._exit(126)
