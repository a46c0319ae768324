"""Where environments live: content-addressed trees, found by what they were built from.

    <digest>/            a tree, read-only; the name is the tree's digest in hexadecimal
    <digest>.json        what it is (`Environment`)
    <digest>.facts       each entry's line of the digest, and its inode as it was sealed
    <digest>.use         locked by every host that uses it; its time is that of the last host's first use
    keys/<key>.json      lock, Python and platform → the same value: what a lookup reads
    keys/<key>.lock      held by whoever builds for that key
    .lock                held while a tree gets its name, or loses it
    .build-<key>-<id>/   a build under way, or left by a crash
    .changed-<digest>-<id>/  a tree that was not what its name says, set aside

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
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.errors import EnvironmentBuildError, EnvironmentChangedError
from bridgehold.ids import Digest, digest_bytes
from bridgehold.sandbox.attest.seal import empty_tree
from bridgehold.sandbox.envs.digest import Fact, digest_of, disturbed, tree_facts
from bridgehold.sandbox.envs.values import DRAWS, BuildProgress, Environment, Interpreter, Lock

FORMAT = 3
"""Raised when a built tree of an older Bridgehold must not be found any more."""
FORMAT_FONTS = 1
"""Likewise, of one with a list of fonts."""
_TREE = re.compile(r"[0-9a-f]{64}")
_BUILD = re.compile(r"\.build-([0-9a-f]{64})-[0-9a-f]{16}")
_ASIDE = re.compile(r"\.changed-([0-9a-f]{64})-[0-9a-f]{16}")
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
            *(f"fonts {FORMAT_FONTS}" for pin in lock.pins if pin.name == DRAWS),
        )
        return digest_bytes("\n".join(facts).encode()).removeprefix("sha256:")

    def path(self, environment: Environment) -> Path:
        """The tree: what is mounted as /env."""
        return self.folder / environment.digest.removeprefix("sha256:")

    def find(self, key: str) -> Environment | None:
        """The environment built for `key`, in well under a millisecond; None if its tree is gone."""
        environment = _read(self._keys / f"{key}.json")
        if environment is None or environment.key != key or not self.path(environment).is_dir():
            return None
        return environment

    def list(self) -> tuple[Environment, ...]:
        """Every whole environment, by digest."""
        found = (_read(file) for file in sorted(self.folder.glob("*.json")))
        return tuple(env for env in found if env is not None and self.path(env).is_dir())

    def size_bytes(self) -> int:
        """Of all trees, as they were when sealed."""
        return sum(environment.bytes for environment in self.list())

    def facts(self, environment: Environment) -> tuple[Fact, ...]:
        """As they were sealed; empty where they are lost, or are not those of this digest."""
        try:
            data = self._beside(environment, ".facts").read_bytes()
            facts = msgspec.msgpack.decode(data, type=tuple[Fact, ...])
        except (OSError, msgspec.MsgspecError):
            return ()
        return facts if digest_of(facts) == environment.digest else ()

    def check(self, environment: Environment, facts: tuple[Fact, ...] | None = None) -> None:
        """Compare every inode with its `facts`, and read every byte only where one differs.

        Raises `EnvironmentChangedError` naming the first entry that is not what was sealed.
        """
        facts = self.facts(environment) if facts is None else facts
        try:
            if facts and disturbed(str(self.path(environment)), facts) is None:
                return
        except OSError:
            pass  # reading it says more
        self.verify(environment)

    def verify(self, environment: Environment) -> None:
        """Read every byte, and seal the facts anew if they are what they were. Raises as `check` does."""
        tree = self.path(environment)
        try:
            seen, now = tree_facts(str(tree))
        except EnvironmentBuildError as error:
            raise EnvironmentChangedError(f"{error.message}: {error.where}", where=str(tree)) from error
        if seen.digest != environment.digest:
            path = _first_difference(self.facts(environment), now)
            raise EnvironmentChangedError(
                f"{path or 'the tree'} is not as sealed: digest {seen.digest}, not {environment.digest}",
                where=str(tree / path),
            )
        with contextlib.suppress(OSError):  # who may only read may look all the same
            self._seal(environment, now)

    def new_build(self, key: str) -> Path:
        """An empty folder for a build; `garbage` has it if this process dies."""
        build = self.folder / f".build-{key}-{secrets.token_hex(8)}"
        writes.make_folder(build, new=True)
        return build

    def publish(self, build: Path, environment: Environment) -> None:
        """Give a sealed tree its name, and make it findable. Call it `locked`.

        A tree that is there already stays if it is what its name says, and is set aside if not.
        Raises `EnvironmentChangedError` where the new one isn't.
        """
        tree = self.path(environment)
        if tree.is_dir():
            try:
                self.verify(environment)
            except EnvironmentChangedError:
                self.set_aside(environment)
        if not tree.is_dir():
            build.rename(tree)
            self.verify(environment)
        data = msgspec.json.format(msgspec.json.encode(environment), indent=2)
        writes.make_folder(self._keys)
        writes.replace(self._beside(environment, ".json"), data)
        writes.replace(self._keys / f"{environment.key}.json", data)

    def set_aside(self, environment: Environment) -> None:
        """Have the tree no longer found, nor at its place; sessions that run in it keep it."""
        tree = self.path(environment)
        for suffix in (".json", ".facts"):
            self._beside(environment, suffix).unlink(missing_ok=True)
        if tree.is_dir():
            tree.rename(self.folder / f".changed-{tree.name}-{secrets.token_hex(8)}")
        self.forget_lost()

    def hold(self, environment: Environment) -> int | None:
        """A descriptor that keeps the environment from being removed while it is open.

        None where it is being removed, or gone.
        """
        path = self._beside(environment, ".use")
        while True:
            descriptor = writes.open_lock(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    break  # else: it was removed between the two, with its tree
            except (BlockingIOError, FileNotFoundError):
                os.close(descriptor)
                return None
            os.close(descriptor)
        if not self.path(environment).is_dir():
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return descriptor

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the right to name trees, and to remove them, over processes."""
        writes.make_folder(self.folder)
        descriptor = writes.open_lock(self.folder / ".lock")
        try:
            while not _try_lock(descriptor):  # noqa: ASYNC110 - another process may hold it
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

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

    def garbage(self, referenced: Collection[Digest], *, unused_seconds: float = 0.0) -> tuple[Path, ...]:
        """Trees that nobody refers to or uses, those without a description, and builds nobody works on.

        `unused_seconds`: what no host began to use for so long; left-overs are named in any case. Call it
        `locked`, and remove each within `removing`.
        """
        wanted = {digest.removeprefix("sha256:") for digest in referenced}
        described = {environment.digest.removeprefix("sha256:") for environment in self.list()}
        found = []
        for entry in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if entry.name in described:
                old = time.time() - self._last_use(entry) >= unused_seconds
                if entry.name in wanted or not old:
                    continue
            elif not any(kind.fullmatch(entry.name) for kind in (_TREE, _BUILD, _ASIDE)):
                continue
            found.append(entry)
        return tuple(found)

    @contextlib.contextmanager
    def removing(self, tree: Path) -> Iterator[bool]:
        """Whether nobody uses or builds `tree`, nor begins to meanwhile; its descriptions are gone then."""
        build, aside = _BUILD.fullmatch(tree.name), _ASIDE.fullmatch(tree.name)
        name = aside[1] if aside else tree.name
        use = self._keys / f"{build[1]}.lock" if build else self.folder / f"{name}.use"
        writes.make_folder(self._keys)
        descriptor = writes.open_lock(use)
        try:
            free = _try_lock(descriptor)
            if free and not build and not aside:
                for suffix in (".json", ".facts"):
                    (self.folder / (name + suffix)).unlink(missing_ok=True)
            yield free
            if free and not build and not (self.folder / name).exists():
                use.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def forget_lost(self) -> None:
        """Remove keys whose tree is gone."""
        for file in self._keys.glob("*.json"):
            if self.find(file.stem) is None:
                file.unlink(missing_ok=True)

    def _last_use(self, tree: Path) -> float:
        for suffix in (".use", ".json"):
            with contextlib.suppress(OSError):
                return tree.with_name(tree.name + suffix).stat().st_mtime
        return 0.0

    def _seal(self, environment: Environment, facts: tuple[Fact, ...]) -> None:
        writes.replace(self._beside(environment, ".facts"), msgspec.msgpack.encode(facts))

    def _beside(self, environment: Environment, suffix: str) -> Path:
        tree = self.path(environment)
        return tree.with_name(tree.name + suffix)


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
        found = msgspec.json.decode(file.read_bytes(), type=Environment)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if _TREE.fullmatch(found.digest.removeprefix("sha256:")) else None


def _first_difference(sealed: Sequence[Fact], now: Sequence[Fact]) -> str:
    """The first path that one of them has alone, or with other content; empty where nothing was sealed."""
    if not sealed:
        return ""
    before = {fact.path: fact.line for fact in sealed}
    after = {fact.path: fact.line for fact in now}
    changed = (path for path in {**before, **after} if before.get(path) != after.get(path))
    return next(changed, "")
