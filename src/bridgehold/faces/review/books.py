"""The audit as the page reads it: a desk for questions, a ledger of sums, a verdict by another process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.verdicts import Report
from bridgehold.error_texts import defect_of
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.faces.review.ledger import Ledger, Snapshot

T = TypeVar("T")
_FRESH_S = 0.4
"""An answer may be so old."""
_AGAIN_S = 60.0
"""A verdict is given again after so long, where the audit has grown."""
_NICE = 10
_FIRST_S, _UNSEEN_S = 0.5, 10.0
"""The first verification waits so long behind the first page; where nobody looks, so long in all."""
_PATIENCE_S = 0.2
"""A page waits for sums until so long after their counting began; those before them are shown then."""


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What a review is of."""

    audit: Path
    cache: Path
    """The folder of indexes."""
    config: Path | None = None
    """The configuration's folder, or a copy: policies are shown from it."""
    verify: tuple[str, ...] = ()
    """Options of ``python -m bridgehold.audit.verify``: anchors and keys."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the last verification said."""

    report: Report | None = None
    failed: str = ""
    """Why there is none."""
    under_way: bool = True


class Books:
    """One audit, read on threads of its own. Use it in an `async with` block."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.snapshot = Snapshot()
        self.verdict = Verdict()
        self._questions = ThreadPoolExecutor(1, "questions")
        self._sums = ThreadPoolExecutor(1, "sums")
        self._ledger = Ledger()
        self._desk: Desk | None = None
        self._opened = self._begun = self._counted = self._verified = 0.0
        self._verified_events = -1
        self._counting: asyncio.Task[None] | None = None
        self._verifying: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        """Set when the first page has been shown, or somebody waits for the verdict."""

    async def __aenter__(self) -> Books:
        """Bring the index up to the disk, and begin to count and to verify. Raises `AuditError`."""
        await self.ask(lambda desk: desk.newest)
        self._count()
        self._verify()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._counting, self._verifying):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, BridgeholdError):
                    await task
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._questions, self._let_go)
        for pool in (self._questions, self._sums):
            pool.shutdown(wait=True, cancel_futures=True)

    async def ask(self, question: Callable[[Desk], T]) -> T:
        """What `question` gives of a desk that is as new as the disk. Raises as it does."""
        return await asyncio.get_running_loop().run_in_executor(self._questions, self._answer, question)

    def _answer(self, question: Callable[[Desk], T]) -> T:
        if self._desk is None or time.monotonic() - self._opened > _FRESH_S:
            self._let_go()
            self._desk = _open(self.sources)
            self._opened = time.monotonic()
        return question(self._desk)

    def _let_go(self) -> None:
        if self._desk is not None:
            self._desk.close()
            self._desk = None

    async def sums(self) -> Snapshot:
        """The newest sums, or those before them where counting takes longer than a reader waits."""
        if time.monotonic() - self._counted > _FRESH_S:
            self._count()
        if self._counting is not None:
            left = self._begun + _PATIENCE_S - time.monotonic()
            await asyncio.wait({self._counting}, timeout=max(0.0, left))
        if not self._looked.is_set():
            asyncio.get_running_loop().call_later(_FIRST_S, self._looked.set)
        self._verify()
        return self.snapshot

    async def counted(self) -> Snapshot:
        """The sums, when all has been counted."""
        while not self.snapshot.complete:
            if self._counting is None or self._counting.done():
                self._count()
            assert self._counting is not None  # noqa: S101 - begun just now
            await self._counting
        return self.snapshot

    async def judged(self) -> Verdict:
        """The verdict, when there is one."""
        self._looked.set()
        while self.verdict.under_way and self._verifying is not None:
            await asyncio.wait({self._verifying})
        return self.verdict

    def _count(self) -> None:
        if self._counting is None or self._counting.done():
            self._begun = time.monotonic()
            self._counting = _begun(self._read())

    async def _read(self) -> None:
        def publish(snapshot: Snapshot) -> None:
            self.snapshot = snapshot

        def read() -> None:
            with _open(self.sources) as desk:
                self._ledger.read(desk, publish)

        await asyncio.get_running_loop().run_in_executor(self._sums, read)
        self._counted = time.monotonic()
        if not self.snapshot.complete:
            self.snapshot = msgspec.structs.replace(self.snapshot, complete=True)

    def _verify(self) -> None:
        """Begin a verification, unless one is under way or nothing has changed since."""
        old = time.monotonic() - self._verified > _AGAIN_S and self._verified_events != self.snapshot.events
        if (self._verifying is None or self._verifying.done()) and (old or not self._verified):
            self._verified = time.monotonic()
            self._verified_events = self.snapshot.events
            self._verifying = _begun(self._judge())

    async def _judge(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), _UNSEEN_S)
        try:
            self.verdict = await self._judged()
        except Exception as error:  # noqa: BLE001 - who waits for a verdict hears that there is none
            failed = error if isinstance(error, BridgeholdError) else defect_of(error, "the verification")
            self.verdict = Verdict(failed=failed.message, under_way=False)

    async def _judged(self) -> Verdict:
        argv = [sys.executable, "-P", "-m", "bridgehold.audit.verify", "--json", *self.sources.verify]
        process = await asyncio.create_subprocess_exec(
            *argv, "--", str(self.sources.audit),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        with contextlib.suppress(psutil.Error):  # pages come first
            psutil.Process(process.pid).nice(_NICE)
        try:
            told, complaint = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        try:
            return Verdict(report=msgspec.json.decode(told, type=Report), under_way=False)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return Verdict(failed=complaint.decode("utf-8", "replace")[:1_000], under_way=False)


def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _open(sources: Sources) -> Desk:
    desk = Desk.open(sources.audit, sources.cache)
    if not desk.indexed:
        hint = "Set XDG_CACHE_HOME to a folder of your own with room for about the audit's size."
        raise AuditError("no index can be kept", where=str(sources.cache), hint=hint)
    return desk
