"""What a bridge asks for, resolved to exact versions with hashes. Wheels only: nothing is built or run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from uv import find_uv_bin

from bridgehold import reads, writes
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import ConfigError, DependencyError, UsageError
from bridgehold.ids import digest_bytes
from bridgehold.sandbox.envs.interpreter import host_interpreter, require_python
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.sources import default_sources
from bridgehold.sandbox.envs.values import Sources

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_VERSION = re.compile(r"3\.\d{1,3}(\.\d{1,3})?", re.ASCII)
_SECONDS = 300


def lock(manifest: Manifest, python: str = "", index: str = "") -> int:
    """Write the bridge's lock file anew; how many packages it holds.

    For the Python, and from the places, that `bridge build` takes: what is locked can be built here.
    `python`: another version, for another machine; `index`: the one of config.toml.
    """
    if manifest.requirements_path is None or manifest.lock_path is None:
        raise UsageError(
            f"{manifest.name} asks for no packages",
            where=str(manifest.file),
            hint='Add requirements = "requirements.in" and lock = "requirements.lock" to bridge.toml.',
        )
    interpreter = host_interpreter()
    if python and not _VERSION.fullmatch(python):
        raise UsageError(
            f"{python[:40]!r} is no version of Python",
            where="--python",
            hint=f"Write it as {interpreter.minor}.",
        )
    if not python:
        require_python(interpreter, manifest.python, where=str(manifest.file))
        python = interpreter.minor
    try:
        with writes.our_folder(manifest.folder) as descriptor:
            folder = Path(f"/proc/self/fd/{descriptor}")  # its name may change while this takes long
            now = reads.read_bytes(folder / manifest.file.name, ConfigError)
            if digest_bytes(now) != manifest.digest:
                raise ConfigError("the folder, or its manifest, changed", where=str(manifest.file))
            text = resolve(manifest.requirements_path, python, index)
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


def resolve(requirements: Path, python: str, index: str = "") -> str:
    """The lock's text. Raises `DependencyError` with what is asked wrongly or what the resolver said."""
    asked = read_requirements(reads.read_text(requirements, DependencyError), str(requirements))
    argv = [find_uv_bin(), "pip", "compile", "-", "--generate-hashes", "--only-binary", ":all:"]
    argv += ["--python-version", python, "--no-header", "--no-annotate", "--no-emit-index-url"]
    argv += ["--no-emit-find-links", "--quiet", "--system-certs", "--no-config"]
    sources = default_sources(index)
    for folder in sources.folders:
        argv += ["--find-links", str(folder)]
    try:
        done = subprocess.run(
            argv,
            input="".join(f"{line}\n" for line in asked),
            cwd="/",  # a pyproject.toml of the bridge's is not the operator's
            env=_environment(sources),
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
            f"the requirements can't be resolved: {_resolver_message(done.stderr)}",
            where=str(requirements),
            hint=next((hint for said, hint in _REMEDIES if re.search(said, done.stderr)), _WHEELS),
        )
    return done.stdout


_WHEELS = "Every package must have a wheel for this machine: nothing is built from source."
_REMEDIES = (
    (
        r"error sending request|Failed to fetch|[Cc]ould not connect|timed out",
        "Check the network, proxy and certificates of this machine, or name another `index` in config.toml.",
    ),
    (
        r"was not found in the (package registry|provided package locations|index)",
        "Check how its name is spelt, or name the index that has it (`[host] index` in config.toml).",
    ),
    (r"no wheels|no usable wheels|building from source is disabled", _WHEELS + " Ask for another version."),
    (r"yanked", "Its authors have withdrawn it: ask for another version."),
    (r"is available|are available|there (is|are) no versions?", "Ask for a version that exists."),
)
"""What the resolver says, and what to do then: the first that fits."""


def _resolver_message(text: str) -> str:
    """What the resolver said, without the words for its own options."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    first = lines[0].removeprefix("error: ") if lines else "no reason was given"
    return "\n".join([first, *lines[1:]])[-1500:]


def _environment(sources: Sources) -> dict[str, str]:
    """This process's, with the indexes that a build asks: an address may hold a password, so not in argv."""
    kept = {name: text for name, text in os.environ.items() if not re.match("UV_.*(INDEX|FIND_LINKS)", name)}
    remote = [url for url in sources.indexes if not url.startswith("file://")] or list(sources.indexes)
    if remote:
        kept |= {"UV_DEFAULT_INDEX": remote[0], "UV_INDEX": " ".join(remote[1:])}
    return kept if remote else {**kept, "UV_NO_INDEX": "1"}
