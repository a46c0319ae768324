"""What a bridge asks for, resolved to exact versions with hashes. Wheels only: nothing is built or run."""

from __future__ import annotations

import re
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.sections import HostSection
from bridgehold.error_texts import mending
from bridgehold.errors import ConfigError, DependencyError, UsageError
from bridgehold.ids import digest_bytes
from bridgehold.sandbox.envs.interpreter import minor_fitting
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.resolving import resolve

_VERSION = re.compile(r"3\.\d{1,3}(\.\d{1,3})?", re.ASCII)


def lock(manifest: Manifest, python: str, host: HostSection) -> int:
    """Write the bridge's lock file anew; how many packages it holds.

    For the Python, and from the places, that `bridge build` takes: what is locked can be built here.
    `python`: another version, for another machine; empty: the one that it gets here.
    """
    if manifest.requirements_path is None or manifest.lock_path is None:
        raise UsageError(
            f"{manifest.name} asks for no packages",
            where=str(manifest.file),
            hint='Add requirements = "requirements.in" and lock = "requirements.lock" to bridge.toml.',
        )
    if python and not _VERSION.fullmatch(python):
        raise UsageError(
            f"{python[:40]!r} is no version of Python",
            where="--python",
            hint="Write it as 3.12.",
        )
    if not python:
        python = minor_fitting(manifest.python, host.pythons, where=str(manifest.file))
    try:
        with writes.our_folder(manifest.folder) as descriptor:
            folder = Path(f"/proc/self/fd/{descriptor}")  # its name may change while this takes long
            now = reads.read_bytes(folder / manifest.file.name, ConfigError)
            if digest_bytes(now) != manifest.digest:
                raise ConfigError("the folder, or its manifest, changed", where=str(manifest.file))
            asked = reads.read_text(manifest.requirements_path, DependencyError)
            text = resolve(asked, str(manifest.requirements_path), python, host.index)
            pins = parse_lock(text, str(manifest.lock_path)).pins
            writes.replace(folder / manifest.lock, text, beneath=folder)
    except OSError as error:
        raise ConfigError(
            f"the lock can't be written: {error.strerror}",
            where=str(manifest.lock_path),
            hint=mending(
                error, "Lock it as the user whose folder it is; no folder below the bridge may be a link."
            ),
        ) from error
    return len(pins)
