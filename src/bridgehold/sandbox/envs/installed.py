"""What the installer left, checked from outside against what the wheels' scans announced.

Nothing is imported or run. Every file must be one that a wheel listed, with its bytes, or one that an
installer makes (compiled files, commands, its own notes). So an archive that the installer read
otherwise than the scan did, or code that ran during the install, shows here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.index import file_sha256
from bridgehold.sandbox.envs.inspect import installed_packages
from bridgehold.sandbox.envs.install import pyvenv_config
from bridgehold.sandbox.envs.values import Interpreter, ScanReport, Wheel

_NOTES = frozenset({"INSTALLER", "REQUESTED", "RECORD"})
_COMPILED = re.compile(r"(?P<folder>.*/)__pycache__/(?P<stem>[^/]+)\.[a-z]+-[0-9]+(?:\.opt-[12])?\.pyc")
_SHOWN = 8


def clashes(reports: Sequence[ScanReport]) -> Iterator[str]:
    """Files that two wheels would both install, with different bytes (pure)."""
    owners: dict[str, tuple[str, str]] = {}
    for report in reports:
        for path, sha256 in [
            *((file.path, file.sha256) for file in report.files),
            *((f"bin/{script}", report.wheel) for script in set(report.scripts)),
        ]:
            owner, known = owners.setdefault(path, (report.wheel, sha256))
            if known != sha256:
                yield f"{path}: {report.wheel} would overwrite what {owner} installs"


def refuse_clashes(reports: Sequence[ScanReport]) -> None:
    found = list(clashes(reports))
    if found:
        raise DependencyError(
            "; ".join(found[:_SHOWN]),
            where=found[0].split(":", 1)[0],
            hint="Two packages of this lock claim one file; lock without one of them.",
        )


def check_installed(
    tree: Path, interpreter: Interpreter, wheels: Sequence[Wheel], reports: Sequence[ScanReport]
) -> None:
    """Raise `DependencyError` that names every file of `tree` that should not be, or is not, there."""
    faults = [
        *_skeleton_faults(tree, interpreter),
        *_file_faults(tree, interpreter, reports),
        *_package_faults(tree, interpreter, wheels),
    ]
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DependencyError(
            "the installed tree is not what the lock says: " + "; ".join(faults[:_SHOWN]) + more,
            where=faults[0].split(":", 1)[0],
            hint="Something changed it during the install. Do not use this lock before you know what.",
        )


def _skeleton_faults(tree: Path, interpreter: Interpreter) -> Iterator[str]:
    links = {"bin/python": interpreter.inside, "bin/python3": "python"}
    for name, text in links.items():
        if not (tree / name).is_symlink() or str((tree / name).readlink()) != text:
            yield f"{name}: not the link to the base interpreter"
    config = tree / "pyvenv.cfg"
    if config.is_symlink() or not config.is_file() or config.read_text("utf-8") != pyvenv_config(interpreter):
        yield "pyvenv.cfg: not as it was made"


def _file_faults(tree: Path, interpreter: Interpreter, reports: Sequence[ScanReport]) -> Iterator[str]:
    expected = {file.path: file for report in reports for file in report.files}
    scripts = {f"bin/{script}" for report in reports for script in report.scripts}
    made = {"bin/python", "bin/python3", "pyvenv.cfg"} | scripts
    seen: set[str] = set()
    for path in _walk(tree):
        known = expected.get(path)
        if path in made:
            seen.add(path)
        elif known is None:
            if not (_is_note(path, interpreter, expected) or _is_compiled(path, expected)):
                yield f"{path}: no wheel announced it"
        elif (tree / path).is_symlink():
            yield f"{path}: a link"
        else:
            seen.add(path)
            if not _may_change(path) and file_sha256(tree / path) != known.sha256:
                yield f"{path}: its bytes are not the wheel's"
    for path in sorted((set(expected) | scripts) - seen):
        yield f"{path}: missing"


def _package_faults(tree: Path, interpreter: Interpreter, wheels: Sequence[Wheel]) -> Iterator[str]:
    locked = {(canonicalize_name(wheel.name), Version(wheel.version)) for wheel in wheels}
    found = {
        (canonicalize_name(package.name), Version(package.version))
        for package in installed_packages(tree, interpreter.site_packages)
    }
    for name, version in sorted(found - locked):
        yield f"{name}: {version} is installed and not in the lock"
    for name, version in sorted(locked - found):
        yield f"{name}: {version} is in the lock and not installed"


def _walk(tree: Path) -> Iterator[str]:
    """Every file and link below `tree`, relative; links are not followed."""
    for folder, folders, files in os.walk(tree, followlinks=False):
        base = os.path.relpath(folder, tree)
        prefix = "" if base == "." else base + "/"
        for name in files:
            yield prefix + name
        for name in folders:
            if (Path(folder) / name).is_symlink():
                yield prefix + name


def _is_note(path: str, interpreter: Interpreter, expected: Container[str]) -> bool:
    folder, _, name = path.rpartition("/")
    return (
        name in _NOTES
        and folder.startswith(interpreter.site_packages + "/")
        and f"{folder}/METADATA" in expected
    )


def _is_compiled(path: str, expected: Container[str]) -> bool:
    match = _COMPILED.fullmatch(path)
    return match is not None and f"{match['folder']}{match['stem']}.py" in expected


def _may_change(path: str) -> bool:
    """Files of a wheel that an installer writes anew: its record, and compiled files it ships."""
    return path.endswith((".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED", ".pyc"))
