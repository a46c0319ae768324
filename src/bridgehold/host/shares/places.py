"""The host's places for sessions, shared out among tenants before one is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from bridgehold.errors import BusyError, TenantFullError
from bridgehold.policies.parts import kept_for_others


def no_place(held: dict[str, int], tenant: str, tenants: int, bound: int) -> BusyError | None:
    """Why a host of `bound` places has none left for `tenant`, where each has what `held` says; None: it has.

    `tenants`: how many there are, this one included (pure).
    """
    left = bound - sum(held.values())
    if left <= 0:
        return BusyError(
            f"this host already has {bound} sessions",
            hint="End some (`bridgehold sessions`), or raise `[host] max_sessions`.",
        )
    if left > kept_for_others(held, tenant, tenants, whole=bound, need=1):
        return None
    return TenantFullError(
        f"{tenant} has {held.get(tenant, 0)} of this host's {bound} sessions, and the {left} that are left "
        "are kept for other tenants",
        hint="End some of them (`bridgehold sessions`), or raise `[host] max_sessions`.",
    )


class Places:
    """Whose sessions have a place, of all cells together."""

    def __init__(self, bound: int, tenants: Callable[[str], int]) -> None:
        """`tenants`: how many those are, one of the given name included."""
        self.bound = bound
        self._tenants = tenants
        self._held: dict[str, set[tuple[str, str]]] = {}
        """By tenant: the cell's name and the session's id."""

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def owners(self) -> list[str]:
        """Of each place, whose it is."""
        return [tenant for tenant, held in self._held.items() for _ in held]

    def of(self, tenant: str) -> int:
        """How many the tenant has."""
        return len(self._held.get(tenant, ()))

    def take(self, tenant: str, cell: str, session: str) -> None:
        """Raises `BusyError` where there is none for the tenant."""
        held = Counter({name: len(held) for name, held in self._held.items()})
        if (full := no_place(held, tenant, self._tenants(tenant), self.bound)) is not None:
            raise full
        self._held.setdefault(tenant, set()).add((cell, session))

    def give_back(self, tenant: str, cell: str, session: str) -> None:
        """Of a session that has none, nothing."""
        self._keep(tenant, self._held.get(tenant, set()) - {(cell, session)})

    def clear(self, tenant: str, cell: str) -> None:
        """All of one cell's: it has ended, and its sessions with it."""
        self._keep(tenant, {one for one in self._held.get(tenant, set()) if one[0] != cell})

    def _keep(self, tenant: str, held: set[tuple[str, str]]) -> None:
        if held:
            self._held[tenant] = held
        else:
            self._held.pop(tenant, None)
