"""Which packages an environment holds, read from their metadata. Nothing is imported or run."""

from __future__ import annotations

import stat
from importlib.metadata import PathDistribution
from pathlib import Path

from bridgehold.errors import EnvironmentBuildError
from bridgehold.sandbox.envs.values import Package

MAX_PACKAGES = 2_000
MAX_METADATA_BYTES = 1024 * 1024


def installed_packages(tree: Path, site_packages: str) -> tuple[Package, ...]:
    """Name and version of every distribution in `tree`, sorted. Raises `EnvironmentBuildError`.

    `site_packages` is relative to `tree`. Metadata that is a link, or too large, is refused unread.
    """
    folder = tree / site_packages
    try:
        infos = sorted(entry for entry in folder.iterdir() if entry.name.endswith(".dist-info"))
        if len(infos) > MAX_PACKAGES:
            raise EnvironmentBuildError(f"more than {MAX_PACKAGES} packages", where=str(folder))
        return tuple(_package(info) for info in infos)
    except OSError as error:
        raise EnvironmentBuildError(
            f"the environment can't be read: {error.strerror or error}",
            where=str(folder),
            hint="Build it again: bridgehold bridge build NAME",
        ) from error


def _package(info: Path) -> Package:
    metadata = info / "METADATA"
    for path in (info, metadata):
        mode = path.lstat()
        if stat.S_ISLNK(mode.st_mode) or mode.st_size > MAX_METADATA_BYTES:
            raise EnvironmentBuildError("metadata that is a link, or too large", where=str(path))
    found = PathDistribution(info)
    name, version = found.metadata["Name"], found.metadata["Version"]
    if not name or not version:
        raise EnvironmentBuildError("metadata without a name or version", where=str(metadata))
    return Package(name=name, version=version)
