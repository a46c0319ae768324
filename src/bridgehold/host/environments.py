"""Environments for this host's bridges: found in milliseconds, built once, told to whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import EnvironmentBuilt, EnvironmentRefused
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import BridgeholdError, EnvironmentBuildError
from bridgehold.host.config import Config
from bridgehold.host.config_sections import BridgeSection
from bridgehold.host.layout import Layout
from bridgehold.host.machine import system_paths
from bridgehold.host.required import unmet
from bridgehold.policies.model import Grant
from bridgehold.sandbox.control import LauncherClient
from bridgehold.sandbox.envs.build import EnvironmentBuilder
from bridgehold.sandbox.envs.interpreter import host_interpreter, require_python
from bridgehold.sandbox.envs.launcher_runner import LauncherRunner
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.sources import default_sources
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import BuildProgress, Lock

OnProgress = Callable[[BuildProgress], None]

LISTENER: ContextVar[OnProgress | None] = ContextVar("bridgehold_build_listener", default=None)
"""Whom a build is told to that a request had to wait for: set for the request's own task."""


class BuiltEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """A built environment: read-only, content-addressed."""

    path: Path
    digest: str
    packages: int


class Environments:
    """One build for each lock at a time; later callers wait for the same one."""

    def __init__(
        self, layout: Layout, config: Config, launcher: LauncherClient, journal: JournalClient
    ) -> None:
        self._journal = journal
        self._store = EnvironmentStore(layout.environments)
        self._interpreter = host_interpreter()
        self._builder = EnvironmentBuilder(
            store=self._store,
            wheels=layout.wheels,
            runner=LauncherRunner(launcher, system_paths()),
            sources=default_sources(config.host.index),
            interpreter=self._interpreter,
        )
        self._building: dict[tuple[str, bool], asyncio.Task[BuiltEnvironment]] = {}
        self._locks: dict[str, tuple[tuple[str, str], Lock]] = {}
        self._listeners: dict[tuple[str, bool], list[OnProgress]] = {}

    async def ensure(
        self, manifest: Manifest, on_progress: OnProgress | None = None, *, grant: Grant | None = None
    ) -> BuiltEnvironment:
        """The environment of `manifest`'s lock. Raises `EnvironmentBuildError` or `DependencyError`."""
        lock = self._lock(manifest)
        key = (str(lock.digest), grant is not None and "pth" in grant.weakenings)
        on_progress = on_progress or LISTENER.get()
        listeners = self._listeners.setdefault(key, [])
        if on_progress is not None:
            listeners.append(on_progress)
        task = self._building.get(key)
        if task is None:
            task = asyncio.create_task(self._build(manifest, lock, key))
            self._building[key] = task
            task.add_done_callback(lambda _: self._building.pop(key, None))
        try:
            return await asyncio.shield(task)
        finally:
            if on_progress is not None:
                with contextlib.suppress(ValueError):
                    listeners.remove(on_progress)

    def unmet(self, manifest: Manifest, section: BridgeSection) -> list[str]:
        """What of an operator's demands the lock and this host's Python don't meet, in words."""
        if not (section.required_packages or section.min_python):
            return []
        return unmet(section, self._lock(manifest), self._interpreter)

    def _lock(self, manifest: Manifest) -> Lock:
        """The lock as its file stands; parsed anew when its text changed."""
        read = (str(manifest.lock_path), _lock_text(manifest))
        known = self._locks.get(manifest.name)
        if known is None or known[0] != read:
            known = (read, parse_lock(read[1], str(manifest.lock_path or manifest.file)))
            self._locks[manifest.name] = known
        return known[1]

    async def _build(self, manifest: Manifest, lock: Lock, key: tuple[str, bool]) -> BuiltEnvironment:
        def tell(progress: BuildProgress) -> None:
            for listener in list(self._listeners.get(key, ())):
                listener(progress)

        started = time.monotonic()
        found = self._builder.find(lock, allow_pth=key[1])
        built = found
        try:
            require_python(self._interpreter, manifest.python, where=str(manifest.file))
            if built is None:
                built = await self._builder.ensure(
                    lock, bridge=manifest.name, on_progress=tell, allow_pth=key[1]
                )
        except BridgeholdError as error:
            refusal = EnvironmentRefused(
                bridge=manifest.name, code=error.code, reason=error.message[:500], where=error.where[:300]
            )
            error.event = (await self._journal.append(refusal)).ref
            raise
        if found is None:
            event = EnvironmentBuilt(
                bridge=manifest.name,
                lock=built.lock_digest,
                digest=built.digest,
                files=built.files,
                bytes=built.bytes,
                ms=int((time.monotonic() - started) * 1000),
            )
            await self._journal.append(event)
        return BuiltEnvironment(
            path=self._store.path(built), digest=built.digest, packages=len(built.packages)
        )


def _lock_text(manifest: Manifest) -> str:
    """Empty where the bridge has no lock."""
    path = manifest.lock_path
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentBuildError(
            f"the lock can't be read: {error}", where=str(path), hint="Lock the bridge's requirements first."
        ) from error
