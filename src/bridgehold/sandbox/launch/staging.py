"""The launcher's own mount namespace: what a sandbox is bound from, put where nobody else can change it.

Three things need this. A session's uid can't walk into a home of mode 0700, though a bridge may lie
there. The host, which the launcher doesn't trust, could swap a folder for a link between the check
and bubblewrap's own look-up. And bubblewrap 0.8 mounts a tmpfs without a bound on inodes. So each
source is opened beneath its root (`roots`), and what was opened, not its name, is bound into a
stage that exists in this namespace alone (`mounts.bind`: private and, where the kernel can, sealed);
each tmpfs is made there with its size and inodes; and bubblewrap takes both from the stage, which is
let go when the sandbox has them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from bridgehold.errors import DeniedError, UnsupportedError
from bridgehold.sandbox import procfs, syscalls
from bridgehold.sandbox.launch import mounts
from bridgehold.sandbox.launch.mounts import Identity
from bridgehold.sandbox.launch.roots import Roots, below
from bridgehold.sandbox.limits.bounds import SYSTEM_FILES
from bridgehold.sandbox.values import Mount, SandboxSpec

BYTES_PER_INODE = 4096
_MOST_FILES = 500_000
"""In folders that are looked through before they are bound."""
_LEAST_INODES = 1024
_PLACES = ("/mnt", "/media", "/srv", "/var/empty", "/opt", "/home")
_TMPFS_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
_TERMINAL_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
PTS = "/dev/pts"
TERMINALS = "newinstance,ptmxmode=0666,mode=620,max=16"
"""Of a sandbox's devpts: without a bound, one sandbox could take every terminal that the machine counts."""


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """One launch's sources. `sources`: target in the sandbox → path in the stage."""

    folder: str
    sources: dict[str, str]
    identities: dict[str, Identity]
    """What must show at each target, and at what is mounted below it, for attestation."""
    files: dict[str, tuple[int, int]] = {}
    """Of each bind, by target: what `mounts.same_file` says of it, by which it is known when its owner has
    given it another name, or another file its name. (What is mounted below may hang who looks at it.)"""
    unsealed: tuple[tuple[str, str], ...] = ()
    """(path in the stage, its source): to be looked through for FIFOs and sockets that can be written to,
    since the kernel won't refuse it there."""


def inodes(size_bytes: int) -> int:
    """How many files a tmpfs of this size may hold: one for each page, and 1,024 at least (pure)."""
    return max(_LEAST_INODES, size_bytes // BYTES_PER_INODE)


def choose_place(needed: Iterable[str], usable: Iterable[str]) -> str | None:
    """The first usable folder that covers none of the needed paths (pure)."""
    paths = [PurePosixPath(path) for path in needed]
    for place in usable:
        if not any(path.is_relative_to(place) for path in paths):
            return place
    return None


class Stage:
    """A small tmpfs over a folder that everybody may enter, in this process's mount namespace only."""

    def __init__(self, roots: Roots, *, needed: Iterable[str], seals: bool) -> None:
        """After `mounts.own_mounts`. `needed`: paths that this process still uses by name.

        `seals`: whether the machine's file systems are this process's to map. Raises
        `UnsupportedError` where the kernel refuses, before any session starts.
        """
        self._roots = roots
        self._quiet = ("/usr", sys.prefix, sys.base_prefix, roots.build_root)
        """Below these are no FIFOs or sockets: the system's own, and trees that `seal` has judged."""
        place = choose_place([*needed, *sys.path, sys.prefix, sys.base_prefix], _usable())
        self._made = "" if place else tempfile.mkdtemp(prefix="bridgehold-stage-")
        self._folder = place or self._made
        try:
            if self._made:
                Path(self._made).chmod(0o711)
            flags = _TMPFS_FLAGS | syscalls.MS_NOEXEC
            roots.cover(self._folder)
            syscalls.mount("bridgehold-stage", self._folder, "tmpfs", flags, "mode=0711,size=4m")
        except OSError as error:
            raise UnsupportedError(f"the launcher can't make its stage: {error}") from error
        self._seal = mounts.sealing_namespace() if seals else -1

    def prepare(self, name: str, spec: SandboxSpec, uid: int) -> Staged:
        """Put `spec`'s binds and tmpfs into the stage. Nothing stays behind where it raises (`NotAtHandError`
        too)."""
        folder = f"{self._folder}/{name}"
        Path(folder).mkdir(mode=0o711)
        sources: dict[str, str] = {}
        files: dict[str, tuple[int, int]] = {}
        unsealed: list[tuple[str, str]] = []
        try:
            for index, mount in enumerate(spec.mounts):
                path = f"{folder}/{index}"
                if mount.kind == "ro_bind":
                    sealed, files[mount.target] = self._bind(mount, spec, path, uid)
                    if not sealed and self._may_hold_special(mount):
                        unsealed.append((path, mount.source))
                elif mount.kind == "device":
                    _bind_device(mount, path, uid)
                elif mount.kind == "tmpfs":
                    Path(path).mkdir()
                    _tmpfs(mount, path, uid)
                elif mount.kind == "dev":
                    Path(path).mkdir()
                    syscalls.mount("devpts", path, "devpts", _TERMINAL_FLAGS, TERMINALS)
                    sources[PTS] = path
                    continue
                else:
                    continue
                sources[mount.target] = path
            shown = mounts.parse_mounts(procfs.read("/proc/self/mountinfo"))
            identities = _identities(sources, shown)
        except BaseException:
            paths = {str(index): f"{folder}/{index}" for index in range(len(spec.mounts))}
            self.discard(Staged(folder=folder, sources=paths, identities={}))
            raise
        return Staged(
            folder=folder, sources=sources, identities=identities, files=files, unsealed=tuple(unsealed)
        )

    def release(self, staged: Staged) -> None:
        """Unmount: the sandbox has its own copies, since its namespaces exist (or it is dead).

        The empty folders stay. Removing one would take away what bubblewrap has mounted on it in
        the sandbox's namespace and has perhaps not moved to its place yet.
        """
        for path in staged.sources.values():
            with contextlib.suppress(OSError):
                syscalls.umount(path, syscalls.MNT_DETACH)

    def discard(self, staged: Staged) -> None:
        """Remove the folders too, once nothing of the sandbox is left."""
        self.release(staged)
        for entry in Path(staged.folder).iterdir():
            with contextlib.suppress(
                OSError
            ):  # no look at it: what may still be mounted there is a session's
                try:
                    entry.rmdir()
                except NotADirectoryError:
                    entry.unlink()
        with contextlib.suppress(OSError):
            Path(staged.folder).rmdir()

    def close(self) -> None:
        """Take the stage away. (Where the launcher dies instead, its namespace and the stage die too.)"""
        if self._seal >= 0:
            os.close(self._seal)
        with contextlib.suppress(OSError):
            syscalls.umount(self._folder, syscalls.MNT_DETACH)
        if self._made:
            with contextlib.suppress(OSError):
                Path(self._made).rmdir()

    def _may_hold_special(self, mount: Mount) -> bool:
        quiet = any(below(mount.source, place) for place in self._quiet) or mount.source in SYSTEM_FILES
        return mount.kind == "ro_bind" and not quiet

    def _bind(self, mount: Mount, spec: SandboxSpec, path: str, uid: int) -> tuple[bool, tuple[int, int]]:
        """(whether it is sealed, what it is of)."""
        descriptor = self._roots.open(mount, spec)
        try:
            facts = syscalls.known_facts(descriptor)
            _must_reach(facts, mount, uid)
            if stat.S_ISDIR(facts.mode):
                Path(path).mkdir()
            elif stat.S_ISREG(facts.mode):
                Path(path).touch()
            else:
                raise DeniedError(f"{mount.source} is no folder and no regular file", where=mount.source)
            return mounts.bind(descriptor, path, seal=self._seal), mounts.same_file(facts)
        finally:
            os.close(descriptor)


def _identities(sources: Mapping[str, str], shown: Mapping[str, mounts.MountSeen]) -> dict[str, Identity]:
    """Target → what shows there, with what is mounted below. Refuses what holds no files (pure)."""
    found = {target: shown[path].identity for target, path in sources.items()}
    places = {path: target for target, path in sources.items()}
    for point, seen in shown.items():
        above = next((path for path in places if point.startswith(path + "/")), None)
        if above is None:
            continue
        target = places[above] + point[len(above) :]
        if seen.kind.partition(".")[0] not in mounts.SHOWN_BELOW:
            raise UnsupportedError(
                f"a {seen.kind} is mounted below what would be bound, and shown at {target}",
                where=target,
                hint="Grant a folder that has no such mount below it.",
            )
        found[target] = seen.identity
    return found


def look_through(staged: Staged) -> None:
    """By the session's uid: refuse what it could write to through a read-only mount."""
    for path, source in staged.unsealed:
        try:
            found = mounts.find_writable_special(path, most=_MOST_FILES)
        except OSError as error:
            raise UnsupportedError(
                f"{source} can't be looked through: {error.strerror}", where=source
            ) from error
        if found:
            raise UnsupportedError(
                f"{source + found[len(path) :]} is a FIFO or a socket that every uid may write to",
                where=source,
                hint="Grant a folder without it, or close it to others: chmod o-w. (Where root started the "
                "host, the kernel refuses the write.)",
            )


def is_device(path: str) -> bool:
    """Whether a character device is there, and no link."""
    try:
        return stat.S_ISCHR(os.lstat(path).st_mode)
    except OSError:
        return False


def _bind_device(mount: Mount, path: str, uid: int) -> None:
    """The one kind of bind without a root: only devices that the operator named come here."""
    try:
        descriptor = os.open(mount.source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedError(f"no device {mount.source}: {error.strerror}", where=mount.source) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISCHR(facts.st_mode):
            raise DeniedError(f"{mount.source} is no character device", where=mount.source)
        if facts.st_uid != uid and facts.st_mode & 0o6 != 0o6:
            raise UnsupportedError(
                f"{mount.source} is closed to the session's uid (mode {stat.S_IMODE(facts.st_mode):04o})",
                where=mount.source,
                hint="Its driver, or a udev rule, gives it mode 0666.",
            )
        Path(path).touch()
        mounts.bind(descriptor, path, writable=True, device=True)
    finally:
        os.close(descriptor)


class NoStage:
    """Where a launcher has no namespace of its own (weakening ``shared_uid``): paths as they are.

    Here host and launcher are the same user with the same reach, so a swapped path gains nothing,
    and files are counted by nobody: only the sizes of the tmpfs hold.
    """

    def prepare(self, name: str, spec: SandboxSpec, uid: int) -> Staged:
        """Nothing is staged: a spec's sources are bound as they are."""
        return Staged(folder="", sources={}, identities={})

    def release(self, staged: Staged) -> None:
        """Nothing was made."""

    def discard(self, staged: Staged) -> None:
        """Nothing was made."""

    def close(self) -> None:
        """Nothing was made."""


def _tmpfs(mount: Mount, path: str, uid: int) -> None:
    options = {
        "size": mount.size_bytes,
        "nr_inodes": inodes(mount.size_bytes),
        "mode": f"{mount.mode:04o}",
        "uid": uid,
        "gid": uid,
    }
    syscalls.mount("tmpfs", path, "tmpfs", _TMPFS_FLAGS, _joined(options))


def _joined(options: Mapping[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


def _must_reach(facts: syscalls.Facts, mount: Mount, uid: int) -> None:
    """Refuse early, and by name, what the session's uid could not read anyway."""
    wanted = 0o5 if stat.S_ISDIR(facts.mode) else 0o4
    if facts.uid != uid and facts.mode & wanted != wanted:
        raise UnsupportedError(
            f"{mount.source} is closed to the session's uid (mode {stat.S_IMODE(facts.mode):04o})",
            where=mount.source,
            hint=f"Open it for reading to others: chmod -R o+rX {mount.source}",
        )


def _usable() -> list[str]:
    """Folders of the system's that everybody may enter, root's own, without a link on the way."""
    found = []
    for place in _PLACES:
        with contextlib.suppress(OSError):
            facts = os.lstat(place)
            if stat.S_ISDIR(facts.st_mode) and facts.st_mode & 0o001 and not facts.st_mode & 0o022:
                found.append(place)
    return found
