"""From a lock to an environment: resolve, fetch, scan, lay down, compile, seal, check, publish.

Nothing of a wheel runs before all of it is laid down: one reader reads it, that reader's result is laid down
by us, and compilers see text. After that nothing of the tree runs outside a sandbox; within the build, what
lists fonts alone (`fonts`), of which comes one file of data, written by us.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from bridgehold.errors import BridgeholdError, DependencyError, EnvironmentBuildError, ShortageError
from bridgehold.ids import LOCAL_TENANT, Digest
from bridgehold.sandbox.envs.archive import ScanLimits
from bridgehold.sandbox.envs.compile import (
    BuildRunner,
    Compilation,
    CompileOrder,
    Log,
    compile_argv,
    require_success,
    sources_of,
)
from bridgehold.sandbox.envs.fetcher import fetch, until
from bridgehold.sandbox.envs.fonts import list_fonts
from bridgehold.sandbox.envs.lock import active_pins
from bridgehold.sandbox.envs.store import EnvironmentStore, remove_tree
from bridgehold.sandbox.envs.unpack import Tree, lay_skeleton, lay_wheel, refuse_clashes
from bridgehold.sandbox.envs.values import (
    DRAWS,
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
from bridgehold.sandbox.envs.wheels import Collected, WheelFolder
from bridgehold.sandbox.envs.wheelscan import refuse_findings, scan_wheel
from bridgehold.sandbox.limits.shortage import short_of, shortage
from bridgehold.sandbox.values import SealReport

OnProgress = Callable[[BuildProgress], None]
Digests = Callable[[], Collection[Digest]]
Room = Callable[[int], None]
"""Raises where so many bytes are too many for whom it is built."""
_SCAN_THREADS = 2
_COMPILERS = 2
_COMPILE_SECONDS = 600
"""Of one wheel."""
_OWN_COMPILE_SECONDS = 120
"""Of one that a tenant's own bridge brings: a small one, by whomever."""


class _For(msgspec.Struct, frozen=True):
    """For what an environment is built."""

    bridge: str
    tenant: str
    """Whose own bridge it is; empty: everybody's."""
    folder: str
    """Of the wheels that it brings; empty: none."""
    room: Room
    """Asked how many bytes there may be, before they are fetched and before they are laid down."""

    def seconds(self, wheel: str) -> int:
        """How long `wheel` may be compiled."""
        own = self.tenant and self.folder and _is_there(Path(self.folder) / wheel)
        return _OWN_COMPILE_SECONDS if own else _COMPILE_SECONDS


class EnvironmentBuilder:
    """Builds environments of one interpreter into one store. Safe beside other builders.

    `sources` is asked at each build: what is configured then, for a host that builds nothing never.
    """

    def __init__(
        self,
        *,
        store: EnvironmentStore,
        wheels: Path,
        runner: BuildRunner,
        sources: Callable[[], Sources],
        interpreter: Interpreter,
        fetch_limits: FetchLimits | None = None,
        scan_limits: ScanLimits | None = None,
    ) -> None:
        self._store = store
        self._wheels = WheelFolder(wheels)
        self._runner = runner
        self._sources = sources
        self.interpreter = interpreter
        self._fetch_limits = fetch_limits or FetchLimits()
        self._scan_limits = scan_limits or ScanLimits()

    def find(self, lock: Lock, *, allow_pth: bool = False) -> Environment | None:
        """What `ensure` would give without building."""
        return self._store.find(self._key(lock, allow_pth=allow_pth))

    async def ensure(
        self,
        lock: Lock,
        *,
        bridge: str,
        on_progress: OnProgress,
        allow_pth: bool = False,
        wheels: str = "",
        tenant: str = "",
        room: Room = lambda _: None,
    ) -> Environment:
        """The environment of `lock`, built if it is not there; `allow_pth` is the weakening ``pth``.

        `wheels`: a folder of the bridge's own, for what only it has; empty: none. `tenant`: whose own
        bridge it is, in whose share it is compiled, a wheel at a time, and of whose wheels nothing stays
        beside the environment; empty: everybody's. `room`: raises where so many bytes of wheels, or of what
        they unpack to, are too many.

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
                    asked = _For(bridge, tenant, wheels, room)
                    found = await self._build(lock, key, asked, on_progress, allow_pth=allow_pth)
                return found
        except (OSError, BridgeholdError) as error:
            number = shortage(error)
            if number and not isinstance(error, ShortageError):  # no wheel's fault, and nobody's
                what = f"the environment of {bridge} can't be built"
                raise short_of(number, what, hint="Make room, and build it again.") from error
            if isinstance(error, BridgeholdError):
                raise
            raise EnvironmentBuildError(
                f"the environment can't be built: {error.strerror or error}",
                where=str(error.filename or self._store.folder),
            ) from error

    async def collect(self, referenced: Digests, *, unused_seconds: float = 0.0) -> Collected:
        """Remove every environment that is not in `referenced`, not in use, and was not for so long.

        And abandoned builds, trees set aside, wheels of nothing that stays. One that can't go keeps no other.
        """
        found, garbage = Collected(), partial(self._store.garbage, unused_seconds=unused_seconds)
        async with self._store.locked():
            there = await asyncio.to_thread(garbage, ())
            for tree in there and await asyncio.to_thread(garbage, referenced()):
                with self._store.removing(tree) as free:
                    why = await self._remove(tree) if free else ""
                if not _is_there(tree):
                    found.removed.append(tree)
                elif free:
                    found.stuck[tree] = why or "something in it can't be removed"
            self._store.forget_lost()
            kept = {package.sha256 for one in self._store.list() for package in one.packages}
            await asyncio.to_thread(self._wheels.collect, kept, found)
        return found

    async def _remove(self, tree: Path) -> str:
        """Why it is still there; empty where that isn't known, or it is gone."""
        try:
            if not await asyncio.to_thread(remove_tree, tree):
                return await self._runner.discard(str(tree))
        except BridgeholdError as error:
            return error.message
        except OSError as error:
            return error.strerror or str(error)
        return ""

    async def remove(self, environment: Environment) -> None:
        """Remove one environment, unless somebody uses it."""
        tree = self._store.path(environment)
        async with self._store.locked():
            with self._store.removing(tree) as free:
                if free and not await asyncio.to_thread(remove_tree, tree):
                    await self._runner.discard(str(tree))
            self._store.forget_lost()

    async def anew(self, environment: Environment) -> None:
        """Have `environment` no longer found, so that `ensure` builds it."""
        async with self._store.locked():
            self._store.set_aside(environment)

    def _key(self, lock: Lock, *, allow_pth: bool) -> str:
        return self._store.key(lock, self.interpreter, ("pth",) if allow_pth else ())

    async def _build(
        self, lock: Lock, key: str, asked: _For, on_progress: OnProgress, *, allow_pth: bool
    ) -> Environment:
        folder = self._wheels if not asked.tenant else self._wheels.own()
        build: Path | None = None
        try:
            request = self._request(active_pins(lock, self.interpreter), asked.folder, folder)
            wheels, reports = await self._read(request, asked.room, on_progress, allow_pth=allow_pth)
            self._demand(reports, asked.room)
            build = self._store.new_build(key)
            tree = Tree(build)
            await self._lay_down(tree, folder, wheels, reports, on_progress)
            await self._compile(tree, reports, asked, on_progress)
            lacks = await self._list_fonts(tree, wheels, asked, on_progress)
            on_progress(BuildProgress(phase="seal"))
            sealed = await self._runner.seal(str(build))
            if sealed.digest != tree.digest():
                raise DependencyError(
                    f"the sealed tree has digest {sealed.digest}, not {tree.digest()}",
                    where=str(build),
                    hint="Something changed it during the build. Look who else writes in this folder.",
                )
            environment = self._describe(lock, key, wheels, sealed, allow_pth=allow_pth)
            environment = msgspec.structs.replace(environment, lacks=lacks)
            async with self._store.locked():
                await asyncio.to_thread(self._store.publish, build, environment)
            on_progress(BuildProgress(phase="verify", done=sealed.files, total=sealed.files, unit="files"))
        finally:
            if folder is not self._wheels:
                await asyncio.to_thread(folder.remove)
            if build is not None and build.exists():
                await self._runner.discard(str(build))
        return environment

    def _demand(self, reports: Sequence[ScanReport], room: Room) -> None:
        """Raise where what is about to be laid down is too much."""
        size, most = (
            sum(file.size for one in reports for file in one.files),
            self._fetch_limits.unpacked_bytes,
        )
        if size > most:
            raise EnvironmentBuildError(f"the wheels of this lock unpack to {size} bytes, at most {most}")
        room(size)

    async def _read(
        self, request: FetchRequest, room: Room, on_progress: OnProgress, *, allow_pth: bool
    ) -> tuple[tuple[Wheel, ...], tuple[ScanReport, ...]]:
        """Every wheel and its report, each scanned as soon as it is there.

        One that is refused ends the fetching: whatever is larger is not brought any more. Raises with the
        findings of all that were there.
        """
        if not (pins := request.pins):
            return (), ()
        loop, folder = asyncio.get_running_loop(), WheelFolder(Path(request.folder))
        jobs: dict[Wheel, asyncio.Future[ScanReport]] = {}
        refused = asyncio.Event()

        def scan(wheel: Wheel) -> ScanReport:
            limits, path = self._scan_limits, folder.path(wheel)
            return scan_wheel(path, wheel, self.interpreter, allow_pth=allow_pth, limits=limits)

        def look(job: asyncio.Future[ScanReport]) -> None:
            if job.cancelled() or job.exception() is not None or job.result().findings:
                refused.set()

        def there(wheel: Wheel) -> None:
            if wheel not in jobs:
                jobs[wheel] = loop.run_in_executor(pool, scan, wheel)
                jobs[wheel].add_done_callback(look)

        def told(progress: BuildProgress) -> None:
            if progress.phase == "fetch":
                room(max(progress.done, progress.total))
            on_progress(progress)

        pool = ThreadPoolExecutor(_SCAN_THREADS)
        try:
            wheels = await until(refused, fetch(request, told, there))
            for wheel in wheels:
                there(wheel)
            on_progress(BuildProgress(phase="scan", total=len(pins)))
            for done, job in enumerate(asyncio.as_completed(list(jobs.values())), 1):
                report = await job
                on_progress(BuildProgress(phase="scan", done=done, total=len(pins), note=report.wheel))
        finally:  # what has not begun never does; what runs is waited for, while the loop serves others
            pool.shutdown(wait=False, cancel_futures=True)
            if jobs:
                await asyncio.wait(jobs.values())
        reports = {wheel: job.result() for wheel, job in jobs.items()}
        refuse_findings(tuple(reports.values()))
        ordered = tuple(reports[wheel] for wheel in wheels)
        refuse_clashes(ordered)
        return wheels, ordered

    def _request(self, pins: Sequence[Pin], own: str, folder: WheelFolder) -> FetchRequest:
        sources = self._sources() if pins else Sources()  # what names the public index is long to import
        return FetchRequest(
            pins=tuple(pins),
            tags=self.interpreter.tags,
            sources=msgspec.structs.replace(sources, own=own),
            folder=str(folder.root),
            beside="" if folder is self._wheels else str(self._wheels.root),
            limits=self._fetch_limits,
        )

    async def _lay_down(
        self,
        tree: Tree,
        folder: WheelFolder,
        wheels: Sequence[Wheel],
        reports: Sequence[ScanReport],
        on_progress: OnProgress,
    ) -> None:
        await asyncio.to_thread(lay_skeleton, tree, self.interpreter)
        for done, (wheel, report) in enumerate(zip(wheels, reports, strict=True)):
            on_progress(BuildProgress(phase="install", done=done, total=len(wheels), note=wheel.name))
            await asyncio.to_thread(lay_wheel, tree, folder.path(wheel), report, self._scan_limits)

    async def _compile(
        self, tree: Tree, reports: Sequence[ScanReport], asked: _For, on_progress: OnProgress
    ) -> None:
        """Each wheel's modules in a sandbox of their own; those that two wheels share with the first."""
        taken: set[str] = set()
        jobs: list[tuple[ScanReport, list[str]]] = []
        for report in reports:
            own = [path for path in sources_of(report, self.interpreter) if path not in taken]
            taken |= set(own)
            if own:
                jobs.append((report, own))
        done = 0
        free = asyncio.Semaphore(1 if asked.tenant else _COMPILERS)

        async def one(report: ScanReport, sources: list[str]) -> None:
            nonlocal done
            async with free:
                await self._compile_wheel(tree, report, sources, asked)
            done += len(sources)
            told = BuildProgress(phase="compile", done=done, total=len(taken), unit="files", note=report.name)
            on_progress(told)

        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(one(*job))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _compile_wheel(self, tree: Tree, report: ScanReport, sources: list[str], asked: _For) -> None:
        order = CompileOrder(
            argv=compile_argv(self.interpreter),
            interpreter_prefix=self.interpreter.prefix,
            bridge=asked.bridge,
            tenant=asked.tenant or LOCAL_TENANT,
        )
        seconds, work, log = asked.seconds(report.wheel), Compilation(tree, sources, self.interpreter), Log()
        try:
            async with asyncio.timeout(seconds):
                ended = await self._runner.run(order, work.talk, log.write)
        except TimeoutError as error:
            raise EnvironmentBuildError(
                f"compiling took longer than {seconds} s", where=report.wheel, retry="later"
            ) from error
        require_success(ended, log, work.unanswered, where=report.wheel)

    async def _list_fonts(
        self, tree: Tree, wheels: Sequence[Wheel], asked: _For, on_progress: OnProgress
    ) -> tuple[str, ...]:
        """Why it is missing, where it can't be made."""
        if all(wheel.name != DRAWS for wheel in wheels):
            return ()
        on_progress(BuildProgress(phase="fonts"))
        return await list_fonts(self._runner, tree, self.interpreter, asked.bridge, asked.tenant)

    def _describe(
        self, lock: Lock, key: str, wheels: Sequence[Wheel], sealed: SealReport, *, allow_pth: bool
    ) -> Environment:
        return Environment(
            digest=Digest(sealed.digest),
            lock_digest=lock.digest,
            key=key,
            python=self.interpreter.version,
            platform=self.interpreter.platform,
            interpreter=self.interpreter.inside,
            packages=tuple(
                Package(name=w.name, version=w.version, wheel=w.filename, sha256=w.sha256) for w in wheels
            ),
            files=sealed.files,
            bytes=sealed.bytes,
            weakenings=("pth",) if allow_pth else (),
        )


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)
