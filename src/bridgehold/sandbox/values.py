"""The values that cross the sandbox room's borders: spec in, proof and reports out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

GUEST_UID = 1000
"""The uid and gid that every guest has in its own user namespace, whatever the kernel's of its session is."""
GUEST_NAME = "bridge"
HOSTNAME = "bridge"


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount, in order. Targets are absolute, normalised, and never ``/``."""

    kind: Literal["ro_bind", "tmpfs", "dir", "symlink", "proc", "dev", "file", "text", "device"]
    target: str
    source: str = ""
    """Host path (bind, devices), link text (symlink)."""
    size_bytes: int = 0
    """tmpfs only."""
    mode: int = 0o755
    content: str = ""
    """``file`` and ``text`` only: of a small read-only file. ``file`` is a mount of its own, ``text`` lies in
    the sandbox's root, which is read-only too."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one sandbox, in the kernel's units."""

    memory_bytes: int
    cpu_millis: int
    processes: int
    open_files: int
    file_size_bytes: int


class TenantShare(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant's sandboxes have together: the operator's numbers, and beside whom. It is no part of a
    sandbox's spec; the newest start's holds for all that the tenant has."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: as much as all sessions together."""
    processes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: as many as all sessions together."""
    cpu_weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Its part of the processors under load, against the weights of other tenants."""
    io_weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    tenants: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many tenants the host serves, this one included: what is kept for others depends on it."""
    sandboxes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Workers at once, whatever they were started for; 0: as many as their promises leave room for."""


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a process can touch, and how much. Hashable to one digest."""

    kind: Literal["worker", "compiler", "fonts", "probe", "zygote"] = "worker"
    start: Literal["cold", "fork"] = "cold"
    """``fork``: from a zygote that has this spec's read-only mounts (docs/adr/0004)."""
    tenant: str
    bridge: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    resources: Resources
    working_directory: str = "/tmp"  # noqa: S108 - inside the sandbox: its own tmpfs
    hostname: str = HOSTNAME
    seccomp: Literal["default"] = "default"
    gateway_port: int = 0
    """Port of the gateway's listener on the sandbox's loopback; 0: none."""
    callback_port: int = 0
    """Port of a further listener there, for what a foreign worker calls back; 0: none. With it come sockets,
    made there and not connected, through which the host calls the worker."""
    two_outputs: bool = False
    """Its standard output has a pipe of its own beside the log, and `argv` gets the descriptor behind it."""
    weakenings: tuple[str, ...] = ()


class StartNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a start is for, as its audit event says it: whoever asks for the start says so."""

    session: str = ""
    environment: str = ""
    """Digest of the tree that is mounted as the environment."""


class Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher read of a worker in its own /proc; `differences` empty means green."""

    worker: str
    pid: int
    start_time: int
    """Clock ticks since boot, field 22 of /proc/PID/stat."""
    uid: int
    """Kernel uid, as the launcher's user namespace shows it."""
    capabilities: str
    """Permitted, effective, inheritable, bounding and ambient sets as read, ``/``-joined hexadecimal."""
    no_new_privs: bool
    seccomp_mode: int
    namespaces: dict[str, int]
    """Namespace name to inode."""
    cgroup: str
    mounts_digest: str
    differences: tuple[str, ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Kernel's own account of a worker, since its start. Integers only (they go to the audit)."""

    cpu_us: int = 0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    oom_kills: int = 0
    throttled_us: int = 0
    pids_denied: int = 0
    """How often the pids limit refused a fork."""


class ExitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended. The cause comes from the kernel, never from the guest."""

    worker: str
    cause: Literal["exited", "signal", "memory", "killed", "launcher", "zygote"]
    """``killed``: by our own `kill`; ``memory``: the cgroup's (or watchdog's) cap; ``zygote``: its
    zygote ended, or was ended because it had changed (`reason`)."""
    status: int
    """Exit status, or signal number."""
    usage: Usage
    emptied_ms: int
    """From the kill to an empty cgroup."""
    uid: int
    reason: str = ""
    """Of a zygote that was killed because it had changed, and of its sessions: what was seen."""


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """A running worker, not attested yet. The descriptors travel beside this value, in this order:
    frames to the guest (write), frames from it (read), log (read), gateway listener if any."""

    worker: str
    pid: int
    uid: int
    spec_digest: str
    phases_us: dict[str, int]
    """Microseconds spent in each phase of the start, for `bench`."""
    descriptors: int
    zygote: str = ""
    """The zygote's name, of a fork."""


class SealReport(msgspec.Struct, frozen=True, kw_only=True):
    """A tree that the host laid down, now owned by the launcher, read-only, with its digest."""

    path: str
    digest: str
    files: int
    bytes: int
