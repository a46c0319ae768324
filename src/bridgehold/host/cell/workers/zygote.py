"""One warm process: what it is for, who uses it, and how it stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from bridgehold.host.cell.workers import zygote_rules as rules
from bridgehold.host.cell.workers.live import LiveWorker
from bridgehold.host.cell.workers.pipes import GuestPipes
from bridgehold.host.shares.logs import SessionLog
from bridgehold.sandbox.values import Launched
from bridgehold.tasks import begin_task


class ZygoteInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One zygote, for people and programs."""

    name: str
    tenant: str
    bridge: str
    state: rules.State
    sessions: int
    forks: int
    age_s: int
    memory_bytes: int
    reason: str = ""


class ZygoteKey(msgspec.Struct, frozen=True, order=True):
    """What makes one zygote do for two starts."""

    tenant: str
    bridge: str
    spec: str
    """Digest of the zygote's own sandbox."""
    environment: str
    warm: str
    """What it loads, as text."""


class Zygote:
    """One warm process, as the host knows it."""

    def __init__(self, key: ZygoteKey, launched: Launched, log: SessionLog) -> None:
        self.key = key
        self.name = launched.worker
        self.launched = launched
        self.log = log
        self.pipes: GuestPipes | None = None
        self.state: rules.State = "warming"
        self.sessions: set[str] = set()
        self.forks = self.failed = 0
        """`failed`: forks in a row that did not come."""
        self.memory_bytes = self.first_bytes = 0
        self.began = self.used = time.monotonic()
        self.why_ended = ""
        self.ended = asyncio.Event()
        self.killing: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._on_free: Callable[[Zygote], None] = lambda _: None

    def adopt(self, worker: LiveWorker) -> None:
        """`worker` is a fork of it: it counts until it ends."""
        self.forks += 1
        self.failed = 0
        self.used = time.monotonic()
        self.hold(worker.name)
        begin_task(self._let_go(worker), self._watching)

    async def _let_go(self, worker: LiveWorker) -> None:
        await worker.ended.wait()
        self.release(worker.name)

    def hold(self, name: str) -> None:
        """It is in use by `name`: a worker, or a fork under way."""
        self.sessions.add(name)

    def release(self, name: str) -> None:
        """A session of it has ended."""
        self.sessions.discard(name)
        if not self.sessions:
            self._on_free(self)

    def when_free(self, act: Callable[[Zygote], None]) -> None:
        """`act` each time its last session has ended."""
        self._on_free = act

    def facts(self) -> rules.ZygoteFacts:
        """What the rules decide by."""
        now = time.monotonic()
        return rules.ZygoteFacts(
            name=self.name,
            memory_bytes=self.memory_bytes,
            first_bytes=self.first_bytes,
            age_s=now - self.began,
            idle_s=now - self.used,
            sessions=len(self.sessions),
        )

    def info(self) -> ZygoteInfo:
        """How it stands, for who lists zygotes."""
        return ZygoteInfo(
            name=self.name,
            tenant=self.key.tenant,
            bridge=self.key.bridge,
            state=self.state,
            sessions=len(self.sessions),
            forks=self.forks,
            age_s=int(time.monotonic() - self.began),
            memory_bytes=self.memory_bytes,
            reason=self.why_ended,
        )
