"""Commands of HTTP callers, by the principal who asked: to be cancelled, answered, looked at, resumed.

A name means something to its own principal only; another's is "not found", as one that never was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, CancelledError, NotFoundError, UsageError
from bridgehold.faces.http.flow import Flow
from bridgehold.faces.http.sse import EventLog
from bridgehold.ids import parse_name, random_id

KEPT_SECONDS = 300.0
"""How long a command that is over can be asked for."""
KEPT_EACH = 64
"""Commands that are over, of one principal."""
KEPT_BYTES = 64 * 1024
"""The largest answer that is kept; of an error, with what its command wrote."""
RESUME_SECONDS = 30.0
"""How long a resumable command runs on while nobody reads its events."""


class Running:
    """One command from its start until it is forgotten."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.work: asyncio.Future[Any] | None = None
        self.cancelled = False
        self.calls: set[int] = set()
        """Tool calls that were sent to the caller and are not answered."""
        self.tenant = ""
        self.host_name = ""
        """What the host calls the command; known once a tool of it was called."""
        self.log: EventLog | None = None
        """Of a resumable one: its last events."""
        self.began = asyncio.get_running_loop().time()
        self._answer = msgspec.Raw(b"null")
        self._error: ErrorInfo | None = None
        self._over = False
        self._readers = 0
        self._abandoned: asyncio.TimerHandle | None = None
        self.expiry: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Cancel the command at the host."""
        self.cancelled = True
        if self.work is not None:
            self.work.cancel()

    async def result(self, work: asyncio.Future[Any]) -> Any:
        """Of `work`, to its end. Raises `CancelledError` (the typed one) where its caller cancelled it."""
        try:
            value = await work
        except asyncio.CancelledError:
            if self.cancelled and work.cancelled():
                cancelled = CancelledError("the command was cancelled by its caller")
                self._error = cancelled.info()
                raise cancelled from None
            raise
        except BridgeholdError as error:
            self._error = _kept(error)
            raise
        if not isinstance(value, Flow) and len(encoded := msgspec.json.encode(value)) <= KEPT_BYTES:
            self._answer = msgspec.Raw(encoded)
        return value

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Somebody reads its events; when nobody does any more, it is cancelled after a while."""
        self._readers += 1
        if self._abandoned is not None:
            self._abandoned.cancel()
        try:
            yield
        finally:
            self._readers -= 1
            if self._readers == 0 and not self._over:
                loop = asyncio.get_running_loop()
                self._abandoned = loop.call_later(RESUME_SECONDS, self.cancel)

    def end(self) -> None:
        """It runs no longer."""
        self._over = True
        self.work = None  # it has the whole answer, however large
        self.calls.clear()
        if self._abandoned is not None:
            self._abandoned.cancel()
        if self._error is None and self.cancelled:
            self._error = CancelledError("the command was cancelled by its caller").info()

    def forget(self) -> None:
        """Nobody will ask for it again: free its events and its timer."""
        if self.expiry is not None:
            self.expiry.cancel()  # the loop would keep it until then
        if self.log is not None:
            self.log.forget()

    def facts(self) -> dict[str, Any]:
        """What `CommandFacts` says."""
        ended = "failed" if self._error is not None else "done"
        if self._error is not None and self._error.code == CancelledError.code:
            ended = "cancelled"
        return {
            "id": self.name,
            "state": ended if self._over else "running",
            "age_ms": int((asyncio.get_running_loop().time() - self.began) * 1000),
            "events": self.log.last if self.log is not None else 0,
            "answer": self._answer,
            "error": self._error,
        }


def _kept(error: BridgeholdError) -> ErrorInfo:
    """What is kept of it: its frames hold the request, and what a command wrote may be large."""
    info = error.info()
    small = len(error.output.stdout) + len(error.output.stderr) <= KEPT_BYTES
    return info if small else msgspec.structs.replace(info, output=msgspec.UNSET)


class Commands:
    """Every command under way, and for a while those that are over."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Running] = {}
        self._over: dict[str, OrderedDict[str, Running]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        """Resumable commands, which outlive the requests that began them."""

    def begin(self, principal: str, name: str) -> Running:
        """A command called `name`, or by a drawn name, until `end`. Raises `UsageError`."""
        running = Running(parse_name(name, "command") if name else random_id("h"))
        key = (principal, running.name)
        if key in self._running:
            raise UsageError(f"a command {running.name!r} is under way", where="id")
        self._drop(principal, running.name)
        self._running[key] = running
        return running

    def end(self, principal: str, running: Running) -> None:
        """It is over, and is kept for a while."""
        del self._running[principal, running.name]
        running.end()
        kept = self._over.setdefault(principal, OrderedDict())
        kept[running.name] = running
        running.expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._expire, principal, running)
        while len(kept) > KEPT_EACH:
            kept.popitem(last=False)[1].forget()

    @contextlib.contextmanager
    def enter(self, principal: str, name: str) -> Iterator[Running]:
        """`begin`, and `end` with the block."""
        running = self.begin(principal, name)
        try:
            yield running
        finally:
            self.end(principal, running)

    def find(self, principal: str, name: str) -> Running:
        """One that is under way. Raises `NotFoundError`."""
        found = self._running.get((principal, name))
        if found is None:
            raise NotFoundError(f"no command {name[:80]!r} is under way here", hint="")
        return found

    def look(self, principal: str, name: str) -> Running:
        """One that is under way, or is kept. Raises `NotFoundError`."""
        found = self._running.get((principal, name)) or self._kept(principal).get(name)
        if found is None:
            kept = f"{KEPT_SECONDS / 60:.0f} minutes, {KEPT_EACH} at the most"
            raise NotFoundError(
                f"no command {name[:80]!r} is known here", hint=f"One that is over is kept for {kept}."
            )
        return found

    def _kept(self, principal: str) -> OrderedDict[str, Running]:
        return self._over.get(principal) or OrderedDict()

    def _expire(self, principal: str, running: Running) -> None:
        if self._kept(principal).get(running.name) is running:
            self._drop(principal, running.name)

    def _drop(self, principal: str, name: str) -> None:
        kept = self._over.get(principal)
        if kept is None:
            return
        gone = kept.pop(name, None)
        if gone is not None:
            gone.forget()
        if not kept:
            del self._over[principal]

    def __len__(self) -> int:
        return len(self._running)
