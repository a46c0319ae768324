"""Where environments live: content-addressed trees, found by what they were built from.

    <digest>/            a tree, read-only; the name is the tree's digest in hexadecimal
    <digest>.json        what it is (`Environment`)
    keys/<key>.json      lock, Python and platform → the same value: what a lookup reads
    keys/<key>.lock      held by whoever builds for that key
    .build-<key>-<id>/   a build under way, or left by a crash

A tree changes its name, never its folder: once the launcher owns it, nobody else could move it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.errors import EnvironmentBuildError
from bridgehold.ids import Digest, digest_bytes
from bridgehold.sandbox.envs.digest import tree_digest
from bridgehold.sandbox.envs.values import BuildProgress, Environment, Interpreter, Lock
from bridgehold.sandbox.seal import empty_tree

FORMAT = 2
"""Raised when a built tree of an older Bridgehold must not be found any more."""
_TREE = re.compile(r"[0-9a-f]{64}")
_BUILD = re.compile(r"\.build-([0-9a-f]{64})-[0-9a-f]{16}")
_POLL_SECONDS = 0.1


class EnvironmentStore:
    """Reads and writes of the environments' folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys = folder / "keys"

    @staticmethod
    def key(lock: Lock, interpreter: Interpreter, weakenings: Collection[str] = ()) -> str:
        """What decides an environment's content, as 64 hexadecimal digits (pure)."""
        facts = (
            str(FORMAT),
            lock.digest,
            interpreter.markers.get("implementation_name", "cpython"),
            interpreter.minor,
            interpreter.inside,
            interpreter.platform,
            *sorted(weakenings),
        )
        return digest_bytes("\n".join(facts).encode()).removeprefix("sha256:")

    def path(self, environment: Environment) -> Path:
        """The tree: what is mounted as /env."""
        return self.folder / environment.digest.removeprefix("sha256:")

    def find(self, key: str) -> Environment | None:
        """The environment built for `key`, in well under a millisecond; None if its tree is gone."""
        environment = _read(self._keys / f"{key}.json")
        if environment is None or not (self.path(environment) / "pyvenv.cfg").is_file():
            return None
        return environment

    def list(self) -> tuple[Environment, ...]:
        """Every whole environment, by digest."""
        found = (_read(file) for file in sorted(self.folder.glob("*.json")))
        return tuple(env for env in found if env is not None and self.path(env).is_dir())

    def size_bytes(self) -> int:
        """Of all trees, as they were when sealed."""
        return sum(environment.bytes for environment in self.list())

    def verify(self, environment: Environment) -> None:
        """Read every byte again. Raises `EnvironmentBuildError` if the tree is not what its name says."""
        seen = tree_digest(str(self.path(environment)))
        if seen.digest != environment.digest:
            raise EnvironmentBuildError(
                f"the tree has digest {seen.digest}, not {environment.digest}",
                where=str(self.path(environment)),
                hint="It was changed after it was built. Remove it and build it again.",
            )

    def new_build(self, key: str) -> Path:
        """An empty folder for an installer; `gc` removes it if this process dies."""
        build = self.folder / f".build-{key}-{secrets.token_hex(8)}"
        writes.make_folder(build, new=True)
        return build

    def publish(self, build: Path, environment: Environment) -> None:
        """Give a sealed tree its name, and make it findable. A tree that is there already stays."""
        tree = self.path(environment)
        if not tree.is_dir():
            build.rename(tree)
        data = msgspec.json.format(msgspec.json.encode(environment), indent=2)
        writes.make_folder(self._keys)
        writes.replace(tree.with_name(tree.name + ".json"), data)
        writes.replace(self._keys / f"{environment.key}.json", data)

    @contextlib.asynccontextmanager
    async def building(self, key: str, on_progress: Callable[[BuildProgress], None]) -> AsyncIterator[None]:
        """Hold the right to build for `key`; a second builder waits here, in this process or another."""
        writes.make_folder(self._keys)
        descriptor = writes.open_lock(self._keys / f"{key}.lock")
        begun = time.monotonic()
        try:
            while not _try_lock(descriptor):
                waited = int(time.monotonic() - begun)
                on_progress(BuildProgress(phase="wait", done=waited, unit="seconds", note="another builder"))
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def gc(self, referenced: Collection[Digest]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Remove trees not in `referenced`, trees without a description, and builds nobody works on.

        Returns (removed, left): `left` is the launcher's own; `EnvironmentBuilder.collect` has it removed.
        """
        wanted = {digest.removeprefix("sha256:") for digest in referenced}
        described = {environment.digest.removeprefix("sha256:") for environment in self.list()}
        removed: list[Path] = []
        left: list[Path] = []
        for entry in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            build = _BUILD.fullmatch(entry.name)
            stale_tree = _TREE.fullmatch(entry.name) and entry.name not in wanted & described
            if not stale_tree and not (build and self._is_abandoned(build[1])):
                continue
            entry.with_name(entry.name + ".json").unlink(missing_ok=True)
            (removed if remove_tree(entry) else left).append(entry)
        for file in self._keys.glob("*.json"):
            if self.find(file.stem) is None:
                file.unlink(missing_ok=True)
        return tuple(removed), tuple(left)

    def _is_abandoned(self, key: str) -> bool:
        try:
            descriptor = os.open(self._keys / f"{key}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            return _try_lock(descriptor)
        finally:
            os.close(descriptor)


def remove_tree(tree: Path) -> bool:
    """Remove a read-only tree without following links. False if it belongs to somebody else."""
    try:
        top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            empty_tree(top, str(tree))
        finally:
            os.close(top)
        tree.rmdir()
    except PermissionError:
        return False
    return True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: Path) -> Environment | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Environment)
    except (OSError, msgspec.MsgspecError):
        return None
