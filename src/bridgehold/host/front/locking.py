"""What a submitted bridge asks for, locked by us and never by its author; and the wheels that it brings."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.bridges.bundle import WHEELS, Bundle, bundle
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.settings import Settings
from bridgehold.errors import DependencyError
from bridgehold.host.front.environments import Environments
from bridgehold.sandbox.envs.fetcher import clean_environment
from bridgehold.sandbox.envs.index import parse_wheel_name
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.resolving import resolve
from bridgehold.sandbox.envs.values import Interpreter, Wheel
from bridgehold.sandbox.envs.wheelscan import refuse_findings, scan_wheel

_AT_ONCE = 4


class Locking:
    """One per host."""

    def __init__(self, settings: Settings, place: Path, environments: Environments) -> None:
        """`place`: the host's own folder, where it works."""
        self._settings = settings
        self._place = place
        self._environments = environments
        self._pool = ThreadPoolExecutor(_AT_ONCE, "locking")  # what a tenant asks for keeps no other thread

    async def locked(self, found: Bundle, manifest: Manifest) -> tuple[Bundle, int]:
        """The bundle with the lock that is made here, and its number of packages.

        Raises `DependencyError`, `EnvironmentBuildError` for another Python."""
        python = await self._environments.python_for(manifest.python, where="bridge.toml")
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._locked, found, manifest, python
        )

    def _locked(self, found: Bundle, manifest: Manifest, python: Interpreter) -> tuple[Bundle, int]:
        if not manifest.requirements:
            if not manifest.lock:
                return found, 0
            raise DependencyError(
                "a lock is made here, of what is asked for: name `requirements` too", where="bridge.toml"
            )
        data = found.get(manifest.requirements) or b""
        asked = reads.decode(data, DependencyError, manifest.requirements)
        with tempfile.TemporaryDirectory(prefix=".", dir=self._place) as work:
            folder = Path(work) / WHEELS
            writes.make_folder(folder)
            for file in found.files:
                top, _, name = file.path.partition("/")
                if top == WHEELS:
                    if not name.endswith(".whl") or "/" in name:
                        raise DependencyError(f"{file.path} is no wheel", where=WHEELS)
                    place = folder / name
                    with writes.create(place) as opened:
                        opened.write(file.data)
                    self._scan(place, file.data, python)
            text = resolve(
                asked,
                manifest.requirements,
                python.minor,
                self._settings.now.host.index,
                folder=str(folder),
                environment={**clean_environment(dict(os.environ)), "TMPDIR": work},
            )
        pins = parse_lock(text, manifest.lock).pins
        others = [(file.path, file.data) for file in found.files if file.path != manifest.lock]
        return bundle([*others, (manifest.lock, text.encode())]), len(pins)

    def _scan(self, path: Path, data: bytes, python: Interpreter) -> None:
        """Raise `DependencyError` with every finding, before anybody else reads it."""
        named = parse_wheel_name(path.name)
        if named is None:
            raise DependencyError(f"{path.name[:100]} is no wheel", where=WHEELS)
        wheel = Wheel(
            name=named[0],
            version=str(named[1]),
            filename=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
        )
        refuse_findings([scan_wheel(path, wheel, python, own=True)])
