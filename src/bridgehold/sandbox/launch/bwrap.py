"""bubblewrap as this machine has it: where it is, and which of its options it knows."""

from __future__ import annotations

import re
import shutil
import subprocess

import msgspec

from bridgehold.errors import UnsupportedError

INSTALL_BWRAP = "apt-get install bubblewrap"
FOLDERS = "/usr/bin:/bin:/usr/local/bin"
_SECONDS = 5
NEEDED = frozenset(
    (
        *("args", "block-fd", "bind", "cap-drop", "chdir", "clearenv", "dev", "dev-bind", "die-with-parent"),
        *("dir", "file", "gid", "hostname", "info-fd", "new-session", "perms", "proc", "remount-ro"),
        *("ro-bind", "ro-bind-data", "seccomp", "setenv", "symlink", "tmpfs", "uid", "unshare-cgroup"),
        *("unshare-ipc", "unshare-net", "unshare-pid", "unshare-user", "unshare-uts", "userns-block-fd"),
    )
)
"""Options without which no sandbox is made: bubblewrap 0.5 has them all."""
SIZE = "size"
"""0.7: how large a tmpfs is. Only needed where the launcher can't mount it itself."""
DISABLE_USERNS = "disable-userns"
"""0.8: no further user namespace, by the kernel's count. Before it the filter alone refuses them, as a
zygote's does."""


class Bubblewrap(msgspec.Struct, frozen=True):
    """One that was found."""

    path: str
    version: str = ""
    options: frozenset[str] = NEEDED | {SIZE, DISABLE_USERNS}


def find_bwrap() -> str:
    """bubblewrap's path in the system's own folders. Raises `UnsupportedError` where it is missing."""
    found = shutil.which("bwrap", path=FOLDERS)
    if found is None:
        raise UnsupportedError("bubblewrap is missing", hint=f"Install it: {INSTALL_BWRAP}")
    return found


def met_bwrap() -> Bubblewrap:
    """As `find_bwrap`, with what it says of itself. Raises `UnsupportedError` for one that is too old."""
    path = find_bwrap()
    try:
        version, options = (
            subprocess.run(
                [path, word], check=True, capture_output=True, text=True, timeout=_SECONDS, env={}
            ).stdout
            for word in ("--version", "--help")
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedError(f"bubblewrap doesn't run: {error}", where=path, hint=_AGAIN) from error
    return read_bwrap(path, version, options)


_AGAIN = f"Install it again: {INSTALL_BWRAP}"


def read_bwrap(path: str, version: str, options: str) -> Bubblewrap:
    """What ``--version`` and ``--help`` said (pure). Raises `UnsupportedError`."""
    found = Bubblewrap(
        path=path,
        version=version.strip().removeprefix("bubblewrap ")[:40],
        options=frozenset(re.findall(r"^ +--([a-z-]+)", options, re.MULTILINE)),
    )
    missing = sorted(NEEDED - found.options)
    if missing:
        raise UnsupportedError(
            f"bubblewrap {found.version} has no --{missing[0]}",
            where=path,
            hint="Install bubblewrap 0.5 or newer (Ubuntu 22.04, Debian 12, Fedora have it).",
        )
    return found
