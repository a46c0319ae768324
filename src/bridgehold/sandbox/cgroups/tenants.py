"""The level between the parent and the leaves: a folder for each tenant that has a session.

The kernel shares processors and storage out among siblings by weight. Were sessions siblings, a tenant
with forty would have forty parts. So tenants are, with one weight each, one memory cap and one limit of
processes. A folder is there from a tenant's first session on, and goes with the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bridgehold.errors import BusyError
from bridgehold.ids import is_name
from bridgehold.policies.units import format_size
from bridgehold.sandbox.cgroups import files
from bridgehold.sandbox.cgroups.admission import Capacity
from bridgehold.sandbox.values import TenantShare

_PRIVATE = 0o700
_SHARES, _EQUAL = 1024, 100
"""v1's and v2's number for a group that is like others."""


def folder_name(tenant: str) -> str:
    """One name for each tenant, and none that a path could be made of (pure)."""
    if is_name(tenant):
        return f"tenant-{tenant}"
    return f"tenant.{hashlib.sha256(tenant.encode()).hexdigest()[:32]}"


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A share as the numbers that are written."""

    memory_bytes: int
    processes: int
    cpu_weight: int
    io_weight: int

    @property
    def cpu_shares(self) -> int:
        """As v1 counts."""
        return max(2, self.cpu_weight * _SHARES // _EQUAL)


def limits(share: TenantShare, capacity: Capacity) -> TenantLimits:
    """No more than all sessions together may have (pure)."""
    return TenantLimits(
        memory_bytes=files.pages(min(share.memory_bytes or capacity.memory_bytes, capacity.memory_bytes)),
        processes=min(share.processes or capacity.processes, capacity.processes),
        cpu_weight=share.cpu_weight,
        io_weight=share.io_weight,
    )


def check_room(held_bytes: int, wanted: TenantLimits, tenant: str) -> None:
    """The kernel would wait to take from a tenant what it holds beyond a smaller cap: `BusyError` (pure)."""
    if held_bytes > wanted.memory_bytes:
        raise BusyError(
            f"tenant {tenant[:80]} holds {format_size(held_bytes)}, more than the "
            f"{format_size(wanted.memory_bytes)} that it may have now",
            hint="End sessions of this tenant, or raise its memory.",
        )


class Tenants:
    """The folders of one parent. `limit` writes a tenant's numbers into the folders of a name, in a tree
    where `tops` are the parent's own."""

    def __init__(self, tops: Iterable[Path], limit: Callable[[str, str, TenantShare], None]) -> None:
        self._tops = tuple(dict.fromkeys(tops))
        self._limit = limit
        self._known: dict[str, TenantShare | None] = {}
        """Folder's name → what is written in it; None: not yet, or not all of it."""

    def enter(self, tenant: str, share: TenantShare | None) -> str:
        """The name of the tenant's folder, which is there and limited. What raises is undone by `keep`.

        Raises `OSError`, `UnsupportedError` where the kernel refuses, `BusyError` as `check_room`.
        """
        name = folder_name(tenant)
        known = self._known.get(name)
        wanted = share or known or TenantShare()
        if known is None:
            self._known[name] = None
            for top in self._tops:
                (top / name).mkdir(mode=_PRIVATE, exist_ok=True)
        if known is None or wanted != known:
            self._limit(name, tenant, wanted)
            self._known[name] = wanted
        return name

    def keep(self, used: set[str]) -> None:
        """Remove every folder but those of these names. The next call tries again what is still busy."""
        for name in [name for name in self._known if name not in used]:
            removed = [files.remove(top / name, 0.0) for top in self._tops]
            self._known[name] = None
            if all(removed):
                del self._known[name]
