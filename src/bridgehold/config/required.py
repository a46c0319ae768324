"""What an operator demands of a bridge before it runs (pure): packages in its lock, and a Python."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bridgehold.config.sections import BridgeSection
from bridgehold.sandbox.envs.values import Interpreter, Lock


def unmet(section: BridgeSection, lock: Lock, interpreter: Interpreter) -> list[str]:
    """Every demand of `section` that isn't met, in words."""
    pinned: dict[str, list[str]] = {}
    for pin in lock.pins:
        pinned.setdefault(pin.name, []).append(pin.version)
    found = []
    for text in section.required_packages:
        asked = Requirement(text)
        versions = pinned.get(canonicalize_name(asked.name), [])
        if not versions:
            found.append(f"{asked.name} is not in its lock")
        elif not all(asked.specifier.contains(version, prereleases=True) for version in versions):
            found.append(f"{text} is required, and its lock has {', '.join(versions)}")
    if section.min_python and Version(interpreter.version) < Version(section.min_python):
        found.append(f"Python {section.min_python} is required, and this host runs {interpreter.version}")
    return found
