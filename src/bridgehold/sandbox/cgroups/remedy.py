"""What to do on this machine where sessions can have no cgroup: one command, chosen by what is there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridgehold.sandbox import containers, procfs
from bridgehold.sandbox.cgroups.places import Hierarchy, hierarchies, own_cgroups

V1 = ("memory", "pids", "cpu", "cpuacct")
"""Each is needed. ``memory`` comes first: its folder carries the owner's lock."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What decides which way to a cgroup there is."""

    uid: int
    container: bool = False
    """A container whose cgroups can't be written, root or not."""
    manager: bool = False
    """The user's own systemd answers."""
    v1: tuple[Hierarchy, ...] = ()
    v2: Path | None = None
    """Where cgroup2 is mounted with controllers to give."""


def given_to(uid: int) -> str:
    """The name of a folder at a hierarchy's root that root has given to an ordinary user."""
    return f"for-bridgehold-{uid}"


def account(uid_map: str, uid: int) -> int:
    """Whose `uid` is outside (pure), by /proc/self/uid_map: an ordinary user's launcher is root inside."""
    for line in procfs.lines(uid_map):
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def own_account() -> int:
    """As `account`, of this process."""
    return account(Path("/proc/self/uid_map").read_text(encoding="ascii"), os.geteuid())


def look(environ: Mapping[str, str]) -> Seen:
    """This machine, as this process sees it. Never raises."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        in_v2 = "" in own_cgroups(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
    except OSError:
        mountinfo, in_v2 = "", False
    unified = hierarchies(mountinfo, "v2")
    mount = unified[0].mount if unified and in_v2 else None
    mounts = [one.mount for version in ("v1", "v2") for one in hierarchies(mountinfo, version)]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Seen(
        uid=own_account(),
        container=containers.contained(environ) and not any(map(_writable, mounts)),
        manager=bool(runtime) and os.access(f"{runtime}/systemd/private", os.F_OK),
        v1=tuple(hierarchies(mountinfo, "v1")),
        v2=mount if mount is not None and _controllers(mount) else None,
    )


def remedy(seen: Seen) -> str:
    """One sentence, with the command that helps there (pure)."""
    held = {name: hierarchy for hierarchy in seen.v1 for name in hierarchy.controllers}
    v1 = all(name in held for name in V1)
    if seen.container:
        return f"Start the container with a cgroup that it may write: {containers.CGROUP}."
    if seen.uid == 0:
        return (
            "Mount cgroup2 at /sys/fs/cgroup, or the v1 controllers memory, pids, cpu and cpuacct, and let "
            "this process write there (no ProtectControlGroups=)."
        )
    if seen.manager and seen.v2 is not None and not v1:
        return "Run it as: systemd-run --user --scope --quiet -p Delegate=yes bridgehold …"
    if v1:
        folders = sorted({str(held[name].mount / given_to(seen.uid)) for name in V1})
        return f"Let root give you a cgroup, once for each boot: sudo {_give(folders, seen.uid)}"
    if seen.v2 is not None:
        folder = shlex.quote(str(seen.v2 / given_to(seen.uid)))
        files = " ".join(f"{folder}/cgroup.{name}" for name in ("procs", "subtree_control", "threads"))
        return (
            "Let root give this shell a cgroup of its own: sudo sh -c "
            f'"mkdir -p {folder} && chown {seen.uid} {folder} {files} && echo $$ > {folder}/cgroup.procs"'
        )
    return "Run it on a machine with cgroup2, or with the v1 controllers memory, pids, cpu and cpuacct."


def _give(folders: list[str], uid: int) -> str:
    script = f"for d in {' '.join(map(shlex.quote, folders))}; do mkdir -p $d && chown -R {uid} $d; done"
    return f"sh -c {shlex.quote(script)}"


def _writable(mount: Path) -> bool:
    try:
        return not os.statvfs(mount).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _controllers(mount: Path) -> bool:
    try:
        return bool((mount / "cgroup.controllers").read_text(encoding="ascii").split())
    except OSError:
        return False
