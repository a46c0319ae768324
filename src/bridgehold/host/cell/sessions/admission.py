"""Whether one more session may open: by its tenant's ceilings, its policy's bound, the host's places."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from bridgehold.errors import (
    BusyError,
    TenantFullError,
)
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.ceilings import past_ceiling
from bridgehold.host.shares.places import no_place

_GONE_SECONDS = 30.0
"""How long an opening waits for the end of a session whose place or name it takes."""


class Admission:
    """Counts what is open, what is ending, and what was admitted and is not open yet."""

    def __init__(self, sessions: Iterable[Session], bound: int, tenants: Callable[[str], int]) -> None:
        """`sessions`: all that are not forgotten, each time they are asked for; the rest as of `Sessions`."""
        self._sessions = sessions
        self.bound = bound
        self._tenants = tenants
        self._admitted: dict[SessionKey, int] = {}
        """Those that have been counted, and the memory that each may use."""

    def __iter__(self) -> Iterator[SessionKey]:
        return iter(self._admitted)

    def settled(self, key: SessionKey) -> None:
        """What was admitted is open now, or did not open."""
        self._admitted.pop(key, None)

    async def admit(self, key: SessionKey, order: StartOrder) -> None:
        """Count one more, before anything is taken for it. Raises `BusyError`.

        What is ending has its memory until it is over, and counts as long: it is waited for.
        """
        while True:
            counted = [one for one in self._sessions if not one.over]
            beside = [one for one in counted if _same_place(one.key, key)]
            starting = sum(_same_place(one, key) for one in self._admitted)
            own = [one for one in counted if one.key.tenant == key.tenant]
            caps = [one.order.grant.limits.memory_bytes for one in own]
            caps += [memory for one, memory in self._admitted.items() if one.tenant == key.tenant]
            if past := past_ceiling(order.grant, caps, len(beside) + starting):
                counted, full = own, past
            elif len(beside) + starting >= order.grant.rate.concurrency:
                counted, full = (
                    beside,
                    BusyError(
                        f"{key.tenant} already has {len(beside) + starting} sessions with {key.bridge} open",
                        hint="End one (`bridgehold sessions`), or raise `[rate] concurrency` in the policy.",
                    ),
                )
            elif (refusal := self._no_place(key.tenant, counted)) is not None:
                full = refusal
                if isinstance(full, TenantFullError):
                    counted = own
            else:
                break
            leaving = next((one for one in counted if not one.alive), None)
            if leaving is None:
                raise full
            await gone(leaving, full)
        self._admitted[key] = order.grant.limits.memory_bytes

    def _no_place(self, tenant: str, counted: Iterable[Session]) -> BusyError | None:
        """Why the host has no place left for the tenant; None: it has."""
        held = Counter(one.key.tenant for one in counted)
        held.update(key.tenant for key in self._admitted)
        return no_place(held, tenant, self._tenants(tenant), self.bound)


async def gone(session: Session, late: BusyError) -> None:
    """Until it has ended and the audit says so. Raises `late` where that takes too long."""
    try:
        async with asyncio.timeout(_GONE_SECONDS):
            await session.wait_ended()
    except TimeoutError:
        raise late from None


def _same_place(one: SessionKey, other: SessionKey) -> bool:
    return (one.tenant, one.bridge) == (other.tenant, other.bridge)
