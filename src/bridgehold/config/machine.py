"""The folders of this machine that every sandbox sees read-only."""

from __future__ import annotations

import functools
import importlib.resources
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from bridgehold.sandbox.limits.bounds import SYSTEM_FILES
from bridgehold.sandbox.spec import Paths

_USR_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


@functools.cache
def system_paths(
    environment: Path = Path("/"),
    bridge: Path = Path("/"),
    python_prefix: str = "",
    scripts: tuple[str, ...] = (),
) -> Paths:
    """The system's folders, with a worker's own ones. `python_prefix`: of its Python; empty: the host's."""
    return Paths(
        environment=str(environment),
        bridge=str(bridge),
        scripts=scripts,
        inner=str(package_folder("bridgehold.sandbox") / "inner"),
        sdk=str(package_folder("bridgehold_sdk")),
        python_prefix=python_prefix or os.path.realpath(sys.base_prefix),
        usr_links=tuple(
            (f"/{name}", str(Path("/", name).readlink()))
            for name in _USR_LINKS
            if Path("/", name).is_symlink()
        ),
        etc=tuple(path for path in sorted(SYSTEM_FILES) if Path(path).exists()),
        cpuinfo=Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"),
    )


def real_folders(named: Iterable[str]) -> tuple[str, ...]:
    """Where folders that somebody named really are, without links. It may wait for a disk."""
    return tuple(os.path.realpath(folder) for folder in named)


def package_folder(package: str) -> Path:
    """The folder of an installed package."""
    return Path(str(importlib.resources.files(package)))
