"""The folder of one host instance: made, locked by its owner, and swept once the owner is gone.

The owner holds a flock on the folder itself. The kernel lets go of it when the owner ends, however
it ends, so no pid has to be guessed (pids repeat, and a container's owner has another one here).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bridgehold.errors import UnsupportedError, UsageError
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.cgroups import files

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_LEAF = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# An operator's own cgroup may well be called bridgehold-something; nobody ends one in ".sessions".
_OURS = re.compile(r"bridgehold-[a-z0-9][a-z0-9-]{0,40}\.sessions")
_PRIVATE = 0o700
_LOCK_SECONDS, _STEP_SECONDS = 10.0, 0.002
_MAX_FOLDERS = 20_000
_MAX_DEPTH = 10
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EACCES, errno.EPERM)
"""Or another user's own, which a sweep of ours could not end either."""
# v1 and v2 names together: a folder has those of its own hierarchy.
_DYING = (("pids.max", "0"), ("cpu.max", "max"), ("cpu.cfs_quota_us", "-1"), ("cgroup.freeze", "0"))


def folder_name(instance: str) -> str:
    """``bridgehold-INSTANCE.sessions`` (pure)."""
    if not _INSTANCE.fullmatch(instance):
        raise UsageError(f"{instance[:60]!r} is not an instance name")
    return f"bridgehold-{instance}.sessions"


def leaf_name(name: str) -> str:
    """`name`, if it can be a cgroup's (pure)."""
    if not _LEAF.fullmatch(name):
        raise UsageError(f"{name[:80]!r} is not a cgroup name")
    return name


def claim(folder: Path) -> int:
    """Make `folder` and lock it; the descriptor holds the lock. `OSError` where it can't be made.

    A sweeper may lock a folder between its making and its locking, and takes it away then. Nobody but who has
    that lock removes it: what a sweeper removes by its path is what it has locked.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    folder.mkdir(mode=_PRIVATE)
    while (descriptor := _lock(folder)) is None:
        if time.monotonic() > deadline:
            raise UnsupportedError(f"{folder} is taken away again and again", where=str(folder))
        time.sleep(_STEP_SECONDS)
        with contextlib.suppress(FileExistsError):  # the sweeper is not done yet
            folder.mkdir(mode=_PRIVATE)
    return descriptor


def _lock(folder: Path) -> int | None:
    """A descriptor that holds `folder` exclusively, or None where another has it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


class Locks:
    """The owner's locks. A forked child drops its copies, or it would keep them after the owner's end."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors
        self._owner = os.getpid()

    def drop_in_child(self) -> None:
        """Close the locks in a forked child, where they would outlive this process."""
        if os.getpid() != self._owner:
            self.close()

    def close(self) -> None:
        """Let go of every lock."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def find(roots: Iterable[Path], *, whole: bool = False) -> Iterator[Path]:
    """Every instance's folder at or below `roots`, by a bounded walk that skips what it can't read.

    `whole`: what can't be read, and a walk that meets its bound, raises `OSError` instead.
    """
    waiting = [(root, 0) for root in roots]
    seen = 0
    while waiting and seen < _MAX_FOLDERS:
        folder, depth = waiting.pop()
        for child in subfolders(folder, whole=whole):
            seen += 1
            if _OURS.fullmatch(child.name):
                yield child
            elif depth < _MAX_DEPTH:
                waiting.append((child, depth + 1))
    if whole and waiting:
        raise OSError(errno.ENOSPC, "too many cgroups to look at", str(waiting[0][0]))


def subfolders(folder: Path, *, whole: bool = False) -> list[Path]:
    """The folders in `folder`; none where it is gone. Unreadable: none, or an `OSError` where `whole`."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if whole and error.errno not in _GONE:
            raise
        return []


def sweep(keyed: Iterable[Path], all_roots: Iterable[Path], own: str) -> list[str]:
    """Kill and remove what instances without an owner left; the names of those that are gone.

    `keyed` are the roots of the hierarchy that carries the locks, `all_roots` those of every one.
    A folder that has no sibling of its name in the locked hierarchy has no owner either: the owner
    makes that one first and removes it last. So a look at that hierarchy that isn't whole, where the machine
    is short of descriptors or memory, would take who lives for dead: it ends nothing.
    """
    living: set[str] = {own}
    everywhere: dict[str, list[Path]] = {}
    # Look at the unlocked hierarchies before the locked one: a folder that is made meanwhile
    # in another hierarchy is then not seen, one made before has its lock already.
    for folder in find(all_roots):
        everywhere.setdefault(folder.name, []).append(folder)
    try:
        locked = list(find(keyed, whole=True))
    except OSError:
        return []
    gone: list[str] = []
    for folder in locked:
        if folder.name in living or folder.name not in everywhere or (descriptor := _lock(folder)) is None:
            living.add(folder.name)
        else:
            try:  # one at a time: its owner may have just made it, and waits
                gone += [folder.name] if _clear(everywhere.pop(folder.name)) else []
            finally:
                os.close(descriptor)
    return sorted([*gone, *(name for name in everywhere if name not in living and _clear(everywhere[name]))])


def _clear(folders: list[Path]) -> bool:
    """End what is in `folders` and below, and remove them; whether all are gone."""
    trees = [[*_below(folder), folder] for folder in folders]
    for tree in trees:
        for folder in tree:
            let_die(folder)
    files.kill_all(folder / "cgroup.procs" for tree in trees for folder in tree)
    removed = [files.remove(folder) for tree in trees for folder in tree]
    return all(removed)


def _below(folder: Path) -> list[Path]:
    """Sessions', and then the tenants' that they lie in."""
    tenants = subfolders(folder)
    return [*(session for tenant in tenants for session in subfolders(tenant)), *tenants]


def open_for(path: Path, uid: int) -> int:
    """A v1 ``tasks`` file, opened as `uid`: the kernel judges a write by who opened it.

    So what is written can move processes of that uid, and no others, whoever writes it.
    """
    own = os.geteuid()
    try:
        os.seteuid(uid)
        syscalls.raise_capabilities()  # the folder is the launcher's own, and closed to others
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    finally:
        os.seteuid(own)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # a change of uid cleared it


def let_die(folder: Path) -> None:
    """No forks from now on, so that a kill can't be outrun; no quota and no freeze, so that it is quick."""
    for name, value in _DYING:
        with contextlib.suppress(OSError):
            files.write(folder / name, value)
