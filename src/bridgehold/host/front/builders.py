"""What builds environments: one builder for each Python of this host."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from bridgehold import reads
from bridgehold.bridges.bundle import WHEELS
from bridgehold.bridges.catalogue import lock_command
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.errors import EnvironmentBuildError
from bridgehold.sandbox.envs.build import EnvironmentBuilder
from bridgehold.sandbox.envs.interpreter import Interpreters, host_interpreter, interpreters
from bridgehold.sandbox.envs.launcher_runner import LauncherRunner
from bridgehold.sandbox.envs.sources import default_sources
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import Interpreter


class Builders:
    """Those of one host. The configuration's further Pythons are there once they have been met."""

    def __init__(
        self, layout: Layout, config: Config, store: EnvironmentStore, runner: LauncherRunner
    ) -> None:
        self._runner = runner
        self._new = partial(
            EnvironmentBuilder,
            store=store,
            wheels=layout.wheels,
            runner=runner,
            sources=partial(default_sources, config.host.index),
        )
        self._interpreters = Interpreters((host_interpreter(),))
        self.own = self._new(interpreter=self._interpreters.known[0])
        """The one of the host's own Python."""
        self._known = {self.own.interpreter.inside: self.own}
        self._unmet = list(config.host.pythons)
        self._meeting = asyncio.Lock()

    async def meet(self) -> None:
        """Ask each further Python of the configuration what it is: once, in a sandbox."""
        async with self._meeting:
            if not self._unmet:
                return
            self._interpreters = await interpreters(self._unmet, self._runner)
            self._unmet = []
            for one in self._interpreters.known:
                self._known.setdefault(one.inside, self._new(interpreter=one))
            for reason in self._interpreters.lost:
                sys.stderr.write(f"host: no bridge can have {reason}\n")

    def fitting(self, specifier: str, *, where: str) -> Interpreter:
        """The first Python that `specifier` takes. Raises `EnvironmentBuildError`."""
        return self._interpreters.fitting(specifier, where=where)

    def known(self, inside: str) -> Interpreter | None:
        """The Python at that path inside a sandbox; None where this host has none there any more."""
        builder = self._known.get(inside)
        return None if builder is None else builder.interpreter

    def of(self, manifest: Manifest) -> EnvironmentBuilder:
        """Of the first Python that `manifest` fits. Raises `EnvironmentBuildError`."""
        return self._known[self.fitting(manifest.python, where=str(manifest.file)).inside]


def own_wheels(manifest: Manifest) -> str:
    """The folder of wheels that a bridge brings; empty: none."""
    own = manifest.folder / WHEELS
    return str(own) if own.is_dir() and not own.is_symlink() else ""


def lock_text(manifest: Manifest) -> str:
    """The text of its lock; empty where the bridge has no lock."""
    path = manifest.lock_path
    if path is None:
        return ""
    hint = f"`{lock_command(manifest)}` writes it."
    return reads.read_text(path, EnvironmentBuildError, hint=hint)
