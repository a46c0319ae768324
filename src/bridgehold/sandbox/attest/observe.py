"""Proof from outside: what a worker is, read in the launcher's own /proc and compared with its spec.

Every process is judged, not only the first, and every one must be in the session's cgroup, in all
its controllers. Three kinds are told apart. bubblewrap's *monitor* runs no tenant's code and can't
be seen from inside, since it stays in the launcher's namespaces; it must have the session's uid, no
capability in force and no-new-privs. bubblewrap's *init* (pid 1 inside) can be reached from inside,
through /proc/1/mem; so it has to show everything that the third kind shows: the guest's own, in
all the namespaces, filtered, without privileges, seeing exactly the spec's mounts.

What this can't see: a process that is forked after the list was read. It inherits all that is
proven here and can gain nothing back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

import msgspec

from bridgehold.errors import AttestationError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.guest_files import HIDDEN, is_proc_file
from bridgehold.sandbox.launch.mounts import Identity, MountSeen, parse_mounts, shown_at
from bridgehold.sandbox.limits.shortage import shortage
from bridgehold.sandbox.values import Attestation, SandboxSpec

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_DEVICES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
_COVERS = frozenset(f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus", *HIDDEN))
MOST_THREADS = 512
"""Of all processes to be attested: to look for children takes a read for each, and all others wait."""
_PASSES = 8
"""How often processes are listed before what goes on changing is refused."""
_LIMIT_NAME = 26
"""Width of the first column of /proc/PID/limits."""
_KINDS = {"proc": "proc", "dev": "tmpfs", "tmpfs": "tmpfs", "file": "tmpfs"}


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One process as /proc shows it."""

    pid: int
    start_time: int
    parent: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: tuple[str, ...]
    no_new_privs: bool
    seccomp_mode: int
    namespaces: dict[str, int]
    mounts: dict[str, MountSeen]
    in_cgroup: bool
    threads: int = 1
    rlimits: dict[str, int] = {}
    """Name in /proc/PID/limits → hard value; unlimited ones are left out."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher knows of a worker, by having made it."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    """Supplementary groups that are allowed: none, but where sessions share the user's own uid."""
    net: int
    monitor: int
    """bubblewrap's outer process; 0 for a fork, which has none."""
    init: int
    init_start: int
    parent: int
    """Whose child the worker's own first process is: its init's, or for a fork its zygote's init's."""
    own_namespaces: dict[str, int]
    zygote_namespaces: dict[str, int] = {}
    """For a fork: those that it must have left."""
    only: int = 0
    """For a zygote: how many processes there must be, each with one thread; 0: no matter."""
    rlimits: dict[str, int] = {}
    """Name in /proc/PID/limits → the most that may show there."""
    mounts: dict[str, MountExpected]
    private: bool = True
    """Nothing that the machine mounts later shows inside."""


class MountExpected(msgspec.Struct, frozen=True, kw_only=True):
    """One mount as it must be seen from outside."""

    writable: bool
    kind: str = ""
    """File system type; empty where any will do (binds)."""
    identity: Identity | None = None
    """What the launcher put there; None where bubblewrap made it."""
    file: tuple[int, int] | None = None
    """The same, as `mounts.same_file` tells it, for when its owner has given it another name."""
    device: bool = False
    """A device that was granted: it is the one mount where devices work."""


def expected_mounts(
    spec: SandboxSpec,
    identities: Mapping[str, Identity] | None = None,
    files: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, MountExpected]:
    """Target → what must show there (pure). `identities` and `files`: from the stage, by target.

    A target that is no mount of the spec's lies below one: it was mounted there when it was staged.
    """
    files = files or {}
    found = {"/": MountExpected(writable=False, kind="tmpfs")}
    for target, identity in (identities or {}).items():
        found[target] = MountExpected(writable=False, identity=identity, file=files.get(target))
    for mount in spec.mounts:
        held = spec.kind == "zygote" and is_proc_file(mount)
        if mount.kind not in ("dir", "symlink", "text") and not held:
            found[mount.target] = MountExpected(
                writable=mount.kind in ("tmpfs", "proc", "device"),
                device=mount.kind == "device",
                kind=_KINDS.get(mount.kind, ""),
                identity=(identities or {}).get(mount.target),
                file=files.get(mount.target),
            )
    return found


def recognise(expected: Mapping[str, MountExpected], process: Observed) -> Observed:
    """`process`, with what was staged under the name that it had then.

    mountinfo tells what a bind shows by a name that its owner may change, or take away: then the file
    itself is asked.
    """
    named = dict(process.mounts)
    for target, seen in process.mounts.items():
        wanted = expected.get(target)
        staged = wanted.identity if wanted is not None else None
        if wanted is None or staged is None or wanted.file is None or seen.identity == staged:
            continue
        now = msgspec.structs.replace(seen.identity, root=staged.root)
        if now == staged and shown_at(process.pid, target, seen.number) == wanted.file:
            named[target] = msgspec.structs.replace(seen, identity=now)
    return msgspec.structs.replace(process, mounts=named)


def observe(pid: int, cgroup: SessionCgroup | None = None) -> Observed:
    """Read one process. Raises `FileNotFoundError` or `ProcessLookupError` where it is gone."""
    status = parse_status(procfs.read(f"/proc/{pid}/status"))
    return Observed(
        pid=pid,
        start_time=procfs.start_time(pid),
        parent=int(status["PPid"]),
        uids=tuple(int(n) for n in status["Uid"].split()),
        gids=tuple(int(n) for n in status["Gid"].split()),
        groups=tuple(int(n) for n in status["Groups"].split()),
        capabilities=tuple(status[name] for name in _CAPABILITIES),
        no_new_privs=status["NoNewPrivs"] == "1",
        seccomp_mode=int(status["Seccomp"]),
        namespaces=namespaces(pid),
        mounts=parse_mounts(procfs.read(f"/proc/{pid}/mountinfo")),
        in_cgroup=cgroup is None or cgroup.holds(pid),
        threads=int(status["Threads"]),
        rlimits=parse_limits(procfs.read(f"/proc/{pid}/limits")),
    )


def observe_all(
    list_pids: Callable[[], set[int]], cgroup: SessionCgroup, *, most: int
) -> tuple[list[Observed], tuple[str, ...]]:
    """Every process that still is, and what kept others from being judged (which is a difference).

    It looks again until nothing new turns up: a chain of processes, each of which forks the next and
    ends, would otherwise never be seen.
    """
    seen: dict[int, Observed] = {}
    judged: set[int] = set()
    unread: list[str] = []
    for _ in range(_PASSES):
        pids = list_pids()
        if len(pids) > most:
            return [], (f"{len(pids)} processes before attestation; {most} are possible",)
        fresh = sorted(pids - judged)
        if not fresh:
            return [seen[pid] for pid in sorted(seen)], tuple(unread)
        judged.update(fresh)
        for pid in fresh:
            try:
                one = observe(pid, cgroup)
                if one.in_cgroup or not procfs.ending(pid, one.start_time):
                    seen[pid] = one
                    continue
            except (FileNotFoundError, ProcessLookupError):
                pass
            except OSError as error:
                if shortage(error):
                    raise  # the machine's trouble, and no difference of the worker's
                if procfs.life(pid) == "living":
                    unread.append(f"pid {pid} can't be read: {error.strerror}")
                    continue
            if procfs.threads(pid) > 1:
                judged.discard(pid)  # its first thread alone has ended, or ended first: another look
            # Otherwise it ended, or is about to: nothing of it is left to judge.
    return [], ("processes come and go faster than they can be judged",)


def descendants(pid: int, *, most: int) -> list[int]:
    """`pid` and all below it, as the kernel links them, whatever cgroup they sit in; past `most` not all.

    Raises `AttestationError` where they have more than `MOST_THREADS`: each keeps a list of its own children.
    """
    found: list[int] = []
    waiting, threads = [pid], 0
    while waiting and len(found) <= most:
        parent = waiting.pop()
        found.append(parent)
        threads += procfs.threads(parent)
        if threads > MOST_THREADS:
            raise AttestationError(f"more than {MOST_THREADS} threads before attestation")
        waiting += procfs.children(parent)
    return found


def parse_status(text: str) -> dict[str, str]:
    """/proc/PID/status as a table (pure)."""
    pairs = (line.partition(":") for line in procfs.lines(text))
    return {key: value.strip() for key, _, value in pairs}


def parse_limits(text: str) -> dict[str, int]:
    """/proc/PID/limits by name, the hard value; what is unlimited is left out (pure)."""
    found = {}
    for line in procfs.lines(text)[1:]:
        hard = line[_LIMIT_NAME:].split()[1]
        if hard != "unlimited":
            found[line[:_LIMIT_NAME].strip()] = int(hard)
    return found


def compare(expected: Expected, processes: list[Observed]) -> tuple[str, ...]:
    """Every difference between what the spec says and what was seen (pure). Empty: green."""
    return tuple(dict.fromkeys((*_missing(expected, processes), *wrong(expected, processes))))


def _missing(expected: Expected, processes: list[Observed]) -> list[str]:
    differences = []
    insiders = [p for p in processes if p.pid not in (expected.monitor, expected.init)]
    if not any(p.parent == expected.parent for p in insiders):
        differences.append("no worker process where it was started")
    if expected.only and len(processes) < expected.only:
        differences.append(f"{len(processes)} processes, not {expected.only}")
    if all(p.pid != expected.init for p in processes):
        differences.append("the namespace's init is not the one that was launched")
    return differences


def wrong(expected: Expected, processes: list[Observed]) -> list[str]:
    """The differences of what is there, whatever isn't there any more (pure)."""
    differences = []
    inits = [p for p in processes if p.pid == expected.init]
    if expected.only and len(processes) > expected.only:
        differences.append(f"{len(processes)} processes, not {expected.only}")
    if inits and inits[0].start_time != expected.init_start:
        differences.append("the namespace's init is not the one that was launched")
    for process in processes:
        differences += _identity(expected, process)
        if process.pid == expected.monitor:
            continue
        differences += _isolation(expected, process)
        differences += [
            f"pid {process.pid}: another {name} namespace than the session's init"
            for init in inits
            for name in NAMESPACES
            if process.namespaces[name] != init.namespaces[name]
        ]
        differences += _mounts(expected, process)
    return differences


def _identity(expected: Expected, process: Observed) -> list[str]:
    found = []
    if not process.in_cgroup:
        found.append(f"pid {process.pid}: outside the session's cgroup")
    if set(process.uids) != {expected.uid} or set(process.gids) != {expected.gid}:
        found.append(f"pid {process.pid}: uids {process.uids}, gids {process.gids}, not {expected.uid}")
    if not expected.groups.issuperset(process.groups):
        found.append(f"pid {process.pid}: groups {process.groups}")
    # The monitor's bounding set is the launcher's, and worth nothing under no-new-privs.
    judged = process.capabilities if process.pid != expected.monitor else process.capabilities[:3]
    if any(int(value, 16) for value in judged):
        found.append(f"pid {process.pid}: capabilities {'/'.join(process.capabilities)}")
    for name, most in expected.rlimits.items():
        value = process.rlimits.get(name)
        if value is None or value > most:
            found.append(f"pid {process.pid}: {name.lower()} {'unlimited' if value is None else value}")
    if not process.no_new_privs:
        found.append(f"pid {process.pid}: no_new_privs is off")
    return found


def _isolation(expected: Expected, process: Observed) -> list[str]:
    found = [
        f"pid {process.pid}: shares the {name} namespace with the launcher"
        for name in NAMESPACES
        if process.namespaces[name] == expected.own_namespaces[name]
    ]
    found += [
        f"pid {process.pid}: shares the {name} namespace with its zygote"
        for name, inode in expected.zygote_namespaces.items()
        if process.namespaces[name] == inode
    ]
    if expected.only and process.threads != 1:
        found.append(f"pid {process.pid}: {process.threads} threads")
    if process.namespaces["net"] != expected.net:
        found.append(f"pid {process.pid}: another network namespace than the listener's")
    if process.seccomp_mode != 2:
        found.append(f"pid {process.pid}: seccomp mode {process.seccomp_mode}, not a filter")
    return found


def _mounts(expected: Expected, process: Observed) -> list[str]:
    found = []
    for target, seen in process.mounts.items():
        wanted = expected.mounts.get(target)
        if "nosuid" not in seen.options:
            found.append(f"{target} lacks nosuid")
        if seen.follows and expected.private:
            found.append(f"{target} follows the machine's mounts")
        if target in _DEVICES or target == "/dev/pts":
            found += [] if seen.kind in ("devtmpfs", "devpts", "tmpfs") else [f"{target} is {seen.kind}"]
        elif target in _COVERS:
            found += [] if "ro" in seen.options else [f"{target} is writable"]
        elif wanted is None:
            found.append(f"a mount at {target} that the spec does not have")
        else:
            found += _mount(target, wanted, seen)
    return found + [f"no mount at {target}" for target in expected.mounts if target not in process.mounts]


def _mount(target: str, wanted: MountExpected, seen: MountSeen) -> list[str]:
    found = []
    if not wanted.writable and "ro" not in seen.options:
        found.append(f"{target} is writable")
    if "nodev" not in seen.options and not wanted.device:
        found.append(f"{target} lacks nodev")
    if wanted.kind and seen.kind != wanted.kind:
        found.append(f"{target} is {seen.kind}, not {wanted.kind}")
    if wanted.identity is not None and seen.identity != wanted.identity:
        found.append(f"{target} shows {seen.identity.root} of {seen.identity.device}, not what was staged")
    return found


def attestation(
    worker: str, expected: Expected, processes: list[Observed], cgroup: str, differences: tuple[str, ...]
) -> Attestation:
    """The value that goes to the host and into the audit, of the worker's own first process."""
    insiders = [p for p in processes if p.parent == expected.parent] or processes
    first = min(insiders, key=lambda p: p.start_time)
    mounts = "\n".join(_line(target, seen) for target, seen in sorted(first.mounts.items()))
    return Attestation(
        worker=worker,
        pid=first.pid,
        start_time=first.start_time,
        uid=first.uids[0],
        capabilities="/".join(first.capabilities),
        no_new_privs=first.no_new_privs,
        seccomp_mode=first.seccomp_mode,
        namespaces=first.namespaces,
        cgroup=cgroup,
        mounts_digest="sha256:" + hashlib.sha256(mounts.encode()).hexdigest(),
        differences=differences,
    )


def _line(target: str, seen: MountSeen) -> str:
    """A mount as the digest takes it: without what differs from one sandbox of a spec to the next."""
    root = "" if seen.kind == "tmpfs" else seen.identity.root  # bubblewrap names its files at random
    return f"{target} {seen.kind} {root} {','.join(seen.options)}"


def namespaces(pid: int | str) -> dict[str, int]:
    """Namespace name → inode, of a process (``self``: this one)."""
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in NAMESPACES}  # noqa: PTH116 - one call
