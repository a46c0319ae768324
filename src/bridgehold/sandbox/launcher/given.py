"""What the launcher is started with."""

from __future__ import annotations

import msgspec


class LauncherConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher is started with. The host can't change it; the supervisor can, `read_roots` alone."""

    read_roots: tuple[str, ...]
    real: dict[str, str] = {}
    """Of each of `read_roots`, once it is told anew: where its links lead."""
    build_root: str
    uid_folder: str
    uid_first: int
    uid_count: int
    cgroup: str = "auto"
    reserve_bytes: int
    overcommit: bool = False
    devices: tuple[str, ...] = ()
    """Device files that may be bound."""
    unrecorded: bool = False
    """No audit is kept of what it starts: a probe of the doctor's own. Otherwise it has a journal."""
    host_uid: int = 0
    """Who forks cells. As root it gets a namespace in which it may give one of these uids to each."""
    cells: int = 0
    """So many of the uids are cells'."""
    shared_uid: bool = False
    """Named weakening: without a uid range, run every session under this user's own uid."""
