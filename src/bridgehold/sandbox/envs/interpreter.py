"""The base interpreter of environments: the one that runs Bridgehold, as a sandbox sees it."""

from __future__ import annotations

import platform
import sys
import sysconfig
from pathlib import Path

from packaging.markers import default_environment
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import sys_tags

from bridgehold.errors import EnvironmentBuildError
from bridgehold.sandbox.envs.values import Interpreter
from bridgehold.sandbox.spec import python_inside


def host_interpreter() -> Interpreter:
    """This process's base interpreter. Raises `EnvironmentBuildError` where its executable is missing."""
    version = platform.python_version()
    name = f"bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    prefix = Path(sys.base_prefix).resolve()
    if not (prefix / name).exists():
        raise EnvironmentBuildError(
            f"the base interpreter has no {name}",
            where=str(prefix),
            hint="Run Bridgehold with a Python whose prefix holds its own executable.",
        )
    return Interpreter(
        version=version,
        prefix=str(prefix),
        inside=str(Path(python_inside(str(prefix))) / name),
        platform=sysconfig.get_platform(),
        tags=tuple(str(tag) for tag in sys_tags()),
        markers={key: str(value) for key, value in default_environment().items()},
    )


def require_python(interpreter: Interpreter, specifier: str, *, where: str) -> None:
    """Raise `EnvironmentBuildError` unless `interpreter` satisfies `specifier`, such as ``>=3.11``."""
    try:
        fits = SpecifierSet(specifier).contains(interpreter.version, prereleases=True)
    except InvalidSpecifier as error:
        raise EnvironmentBuildError(f"{specifier!r} is no version specifier", where=where) from error
    if not fits:
        raise EnvironmentBuildError(
            f"Python {specifier} is needed; this host runs {interpreter.version}",
            where=where,
            hint="Run Bridgehold with a Python that fits, or change `python` in bridge.toml.",
        )
