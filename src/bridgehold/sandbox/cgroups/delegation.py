"""cgroup v2: which cgroup is ours to divide, and dividing it.

A v2 cgroup that gives controllers to children may hold no process itself (EBUSY). So everything in
the delegated cgroup is moved into its leaf ``host`` first. That is done only where the cgroup was
given to us: systemd marks it, its owner is this user, it is named in the configuration, or it is
the root of a container's cgroup namespace. Someone's login shell is not ours to move.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups import files

CONTROLLERS = ("cpu", "memory", "pids")
_WELCOME = "io"
"""Given on where it is there: systemd's Delegate=yes has it, and a user's own manager may not."""
HOST_LEAF = "host"
_PASSES = 50
_MARKS = ("user.delegate", "trusted.delegate")


def choose(own: Path, mount: Path, *, real_root: bool) -> Path:
    """The cgroup to divide: this process's own if it is delegated, or the hierarchy's root for root.

    `own` is what /proc/self/cgroup says; a leaf ``host`` that an earlier process of ours made stands
    for its parent. Raises `UnsupportedError` where neither is ours.
    """
    parent = own.parent
    if own.name == HOST_LEAF and own != mount and delegated(parent, mount, real_root=real_root):
        return parent
    if delegated(own, mount, real_root=real_root):
        return own
    if real_root and not (mount / "cgroup.events").exists():
        return mount  # the machine's root: the one cgroup that may hold processes and divide itself
    raise UnsupportedError(f"{own} is not delegated to this user", where=str(own))


def delegated(folder: Path, mount: Path, *, real_root: bool) -> bool:
    """Whether `folder` was given to us, by systemd's mark, its owner, or a container's boundary."""
    for mark in _MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return True
    if not os.access(folder / "cgroup.procs", os.W_OK, effective_ids=True):
        return False
    if folder == mount:
        return (mount / "cgroup.events").exists()
    return not real_root and folder.stat().st_uid == os.geteuid()


def initial_root() -> bool:
    """Root of the machine's own user namespace, to whom every cgroup belongs."""
    text = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return os.geteuid() == 0 and text == ["0", "0", "4294967295"]


def divide(base: Path) -> None:
    """Give `base`'s controllers to its children, after its processes have gone to the leaf ``host``."""
    available = (base / "cgroup.controllers").read_text(encoding="ascii").split()
    missing = [name for name in CONTROLLERS if name not in available]
    if missing:
        raise UnsupportedError(
            f"{base} has no {', '.join(missing)} controller (it has {', '.join(available) or 'none'})",
            where=str(base),
        )
    if (base / "cgroup.events").exists():  # not the machine's root
        vacate(base)
    enable(base)


def vacate(base: Path) -> None:
    """Move every process of `base` into ``base/host``. Processes that are born meanwhile too."""
    host = base / HOST_LEAF
    host.mkdir(exist_ok=True)
    reason = ""
    for _ in range(_PASSES):
        found = files.pids(base / "cgroup.procs")
        if not found:
            return
        for pid in found:
            try:
                files.write(host / "cgroup.procs", str(pid))
            except ProcessLookupError:
                continue
            except OSError as error:
                reason = f": pid {pid}: {error.strerror}"
    raise UnsupportedError(f"{base} can't be emptied into {HOST_LEAF}{reason}", where=str(base))


def enable(folder: Path) -> None:
    """Give the controllers to the children of `folder`, and read that back."""
    control = folder / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        files.write(control, f"+{_WELCOME}")
    try:
        files.write(control, " ".join(f"+{name}" for name in CONTROLLERS))
        enabled = control.read_text(encoding="ascii").split()
    except OSError as error:
        raise UnsupportedError(
            f"controllers can't be given to the children of {folder}: {error.strerror}",
            where=str(control),
        ) from error
    missing = [name for name in CONTROLLERS if name not in enabled]
    if missing:
        raise UnsupportedError(f"{control} lacks {', '.join(missing)}", where=str(control))
