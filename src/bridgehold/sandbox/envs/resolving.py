"""What a bridge asks for, resolved to exact versions with hashes. Wheels only: nothing is built or run."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping

from packaging.requirements import Requirement
from uv import find_uv_bin

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.sources import default_sources
from bridgehold.sandbox.envs.values import GIB, Sources

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_SECONDS = 300
_MEMORY = 3 * GIB
"""That the resolver may ask for; what a thousand packages take is a tenth."""
_NO_MEMORY = r"memory allocation of [0-9]+ bytes failed|Cannot allocate memory"
"""The heap's own word, and the one for a thread's stack: whichever is asked for first past the bound."""
_NICE = 10
_MOST_REQUIREMENTS = 500
_MOST_BYTES = 256 * 1024


def read_requirements(text: str, file: str) -> tuple[str, ...]:
    """What a `requirements.in` asks for, by name only.

    A resolver runs the code of what it is pointed at: a folder (an editable one even where it is told to
    build nothing), an archive, a repository. And a file of requirements may hold options. So none of these
    reaches it. Raises `DependencyError` with ``file:line``.
    """
    found: list[str] = []
    if len(text) > _MOST_BYTES or len(text.encode()) > _MOST_BYTES:
        raise DependencyError(f"more than {_MOST_BYTES} bytes", where=file)
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        if not line:
            continue
        if len(found) == _MOST_REQUIREMENTS:
            raise DependencyError(f"more than {_MOST_REQUIREMENTS} packages are asked for", where=file)
        try:
            asked = Requirement(line)
            plain = "" if asked.url is not None else str(asked)
        except (ValueError, RecursionError):  # a number of too many digits is told by nothing else
            plain = ""
        if not plain:
            raise DependencyError(
                f"{line[:200]!r} is not a package by name",
                where=f"{file}:{number}",
                hint="One a line, like `name>=1.2`: no options, folders, archives or repositories.",
            )
        found.append(plain)
    return tuple(found)


def resolve(
    text: str,
    where: str,
    python: str,
    index: str = "",
    *,
    folder: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """The lock's text. Raises `DependencyError` with what is asked wrongly or what the resolver said.

    `folder`: wheels that may be taken beside the index's. `environment`: for a process that has no home of
    its own, in place of this one's; nothing is then kept for a later time.
    """
    asked = read_requirements(text, where)
    argv = [find_uv_bin(), "pip", "compile", "-", "--generate-hashes", "--only-binary", ":all:"]
    argv += ["--no-cache", "--python", sys.executable] if environment is not None else []
    argv += ["--python-version", python, "--no-header", "--no-annotate", "--no-emit-index-url"]
    argv += ["--no-emit-find-links", "--quiet", "--system-certs", "--no-config"]
    sources = default_sources(index)
    for one in (*([folder] if folder else []), *sources.folders):
        argv += ["--find-links", one]
    status, lock, said = _run(
        argv,
        "".join(f"{line}\n" for line in asked),
        _environment(os.environ if environment is None else environment, sources),
        where,
    )
    if status:
        raise DependencyError(
            f"the requirements can't be resolved: {_resolver_message(said)}",
            where=where,
            hint=next((hint for words, hint in _REMEDIES if re.search(words, said)), _WHEELS),
        )
    return lock


def _run(argv: list[str], asked: str, environment: Mapping[str, str], where: str) -> tuple[int, str, str]:
    """Status, output and complaint of the resolver. What it reads may be made to cost: so it has bounds, and
    whoever serves comes first."""
    with subprocess.Popen(
        argv,
        cwd="/",  # a pyproject.toml of the bridge's is not the operator's
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            most = _MEMORY if hard == resource.RLIM_INFINITY else min(hard, _MEMORY)
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
            lock, said = process.communicate(asked, _SECONDS)
            return process.returncode, lock, said
        except subprocess.TimeoutExpired:
            raise DependencyError(f"the resolver took longer than {_SECONDS} s", where=where) from None
        finally:
            process.kill()


_WHEELS = "Every package must have a wheel for this machine: nothing is built from source."
_REMEDIES = (
    (_NO_MEMORY, "Ask for fewer packages, and say more exactly which."),
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
    """What the resolver said, without the words for its own options, or what became of it."""
    if re.search(_NO_MEMORY, text):
        return f"the resolver would take more memory than {_MEMORY // GIB} GiB"
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip() and "BACKTRACE" not in line]
    first = lines[0].removeprefix("error: ") if lines else "no reason was given"
    return "\n".join([first, *lines[1:]])[-1500:]


def _environment(given: Mapping[str, str], sources: Sources) -> dict[str, str]:
    """`given`, with the indexes that a build asks: an address may hold a password, so not in argv."""
    kept = {name: text for name, text in given.items() if not re.match("UV_.*(INDEX|FIND_LINKS)", name)}
    remote = [url for url in sources.indexes if not url.startswith("file://")] or list(sources.indexes)
    if remote:
        kept |= {"UV_DEFAULT_INDEX": remote[0], "UV_INDEX": " ".join(remote[1:])}
    return kept if remote else {**kept, "UV_NO_INDEX": "1"}
