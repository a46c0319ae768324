"""Root only: let the unprivileged roles reach our code and state below folders that are closed to them.

A checkout below a 0700 home can't be read by a uid of its own. Copying code or opening the home
would be worse than this: in a mount namespace of the supervisor's, each closed ancestor is covered
by an empty tmpfs in which only the needed folders stand, at their own paths. So everything else of
that home disappears for the host, the keeper, the journal and every sandbox.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from bridgehold.errors import UnsupportedError

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV = 2, 4
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19


def closed_ancestor(path: Path, mode_of: dict[Path, int]) -> Path | None:
    """The highest ancestor of `path` that others may not enter, by the modes given (pure)."""
    for ancestor in reversed(path.parents):
        if not mode_of.get(ancestor, 0o755) & stat.S_IXOTH:
            return ancestor
    return None


def plan_view(paths: Iterable[Path], mode_of: dict[Path, int]) -> dict[Path, list[Path]]:
    """Closed ancestor → the needed paths below it, outermost only (pure)."""
    plan: dict[Path, list[Path]] = {}
    for path in sorted(set(paths)):
        ancestor = closed_ancestor(path, mode_of)
        if ancestor is None:
            continue
        needed = plan.setdefault(ancestor, [])
        if not any(path.is_relative_to(other) for other in needed):
            needed.append(path)
    return plan


def covering(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """`plan_view` of what is there, by the modes that it has now."""
    existing = [path.resolve() for path in paths if path.exists()]
    modes = {parent: parent.stat().st_mode for path in existing for parent in path.parents}
    return plan_view(existing, modes)


def open_view(paths: Iterable[Path]) -> None:
    """Cover what `plan_view` says, in a mount namespace of this process's own."""
    plan = covering(paths)
    if not plan:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare(_CLONE_NEWNS), "unshare a mount namespace")
    _call(libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "make mounts private")
    for ancestor, needed in plan.items():
        held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in needed]
        _call(
            libc.mount(
                b"view", os.fsencode(ancestor), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0755,size=1m"
            ),
            f"cover {ancestor}",
        )
        for path, descriptor in held:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                path.mkdir(parents=True, exist_ok=True, mode=0o755)
            else:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                path.touch()
            source = f"/proc/self/fd/{descriptor}".encode()
            _call(libc.mount(source, os.fsencode(path), None, _MS_BIND | _MS_REC, None), f"keep {path}")
            os.close(descriptor)


def _call(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise UnsupportedError(
            f"can't {what}: {os.strerror(error)}",
            hint="Install Bridgehold below a folder that every user may enter, such as /opt, with its state.",
        )
