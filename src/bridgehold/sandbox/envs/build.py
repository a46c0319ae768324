"""From a lock to an environment: resolve, fetch, scan, install in a sandbox, check, seal, publish.

Until the installer's sandbox starts, nothing of a wheel has run; after it ended, nothing of the tree
runs outside a sandbox.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bridgehold.errors import EnvironmentBuildError
from bridgehold.ids import Digest
from bridgehold.sandbox.envs.archive import ScanLimits
from bridgehold.sandbox.envs.fetcher import fetch
from bridgehold.sandbox.envs.install import (
    InstallLog,
    InstallOrder,
    InstallRunner,
    install_argv,
    require_success,
    uv_binary,
)
from bridgehold.sandbox.envs.installed import check_installed, refuse_clashes
from bridgehold.sandbox.envs.lock import active_pins, render_requirements
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import (
    BuildProgress,
    Environment,
    FetchLimits,
    FetchRequest,
    Interpreter,
    Lock,
    Package,
    Pin,
    ScanReport,
    Sources,
    Wheel,
)
from bridgehold.sandbox.envs.wheels import WheelFolder
from bridgehold.sandbox.envs.wheelscan import refuse_findings, scan_wheel
from bridgehold.sandbox.values import SealReport

OnProgress = Callable[[BuildProgress], None]
_SCAN_THREADS = 2
_INSTALL_SECONDS = 1_800
_PREPARED = re.compile(r"(Prepared|Installed) (\d+) package")
_COMPILED = re.compile(r"Bytecode compiled (\d+) files?")


class EnvironmentBuilder:
    """Builds environments of one interpreter into one store. Safe beside other builders."""

    def __init__(
        self,
        *,
        store: EnvironmentStore,
        wheels: Path,
        runner: InstallRunner,
        sources: Sources,
        interpreter: Interpreter,
        fetch_limits: FetchLimits | None = None,
        scan_limits: ScanLimits | None = None,
    ) -> None:
        self._store = store
        self._wheels = WheelFolder(wheels)
        self._runner = runner
        self._sources = sources
        self._interpreter = interpreter
        self._fetch_limits = fetch_limits or FetchLimits()
        self._scan_limits = scan_limits or ScanLimits()

    def find(self, lock: Lock, *, allow_pth: bool = False) -> Environment | None:
        """What `ensure` would give without building."""
        return self._store.find(self._key(lock, allow_pth=allow_pth))

    async def ensure(
        self, lock: Lock, *, bridge: str, on_progress: OnProgress, allow_pth: bool = False
    ) -> Environment:
        """The environment of `lock`, built if it is not there; `allow_pth` is the weakening ``pth``.

        Raises `DependencyError` (refused: lock, wheel or tree, the file named) or
        `EnvironmentBuildError` (missing, unreachable, too large). Nothing half-built is ever found.
        """
        key = self._key(lock, allow_pth=allow_pth)
        found = self._store.find(key)
        if found is not None:
            return found
        try:
            async with self._store.building(key, on_progress):
                found = self._store.find(key)  # whoever held the lock may have built it
                if found is None:
                    found = await self._build(lock, key, bridge, on_progress, allow_pth=allow_pth)
                return found
        except OSError as error:
            raise EnvironmentBuildError(
                f"the environment can't be built: {error.strerror or error}",
                where=str(error.filename or self._store.folder),
            ) from error

    async def collect(self, referenced: Collection[Digest]) -> tuple[Path, ...]:
        """Remove every environment not in `referenced`, and abandoned builds; those that are gone."""
        removed, left = await asyncio.to_thread(self._store.gc, referenced)
        for tree in left:
            await self._runner.discard(str(tree))
        return (*removed, *(tree for tree in left if not tree.exists()))

    def _key(self, lock: Lock, *, allow_pth: bool) -> str:
        return self._store.key(lock, self._interpreter, ("pth",) if allow_pth else ())

    async def _build(
        self, lock: Lock, key: str, bridge: str, on_progress: OnProgress, *, allow_pth: bool
    ) -> Environment:
        wheels = await self._fetch(active_pins(lock, self._interpreter), on_progress)
        reports = await self._scan(wheels, on_progress, allow_pth=allow_pth)
        build = self._store.new_build(key)
        try:
            await self._install(build, wheels, reports, bridge, on_progress)
            on_progress(BuildProgress(phase="seal"))
            sealed = await self._runner.seal(str(build))
            on_progress(BuildProgress(phase="verify", done=0, total=sealed.files, unit="files"))
            await asyncio.to_thread(check_installed, build, self._interpreter, wheels, reports)
            environment = self._describe(lock, key, wheels, sealed, allow_pth=allow_pth)
            self._store.publish(build, environment)
            on_progress(BuildProgress(phase="verify", done=sealed.files, total=sealed.files, unit="files"))
        finally:
            if build.exists():
                await self._runner.discard(str(build))
        return environment

    async def _fetch(self, pins: Sequence[Pin], on_progress: OnProgress) -> tuple[Wheel, ...]:
        if not pins:
            return ()
        request = FetchRequest(
            pins=tuple(pins),
            tags=self._interpreter.tags,
            sources=self._sources,
            folder=str(self._wheels.root),
            limits=self._fetch_limits,
        )
        return (await fetch(request, on_progress)).wheels

    async def _scan(
        self, wheels: Sequence[Wheel], on_progress: OnProgress, *, allow_pth: bool
    ) -> tuple[ScanReport, ...]:
        """Every wheel's report; raises with all findings of all of them."""

        def scan(wheel: Wheel) -> ScanReport:
            return scan_wheel(
                self._wheels.path(wheel),
                wheel,
                self._interpreter,
                allow_pth=allow_pth,
                limits=self._scan_limits,
            )

        loop = asyncio.get_running_loop()
        on_progress(BuildProgress(phase="scan", total=len(wheels)))
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            jobs = [loop.run_in_executor(pool, scan, wheel) for wheel in wheels]
            for done, job in enumerate(asyncio.as_completed(jobs), 1):
                report = await job
                on_progress(BuildProgress(phase="scan", done=done, total=len(wheels), note=report.wheel))
        reports = tuple([await job for job in jobs])
        refuse_findings(reports)
        refuse_clashes(reports)
        return reports

    async def _install(
        self,
        build: Path,
        wheels: Sequence[Wheel],
        reports: Sequence[ScanReport],
        bridge: str,
        on_progress: OnProgress,
    ) -> None:
        sources = sum(file.path.endswith(".py") for report in reports for file in report.files)
        log = InstallLog(lambda line: _tell(line, len(wheels), sources, on_progress))
        on_progress(BuildProgress(phase="install", total=len(wheels)))
        requirements = render_requirements(tuple((w.name, w.version, w.sha256) for w in wheels))
        with self._wheels.as_set(wheels, requirements) as folder:
            order = InstallOrder(
                argv=install_argv(self._interpreter),
                build=str(build),
                wheels=str(folder),
                uv=uv_binary(),
                interpreter_prefix=self._interpreter.prefix,
                bridge=bridge,
            )
            try:
                async with asyncio.timeout(_INSTALL_SECONDS):
                    ended = await self._runner.run(order, log.write)
            except TimeoutError as error:
                raise EnvironmentBuildError(
                    f"the installer took longer than {_INSTALL_SECONDS} s; it said:\n{log.last_lines()}",
                    where=bridge,
                    retry="later",
                ) from error
        require_success(ended, log, where=bridge)

    def _describe(
        self, lock: Lock, key: str, wheels: Sequence[Wheel], sealed: SealReport, *, allow_pth: bool
    ) -> Environment:
        return Environment(
            digest=Digest(sealed.digest),
            lock_digest=lock.digest,
            key=key,
            python=self._interpreter.version,
            platform=self._interpreter.platform,
            interpreter=self._interpreter.inside,
            packages=tuple(
                Package(name=w.name, version=w.version, wheel=w.filename, sha256=w.sha256) for w in wheels
            ),
            files=sealed.files,
            bytes=sealed.bytes,
            weakenings=("pth",) if allow_pth else (),
        )


def _tell(line: str, packages: int, sources: int, on_progress: OnProgress) -> None:
    """Progress from a line of the installer's log. It decides nothing but what is shown."""
    step = _PREPARED.search(line)
    if step is not None:
        done = min(int(step[2]), packages)
        on_progress(BuildProgress(phase="install", done=done, total=packages, note=step[1].lower()))
        if step[1] == "Installed":
            on_progress(BuildProgress(phase="compile", total=sources, unit="files"))
    elif _COMPILED.search(line) is not None:
        on_progress(BuildProgress(phase="compile", done=sources, total=sources, unit="files"))
