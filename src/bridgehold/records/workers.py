"""The launcher's own events, and what every event begins with. Integers only, never a float.

Nobody else may write these: what a sandbox was started as, what was seen of it, and how it ended is
the launcher's to say.
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The base. `tenant`, `session` and `command` tie events together."""

    tenant: str = ""
    principal: str = ""
    session: str = ""
    command: str = ""


class WorkerStarted(Event, frozen=True, kw_only=True, tag="worker.started"):
    """Durable before the first instruction of a sandbox is let run. It has a `worker.exited`, too."""

    worker: str
    purpose: str
    """``worker``, ``zygote``, ``compiler``, ``fonts`` or ``probe``."""
    bridge: str
    start: str
    """``cold`` or ``fork``."""
    spec: str
    environment: str
    uid: int
    cgroup: str
    weakenings: tuple[str, ...] = ()
    zygote: str = ""
    """The zygote it is forked from."""


class WorkerAttested(Event, frozen=True, kw_only=True, tag="worker.attested"):
    """A worker was compared with its spec by the kernel's view of it, and nothing differed."""

    worker: str
    spec: str
    pid: int
    uid: int
    environment: str
    capabilities: str
    no_new_privs: bool
    seccomp_mode: int
    namespaces: dict[str, int]
    cgroup: str
    mounts: str
    weakenings: tuple[str, ...] = ()
    zygote: str = ""
    """The zygote it was forked from; empty for a cold start."""
    phases_us: dict[str, int] = {}
    """The launcher's part of the start, in microseconds by phase."""


class ZygoteAttested(WorkerAttested, frozen=True, kw_only=True, tag="zygote.attested"):
    """As `worker.attested`, of a zygote, before anything is forked from it."""


class WorkerRefused(Event, frozen=True, kw_only=True, tag="worker.refused"):
    """A worker differed from its spec, and was killed before any tenant data went in."""

    worker: str
    differences: tuple[str, ...]


class WorkerExited(Event, frozen=True, kw_only=True, tag="worker.exited"):
    """A worker's process tree is gone. `status`: the exit status, or the signal's number.

    `intent` is the event reference of its start.
    """

    worker: str
    intent: str = ""
    cause: str
    """``exited``, ``signal``, ``memory``, ``killed``, ``zygote`` (its zygote ended)."""
    by: str = ""
    """Whose doing: ``guest``, ``kernel``, ``host``, ``zygote`` or ``launcher``."""
    reason: str = ""
    status: int
    cpu_us: int
    memory_peak_bytes: int
    oom_kills: int
    emptied_ms: int


def kind_of(event: Event | type[Event]) -> str:
    """The stable name: ``command.intent`` and so on."""
    return str(event.__struct_config__.tag)


RECORDED_KINDS = frozenset(
    kind_of(one) for one in (WorkerStarted, WorkerAttested, ZygoteAttested, WorkerRefused, WorkerExited)
)
"""What the launcher writes, and it alone."""
