"""The installer: what runs inside its sandbox, and the interface to whatever runs it there.

The script makes the environment's skeleton and lets uv install exact files from ``/wheels``, offline.
It is the launcher's sandbox that protects; what came out is then checked from outside (`installed`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from uv import find_uv_bin

from bridgehold.errors import DependencyError, EnvironmentBuildError
from bridgehold.sandbox.envs.values import Interpreter
from bridgehold.sandbox.spec import ENVIRONMENT
from bridgehold.sandbox.values import SealReport

_KEPT_LOG = 64 * 1024
_SHOWN_LINES = 12

# The build folder is bound where the environment will be mounted: commands and compiled files name it.
# The cache lies beside the tree, on disk: in the sandbox's /tmp it would count against its memory.
SCRIPT = """
umask 022
mkdir -p {env}/bin {env}/"$2"
ln -s "$1" {env}/bin/python
ln -s python {env}/bin/python3
printf %s "$3" > {env}/pyvenv.cfg
test -s /wheels/requirements.txt || exit 0
export TMPDIR={env}/.tmp HOME=/tmp LANG=C.UTF-8 PYTHONHASHSEED=0 PYC_INVALIDATION_MODE=UNCHECKED_HASH
export UV_NO_INSTALLER_METADATA=1 UV_NO_CONFIG=1 UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never
export UV_CACHE_DIR={env}/.cache
mkdir -p {env}/.tmp
/opt/uv pip install --no-progress --color never --python {env}/bin/python \
 --no-index --find-links /wheels --no-deps --require-hashes --only-binary :all: \
 --link-mode hardlink --compile-bytecode -r /wheels/requirements.txt
rm -rf {env}/.cache {env}/.tmp {env}/.lock
"""


class InstallOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the installer. Paths are of the host."""

    argv: tuple[str, ...]
    build: str
    """The empty folder that becomes the environment: bound writable."""
    wheels: str
    """Folder with exactly the wheels to install: bound read-only at /wheels."""
    uv: str
    """The binary: bound read-only at /opt/uv."""
    interpreter_prefix: str
    bridge: str


class InstallExit(msgspec.Struct, frozen=True, kw_only=True):
    cause: Literal["exited", "signal", "memory", "killed", "launcher", "zygote"]
    status: int


class InstallRunner(Protocol):
    """Runs an installer in a sandbox: the launcher, through `launcher_runner`."""

    async def run(self, order: InstallOrder, log: Callable[[bytes], None]) -> InstallExit:
        """Run to the end, feeding `log` its output. Cancelled: it is killed before this returns."""
        ...

    async def seal(self, build: str) -> SealReport:
        """Take the tree over, read-only, with its digest. `DependencyError` at links or special files."""
        ...

    async def discard(self, build: str) -> None:
        """Remove a build folder that is not to be used, whoever owns what is in it."""
        ...


class InstallLog:
    """The last lines of an installer's output, bounded, and how far they say it is."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._tail = b""
        self._rest = b""
        self._on_line = on_line

    def write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_KEPT_LOG:]
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_KEPT_LOG:]
        for line in lines:
            self._on_line(_clean(line[:400]))

    def last_lines(self) -> str:
        return "\n".join(_clean(line[:400]) for line in self._tail.splitlines()[-_SHOWN_LINES:])


def install_argv(interpreter: Interpreter) -> tuple[str, ...]:
    """The command of the installer's sandbox."""
    script = SCRIPT.format(env=ENVIRONMENT)
    return (
        "/bin/sh",
        "-euc",
        script,
        "install",
        interpreter.inside,
        interpreter.site_packages,
        pyvenv_config(interpreter),
    )


def pyvenv_config(interpreter: Interpreter) -> str:
    """The whole pyvenv.cfg (pure). Nothing of a wheel gets into it."""
    return f"home = {Path(interpreter.inside).parent}\ninclude-system-site-packages = false\n"


def uv_binary() -> str:
    """Path of uv's binary. Raises `EnvironmentBuildError`."""
    try:
        return str(Path(find_uv_bin()).resolve())
    except FileNotFoundError as error:
        raise EnvironmentBuildError(
            "uv's binary is missing", hint="Install Bridgehold anew; the package `uv` brings it."
        ) from error


def require_success(ended: InstallExit, log: InstallLog, *, where: str) -> None:
    """Raise `DependencyError` or `EnvironmentBuildError` with the log's last lines unless it went well."""
    if ended.cause == "exited" and ended.status == 0:
        return
    lines = log.last_lines() or "no output"
    if ended.cause == "memory":
        raise EnvironmentBuildError(f"the installer reached its memory cap; it said:\n{lines}", where=where)
    if ended.cause == "exited":
        raise DependencyError(
            f"the installer refused (status {ended.status}); it said:\n{lines}",
            where=where,
            hint="A wheel is broken, or does not fit this Python. Pin another version.",
        )
    raise EnvironmentBuildError(
        f"the installer was ended ({ended.cause} {ended.status}); it said:\n{lines}",
        where=where,
        retry="same",
    )


def _clean(line: bytes) -> str:
    """An installer's line as one printable line."""
    text = line.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
