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
    podman="--cgroupns=private --security-opt unmask=/sys/fs/cgroup",
    kubernetes="a runtime class with writable cgroups (containerd 2.1: cgroup_writable = true)",
)
PRIVILEGES = Option(
    docker="no --security-opt no-new-privileges",
    kubernetes="securityContext.allowPrivilegeEscalation: true",
)
CALLS = Option(
    docker="--security-opt seccomp=unconfined, where --cap-add=SYS_ADMIN alone is not enough",
    kubernetes="securityContext.seccompProfile.type: Unconfined, where SYS_ADMIN alone is not enough",
)
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


def hint(error: BaseException) -> str | None:
    """The remedy for `error` in the container that this is in; None: it is in none, or nothing is known."""
    option = lack(error) if contained(os.environ) else None
    return None if option is None else f"Start the container with it allowed: {option}."
