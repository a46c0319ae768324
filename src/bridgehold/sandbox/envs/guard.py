"""Environments are looked at before each use, at the price of two system calls.

The first look in a host's life compares every inode's facts with those that were sealed (a tenth of a
second for twenty thousand files), and has the kernel tell of any change from there on. As long as it tells
of none, nothing has to be looked at. What it doesn't tell of (bytes written through a mapping, or through
a second name made elsewhere) changes an inode's times: so all facts are compared again once in a while.
Where facts differ, every byte is read; only bytes decide.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from pathlib import Path

from bridgehold.errors import EnvironmentChangedError, NotFoundError
from bridgehold.ids import Digest
from bridgehold.sandbox.envs.digest import Fact, folders_of
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.envs.values import Environment
from bridgehold.tasks import begin_task

LOOK_SECONDS = 60.0
"""How old a comparison of all facts may be, in a host that starts sessions."""
_AGAIN_SECONDS = 5.0
"""An environment that had changed is not read again before, however often it is asked for."""
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE, _SELF = 0x2, 0x4, 0x8, 0xC0, 0x100, 0x200, 0xC00
_ONLY_FOLDER, _NO_LINK = 0x01000000, 0x02000000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF | _ONLY_FOLDER | _NO_LINK
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The kernel's word on whether anything of a tree was touched. One inotify instance for each tree."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._seen = tree.lstat()

    @property
    def quiet(self) -> bool:
        """False once something was touched, and where the kernel can't tell."""
        if self._descriptor < 0:
            return False
        try:
            os.read(self._descriptor, 1)  # EINVAL where there is an event: it does not fit
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            now = self._tree.lstat()
        except OSError:
            return False
        seen = self._seen
        return (now.st_dev, now.st_ino, now.st_ctime_ns) == (seen.st_dev, seen.st_ino, seen.st_ctime_ns)

    def add(self, folder: str) -> bool:
        """Watch the entries of a folder below the tree. False where the kernel can't."""
        path = os.fsencode(self._tree / folder)
        return self._descriptor >= 0 and _libc.inotify_add_watch(self._descriptor, path, _MASK) >= 0

    def close(self) -> None:
        """It is not quiet any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Known:
    """What the last look at an environment found, and its watch."""

    def __init__(self, watch: Watch, hold: int) -> None:
        self.watch = watch
        self.hold = hold
        self.looked = time.monotonic()
        self.fault: EnvironmentChangedError | None = None

    def condemn(self, fault: EnvironmentChangedError) -> None:
        """Keep its words alone: one that was raised holds its frames."""
        self.fault = EnvironmentChangedError(fault.message, where=fault.where)


class Guard:
    """One host's looks at the environments that it uses. While it lives, `gc` removes none of them."""

    def __init__(self, store: EnvironmentStore) -> None:
        self._store = store
        self._known: dict[Digest, _Known] = {}
        self._turns: dict[Digest, asyncio.Lock] = {}
        self._looks: set[asyncio.Task[None]] = set()

    async def check(self, environment: Environment) -> None:
        """Raises `EnvironmentChangedError` naming what changed, or `NotFoundError`: it is gone."""
        known = self._known.get(environment.digest)
        if known is not None and known.fault is not None and _age(known) < _AGAIN_SECONDS:
            pass
        elif known is None or not known.watch.quiet:
            turn = self._turns.setdefault(environment.digest, asyncio.Lock())
            async with turn:
                known = self._known.get(environment.digest)
                if known is None or not known.watch.quiet:
                    known = await asyncio.to_thread(self._look, environment)
        elif _age(known) > LOOK_SECONDS:
            known.looked = time.monotonic()
            begin_task(asyncio.to_thread(self._compare, environment, known), self._looks)
        if known.fault is not None:
            raise EnvironmentChangedError(known.fault.message, where=known.fault.where)

    def condemn(self, environment: Environment, fault: EnvironmentChangedError) -> None:
        """Its bytes were read, and are not what they were: whatever its facts say, it is not used."""
        known = self._known.get(environment.digest)
        if known is not None:
            known.condemn(fault)
            known.looked = time.monotonic()

    async def forget(self, environment: Environment) -> None:
        """It is to be set aside: what will be at its place is another tree."""
        async with self._turns.setdefault(environment.digest, asyncio.Lock()):
            self._let_go(environment.digest)

    def close(self) -> None:
        """Let go of every environment that is watched."""
        for digest in list(self._known):
            self._let_go(digest)

    def _let_go(self, digest: Digest) -> None:
        known = self._known.pop(digest, None)
        if known is not None:
            known.watch.close()
            os.close(known.hold)

    def _look(self, environment: Environment) -> _Known:
        before = self._known.get(environment.digest)
        hold = self._store.hold(environment)
        if hold is None:
            raise NotFoundError("the environment is being removed", where=str(self._store.path(environment)))
        try:
            known = _Known(Watch(self._store.path(environment)), hold)
            facts = self._store.facts(environment)
            if not facts:  # reading every byte makes them anew, unless that shows a fault
                self._compare(environment, known)
                facts = self._store.facts(environment)
            self._watch(known.watch, facts)  # before what is compared below, so that no change falls between
            # Facts are not enough to clear what had changed: bytes may be wrong with facts that are right.
            cleared = before is None or before.fault is None
            self._compare(environment, known, facts if cleared else ())
        except BaseException:
            os.close(hold)
            raise
        self._let_go(environment.digest)
        self._known[environment.digest] = known
        return known

    @staticmethod
    def _watch(watch: Watch, facts: tuple[Fact, ...]) -> None:
        """Every folder, or nothing: half a watch would be taken for quiet."""
        if not facts or not all(watch.add(folder) for folder in folders_of(facts)):
            watch.close()

    def _compare(
        self, environment: Environment, known: _Known, facts: tuple[Fact, ...] | None = None
    ) -> None:
        try:
            self._store.check(environment, facts)
        except EnvironmentChangedError as error:
            known.condemn(error)


def _age(known: _Known) -> float:
    return time.monotonic() - known.looked
