"""Environments for this host's bridges: found in milliseconds, built once, told to whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import EnvironmentBuilt, EnvironmentRefused
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import BridgeholdError
from bridgehold.host.config import Config
from bridgehold.host.layout import Layout
from bridgehold.policies.model import Grant
from bridgehold.sandbox.control import LauncherClient

OnProgress = Callable[[object], None]


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A built environment: read-only, content-addressed."""

    path: Path
    digest: str
    packages: int


class Environments:
    """One builder for each lock at a time; later callers wait for the same build."""

    def __init__(
        self, layout: Layout, config: Config, launcher: LauncherClient, journal: JournalClient
    ) -> None:
        self._layout = layout
        self._config = config
        self._launcher = launcher
        self._journal = journal
        self._ready: dict[tuple[str, bool], Environment] = {}
        self._building: dict[tuple[str, bool], asyncio.Task[Environment]] = {}
        self._listeners: dict[tuple[str, bool], list[OnProgress]] = {}

    async def ensure(
        self, manifest: Manifest, on_progress: OnProgress | None = None, *, grant: Grant | None = None
    ) -> Environment:
        """The environment of `manifest`'s lock. Raises what `sandbox.envs` raises."""
        allow_pth = grant is not None and "pth" in grant.weakenings
        key = (manifest.digest, allow_pth)
        if key in self._ready:
            return self._ready[key]
        listeners = self._listeners.setdefault(key, [])
        if on_progress is not None:
            listeners.append(on_progress)
        task = self._building.get(key)
        if task is None:
            task = asyncio.create_task(self._build(manifest, key))
            self._building[key] = task
        try:
            return await asyncio.shield(task)
        finally:
            if on_progress is not None:
                with contextlib.suppress(ValueError):
                    listeners.remove(on_progress)

    def _tell(self, key: tuple[str, bool], progress: object) -> None:
        for listener in self._listeners.get(key, []):
            listener(progress)

    async def _build(self, manifest: Manifest, key: tuple[str, bool]) -> Environment:
        raise NotImplementedError
