"""Detached copies of mounts: no later mount reaches them, and nobody writes to them.

A copy is made by ``open_tree``, changed while it stands nowhere, and put in its place whole. So it
never was read-write, never took a mount of the machine's, and what it shows is settled before any
sandbox sees it. Needs Linux 5.12.
"""

from __future__ import annotations

import contextlib
import errno
import os

import msgspec

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import containers, procfs, syscalls
from bridgehold.sandbox.limits.shortage import shortage

_JUDGED_BY = ("/proc", "/sys", "/dev")
"""What the launcher judges sandboxes by, and what bubblewrap takes their devices from."""
_OWNS_NOTHING = 4294967290
"""The one uid that a sealed copy knows. No file has it, so no file there has an owner to be written for."""
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID
_NO_SEAL = (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)
"""The file system can't map ids; or it isn't this launcher's to map (an ordinary user's never is)."""
SHOWN_BELOW = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "vfat", "exfat", "ntfs3"),
        *("squashfs", "erofs", "iso9660", "udf", "overlay", "tmpfs", "fuse", "fuseblk"),
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "virtiofs", "9p", "lustre", "gpfs"),
    )
)
"""File systems that hold files: one of another kind below a bound folder (a /proc, a /sys) is refused."""


class Identity(msgspec.Struct, frozen=True):
    """Which file system, and which folder in it, a mount shows (fields 3 and 4 of mountinfo), and how."""

    device: str
    root: str
    sealed: bool = False
    """Nobody can write through it, whatever the kind of file and its mode."""


class MountSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One line of mountinfo: what is on top at a target."""

    options: tuple[str, ...]
    kind: str
    identity: Identity
    number: int = 0
    """Of this mount, in field 1: its own among all that there are."""
    follows: bool = False
    """What is mounted or unmounted elsewhere on the machine shows here too."""


def parse_mounts(text: str) -> dict[str, MountSeen]:
    """A mountinfo by target, the last mount of a target winning (pure)."""
    mounts: dict[str, MountSeen] = {}
    for line in procfs.lines(text):
        fields = line.split(" ")
        options = tuple(sorted(fields[5].split(",")))
        end = fields.index("-")
        mounts[unescape(fields[4])] = MountSeen(
            options=options,
            kind=fields[end + 1],
            number=int(fields[0]),
            identity=Identity(fields[2], unescape(fields[3]), "idmapped" in options),
            follows=any(field.startswith(("shared:", "master:")) for field in fields[6:end]),
        )
    return mounts


def unescape(field: str) -> str:
    r"""A field of mountinfo, in which space, tab, newline and backslash are ``\ooo`` (pure)."""
    for code, text in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, text)
    return field


def same_file(facts: syscalls.Facts) -> tuple[int, int]:
    """What stays a file's or folder's own while something holds it, whatever its name becomes (pure)."""
    return facts.device, facts.inode


def shown_at(pid: int, target: str, number: int) -> tuple[int, int] | None:
    """What mount `number` of process `pid` shows at `target`, as `same_file`; None where that can't be told.

    The process is hostile: no link of its is followed, and what is found must be that mount's.
    """
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        try:
            resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
            found = syscalls.openat2(root, target, os.O_PATH | os.O_NOFOLLOW, resolve)
        finally:
            os.close(root)
        try:
            lines = procfs.lines(procfs.read(f"/proc/self/fdinfo/{found}"))
            own = f"mnt_id:\t{number}" in lines
            return same_file(syscalls.known_facts(found)) if own else None
        finally:
            os.close(found)
    except OSError as error:
        if shortage(error):
            raise
        return None


def own_mounts(*, made: bool) -> None:
    """Have a mount namespace from which nothing flows back, and whose /proc, /sys and /dev stay as they are.

    `made`: this process is in one of its own already. The rest goes on following the machine, so that
    a volume which is mounted later can be granted to the sandboxes after it. Before `staging.Roots`:
    what a descriptor of another namespace shows can't be bound. Raises `UnsupportedError`.
    """
    try:
        if not made:
            syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        for place in filter(os.path.ismount, _JUDGED_BY):
            syscalls.mount("none", place, None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    except OSError as error:
        raise UnsupportedError(
            f"the launcher has no mount namespace of its own: {error}", hint=containers.hint(error)
        ) from error


def sealing_namespace() -> int:
    """A descriptor of a user namespace in which no file has an owner, for `bind`. Raises `UnsupportedError`.

    -1 where this process is in a user namespace itself, and so no file system is its to map.
    """
    ready, ready_told = os.pipe()
    go, go_told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go_told)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(ready_told, b"R")
            os.read(go, 1)
        finally:
            os._exit(0)
    os.close(ready_told)
    os.close(go)
    try:
        if not os.read(ready, 1):
            raise UnsupportedError(
                "no user namespace can be made here", hint=containers.namespaces(os.environ)
            )
        for name in ("uid_map", "gid_map"):
            table = os.open(f"/proc/{child}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(table, f"{_OWNS_NOTHING} {_OWNS_NOTHING} 1\n".encode())
            finally:
                os.close(table)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return -1
    finally:
        os.close(ready)
        os.close(go_told)
        os.waitpid(child, 0)


def bind(source: int, target: str, *, writable: bool = False, device: bool = False, seal: int = -1) -> bool:
    """Put a private copy of the tree at descriptor `source` to `target`; whether it is sealed.

    Whole, with what is mounted below: a part of it alone is refused in a user namespace. `seal`: from
    `sealing_namespace`. A read-only mount alone stops no write to a FIFO and no connection to a socket;
    in a sealed one no inode has an owner that is known, and the kernel refuses to write any of them.
    """
    tree = syscalls.open_tree(source)
    try:
        wanted = _ATTRIBUTES
        wanted |= 0 if device else syscalls.MOUNT_ATTR_NODEV
        wanted |= 0 if writable else syscalls.MOUNT_ATTR_RDONLY
        sealed = False
        if seal >= 0 and not writable:
            try:
                syscalls.mount_setattr(tree, wanted | syscalls.MOUNT_ATTR_IDMAP, syscalls.MS_PRIVATE, seal)
                sealed = True
            except OSError as error:
                if error.errno not in _NO_SEAL:
                    raise
        if not sealed:
            syscalls.mount_setattr(tree, wanted, syscalls.MS_PRIVATE)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)
    return sealed


def find_writable_special(folder: str, *, most: int) -> str:
    """The first FIFO or socket below `folder` that this process may write to; empty where there is none.

    For what can't be sealed. Folders that this process may not enter are out of reach for it anyway; one that
    it may enter and not list raises `OSError` (EACCES), as does more than `most` entries (EFBIG).
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if not os.access(place, os.X_OK):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                most -= 1
                if most < 0:
                    raise OSError(errno.EFBIG, "more files than can be looked through")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not (entry.is_file(follow_symlinks=False) or entry.is_symlink()) and os.access(
                    entry.path, os.W_OK
                ):
                    return entry.path
    return ""
