"""Environments for this host's bridges: looked at before each use, built once, told to whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import EnvironmentBuilt, EnvironmentRefused, EnvironmentsRemoved, Event
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.config.machine import system_paths
from bridgehold.config.required import unmet
from bridgehold.config.sections import BridgeSection
from bridgehold.error_texts import to_log_text
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    EnvironmentBuildError,
    EnvironmentChangedError,
    NotFoundError,
)
from bridgehold.host.front.builders import Builders, lock_text, own_wheels
from bridgehold.host.front.disk import EnvironmentDisk
from bridgehold.host.front.supply import Supply
from bridgehold.ids import Digest
from bridgehold.policies.model import Grant
from bridgehold.sandbox.envs.build import EnvironmentBuilder, OnProgress, Room
from bridgehold.sandbox.envs.guard import Guard
from bridgehold.sandbox.envs.launcher_runner import LauncherRunner
from bridgehold.sandbox.envs.lock import active_pins, parse_lock
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import BuildProgress, Environment, Interpreter, Lock
from bridgehold.sandbox.envs.wheels import Collected
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.supply.scan import Contents, look

Manifests = Callable[[], Sequence[Manifest]]
_MOST_LOCKS = 128
UNUSED_SECONDS = 30 * 86_400.0
"""What no bridge here asks for and no host began to use for so long goes at a host's start."""

LISTENER: ContextVar[OnProgress | None] = ContextVar("bridgehold_build_listener", default=None)
"""Whom a build is told to that a request had to wait for: set for the request's own task."""


class BuiltEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """A built environment: read-only, content-addressed."""

    path: Path
    digest: str
    packages: int
    python_prefix: str
    """The folder of its Python, on the machine."""
    lacks: tuple[str, ...] = ()


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What reading every byte of an environment has shown."""

    digest: str
    bridges: tuple[str, ...]
    packages: int
    bytes: int
    ok: bool
    detail: str = ""
    """The first thing that is not as it was sealed."""
    where: str = ""


class _Key(NamedTuple):
    builder: EnvironmentBuilder
    lock: Digest
    allow_pth: bool
    owner: str
    """Whose share it is built in: a failure there, or a wheel of that bridge's own, is nobody else's."""
    wheels: str


class Environments:
    """One build for each lock at a time; later callers wait for the same one."""

    def __init__(
        self,
        layout: Layout,
        config: Config,
        launcher: LauncherClient,
        journal: JournalClient,
        ceiling: Callable[[str], int | None] = lambda _: None,
        supply: Supply | None = None,
    ) -> None:
        """`ceiling`: of a tenant's own bridges' environments; raises `PolicyError` where it can't be told.
        `supply`: whether what a lock pins may be used; all may, where it is None."""
        self._wheels = layout.wheels
        self.supply = supply or Supply()
        self._journal = journal
        self.disk = EnvironmentDisk(layout, ceiling)
        self._store = EnvironmentStore(layout.environments)
        self._runner = LauncherRunner(launcher, system_paths())
        self._builders = Builders(layout, config, self._store, self._runner)
        self._guard = Guard(self._store)
        self._on_change: tuple[Callable[[str, str], None], ...] = ()
        self._building: dict[_Key, asyncio.Task[BuiltEnvironment]] = {}
        self._parse = lru_cache(_MOST_LOCKS)(parse_lock)
        self._listeners: dict[_Key, list[OnProgress]] = {}

    async def ensure(
        self,
        manifest: Manifest,
        on_progress: OnProgress | None = None,
        *,
        grant: Grant | None = None,
        anew: bool = False,
    ) -> BuiltEnvironment:
        """The environment of `manifest`'s lock, as it was sealed. `anew`: build it, even if it is there.

        Raises `EnvironmentBuildError`, `DependencyError` or `EnvironmentChangedError`.
        """
        await self._builders.meet()
        try:
            lock, builder = self._lock(manifest), self._builders.of(manifest)
        except BridgeholdError as error:
            error.event = await self._refused(manifest.name, self.disk.owner(manifest), error)
            raise
        if anew:
            await self._set_aside(builder, lock)
        allow_pth = grant is not None and "pth" in grant.weakenings
        key = _Key(builder, lock.digest, allow_pth, self.disk.owner(manifest), own_wheels(manifest))
        bound = self.disk.bound(manifest)
        if bound is not None and builder.find(lock, allow_pth=key.allow_pth) is not None:
            bound = None  # it is there, for whomever
        room = await self._demand(manifest, bound) if bound is not None else _any
        on_progress = on_progress or LISTENER.get()
        listeners = self._listeners.setdefault(key, [])
        if on_progress is not None:
            listeners.append(on_progress)
        task = self._building.get(key)
        if task is None:
            task = asyncio.create_task(self._build(manifest, lock, key, room))
            self._building[key] = task
            task.add_done_callback(lambda _: self._building.pop(key, None))
        try:
            built = await asyncio.shield(task)
        finally:
            if on_progress is not None:
                with contextlib.suppress(ValueError):
                    listeners.remove(on_progress)
            if not listeners and self._listeners.get(key) is listeners:
                del self._listeners[key]
        if bound is not None:
            await self._demand(manifest, bound, builder.find(lock, allow_pth=key.allow_pth))
        return built

    async def _demand(
        self, manifest: Manifest, bound: tuple[str, int], more: Environment | None = None
    ) -> Room:
        """Raise `BudgetError` past the ceiling; what was built beyond it goes, unless somebody uses it."""
        try:
            return await asyncio.to_thread(self.disk.demand, *bound, self._built, more)
        except BudgetError as error:
            if more is not None:
                await self.let_go(more.digest)
            error.event = await self._refused(manifest.name, self.disk.owner(manifest), error)
            raise

    def _built(self, manifest: Manifest) -> list[Environment]:
        lock, builder = self._lock(manifest), self._builders.of(manifest)
        found = (builder.find(lock, allow_pth=allow_pth) for allow_pth in (False, True))
        return [one for one in found if one is not None]

    async def let_go(self, digest: str) -> None:
        """Remove an environment that was built for nothing. One that this or another host uses stays."""
        found = next((one for one in self._store.list() if one.digest == digest), None)
        if found is not None:
            await self._guard.forget(found)
            with contextlib.suppress(OSError):  # the next collection tries again
                await self._builders.own.remove(found)

    def referenced(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Digests of the environments that `manifests` ask for and that are there."""
        return frozenset(self._owners(manifests))

    def size_of(self, digest: str) -> int:
        """Bytes of an environment that is there; 0 where none is."""
        return next((one.bytes for one in self._store.list() if one.digest == digest), 0)

    async def python_for(self, specifier: str, *, where: str) -> Interpreter:
        """The Python that a bridge gets which asks for `specifier`. Raises `EnvironmentBuildError`."""
        await self._builders.meet()
        return self._builders.fitting(specifier, where=where)

    async def unmet(self, manifest: Manifest, section: BridgeSection) -> list[str]:
        """What of an operator's demands the lock and this host's Python don't meet, in words."""
        if not (section.required_packages or section.min_python):
            return []
        interpreter = await self.python_for(manifest.python, where=str(manifest.file))
        return unmet(section, self._lock(manifest), interpreter)

    def _lock(self, manifest: Manifest) -> Lock:
        """The lock as its file stands; parsed anew when its text changed, or after many others."""
        return self._parse(lock_text(manifest), str(manifest.lock_path or manifest.file))

    async def _build(self, manifest: Manifest, lock: Lock, key: _Key, room: Room) -> BuiltEnvironment:
        def tell(progress: BuildProgress) -> None:
            for listener in list(self._listeners.get(key, ())):
                listener(progress)

        started, tenant = time.monotonic(), self.disk.owner(manifest)
        try:
            if self.supply.blocks:
                pins = active_pins(lock, key.builder.interpreter)
                await self.supply.demand([(pin.name, pin.version) for pin in pins])
            built = found = await self._find(key.builder, lock, allow_pth=key.allow_pth)
            if built is None:
                built = await key.builder.ensure(
                    lock,
                    bridge=manifest.name,
                    on_progress=tell,
                    allow_pth=key.allow_pth,
                    tenant=tenant,
                    wheels=key.wheels,
                    room=room,
                )
                await self._guard.check(built)
            await self.supply.demand_licences(built, self._store.path(built), None if found else self.let_go)
        except OSError as os_error:
            where = str(os_error.filename or self._store.folder)
            error = EnvironmentBuildError(f"the environment can't be used: {os_error.strerror}", where=where)
            error.event = await self._refused(manifest.name, self.disk.owner(manifest), error)
            raise error from os_error
        except BridgeholdError as error:
            error.event = await self._refused(manifest.name, self.disk.owner(manifest), error)
            raise
        if found is None:
            event = EnvironmentBuilt(
                tenant=tenant,
                bridge=manifest.name,
                lock=built.lock_digest,
                digest=built.digest,
                files=built.files,
                bytes=built.bytes,
                ms=int((time.monotonic() - started) * 1000),
            )
            try:
                await self._journal.append(event)
            except BudgetError:  # the tenant's matter, and others may wait for this build
                await self._journal.append(msgspec.structs.replace(event, tenant=""))
        return BuiltEnvironment(
            path=self._store.path(built),
            digest=built.digest,
            packages=len(built.packages),
            python_prefix=key.builder.interpreter.prefix,
            lacks=built.lacks,
        )

    async def _find(self, builder: EnvironmentBuilder, lock: Lock, *, allow_pth: bool) -> Environment | None:
        """The environment if it is there, looked at; waits for one that is being removed."""
        found = builder.find(lock, allow_pth=allow_pth)
        if found is None:
            return None
        try:
            await self._guard.check(found)
        except EnvironmentChangedError:
            self._changed(found, "its environment has changed on disk")
            raise
        except NotFoundError:
            async with self._store.locked():
                self._store.forget_lost()
            return None
        return found

    async def verify(self, manifests: Sequence[Manifest], *, others: bool = False) -> list[Verified]:
        """Read every byte of the environments of `manifests`; `others`: of all the rest here too."""
        verified = []
        for environment, bridges in await self.chosen(manifests, others=others):
            fault: EnvironmentChangedError | None = None
            try:
                await asyncio.to_thread(self._store.verify, environment)
            except EnvironmentChangedError as error:
                fault = error
                self._guard.condemn(environment, error)
                self._changed(environment, "its environment has changed on disk")
                await self._refused(" ".join(bridges), "", error)
            verified.append(
                Verified(
                    digest=environment.digest,
                    bridges=bridges,
                    packages=len(environment.packages),
                    bytes=environment.bytes,
                    ok=fault is None,
                    detail=fault.message if fault is not None else "",
                    where=fault.where if fault is not None else "",
                )
            )
        return verified

    async def chosen(
        self, manifests: Sequence[Manifest], *, others: bool = False
    ) -> list[tuple[Environment, tuple[str, ...]]]:
        """What is built for `manifests`, each with whose it is; `others`: and all the rest here."""
        await self._builders.meet()
        owners = self._owners(manifests)
        known = {environment.digest: environment for environment in self._store.list()}
        digests = known if others else owners
        return [(known[one], tuple(owners.get(one, ()))) for one in digests if one in known]

    def look(self, environment: Environment, changed: str) -> Contents:
        """What it consists of; `changed`: as `verify` has told it."""
        interpreter = self._builders.known(environment.interpreter)
        return look(environment, self._store.path(environment), self._wheels, interpreter, changed)

    async def record(self, event: Event) -> None:
        """Write what was seen."""
        await self._journal.append(event)

    async def collect(self, manifests: Manifests, *, unused_seconds: float = 0.0) -> Collected:
        """Remove what none of `manifests` asks for and no host uses; what is gone, and what could not go."""
        await self._builders.meet()
        try:
            found = await self._builders.own.collect(
                lambda: self._owners(manifests()), unused_seconds=unused_seconds
            )
        except OSError as error:
            where = str(error.filename or self._store.folder)
            raise EnvironmentBuildError(f"can't be removed: {error.strerror}", where=where) from error
        removed, stuck = (tuple(path.name for path in paths) for paths in (found.removed, found.stuck))
        if removed or stuck:
            event = EnvironmentsRemoved(names=removed[:64], count=len(removed), stuck=stuck[:64])
            await self._journal.append(event)
        return found

    async def sweep(self, manifests: Manifests) -> None:
        """At a host's start: left-overs of crashes, and what has not been used for long."""
        try:
            found = await self.collect(manifests, unused_seconds=UNUSED_SECONDS)
        except BridgeholdError as error:  # the next start tries again
            sys.stderr.write(f"host: left-overs could not be removed\n{to_log_text(error)}")
            return
        for path, why in found.stuck.items():
            sys.stderr.write(f"host: {path} is needed by nobody, and can't be removed: {why}\n")

    def when_changed(self, *act: Callable[[str, str], None]) -> None:
        """Called with the digest of an environment that is not used any more as it lies there, and why."""
        self._on_change = act

    def close(self) -> None:
        """Others may remove what this host has used."""
        self._guard.close()

    def _owners(self, manifests: Sequence[Manifest]) -> dict[Digest, list[str]]:
        """Digests of what is built for `manifests`, with and without the weakening, and whose they are."""
        owners: dict[Digest, list[str]] = {}
        for manifest in manifests:
            with contextlib.suppress(BridgeholdError, OSError):  # a lock that can't be read has none
                lock, builder = self._lock(manifest), self._builders.of(manifest)
                for allow_pth in (False, True):
                    found = builder.find(lock, allow_pth=allow_pth)
                    if found is not None:
                        owners.setdefault(found.digest, []).append(manifest.name)
        return owners

    async def _set_aside(self, builder: EnvironmentBuilder, lock: Lock) -> None:
        for allow_pth in (False, True):
            found = builder.find(lock, allow_pth=allow_pth)
            if found is not None:
                await self._guard.forget(found)
                await builder.anew(found)
                self._changed(found, "its environment is built anew")

    def _changed(self, environment: Environment, why: str) -> None:
        for act in self._on_change:
            act(environment.digest, why)

    async def _refused(self, bridge: str, tenant: str, error: BridgeholdError) -> str:
        """The reference of the event; empty where the share of the tenant, whose bridge it is, is used up."""
        refusal = EnvironmentRefused(
            tenant=tenant,
            bridge=bridge,
            code=error.code,
            reason=error.message[:500],
            where=error.where[:300],
        )
        try:
            return (await self._journal.append(refusal)).ref
        except BudgetError:
            return ""


def _any(_size: int) -> None:
    """Where nothing bounds it."""
