"""The machines that are tried: how each comes about, and what a stranger must meet there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["here", "container", "emulated"]

READ_ONLY_CGROUPS = (
    "awk '$5 ~ \"^/sys/fs/cgroup\" { print $5 }' /proc/self/mountinfo"
    ' | while read -r m; do mount -o remount,bind,ro "$m"; done'
)
OTHER_BWRAP = "mount --bind $CACHE/bullseye/usr/bin/bwrap /usr/bin/bwrap"
HIDDEN = "mount --bind /dev/null {}"
AT_ROOT = r"sudo (sh -c '[^']+')|(apt-get install (?:uidmap|bubblewrap))"
"""What a message says to type as root."""
IN_CONTAINER = (
    "--cgroupns=private",
    "--security-opt=unmask=ALL",
    "--security-opt=seccomp=$PROFILE",
    "-v=/sys/fs/cgroup:/sys/fs/cgroup:rw",
)
"""The fewest options, of docs/how-to/container.md, on a machine with cgroup v1."""


@dataclass(frozen=True)
class Machine:
    """One of the matrix.

    `kind`: this machine (in a mount namespace of its own, so that nothing is left behind), a container
    of Podman's, or an emulated machine with a kernel and a systemd of its own.
    """

    name: str
    what: str
    kind: Kind = "here"
    root: bool = False
    prepare: str = ""
    """Shell, as root, before the stranger comes: what takes something away."""
    without: str = ""
    """What `without.py` takes away."""
    python: str = "/usr/bin/python3"
    install: Literal["venv", "user", "target"] = "venv"
    """How the wheel is installed: in an environment of its own, or by pip's `--user` or `--target`."""
    suite: str = "bookworm"
    options: tuple[str, ...] = ()
    """A container's, or properties of a systemd service."""
    says: str = ""
    """A regular expression of what the first command says; empty: it works at once."""
    ends: bool = False
    """What is said names no remedy on this machine: what is missing is somebody else's to give."""
    undo: str = ""
    """Where the remedy is a package: what was hidden shows again. Shell, as root."""
    again: tuple[str, ...] = ()
    """Each is in what was said: a container is started once more, with these."""
    configured: tuple[tuple[str, str, str], ...] = ()
    """Words of what was said, and the file and text that they lead to, one after the other."""


def left_out(option: str) -> tuple[str, ...]:
    """The documented options without one."""
    return tuple(one for one in IN_CONTAINER if option not in one)


MACHINES = (
    Machine("root", "root", root=True),
    Machine("user", "an ordinary user, to whom nobody gave a cgroup", says="no cgroup here"),
    Machine(
        "no-subordinate-ids",
        "an ordinary user without subordinate ids",
        prepare="sed -i /^$NAME:/d /etc/subuid /etc/subgid",
        says="no subordinate range",
    ),
    Machine(
        "no-newuidmap",
        "no newuidmap and no newgidmap",
        prepare=f"{HIDDEN.format('/usr/bin/newuidmap')}; {HIDDEN.format('/usr/bin/newgidmap')}",
        says="newuidmap",
        undo="umount /usr/bin/newuidmap /usr/bin/newgidmap",
    ),
    Machine(
        "no-bubblewrap",
        "no bubblewrap",
        root=True,
        prepare=HIDDEN.format("/usr/bin/bwrap"),
        says="bubblewrap",
        undo="umount /usr/bin/bwrap",
    ),
    Machine(
        "bubblewrap-0.4",
        "bubblewrap of Debian 11",
        root=True,
        prepare=OTHER_BWRAP,
        says="has no --clearenv",
        ends=True,
    ),
    Machine(
        "cgroups-read-only",
        "cgroups that nobody may write",
        root=True,
        prepare=READ_ONLY_CGROUPS,
        says="no cgroup here",
        configured=(
            ('[host] cgroup = "none"', "config.toml", '[host]\ncgroup = "none"\n'),
            (
                'weakenings = ["no_cgroup"]` at the top of the policy, and `enforcement = "weakened"',
                "policies/python.toml",
                'weakenings = ["no_cgroup"]\nextends = "python"\n[sandbox]\nenforcement = "weakened"\n',
            ),
        ),
    ),
    Machine(
        "proc-sys-read-only",
        "a /proc/sys that nobody may write",
        root=True,
        prepare="mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys",
        says="unmask=ALL|ProtectKernelTunables",
        ends=True,
    ),
    Machine(
        "mounts-below-usr",
        "a folder and a file that are mounts below /usr",
        root=True,
        prepare="mount -t tmpfs none /usr/share/doc; mount --bind /bin/true /usr/bin/sum",
    ),
    Machine("no-landlock", "a kernel without Landlock", root=True, without="landlock"),
    Machine(
        "no-namespaces",
        "no user namespaces for anybody",
        root=True,
        without="namespaces",
        says="no user namespace can be made here",
        ends=True,
    ),
    Machine("pip-user", "pip install --user", install="user", says="no cgroup here"),
    Machine("pip-target", "pip install --target", install="target", says="no cgroup here"),
    Machine("python-3.12", "Python 3.12 of pyenv", root=True, python="3.12"),
    Machine("python-3.13", "Python 3.13 of pyenv", root=True, python="3.13"),
    Machine("container", "a container with the documented options", "container", options=IN_CONTAINER),
    Machine(
        "container-no-cgroup",
        "a container whose cgroup is read-only",
        "container",
        options=left_out("/sys/fs/cgroup"),
        says="no cgroup here",
        again=("-v /sys/fs/cgroup:/sys/fs/cgroup:rw",),
    ),
    Machine(
        "container-masked",
        "a container with a covered /proc",
        "container",
        options=left_out("unmask"),
        says="unmask=ALL",
        again=("--security-opt unmask=ALL",),
    ),
    Machine(
        "container-profile",
        "a container with the runtime's own filter",
        "container",
        options=left_out("seccomp"),
        says="sethostname",
        ends=True,
    ),
    Machine(
        "container-no-new-privileges",
        "a container with no-new-privileges",
        "container",
        options=(*IN_CONTAINER, "--security-opt=no-new-privileges"),
        says="no-new-privileges",
        ends=True,
    ),
    Machine(
        "debian-13-container", "a container of Debian 13", "container", suite="trixie", options=IN_CONTAINER
    ),
    Machine("debian-12-service", "Debian 12, a service with Delegate=yes", "emulated", root=True),
    Machine("debian-12-user", "Debian 12, a service with User= and Delegate=yes", "emulated"),
    Machine(
        "debian-12-undelegated",
        "Debian 12, a service with User= and nothing else",
        "emulated",
        options=("Delegate=no",),
        says="no cgroup here",
        ends=True,
    ),
    Machine(
        "debian-13-service", "Debian 13, a service with Delegate=yes", "emulated", root=True, suite="trixie"
    ),
    Machine("debian-13-user", "Debian 13, a service with User= and Delegate=yes", "emulated", suite="trixie"),
)
