"""What a container's runtime takes away that sandboxes are made of, and the option that gives it back.

Each was found by leaving it out: `docs/how-to/container.md` has what then fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

import msgspec

MARKS = ("/.dockerenv", "/run/.containerenv", "/run/secrets/kubernetes.io")
"""What Docker, Podman and Kubernetes leave in a container."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is needed, in each runtime's words."""

    docker: str
    podman: str = ""
    """Empty: as Docker's."""
    kubernetes: str

    def __str__(self) -> str:
        """``Docker …; Podman …; Kubernetes …``."""
        first = f"Docker {self.docker}; Podman {self.podman}"
        ours = first if self.podman else f"Docker, Podman {self.docker}"
        return f"{ours}; Kubernetes {self.kubernetes}"


NAMESPACES = Option(docker="--cap-add=SYS_ADMIN", kubernetes="securityContext.capabilities.add: [SYS_ADMIN]")
ATTACH = Option(docker="--cap-add=SYS_PTRACE", kubernetes="securityContext.capabilities.add: [SYS_PTRACE]")
PROC = Option(
    docker="--security-opt systempaths=unconfined",
    podman="--security-opt unmask=ALL",
    kubernetes="securityContext.procMount: Unmasked",
)
CGROUP = Option(
    docker="--cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw",
    podman="--cgroupns=private --security-opt unmask=/sys/fs/cgroup (on cgroup v1: "
    "-v /sys/fs/cgroup:/sys/fs/cgroup:rw)",
    kubernetes="a runtime class with writable cgroups (containerd 2.1: cgroup_writable = true)",
)
PRIVILEGES = Option(
    docker="no --security-opt no-new-privileges",
    kubernetes="securityContext.allowPrivilegeEscalation: true",
)
CALLS = Option(
    docker="--security-opt seccomp=FILE, a profile that allows what was refused",
    kubernetes="securityContext.seccompProfile.type: Localhost, a profile that allows what was refused",
)
HOSTNAME = Option(
    docker="--security-opt seccomp=FILE, a profile that allows sethostname",
    kubernetes="securityContext.seccompProfile.type: Localhost, a profile that allows sethostname",
)
MOUNTS = Option(
    docker="no volume or device below /usr that holds no files",
    kubernetes="no volumeMounts below /usr that hold no files",
)
VISIBLE = Option(docker="a /proc without hidepid", kubernetes="a runtime class whose /proc has no hidepid")
UIDS = Option(
    docker="no --userns with a small map", podman="--userns=auto:size=65536", kubernetes="hostUsers: true"
)


def contained(environ: Mapping[str, str]) -> bool:
    """Whether this process is in a container, by what runtimes leave there."""
    return "container" in environ or any(os.access(mark, os.F_OK) for mark in MARKS)


def lack(error: BaseException | None) -> Option | None:
    """Which option a refusal of the kernel's is about (pure); None: it isn't known."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    if error is None:
        return None
    name = str(error.filename or "")
    if error.errno == errno.EROFS and name.startswith("/proc/"):
        return PROC
    if error.errno == errno.ENOENT and name.endswith("/ns/net"):
        return PROC  # bubblewrap has ended: it may mount no /proc where parts of this one are covered
    if error.errno == errno.EACCES and "/ns/" in name:
        return ATTACH
    if error.errno == errno.EPERM and not name:
        return NAMESPACES
    return None


def namespaces(environ: Mapping[str, str]) -> str:
    """The remedy where no user namespace can be made."""
    if contained(environ):
        return _with(NAMESPACES)
    return (
        "Let this process make them: sysctl -w user.max_user_namespaces=65536, and no RestrictNamespaces= in "
        "its unit."
    )


_WORDS = (
    ("mount proc", PROC),
    ("set hostname", HOSTNAME),
    ("namespace", NAMESPACES),
    ("loopback", CALLS),
)


def complained(text: str) -> str | None:
    """The remedy for what bubblewrap wrote, in the container that this is in; None: nothing is known."""
    option = next((option for words, option in _WORDS if words in text), None)
    return None if option is None or not contained(os.environ) else _with(option)


def _with(option: Option) -> str:
    return f"Start the container with it allowed: {option}."


def hint(error: BaseException) -> str | None:
    """The remedy for `error` in the container that this is in; None: it is in none, or nothing is known."""
    option = lack(error) if contained(os.environ) else None
    return None if option is None else _with(option)
