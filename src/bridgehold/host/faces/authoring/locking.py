"""What a bridge asks for, resolved to exact versions with hashes. Wheels only: nothing is built or run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from uv import find_uv_bin

from bridgehold import reads, writes
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import ConfigError, DependencyError, UsageError
from bridgehold.ids import digest_bytes
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.sources import default_sources

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_SECONDS = 300


def lock(manifest: Manifest, python: str) -> int:
    """Write the bridge's lock file anew; how many packages it holds."""
    if manifest.requirements_path is None or manifest.lock_path is None:
        raise UsageError(
            f"{manifest.name} asks for no packages",
            where=str(manifest.file),
            hint='Add requirements = "requirements.in" and lock = "requirements.lock" to bridge.toml.',
        )
    try:
        with writes.our_folder(manifest.folder) as descriptor:
            folder = Path(f"/proc/self/fd/{descriptor}")  # its name may change while this takes long
            now = reads.read_bytes(folder / manifest.file.name, ConfigError)
            if digest_bytes(now) != manifest.digest:
                raise ConfigError("the folder, or its manifest, changed", where=str(manifest.file))
            text = resolve(manifest.requirements_path, python)
            pins = parse_lock(text, str(manifest.lock_path)).pins
            writes.replace(folder / manifest.lock, text, beneath=folder)
    except OSError as error:
        raise ConfigError(
            f"the lock can't be written: {error.strerror}",
            where=str(manifest.lock_path),
            hint="Lock it as the user whose folder it is; no folder below the bridge may be a link.",
        ) from error
    return len(pins)


def read_requirements(text: str, file: str) -> tuple[str, ...]:
    """What a `requirements.in` asks for, by name only.

    A resolver runs the code of what it is pointed at: a folder (an editable one even where it is told to
    build nothing), an archive, a repository. And a file of requirements may hold options. So none of these
    reaches it. Raises `DependencyError` with ``file:line``.
    """
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        if not line:
            continue
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            asked = None
        if asked is None or asked.url is not None:
            raise DependencyError(
                f"{line[:200]!r} is not a package by name",
                where=f"{file}:{number}",
                hint="One a line, like `name>=1.2`: no options, folders, archives or repositories.",
            )
        found.append(str(asked))
    return tuple(found)


def resolve(requirements: Path, python: str) -> str:
    """The lock's text. Raises `DependencyError` with what is asked wrongly or what the resolver said."""
    asked = read_requirements(reads.read_text(requirements, DependencyError), str(requirements))
    argv = [find_uv_bin(), "pip", "compile", "-", "--generate-hashes", "--only-binary", ":all:"]
    argv += ["--python-version", python, "--no-header", "--no-annotate", "--no-emit-index-url"]
    argv += ["--no-emit-find-links", "--quiet", "--system-certs"]
    for folder in default_sources().folders:
        argv += ["--find-links", str(folder)]
    try:
        done = subprocess.run(
            argv,
            input="".join(f"{line}\n" for line in asked),
            cwd="/",  # a uv.toml or pyproject.toml of the bridge's is not the operator's
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
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
