"""Admission (pure): what sessions may be promised together, what each tenant is sure of, and whether one
more fits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from bridgehold.errors import BusyError, TenantFullError, UnsupportedError
from bridgehold.policies.parts import kept_for_others
from bridgehold.policies.units import format_size
from bridgehold.sandbox.values import Resources, TenantShare

_PROCESS_RESERVE = 8
"""One eighth of the machine's processes is never given to sessions."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions may use together. The parent cgroup enforces both numbers."""

    memory_bytes: int
    processes: int
    """Processes and threads."""


def capacity(
    *,
    total_bytes: int,
    memory_ceiling: int | None,
    reserve_bytes: int,
    total_processes: int,
    process_ceiling: int | None,
) -> Capacity:
    """What is left after the reserve of the smaller of machine and ceiling (pure).

    `memory_ceiling` and `process_ceiling`: what the cgroups above the parent allow; None: no limit.
    Raises `UnsupportedError` where the reserve leaves sessions nothing.
    """
    memory = min(total_bytes, memory_ceiling or total_bytes)
    processes = min(total_processes, process_ceiling or total_processes)
    if memory <= reserve_bytes:
        raise UnsupportedError(
            f"the reserve of {format_size(reserve_bytes)} leaves sessions nothing of the "
            f"{format_size(memory)} that this process may use",
            hint="Lower `[host] memory_reserve`, or give the service more memory (MemoryMax=).",
        )
    left = memory - reserve_bytes
    page = os.sysconf("SC_PAGE_SIZE")
    return Capacity(
        memory_bytes=left // page * page, processes=max(1, processes - processes // _PROCESS_RESERVE)
    )


def machine_capacity(
    *, reserve_bytes: int, memory_ceiling: int | None, process_ceiling: int | None
) -> Capacity:
    """`capacity` with this machine's own totals."""
    totals = []
    for name in ("pid_max", "threads-max"):
        try:
            totals.append(int(Path(f"/proc/sys/kernel/{name}").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return capacity(
        total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        memory_ceiling=memory_ceiling,
        reserve_bytes=reserve_bytes,
        total_processes=min(totals, default=32768),
        process_ceiling=process_ceiling,
    )


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised already."""

    by_tenant: dict[str, Capacity]
    sessions: int = 0

    @classmethod
    def of(cls, promised: Iterable[tuple[str, Resources]]) -> Held:
        """The sums of (tenant, what one of its sessions was promised) (pure)."""
        sums: dict[str, list[int]] = {}
        count = 0
        for count, (tenant, one) in enumerate(promised, 1):  # noqa: B007 - its last value is the number
            mine = sums.setdefault(tenant, [0, 0])
            mine[0] += one.memory_bytes
            mine[1] += one.processes
        return cls(
            by_tenant={name: Capacity(memory_bytes=m, processes=p) for name, (m, p) in sums.items()},
            sessions=count,
        )


class _Want(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of thing that a session is promised."""

    what: Literal["memory", "processes"]
    need: int
    whole: int
    most: int
    """The tenant's own bound."""
    held: dict[str, int]
    """By each tenant."""

    def show(self, count: int) -> str:
        return format_size(count) if self.what == "memory" else str(count)


def admit(
    wanted: Resources,
    held: Held,
    limits: Capacity,
    *,
    tenant: str,
    share: TenantShare | None = None,
    overcommit: bool = False,
) -> None:
    """Nothing, or `BusyError` that names the numbers; `TenantFullError` where the tenant has its part (pure).

    Half of everything is kept for tenants that hold less than a part of it: equal parts, and none smaller
    than the session that is asked for. What a tenant has of its part nobody can take; the rest goes to
    who comes first. A tenant that is alone has everything.

    `overcommit` (a named weakening) admits sessions beyond the sum; the parent cgroup's cap stays,
    so the machine is safe and the sessions are not safe from each other. A session that is larger
    than the whole capacity is refused either way: its limit would be a lie.
    """
    share = share or TenantShare()
    wants = (
        _Want(
            what="memory",
            need=wanted.memory_bytes,
            whole=limits.memory_bytes,
            most=min(share.memory_bytes or limits.memory_bytes, limits.memory_bytes),
            held={name: one.memory_bytes for name, one in held.by_tenant.items()},
        ),
        _Want(
            what="processes",
            need=wanted.processes,
            whole=limits.processes,
            most=min(share.processes or limits.processes, limits.processes),
            held={name: one.processes for name, one in held.by_tenant.items()},
        ),
    )
    for want in wants:
        _check_size(want, tenant)
    if overcommit:
        return
    for want in wants:
        _check_sum(want, held.sessions)
        _check_share(want, tenant, max(share.tenants, len(held.by_tenant.keys() | {tenant})))


def demand_count(has: int, tenant: str, share: TenantShare | None) -> None:
    """Raise `TenantFullError` where a tenant that has so many workers may have no more (pure)."""
    if share is not None and 0 < share.sandboxes <= has:
        raise TenantFullError(
            f"{tenant[:80]} has {has} sandboxes, and no more are its tenant's",
            hint="End sessions of this tenant, or raise `[host] max_sessions`.",
        )


def _check_size(want: _Want, tenant: str) -> None:
    if want.need > want.whole:
        raise BusyError(
            f"a session of {want.show(want.need)} {want.what} never fits: all sessions together have "
            f"{want.show(want.whole)}",
            hint=f"Lower `[limits] {want.what}` in the policy, or give the machine more.",
            retry="no",
        )
    if want.need > want.most:
        raise TenantFullError(
            f"a session of {want.show(want.need)} {want.what} never fits: all that tenant {tenant[:80]} has "
            f"may have {want.show(want.most)}",
            hint=f"Lower `[limits] {want.what}` in the policy, or raise the tenant's.",
            retry="no",
        )


_REMEDIES = {
    "memory": "lower `[limits] memory` or `[host] memory_reserve`",
    "processes": "lower `[limits] processes`, raise the sysctl kernel.pid_max or the service's TasksMax=",
}


def _check_sum(want: _Want, sessions: int) -> None:
    promised = sum(want.held.values())
    if promised + want.need > want.whole:
        needed = (
            f"{want.show(want.need)} of memory does" if want.what == "memory" else f"{want.need} processes do"
        )
        raise BusyError(
            f"{needed} not fit: {sessions} sessions are promised "
            f"{want.show(promised)} of {want.show(want.whole)}",
            hint=f"End sessions, {_REMEDIES[want.what]}, or name the weakening "
            "`overcommit` in the policy, with `[host] overcommit = true`.",
        )


def _check_share(want: _Want, tenant: str, tenants: int) -> None:
    own = want.held.get(tenant, 0)
    left = want.whole - sum(want.held.values())
    kept = kept_for_others(want.held, tenant, tenants, whole=want.whole, need=want.need)
    if own + want.need <= want.most and want.need <= left - kept:
        return
    why = (
        f"it may have {want.show(want.most)}"
        if own + want.need > want.most
        else f"of the {want.show(left)} that are left, {want.show(kept)} are kept for {tenants - 1} "
        "other tenants"
    )
    raise TenantFullError(
        f"{want.show(want.need)} more {want.what} do not fit: tenant {tenant[:80]} is promised "
        f"{want.show(own)}, and {why}",
        hint=f"End sessions of this tenant, lower `[limits] {want.what}` in its policy, or raise what the "
        "tenant may have.",
    )
