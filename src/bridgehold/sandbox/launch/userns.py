"""An ordinary user's launcher: a user namespace in which it is uid 0 over its subordinate range.

The map is ``0 → own uid`` and ``1… → the subuid range``, written by newuidmap and newgidmap. So
the launcher works the same as root's: it forks, changes to a session's uid, runs bubblewrap.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import procfs, syscalls

_MAX_SAID = 600


def subordinate_range(table: str, user: str, uid: int) -> tuple[int, int] | None:
    """(first, count) of the first line for `user` in the text of /etc/subuid or /etc/subgid (pure)."""
    for line in procfs.lines(table):
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            return int(fields[1]), int(fields[2])
    return None


_TABLES = (Path("/etc/subuid"), Path("/etc/subgid"))
_FIRST, _MANY = 200_000, 65_536
"""Where ranges that we advise begin, and how many uids they have."""


def own_ranges() -> tuple[tuple[int, int], tuple[int, int]]:
    """This user's subuid and subgid ranges. Raises `UnsupportedError`, with what root types for them."""
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a uid without a name may still have a line by number
        user = str(uid)
    tables = [_read(path) for path in _TABLES]
    uids, gids = (subordinate_range(table, user, uid) for table in tables)
    if uids is None or gids is None:
        raise UnsupportedError(
            f"no uids for sessions: {user} has no subordinate range",
            hint=f"Let root give one: sudo sh -c '{command(tables, user)}' {_WEAKER}",
        )
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        raise UnsupportedError(
            "no uids for sessions: newuidmap is missing",
            hint=f"Install it: apt-get install uidmap (Fedora: shadow-utils). {_WEAKER}",
        )
    return uids, gids


_WEAKER = "(Weaker, for one tenant, and named so in the audit: `[host] shared_uid = true`.)"


def command(tables: Iterable[str], user: str) -> str:
    """What gives `user` a range that nobody has (pure)."""
    fields = [line.split(":") for table in tables for line in procfs.lines(table)]
    ends = [
        int(one[1]) + int(one[2]) for one in fields if len(one) == 3 and (one[1] + one[2]).strip().isdigit()
    ]
    first = max(_FIRST, *ends, _FIRST)
    span = f"{first}-{first + _MANY - 1}"
    return f"usermod --add-subuids {span} --add-subgids {span} {user}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def enter(ranges: tuple[tuple[int, int], tuple[int, int]]) -> int:
    """Move this (single-threaded) process into the mapped namespace as its uid 0; the count of uids.

    It has a mount namespace of its own then (`mounts.own_mounts`).

    A child writes the maps from outside, since only a process in the parent namespace may.
    """
    (uid_first, uid_count), (gid_first, gid_count) = ranges
    count = min(uid_count, gid_count)
    me, own_uid, own_gid = os.getpid(), os.getuid(), os.getgid()
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        os.dup2(said_write, 2)
        os._exit(_write_maps(go_read, me, (own_uid, uid_first), (own_gid, gid_first), count))
    os.close(go_read)
    os.close(said_write)
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    os.write(go_write, b"g")
    os.close(go_write)
    with os.fdopen(said_read, "rb") as file:
        said = file.read(_MAX_SAID).decode(errors="replace").strip()
    _, status = os.waitpid(helper, 0)
    if status != 0:
        said = said or f"newuidmap ended with {os.waitstatus_to_exitcode(status)}"
        raise UnsupportedError(
            f"the subordinate uids could not be mapped: {said}",
            hint="Check /etc/subuid and /etc/subgid, and that newuidmap is setuid (apt-get install "
            "--reinstall uidmap). "
            "A container needs it with file capabilities instead, and no no-new-privileges: "
            "docs/how-to/container.md.",
        )
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return count


def make(owner: int, first: int, count: int) -> int:
    """As root: a namespace in which the uid `owner` is 0 and may become one of `count` from `first`, and
    nobody else anything. A descriptor of it, by which `owner` enters. Raises `UnsupportedError`.
    """
    ready, made = os.pipe()
    leave, stay = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(stay)
        os._exit(_hold_namespace(owner, made, leave))
    os.close(made)
    os.close(leave)
    try:
        if os.read(ready, 1) != b"y":
            raise UnsupportedError(
                "this kernel gives no user namespace for the cells of tenants",
                hint="Raise user.max_user_namespaces, or set `[host] cells = false`.",
            )
        for table in ("gid_map", "uid_map"):
            Path(f"/proc/{child}/{table}").write_text(f"0 {owner} 1\n{first} {first} {count}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(stay)
        os.waitpid(child, 0)


def _hold_namespace(owner: int, made: int, leave: int) -> int:
    """In a child: whoever makes it owns it, and root's capabilities are what is allowed to make it."""
    try:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, 0)
        syscalls.raise_capabilities()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(made, b"y")
        os.read(leave, 1)
    except OSError:
        return 1
    return 0


def _write_maps(go: int, pid: int, uids: tuple[int, int], gids: tuple[int, int], count: int) -> int:
    if os.read(go, 1) != b"g":
        return 1
    for tool, (own, first) in (("newgidmap", gids), ("newuidmap", uids)):
        argv = [tool, str(pid), "0", str(own), "1", "1", str(first), str(count)]
        if subprocess.run(argv, check=False).returncode != 0:
            return 1
    return 0
