"""A bridge that is handed in, until it waits for an operator: read, locked, built, tried.

What comes is bytes until the one strict reader has made values of it. Code of it runs in a sandbox that
reaches nothing, and otherwise nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from bridgehold.bridges.bundle import Bundle
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.layout import Layout
from bridgehold.error_texts import from_os
from bridgehold.errors import BridgeholdError, BusyError, DeniedError, ManifestError, UsageError
from bridgehold.host.cell.store import quarantine
from bridgehold.host.cell.store.quarantine import Quarantine
from bridgehold.host.cell.workers.trial import confined
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.locking import Locking
from bridgehold.host.front.orders import Orders
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.tenants import TenantFiles
from bridgehold.ids import new_session_id
from bridgehold.protocol.submissions import Submission, Tried
from bridgehold.protocol.values import Principal

_TRIALS_AT_ONCE = 2


class Bench(Protocol):
    """Where a tenant's bytes are opened, and its code is tried: its cell."""

    async def take_out(self, principal: Principal, tenant: str, archive: str) -> Bundle:
        """What the tenant's artifact `archive` holds, which is let go of. Raises what is wrong with it."""

    async def try_out(self, order: StartOrder, found: Bundle, principal: str) -> tuple[Tried, ...]:
        """Run it in a sandbox of the tenant's. Raises what is no fault of the bridge's."""

    def uses(self, digest: str) -> bool:
        """Whether a session, a zygote or a pooled sandbox has this environment."""


class Examination:
    """One per host."""

    def __init__(
        self,
        layout: Layout,
        bench: Bench,
        registry: Registry,
        tenants: TenantFiles,
        orders: Orders,
        locking: Locking,
        quarantine: Quarantine,
        environments: Environments,
    ) -> None:
        self._layout = layout
        self._bench = bench
        self._registry = registry
        self._tenants = tenants
        self._orders = orders
        self._locking = locking
        self._quarantine = quarantine
        self._environments = environments
        self._room = asyncio.Semaphore(_TRIALS_AT_ONCE)

    async def take(
        self, principal: Principal, tenant: str, archive: str, settling: Callable[[], None]
    ) -> Submission:
        """The artifact `archive` of the tenant's, which is let go of, as a submission; it waits, or failed.

        `settling`: called before its record says which. Raises why nothing waits of it; where it had come so
        far its record says so, too.
        """
        found = await self._bench.take_out(principal, tenant, archive)
        manifest = await asyncio.to_thread(quarantine.manifest_of, found)
        self._demand(principal, tenant, found, manifest)
        limits = self._tenants.of(tenant).limits
        room = (limits.submissions, limits.submitted, found.size)
        await asyncio.to_thread(self._quarantine.demand_room, tenant, *room)
        found, packages = await self._locking.locked(found, manifest)
        record = quarantine.new_record(tenant, found, manifest.name, manifest.version, principal.name)
        record = msgspec.structs.replace(record, packages=packages)
        try:
            try:
                await asyncio.to_thread(self._quarantine.keep, record, found)
                record = await self._checked(record, found, principal)
            finally:
                settling()
            await asyncio.to_thread(self._quarantine.write, record)
            if record.state == "failed":
                await self.let_go(record)
        except OSError as error:
            await self._failed(record, from_os(error))
            raise from_os(error) from error
        except BridgeholdError as error:
            await self._failed(record, error)
            raise
        except BaseException:
            await self._failed(record, BusyError("it was given up"))
            raise
        return record

    def _demand(self, principal: Principal, tenant: str, found: Bundle, manifest: Manifest) -> None:
        """Raise what is wrong with it, as far as that is seen without running anything."""
        name = manifest.name
        principal.demand_bridge(name)
        if not principal.may_run_all(name):
            raise DeniedError(f"{principal.name} may not use all of {name}, which code of its own could")
        if manifest.foreign:
            raise ManifestError(f"{name} runs scripts of callers: an operator keeps such a bridge by hand")
        demand_free(self._layout, self._registry, tenant, name)
        module = manifest.entry.partition(":")[0].replace(".", "/")
        if found.get(f"{module}.py") is None and found.get(f"{module}/__init__.py") is None:
            raise ManifestError(f"the entry {manifest.entry!r} has no file in it", where="bridge.toml")
        for file in (manifest.requirements, manifest.lock if not manifest.requirements else ""):
            if file and found.get(file) is None:
                raise ManifestError(f"there is no file {file} in it", where="bridge.toml")

    async def _checked(self, record: Submission, found: Bundle, principal: Principal) -> Submission:
        tree = await asyncio.to_thread(self._quarantine.lay, record, found)
        try:
            manifest = await asyncio.to_thread(quarantine.manifest_of, found, tree)
            grant = confined(self._registry.resolve_grant(record.tenant, manifest))
            order = await self._orders.of_trial(manifest, grant, new_session_id())
            record = await asyncio.to_thread(self._built, record, order.environment_digest)
            async with self._room:
                self._tenants.demand(record.tenant)
                tried = await self._bench.try_out(order, found, principal.name)
        finally:
            await asyncio.to_thread(self._quarantine.clear, record)
        faults = [f"{one.name}: {one.detail}" for one in tried if one.status == "FAIL"]
        record = msgspec.structs.replace(record, tried=tried, state="waiting")
        if faults:
            record = msgspec.structs.replace(record, state="failed", reason="; ".join(faults)[:500])
        return record

    def _built(self, record: Submission, digest: str) -> Submission:
        size = self._environments.size_of(digest)
        built = msgspec.structs.replace(record, environment=digest, environment_bytes=size)
        self._quarantine.write(built)
        return built

    async def _failed(self, record: Submission, error: BridgeholdError) -> None:
        with contextlib.suppress(OSError, BridgeholdError):
            now = await asyncio.to_thread(self._quarantine.find, record.id)
            failed = msgspec.structs.replace(now, state="failed", reason=error.message[:500])
            await asyncio.to_thread(self._quarantine.write, failed)
            await self.let_go(failed)

    async def let_go(self, record: Submission) -> None:
        """What was built for a submission that nobody will run goes, where nothing else rests on it."""
        digest = record.environment
        if not digest or digest in self._environments.referenced(self._registry.manifests()):
            return
        waiting = [self._quarantine.environments(tenant) for tenant in self._quarantine.tenants()]
        if not self._bench.uses(digest) and not any(digest in one for one in waiting):
            await self._environments.let_go(digest)


def demand_free(layout: Layout, registry: Registry, tenant: str, name: str) -> None:
    """Raise `UsageError` where the name is everybody's, or kept by hand in the tenant's folder."""
    for entry in registry.entries():
        if entry.name == name and not entry.tenant:
            raise UsageError(f"every tenant has a bridge {name!r}: give this one another name")
    if (layout.own_bridges(tenant) / name / "bridge.toml").exists():
        raise UsageError(f"{name} of {tenant} is kept by hand: an operator changes it in its folder")
