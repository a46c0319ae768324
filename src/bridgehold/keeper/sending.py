"""One request of a cell's: its own event before it goes out, its account, and its event after."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from bridgehold.audit.events import Receipt
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import AuditError, BridgeholdError, BusyError, DeniedError, LimitError
from bridgehold.keeper.accounts import Accounts, Judged, is_plain
from bridgehold.keeper.bodies import SMALL, Bodies, receive_body
from bridgehold.keeper.budgets import Reservation
from bridgehold.keeper.channel import Stream
from bridgehold.keeper.protocol import UpstreamRequest
from bridgehold.keeper.usage import NOTHING, Counted, UsageTap
from bridgehold.policies.buckets import TokenBucket
from bridgehold.records.sendings import EgressEnded, EgressSent, EgressStopped
from bridgehold.records.workers import Event

_PATH, _TEXT = 500, 300
_STOPPED_PER_SECOND = 5
_MOST_TENANTS = 4_096
_TRIES = 3


class Journal(Protocol):
    """The keeper's channel to the journal."""

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        """See `JournalClient.append`."""


class Sendings:
    """Of all cells. Without a journal nothing of theirs goes out."""

    def __init__(
        self,
        accounts: Accounts,
        request_bytes: int,
        tenants: Callable[[str], int],
        journal: Journal | None = None,
    ) -> None:
        """`request_bytes`: of the longest request. `tenants`: how many there are, the named one included."""
        self.accounts = accounts
        self.journal = journal
        self._most = request_bytes
        self._bodies = Bodies(request_bytes, tenants)
        self._stopped: dict[str, TokenBucket] = {}
        self._folded: Counter[str] = Counter()
        self._under_way: dict[tuple[str, str], set[asyncio.Task[Any]]] = {}
        """By tenant and session."""

    @contextlib.contextmanager
    def allowed(self, ask: UpstreamRequest) -> Iterator[None]:
        """A request of a session's, for as long as the front's word on that stands; then it is cancelled, and
        its stream told so (`DeniedError`): a cell may hold back a body, or leave an answer unread."""
        key, task = (ask.tenant, ask.session), asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream is served by a task
        running = self._under_way.setdefault(key, set())
        running.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.accounts.knows(*key):
                raise
            raise DeniedError("the session has ended", where="session") from None
        finally:
            running.discard(task)
            if not running:
                self._under_way.pop(key, None)

    def end(self, tenant: str, session: str) -> None:
        """Nothing more goes out for the session, nor goes on; without one, for none of the tenant's."""
        self.accounts.end(tenant, session)
        for (owner, name), tasks in self._under_way.items():
            if owner == tenant and session in ("", name):
                for task in tasks:
                    task.cancel()

    async def begin(
        self, stream: Stream, ask: UpstreamRequest, find: Callable[[str], ProviderEntry]
    ) -> Sending:
        """Judged, charged, and written down durably. Raises `DeniedError`, `BudgetError`, `AuditError`.

        `find`: the provider of a name; raises `DeniedError`."""
        if self.journal is None:
            raise AuditError("the keeper has no journal: nothing of a cell's goes out")
        entry: ProviderEntry | None = None
        with contextlib.ExitStack() as held:
            try:
                entry = find(ask.provider)
                if ask.body_bytes > self._most:
                    raise LimitError(f"a request has at most {self._most} bytes", where="limits.request")
                await asyncio.sleep(self.accounts.pause(ask.tenant, ask.session, 2))
                body = await self._body(stream, ask, held)
                judged = await self._judged(ask, entry, body)
                reservation = self.accounts.reserve(ask, judged)
            except BridgeholdError as error:
                await self._stop(ask, entry, error)
                raise
            sending = Sending(self.journal, ask, entry, judged, reservation, body)
            try:
                await sending.announce()
            except BaseException:
                reservation.give_back()
                raise
            sending.holds(held.pop_all().close)
        return sending

    async def _body(self, stream: Stream, ask: UpstreamRequest, held: contextlib.ExitStack) -> bytes:
        """All of it, before any of it goes out."""
        if ask.body_bytes > SMALL:
            body = await self._bodies.take(stream, ask.tenant, ask.body_bytes)
            held.callback(self._bodies.give_back, ask.tenant, ask.body_bytes)
            return body
        return b"".join([piece async for piece in receive_body(stream, ask.body_bytes)])

    async def _judged(self, ask: UpstreamRequest, entry: ProviderEntry, body: bytes) -> Judged:
        """By what stands when it leaves."""
        if len(body) <= SMALL and is_plain(body):
            return self.accounts.judge(ask, entry, body)
        for _ in range(_TRIES):
            judged = await self._bodies.look(
                ask.tenant, functools.partial(self.accounts.judge, ask, entry, body)
            )
            if judged.grant is self.accounts.demand(ask.tenant, ask.session).grant:
                return judged
        raise BusyError("what the session may ask for changes all the time", hint="Try again.")

    async def _stop(self, ask: UpstreamRequest, entry: ProviderEntry | None, error: BridgeholdError) -> None:
        """Write that it was refused, within the tenant's rate: what is past it is counted by the next."""
        if len(self._stopped) > _MOST_TENANTS:
            self._stopped.clear()
        pace = self._stopped.setdefault(ask.tenant, TokenBucket(_STOPPED_PER_SECOND, 2 * _STOPPED_PER_SECOND))
        if not pace.try_take(1, time.monotonic()):
            self._folded[ask.tenant] += 1
            await asyncio.sleep(1 / _STOPPED_PER_SECOND)
            return
        event = EgressStopped(
            **_ties(ask),
            provider=ask.provider[:64],
            host=entry.host if entry is not None else "",
            method=ask.method[:20],
            path=ask.path[:_PATH],
            rule=(error.where or error.code)[:_TEXT],
            reason=error.message[:_TEXT],
            decided=ask.intent[:_TEXT],
            folded=self._folded.pop(ask.tenant, 0),
        )
        assert self.journal is not None  # noqa: S101 - `begin` has looked
        await self.journal.append(event, durable=False)


class Sending:
    """Under way: what flows by is counted, and at its end settled and written down."""

    def __init__(
        self,
        journal: Journal,
        ask: UpstreamRequest,
        entry: ProviderEntry,
        judged: Judged,
        reservation: Reservation,
        body: bytes,
    ) -> None:
        self.body = body
        """Empty once the provider answers."""
        self.under_way = asyncio.Event()
        """Set once there is a connection to the provider."""
        self.code = "cancelled"
        self._journal = journal
        self._ask = ask
        self._entry = entry
        self._judged = judged
        self._reservation = reservation
        self._reference = ""
        self._started = time.monotonic()
        self._status = 0
        self._received = 0
        self._tap: UsageTap | None = None
        self._give_back: Callable[[], None] = _nothing

    async def announce(self) -> None:
        """Durable before a byte goes out."""
        event = EgressSent(
            **_ties(self._ask),
            provider=self._entry.name,
            host=self._entry.host,
            method=self._ask.method[:20],
            path=self._ask.path[:_PATH],
            rule=self._judged.rule[:_TEXT],
            how=self._judged.how,
            decided=self._ask.intent[:_TEXT],
            request_bytes=self._ask.body_bytes,
            reserved=self._reservation.tokens,
            fees=self._reservation.fees,
            model=self._judged.model or "",
        )
        self._reference = (await self._journal.append(event)).ref

    def holds(self, give_back: Callable[[], None]) -> None:
        """Have `give_back` called once the body is on its way, or goes nowhere."""
        self._give_back = give_back

    def _let_go(self) -> None:
        self.body = b""
        self._give_back()

    def head(self, status: int, content_type: str) -> None:
        """The provider answers."""
        self._let_go()
        self._status = status
        self._tap = UsageTap(self._entry.shape, content_type) if self._entry.shape != "hub" else None

    def feed(self, chunk: bytes) -> None:
        """A piece of the answer."""
        self._received += len(chunk)
        if self._tap is not None:
            self._tap.feed(chunk)

    def whole(self) -> None:
        """The answer has come to its end."""
        if self._tap is not None:
            self._tap.end()
        self.code = ""

    async def end(self) -> None:
        """Settle it, and write its end. Raises `AuditError` where that can't be said."""
        self._let_go()
        sent = self.under_way.is_set()
        counted: Counted = self._tap.counted if self._tap is not None else NOTHING
        charged, fees = self._reservation.end(
            counted,
            self._status,
            sent=sent,
            open_ended=self._judged.open_ended,
            by_tokens=self._entry.shape != "hub",
        )
        event = EgressEnded(
            **_ties(self._ask),
            provider=self._entry.name,
            host=self._entry.host,
            method=self._ask.method[:20],
            path=self._ask.path[:_PATH],
            intent=self._reference,
            status=self._status,
            request_bytes=self._ask.body_bytes,
            response_bytes=self._received,
            ms=round((time.monotonic() - self._started) * 1000),
            model=self._judged.model or "",
            input_tokens=counted.said.input_tokens if counted.said else 0,
            output_tokens=counted.said.output_tokens if counted.said else counted.seen,
            charged=charged,
            fees=fees,
            unsent=not sent,
            code=self.code[:_TEXT],
            estimated=0 < self._status < 300 and self._tap is not None and counted.said is None,
        )
        await self._journal.append(event, durable=False)


def _nothing() -> None:
    return None


def _ties(ask: UpstreamRequest) -> dict[str, str]:
    """What ties its events together, within bounds."""
    return {
        "tenant": ask.tenant,
        "principal": ask.principal[:_TEXT],
        "session": ask.session[:64],
        "command": ask.command[:64],
    }
