"""The launcher: the only process with privilege. It starts, proves and ends sandboxes.

``python -m bridgehold.sandbox.launcher.main --fd-control N --fd-config M --fd-journal J``. It parses no guest
byte. One loop (`service`) on one thread: bubblewrap's parent-death signal is tied to the thread that
forks. EOF on the control socket means the host is gone: every sandbox is killed, every cgroup
removed, and the launcher ends.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

if __name__ == "__main__":
    gc.disable()  # no module that is being loaded is garbage

from bridgehold.error_texts import to_log_text
from bridgehold.errors import BridgeholdError, UnsupportedError, UsageError
from bridgehold.hardening import leave, open_descriptors, speak_heedless
from bridgehold.retold import hear
from bridgehold.sandbox import procfs, syscalls
from bridgehold.sandbox.cgroups import open_parent
from bridgehold.sandbox.launch import userns
from bridgehold.sandbox.launch.bwrap import met_bwrap
from bridgehold.sandbox.launch.mounts import own_mounts
from bridgehold.sandbox.launch.roots import Roots
from bridgehold.sandbox.launch.seccomp import ZYGOTE_RULES, compile_filter
from bridgehold.sandbox.launch.staging import NoStage, Stage
from bridgehold.sandbox.launch.uids import CellUids, UidPool, UidRange, split
from bridgehold.sandbox.launcher.channel import Channel
from bridgehold.sandbox.launcher.given import LauncherConfig
from bridgehold.sandbox.launcher.service import Launcher
from bridgehold.sandbox.launcher.worker import Parts
from bridgehold.sandbox.limits import slices
from bridgehold.sandbox.limits.bounds import Bounds
from bridgehold.sandbox.limits.rlimits import forbid_cores

_STANDARD = (0, 1, 2)


def set_up(config: LauncherConfig) -> Parts:
    """Everything that a launcher has before its first request; undoing it is `take_down`'s.

    Moves this (single-threaded) process into namespaces of its own. Raises `UnsupportedError`,
    naming the remedy, where the machine lacks a barrier.
    """
    ordinary = os.getuid() != 0
    ranges = userns.own_ranges() if ordinary and not config.shared_uid else None
    entered = userns.enter(ranges) if ranges is not None else 0
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # a change of uid cleared it, and closed our own /proc
    of_sessions, of_cells = split(_uid_range(config, entered), config.cells)
    uids = UidPool(of_sessions, Path(config.uid_folder))
    if uids.range.mode != "shared":
        own_mounts(made=bool(entered))
    roots = Roots(config.read_roots, config.build_root)
    stage: Stage | NoStage = NoStage()
    if uids.range.mode != "shared":
        needed = (*config.read_roots, config.build_root, config.uid_folder)
        stage = Stage(roots, needed=needed, seals=not entered)
    instance = f"{os.getpid()}-{procfs.start_time(os.getpid())}"
    parent = open_parent(config.cgroup, reserve_bytes=config.reserve_bytes, instance=instance)
    parent.sweep()
    return Parts(
        bounds=Bounds(
            read_roots=config.read_roots,
            build_root=config.build_root,
            devices=config.devices,
            max_memory_bytes=parent.capacity_bytes,
        ),
        overcommit=config.overcommit,
        parent=parent,
        uids=uids,
        cells=_cell_uids(config, of_cells),
        roots=roots,
        stage=stage,
        seccomp=compile_filter(),
        zygote_seccomp=compile_filter(ZYGOTE_RULES),
        bwrap=met_bwrap(),
        descriptors=open_descriptors(),  # each sandbox holds some: a soft limit of 1,024 is a few hundred
    )


def _set_up(config: LauncherConfig) -> Parts:
    """`set_up`, with what the kernel refuses as a typed refusal too."""
    try:
        return set_up(config)
    except OSError as error:
        raise UnsupportedError(
            f"the launcher can't be set up: {error.strerror or error}", where=str(error.filename or "")
        ) from error


def retake(parts: Parts, said: bytes) -> None:
    """From now on binds may come from the roots that the supervisor tells; what runs stays as it is."""
    told = msgspec.json.decode(said, type=LauncherConfig)
    parts.roots.replace({path: told.real[path] for path in told.read_roots})
    parts.bounds = msgspec.structs.replace(parts.bounds, read_roots=told.read_roots)


def take_down(parts: Parts) -> None:
    """After the last session: the stage, the parent cgroup, the uids' locks."""
    parts.stage.close()
    parts.parent.close()
    parts.uids.close()
    if parts.cells is not None:
        parts.cells.close()


def _cell_uids(config: LauncherConfig, uids: UidRange) -> CellUids | None:
    if uids.mode == "shared" or not uids.count:
        return None
    if uids.mode == "subuid":
        namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    else:
        namespace = userns.make(config.host_uid, uids.first, uids.count)
    return CellUids(UidPool(uids, Path(config.uid_folder)), namespace)


def _uid_range(config: LauncherConfig, entered: int) -> UidRange:
    if entered:
        return UidRange(mode="subuid", first=1, count=entered)
    if os.getuid() == 0:
        return UidRange(mode="range", first=config.uid_first, count=config.uid_count)
    return UidRange(mode="shared", first=os.getuid(), count=1)


def _hold_standard() -> None:
    """0, 1 and 2 must be something, or a pipe of a session would get such a number."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def _listen_to(supervisor: socket.socket, launcher: Launcher, parts: Parts) -> None:
    supervisor.set_inheritable(False)

    def ready(descriptor: int) -> None:
        if not hear(supervisor, functools.partial(retake, parts)):
            launcher.listen(descriptor, None)
            supervisor.close()

    launcher.listen(supervisor.fileno(), ready)


def main() -> int:
    """The process. Exits 0 after an orderly end, the error's status where it can't start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd-control", type=int, required=True)
    parser.add_argument("--fd-config", type=int, required=True)
    parser.add_argument("--fd-journal", type=int, default=-1)
    parser.add_argument("--fd-supervisor", type=int, default=-1)
    arguments = parser.parse_args()
    _hold_standard()
    speak_heedless()
    os.umask(0o022)  # a service's UMask=0077 would hide the stage from every session's uid
    forbid_cores()
    slices.shorten(reset_on_fork=True)
    with os.fdopen(arguments.fd_config, "rb") as file:
        config = msgspec.json.decode(file.read(), type=LauncherConfig)
    control = socket.socket(fileno=arguments.fd_control)
    control.set_inheritable(False)
    journal = socket.socket(fileno=arguments.fd_journal) if arguments.fd_journal >= 0 else None
    if journal is not None:
        journal.set_inheritable(False)
    supervisor = socket.socket(fileno=arguments.fd_supervisor) if arguments.fd_supervisor >= 0 else None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end is EOF, after the host has said why
    # A namespace's init outlives its killed monitor for a moment; then it is ours to reap.
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    try:
        if journal is None and not config.unrecorded:
            raise UsageError("a launcher records what it starts, and this one has no journal")
        parts = _set_up(config)
        gc.collect()
        gc.freeze()  # what a forked child would otherwise copy by merely counting references

        channel = Channel(control)
        try:
            launcher = Launcher(parts, channel, journal)
            if supervisor is not None:
                _listen_to(supervisor, launcher, parts)
            launcher.serve()
        finally:
            channel.close()
            take_down(parts)
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    gc.enable()
    leave(main())
