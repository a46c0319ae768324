"""The base interpreters of environments: the one that runs Bridgehold, and others that the operator names."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import BinaryIO

import msgspec
from packaging.markers import default_environment
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, sys_tags
from packaging.version import InvalidVersion, Version

from bridgehold.errors import DeniedError, EnvironmentBuildError
from bridgehold.sandbox.envs.compile import BuildRunner, CompileOrder
from bridgehold.sandbox.envs.values import Interpreter
from bridgehold.sandbox.spec import prefix_of, python_inside

_OLDEST = Version("3.10")
"""That the guest side runs on."""
_MOST_BYTES = 64 * 1024
_SECONDS = 30
_MINOR = re.compile(r"3\.\d{1,2}", re.ASCII)
_PROBE = """
import json, platform, sys, sysconfig
import base64, ctypes, importlib.util, lzma, sqlite3, ssl
version = platform.python_version()
print(json.dumps({
    "version": version + "local" if version.endswith("+") else version,
    "implementation": sys.implementation.name,
    "prefix": sys.base_prefix,
    "platform": sysconfig.get_platform(),
    "gil": not sysconfig.get_config_var("Py_GIL_DISABLED"),
    "magic": base64.b64encode(importlib.util.MAGIC_NUMBER).decode(),
}))
"""
"""Imports what a Python lacks whose libraries lie elsewhere. One built between releases is ``3.13.0+``: no
version, which markers have as ``+local``."""


class _Probed(msgspec.Struct, frozen=True):
    version: str
    implementation: str
    prefix: str
    platform: str
    gil: bool
    magic: bytes


class Interpreters(msgspec.Struct, frozen=True):
    """Every Python that environments of this host may have, the host's own first."""

    known: tuple[Interpreter, ...]
    lost: tuple[str, ...] = ()
    """Those that were named and can't be used, each with the reason."""

    def fitting(self, specifier: str, *, where: str) -> Interpreter:
        """The first that `specifier` allows, such as ``>=3.11``. Raises `EnvironmentBuildError`."""
        found = next((one for one in self.known if allows(specifier, one.version, where=where)), None)
        if found is not None:
            return found
        had = ", ".join(one.version for one in self.known)
        lost = f", and can't use {'; '.join(self.lost)}" if self.lost else ""
        raise EnvironmentBuildError(
            f"Python {specifier} is needed; this host has {had}{lost}",
            where=where,
            hint="Name one that fits in `[host] pythons` of config.toml, or change `python` in bridge.toml.",
        )


def allows(specifier: str, version: str, *, where: str) -> bool:
    """Whether `specifier` allows `version` (pure). Raises `EnvironmentBuildError` where it is none."""
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise EnvironmentBuildError(f"{specifier!r} is no version specifier", where=where) from error


def minor_fitting(specifier: str, named: Sequence[str], *, where: str) -> str:
    """The version of the Python that a bridge gets, such as ``3.12``, without running any.

    Of those of `named` the name tells it. Raises `EnvironmentBuildError` as `Interpreters.fitting`.
    """
    own = host_interpreter()
    if not allows(specifier, own.version, where=where):
        for path in named:
            minor = Path(path).resolve().name.removeprefix("python")
            if _MINOR.fullmatch(minor) and any(
                allows(specifier, f"{minor}.{patch}", where=where) for patch in range(40)
            ):
                return minor
    return Interpreters((own,)).fitting(specifier, where=where).minor


async def interpreters(named: Sequence[str], runner: BuildRunner) -> Interpreters:
    """The host's own and those of `named`, executables by path. Each runs once, in a sandbox."""
    own, found = host_interpreter(), await seen_inside(named, runner)
    others = tuple(one for one in found.known if one.inside != own.inside)
    return Interpreters((own, *others), found.lost)


async def seen_inside(named: Sequence[str], runner: BuildRunner) -> Interpreters:
    """Those of `named` alone, as they say themselves in a sandbox; each once."""
    known, lost = dict[str, Interpreter](), list[str]()
    for path in named:
        try:
            found = await _probe(path, runner)
        except (EnvironmentBuildError, DeniedError) as error:
            lost.append(f"{path} ({error.message})")
        else:
            known.setdefault(found.inside, found)
    return Interpreters(tuple(known.values()), tuple(lost))


def host_interpreter() -> Interpreter:
    """This process's base interpreter. Raises `EnvironmentBuildError` where its executable is missing."""
    version = str(default_environment()["python_full_version"])
    prefix, name = os.path.realpath(sys.base_prefix), f"bin/python{version.rpartition('.')[0]}"
    if not Path(prefix, name).exists():
        raise EnvironmentBuildError(
            f"the base interpreter has no {name}",
            where=prefix,
            hint="Run Bridgehold with a Python whose prefix holds its own executable.",
        )
    return Interpreter(
        version=version,
        prefix=prefix,
        inside=f"{python_inside(prefix)}/{name}",
        platform=sysconfig.get_platform(),
        tags=tuple(str(tag) for tag in sys_tags()),
        markers={key: str(value) for key, value in default_environment().items()},
        magic=MAGIC_NUMBER,
    )


async def _probe(path: str, runner: BuildRunner) -> Interpreter:
    prefix = prefix_of(path)
    inside = f"{python_inside(prefix)}/bin/{Path(path).name}"
    found = await _asked(inside, prefix, runner)
    if found.implementation != "cpython" or not found.gil or _version(found.version) < _OLDEST:
        lock = "" if found.gil else " without its global lock"
        raise EnvironmentBuildError(f"no bridge runs on {found.implementation} {found.version}{lock}")
    if found.prefix != python_inside(prefix):
        raise EnvironmentBuildError(f"it belongs to {found.prefix}: name the interpreter of that folder")
    minor = (_version(found.version).major, _version(found.version).minor)
    return Interpreter(
        version=found.version,
        prefix=prefix,
        inside=inside,
        platform=found.platform,
        tags=tuple(_tags(minor)),
        markers={key: str(value) for key, value in default_environment().items()}
        | {
            "python_version": ".".join(map(str, minor)),
            "python_full_version": found.version,
            "implementation_version": found.version,
        },
        magic=found.magic,
    )


def _version(text: str) -> Version:
    """Of what a Python calls itself. Raises `EnvironmentBuildError`."""
    try:
        return Version(text)
    except InvalidVersion:
        shown = "".join(c for c in text[:40] if c.isprintable())
        raise EnvironmentBuildError(f"{shown!r} is no version of Python's") from None


def _tags(minor: tuple[int, int]) -> Iterator[str]:
    """Of a CPython of this version on this machine, best first."""
    name = f"cp{minor[0]}{minor[1]}"
    yield from map(str, cpython_tags(minor, [name]))
    yield from map(str, compatible_tags(minor, name))


async def _asked(inside: str, prefix: str, runner: BuildRunner) -> _Probed:
    """What the interpreter says of itself. It is somebody else's program: bounded, and in a sandbox."""
    said, log = bytearray(), bytearray()

    def talk(to: BinaryIO, answers: BinaryIO) -> None:
        to.close()
        said.extend(answers.read(_MOST_BYTES))

    order = CompileOrder(
        argv=(inside, "-I", "-S", "-B", "-c", _PROBE), interpreter_prefix=prefix, bridge="pythons"
    )
    try:
        async with asyncio.timeout(_SECONDS):
            ended = await runner.run(order, talk, lambda data: log.extend(data[-_MOST_BYTES:]))
        if ended.status == 0:
            return msgspec.json.decode(bytes(said), type=_Probed)
    except TimeoutError:
        raise EnvironmentBuildError(f"it says nothing for {_SECONDS} s") from None
    except msgspec.MsgspecError:
        pass
    lines = bytes(log[-_MOST_BYTES:]).decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it doesn't say what it is")
    raise EnvironmentBuildError("".join(c for c in last if c.isprintable())[:300])
