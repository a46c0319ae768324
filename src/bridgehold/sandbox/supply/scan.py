"""One environment looked at as a whole: hashes, wheels read again, licences, advisories."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from bridgehold.sandbox.envs.values import Environment, Finding, Interpreter, Wheel
from bridgehold.sandbox.envs.wheels import WheelFolder
from bridgehold.sandbox.envs.wheelscan import scan_wheel
from bridgehold.sandbox.supply.advisories import Unread
from bridgehold.sandbox.supply.judge import Hit
from bridgehold.sandbox.supply.licences import Licence, licences_in


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An installed package, the wheel it came from, and its licence."""

    name: str
    version: str
    wheel: str
    sha256: str
    licence: Licence
    reread: bool
    """Its wheel is still here, and was read again."""


class WheelFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a wheel that was installed."""

    wheel: str
    finding: Finding


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment consists of, and what is wrong with that by itself."""

    parts: tuple[Part, ...]
    findings: tuple[WheelFinding, ...]
    changed: str
    """The first thing that is not as it was sealed; empty: every byte is."""


class Scanned(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one environment."""

    digest: str
    bridges: tuple[str, ...]
    python: str
    platform: str
    contents: Contents
    hits: tuple[Hit, ...]
    ok: bool
    """It is as it was sealed, nothing is wrong with its wheels, every advisory could be read, and none that
    is as grave as was asked hits."""
    blocked: str
    """Why the operator's configuration has it not be used; empty: it may be."""


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """The advisories that a verdict rests on."""

    folder: str
    """Empty: the operator names none, and nothing is known."""
    files: int = 0
    newest: str = ""
    age_days: int | None = None
    stale: bool = False
    unread: tuple[Unread, ...] = ()
    unread_count: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `bridge.scan` answers."""

    environments: tuple[Scanned, ...]
    advisories: Basis
    fail_on: str


def look(
    environment: Environment, tree: Path, wheels: Path, interpreter: Interpreter | None, changed: str
) -> Contents:
    """Read what the packages in `tree` say of themselves, and their wheels again as far as they are here.

    `interpreter`: the Python that it is of; None: this host has it no more, and no wheel is read. `changed`:
    what of it is not as it was sealed; nothing in such a tree is asked what it says.
    """
    licences = {} if changed else licences_of(tree, environment.python)
    parts, findings = [], list[WheelFinding]()
    for package in environment.packages:
        wheel = Wheel(
            name=package.name,
            version=package.version,
            filename=package.wheel,
            sha256=package.sha256,
            size=0,
        )
        path = WheelFolder(wheels).path(wheel)
        here = interpreter is not None and path.is_file()
        if interpreter is not None and here:
            report = scan_wheel(path, wheel, interpreter, allow_pth="pth" in environment.weakenings)
            findings += [WheelFinding(wheel=package.wheel, finding=one) for one in report.findings]
        parts.append(
            Part(
                name=package.name,
                version=package.version,
                wheel=package.wheel,
                sha256=package.sha256,
                licence=licences.get(package.name, Licence()),
                reread=here,
            )
        )
    return Contents(parts=tuple(parts), findings=tuple(findings), changed=changed)


def licences_of(tree: Path, python: str) -> dict[str, Licence]:
    """By canonical name, of what is installed in `tree`, an environment of that Python."""
    minor = ".".join(python.split(".")[:2])
    return licences_in(tree / f"lib/python{minor}/site-packages")


def pairs(packages: Collection[Part]) -> list[tuple[str, str]]:
    """Names and versions, as `judge` takes them (pure)."""
    return [(one.name, one.version) for one in packages]
