"""Proof from outside: what a worker is, read in the launcher's own /proc and compared with its spec.

Every process of the cgroup is judged, not only the first: bubblewrap's outer monitor (no tenant
code runs in it; it must have no capability and the session's uid), its inner pid 1, and everything
else, which must be in all the namespaces, filtered, without privileges.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from bridgehold.sandbox.values import Attestation, SandboxSpec

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_NOSUID_EXEMPT = frozenset({"/proc"})
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


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
    mounts: dict[str, tuple[str, ...]]
    """Target to sorted options of the mount that is on top there."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    uid: int
    net: int
    monitor: int
    init: int
    own_namespaces: dict[str, int]
    read_only: frozenset[str]
    writable: frozenset[str]


def expected_mounts(spec: SandboxSpec) -> tuple[frozenset[str], frozenset[str]]:
    """(read-only, writable) mount targets that `spec` makes (pure)."""
    read_only = {"/", "/dev"} | {m.target for m in spec.mounts if m.kind in ("ro_bind", "file")}
    writable = {m.target for m in spec.mounts if m.kind in ("tmpfs", "bind", "proc")}
    return frozenset(read_only - writable), frozenset(writable)


def observe(pid: int) -> Observed:
    """Read one process. Raises `OSError` where it is gone."""
    proc = Path(f"/proc/{pid}")
    status = parse_status((proc / "status").read_text(encoding="utf-8", errors="replace"))
    stat = (proc / "stat").read_text(encoding="utf-8", errors="replace")
    return Observed(
        pid=pid,
        start_time=int(stat[stat.rindex(")") + 2 :].split()[19]),
        parent=int(status["PPid"]),
        uids=tuple(int(n) for n in status["Uid"].split()),
        gids=tuple(int(n) for n in status["Gid"].split()),
        groups=tuple(int(n) for n in status["Groups"].split()),
        capabilities=tuple(status[name] for name in _CAPABILITIES),
        no_new_privs=status["NoNewPrivs"] == "1",
        seccomp_mode=int(status["Seccomp"]),
        namespaces={name: (proc / "ns" / name).stat().st_ino for name in NAMESPACES},
        mounts=parse_mounts((proc / "mountinfo").read_text(encoding="utf-8", errors="replace")),
    )


def parse_status(text: str) -> dict[str, str]:
    """/proc/PID/status as a table (pure)."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def parse_mounts(text: str) -> dict[str, tuple[str, ...]]:
    """/proc/PID/mountinfo: target to options, the last mount of a target winning (pure)."""
    mounts: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        fields = line.split()
        mounts[fields[4].encode().decode("unicode_escape")] = tuple(sorted(fields[5].split(",")))
    return mounts


def compare(expected: Expected, processes: list[Observed]) -> tuple[str, ...]:
    """Every difference between what the spec says and what was seen (pure). Empty: green."""
    differences: list[str] = []
    insiders = [p for p in processes if p.pid not in (expected.monitor, expected.init)]
    if not insiders:
        differences.append("no worker process in the cgroup")
    if expected.init not in {p.pid for p in processes}:
        differences.append("the namespace's init is not in the cgroup")
    for process in processes:
        differences += _identity(expected, process)
        if process.pid == expected.monitor:
            continue
        differences += _isolation(expected, process)
        if process.pid != expected.init and process.seccomp_mode != 2:
            differences.append(f"pid {process.pid}: seccomp mode {process.seccomp_mode}, not a filter")
    for process in insiders[:1]:
        differences += _mounts(expected, process)
    return tuple(differences)


def _identity(expected: Expected, process: Observed) -> list[str]:
    found = []
    if set(process.uids) != {expected.uid} or set(process.gids) != {expected.uid}:
        found.append(f"pid {process.pid}: uids {process.uids}, gids {process.gids}, not {expected.uid}")
    if any(group != expected.uid for group in process.groups):
        found.append(f"pid {process.pid}: groups {process.groups}")
    privileged = process.capabilities if process.pid != expected.monitor else process.capabilities[:3]
    if any(int(value, 16) for value in privileged):
        found.append(f"pid {process.pid}: capabilities {'/'.join(process.capabilities)}")
    if not process.no_new_privs:
        found.append(f"pid {process.pid}: no_new_privs is off")
    return found


def _isolation(expected: Expected, process: Observed) -> list[str]:
    found = [
        f"pid {process.pid}: shares the {name} namespace with the launcher"
        for name in NAMESPACES
        if process.namespaces[name] == expected.own_namespaces[name]
    ]
    if process.namespaces["net"] != expected.net:
        found.append(f"pid {process.pid}: another network namespace than the listener's")
    return found


def _mounts(expected: Expected, process: Observed) -> list[str]:
    found = []
    allowed = expected.read_only | expected.writable
    for target, options in process.mounts.items():
        if target.startswith("/dev/") and target not in allowed:
            continue  # the device nodes that bubblewrap binds below its own /dev
        if target.startswith("/proc/"):
            continue  # covers that bubblewrap puts over parts of /proc: they only take away
        if target not in allowed:
            found.append(f"a mount at {target} that the spec does not have")
        elif target in expected.read_only and "ro" not in options:
            found.append(f"{target} is writable")
        elif "nosuid" not in options and target not in _NOSUID_EXEMPT:
            found.append(f"{target} lacks nosuid")
    found += [
        f"no mount at {target}" for target in sorted(expected.read_only) if target not in process.mounts
    ]
    return found


def attestation(
    worker: str, expected: Expected, processes: list[Observed], cgroup: str, differences: tuple[str, ...]
) -> Attestation:
    """The value that goes to the host and into the audit, of the worker's first own process."""
    insiders = [p for p in processes if p.pid not in (expected.monitor, expected.init)] or processes
    first = min(insiders, key=lambda p: p.start_time)
    mounts = "\n".join(f"{target} {','.join(options)}" for target, options in sorted(first.mounts.items()))
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


def own_namespaces() -> dict[str, int]:
    return {name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in NAMESPACES}
