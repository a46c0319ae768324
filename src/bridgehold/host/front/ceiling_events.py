"""Tenants' ceilings in the audit: who raises one by hand, with a host running or not, is told.

A host compares what the files say at its start and at a reload with what the audit tells of them, as
`secret_events` does for secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import PolicyLoaded
from bridgehold.audit.read import read_kind
from bridgehold.errors import BridgeholdError
from bridgehold.host.front.in_force import Records
from bridgehold.policies.changes import named
from bridgehold.policies.files import Readings
from bridgehold.policies.model import Ceilings
from bridgehold.policies.reviewed import OF_TENANT
from bridgehold.policies.tenants import Tenant, compare_limits


class CeilingEvents:
    """Of one host."""

    def __init__(self, journal: Records, audit: Path) -> None:
        """`audit`: what is told already; read when it is first asked for."""
        self._journal = journal
        self._audit = audit
        self._known: dict[str, Ceilings] | None = None
        self._raised: dict[str, tuple[str, ...]] = {}
        self._turn = asyncio.Lock()

    async def known(self) -> dict[str, Ceilings]:
        """By tenant, what the audit tells. Raises `AuditError` where it can't be read."""
        async with self._turn:
            if self._known is None:
                self._known = await asyncio.to_thread(lambda: fold(read_kind(self._audit, "policy.loaded")))
        return self._known

    async def found(self, tenant: Tenant, readings: Readings) -> None:
        """The files say this of `tenant`, whoever has written it. Raises what keeps it from the audit."""
        known = await self.known()
        changes = compare_limits(known.get(tenant.name, Ceilings()), tenant.limits)
        gained, lost = named(changes)
        if gained or lost:
            await self._tell(tenant, readings, gained, lost)
        if gained:
            self._raised[tenant.name] = gained

    async def changed(self, tenant: Tenant, readings: Readings) -> None:
        """An operator has changed them through this host, as the audit tells beside this."""
        self._raised.pop(tenant.name, None)
        with contextlib.suppress(BridgeholdError):  # it is done: what stays untold is told as found
            if (await self.known()).get(tenant.name, Ceilings()) != tenant.limits:
                await self._tell(tenant, readings, (), ())

    def raised(self, tenant: str) -> tuple[str, ...]:
        """What this host has found raised, until an operator changes the tenant's ceilings through it."""
        return self._raised.get(tenant, ())

    async def _tell(
        self, tenant: Tenant, readings: Readings, gained: tuple[str, ...], lost: tuple[str, ...]
    ) -> None:
        event = PolicyLoaded(
            tenant=tenant.name,
            name=f"{OF_TENANT}{tenant.name}",
            digest=readings.digest(),
            files=readings.sources(),
            gained=gained,
            lost=lost,
            limits=msgspec.to_builtins(tenant.limits),
        )
        await self._journal.append(event, durable=False)
        (await self.known())[tenant.name] = tenant.limits


def fold(entries: Iterable[Entry]) -> dict[str, Ceilings]:
    """What the audit tells last of each tenant (pure)."""
    known: dict[str, Ceilings] = {}
    for entry in entries:
        with contextlib.suppress(msgspec.ValidationError):  # of a version that wrote none
            known[entry.tenant] = msgspec.convert(entry.fields.get("limits"), Ceilings)
    return known
