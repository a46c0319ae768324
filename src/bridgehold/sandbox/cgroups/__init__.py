"""Control groups, v2 and v1, behind one interface: a parent for all, a folder for each tenant, a leaf for
each session.

The parent holds a reserve back for the host, so that sessions together can't starve it; a tenant's folder
has one weight, so that many sessions of one have the processor share of one session of another. Whatever
is made is locked by its owner; `CgroupParent.sweep` ends and removes what owners that are gone left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, Protocol

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups.admission import Capacity
from bridgehold.sandbox.values import Resources, TenantShare, Usage


class SessionCgroup(Protocol):
    """One session's leaf."""

    path: str

    def enter(self) -> None:
        """In the forked child, before its uid changes: move itself in. Raises on any failure."""

    def entries(self, uid: int) -> list[int]:
        """Descriptors to which a single-threaded process of `uid` writes ``0`` to move itself in.

        Nobody else can be moved through them. Empty where `take` is the way. The caller closes them.
        """

    def take(self, pid: int) -> None:
        """Move a process in, from another cgroup of ours. Raises on any failure."""

    def weigh(self, times: int) -> None:
        """So many times the processors of what stands beside it. Raises `UnsupportedError`."""

    def limit_processes(self, count: int) -> None:
        """Another limit of processes and threads than `Resources` gave."""

    def holds(self, pid: int) -> bool:
        """Whether the process is in this cgroup, in every controller. `OSError`: it can't tell."""

    def oom_fd(self) -> int | None:
        """A non-blocking descriptor that is readable when something may have been killed for memory.

        Read it empty, then look at ``usage().oom_kills``: a sibling's trouble wakes it too. Closed by
        `remove`. None where the kernel gives none: then `usage` alone tells.
        """

    def usage(self) -> Usage:
        """The kernel's account since `create`."""

    def account(self) -> list[int]:
        """Descriptors to read the most asked part of it: cpu, memory's peak, and what was killed for memory,
        or the last alone. Empty where there are none.

        The caller closes them.
        """

    def lift(self) -> None:
        """Lift the cpu quota and thaw, so that dying is quick."""

    def kill(self) -> None:
        """Forbid forks, then SIGKILL every process, or of thousands some: until none is left, it is called
        again. Doesn't wait for them to be gone. Raises `OSError` where it can't be done now."""

    def processes(self) -> list[int]:
        """The pids in it, in any controller. Raises `OSError` where it can't tell."""

    def remove(self) -> None:
        """Remove it in every controller, without waiting; what stays busy is `left_over`."""

    @property
    def left_over(self) -> bool:
        """It was to be removed, and is still there: the next `remove`, or the parent, tries again."""


class CgroupParent(Protocol):
    """The cgroup below which each session gets one: v2, v1, or none at all (a watchdog's place)."""

    capacity: Capacity
    """What sessions may use together; also the parent's own limits."""
    capacity_bytes: int

    @property
    def version(self) -> Literal["v2", "v1", "none"]:
        """Which kind it is."""

    @property
    def weighs_io(self) -> bool:
        """Whether storage is shared out by tenant too, beside processors."""

    def create(
        self, name: str, resources: Resources, *, tenant: str, share: TenantShare | None = None
    ) -> SessionCgroup:
        """A leaf with its limits, each read back. `UnsupportedError` where one doesn't hold.

        `share`: what the tenant's have together from now on; None: as before. `BusyError` where they hold
        more memory than that.
        """

    def share_out(self, tenant: str, share: TenantShare) -> None:
        """`share` for a tenant that has a session. Raises as `create`."""

    def carry_cells(self) -> None:
        """What answers tenants stands below it too: all of it weighs as one of the host's own processes."""

    def tidy(self) -> None:
        """Remove what stayed busy when it was to be removed, and the folders of tenants without a leaf."""

    def sweep(self) -> list[str]:
        """End and remove what instances without an owner left; their names."""

    def close(self) -> None:
        """End every session that is left and remove the parent."""


SETTING = "[host] cgroup"
"""Where an error is that says that there can be no cgroup."""


def open_parent(choice: str = "auto", *, reserve_bytes: int, instance: str) -> CgroupParent:
    """The parent that `choice` selects, made and limited. `reserve_bytes` stay with the host.

    ``auto`` takes what works when tried: v2 if it is delegated to us, then v1. ``v2`` and ``v1`` ask
    for one. ``v2:/NAME`` (or ``/sys/fs/cgroup/NAME``) and ``v1:/NAME`` name a delegated cgroup,
    relative to the mount; on v1 the same path in the memory, pids, cpu and cpuacct hierarchies.
    ``none`` is the weakening `no_cgroup` and must be asked for by name. Raises `UnsupportedError`
    with every reason where nothing works.
    """
    from bridgehold.sandbox.cgroups import none, v1, v2

    kind, _, base = choice.partition(":")
    if choice.startswith("/"):
        kind, base = "v2", choice
    if kind == "none" and not base:
        return none.Parent(reserve_bytes=reserve_bytes)
    makers: dict[str, Callable[..., CgroupParent]] = {"v2": v2.open_parent, "v1": v1.open_parent}
    if kind not in (*makers, "auto") or (base and not base.startswith("/")) or (kind == "auto" and base):
        raise UnsupportedError(
            f"{choice[:200]!r} is no choice of cgroup",
            hint="Use auto, v2, v1, v2:/NAME, v1:/NAME or none.",
            where=SETTING,
        )
    failures: list[str] = []
    for version in makers if kind == "auto" else (kind,):
        try:
            return makers[version](base, reserve_bytes=reserve_bytes, instance=instance)
        except UnsupportedError as error:
            failures.append(f"{version}: {error.message}")
        except OSError as error:
            failures.append(f"{version}: {error}")
    raise _none_to_be_had(kind, failures)


def _none_to_be_had(kind: str, failures: list[str]) -> UnsupportedError:
    """What was tried is a note: where nothing was named, the remedy alone is of use."""
    from bridgehold.sandbox.cgroups.remedy import look, remedy

    tried = "; ".join(failures)
    named = f": {tried}" if kind != "auto" else " here"
    weaker = f'{remedy(look(os.environ))} (Weaker, and named so in the audit: `[host] cgroup = "none"`.)'
    error = UnsupportedError(f"sessions can have no cgroup{named}", hint=weaker, where=SETTING)
    error.add_note(tried)
    return error
