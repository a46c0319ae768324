"""What a bridge asks for, resolved to exact versions with hashes. Wheels only: nothing is built or run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from uv import find_uv_bin

from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import DependencyError, UsageError
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.sources import default_sources

_SECONDS = 300


def lock(manifest: Manifest, python: str) -> int:
    """Write the bridge's lock file anew; how many packages it holds."""
    if manifest.requirements_path is None or manifest.lock_path is None:
        raise UsageError(
            f"{manifest.name} asks for no packages",
            where=str(manifest.file),
            hint='Add requirements = "requirements.in" and lock = "requirements.lock" to bridge.toml.',
        )
    text = resolve(manifest.requirements_path, python)
    pins = parse_lock(text, str(manifest.lock_path)).pins
    partial = manifest.lock_path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(manifest.lock_path)
    return len(pins)


def resolve(requirements: Path, python: str) -> str:
    """The lock's text. Raises `DependencyError` with what the resolver said."""
    argv = [find_uv_bin(), "pip", "compile", str(requirements), "--generate-hashes", "--only-binary", ":all:"]
    argv += ["--python-version", python, "--no-header", "--no-annotate", "--no-emit-index-url"]
    argv += ["--no-emit-find-links", "--quiet", "--system-certs"]
    for folder in default_sources().folders:
        argv += ["--find-links", str(folder)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DependencyError(
            f"the resolver took longer than {_SECONDS} s", where=str(requirements)
        ) from None
    if done.returncode:
        raise DependencyError(
            f"the requirements can't be resolved: {done.stderr.strip()[-1500:]}",
            where=str(requirements),
            hint="Every package must have a wheel for this machine: nothing is built from source.",
        )
    return done.stdout
