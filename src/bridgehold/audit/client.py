"""The host's end of the journal: pipelined appends over a stream socket, each with its receipt."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from bridgehold.audit import rotations, seals
from bridgehold.audit.anchors import SignedAnchor, render
from bridgehold.audit.chain import Head, reference
from bridgehold.audit.channels import Opening
from bridgehold.audit.events import (
    CommandIntent,
    CommandOutcome,
    EgressEnded,
    EgressIntent,
    EgressOutcome,
    EgressSent,
    Event,
    Receipt,
    ToolIntent,
    ToolOutcome,
)
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.records import wire
from bridgehold.tasks import begin_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CLIP = 4096
_UNDONE = "its caller went away, or the journal was too slow, before it was begun"
_MOST_PENDING = 20_000
_Intent = CommandIntent | ToolIntent | EgressIntent | EgressSent


class JournalClient(asyncio.Protocol):
    """One per host, and the receiving end of its socket.

    Every method raises `AuditError` when the journal is gone, full, failed or late, and `BudgetError` when
    the event's tenant has used up its share.
    """

    def __init__(self, deadline_s: float) -> None:
        self.instance = ""
        self._deadline_s = deadline_s
        self._next = 0
        self._waiting: dict[int, tuple[asyncio.Future[wire.Answer], Event | None]] = {}
        """What is not answered, whether or not somebody still waits for it."""
        self._unsent: list[bytes] = []
        self._gone = ""
        self.gone = asyncio.Event()
        """Set once the journal is gone: nothing may run without it."""
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._later: set[asyncio.Task[None]] = set()
        self.redact: Callable[[Event], Event | Awaitable[Event]] | None = None
        """What every event passes before it is sent: it takes out what no journal may hold."""

    @classmethod
    async def connect(cls, sock: socket.socket, *, deadline_s: float = 5.0) -> JournalClient:
        """Take over `sock` (a connected stream socket) and learn the instance's name.

        `deadline_s` bounds every durable write, from the call to its receipt.
        """
        client = cls(deadline_s)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        client._transport, _ = await loop.create_connection(lambda: client, sock=sock)
        await client.head()
        return client

    @classmethod
    async def open(cls, intake: socket.socket, tenant: str = "", *, deadline_s: float = 5.0) -> JournalClient:
        """A channel of its own for `tenant`, which may write that tenant's events and nothing else.

        `intake`: the host's end of the journal's. Raises `AuditError` where the journal lets nobody in.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                socket.send_fds(intake, [msgspec.json.encode(Opening(tenant))], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise AuditError(f"the journal's intake is closed: {error.strerror}") from error
        return await cls.connect(ours, deadline_s=deadline_s)

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        """Write `event`. Returns once it is on the disk, or (not `durable`) once it is written.

        Cancelling the caller cancels only the waiting: the event is written all the same. What an intent
        announces doesn't happen then, nor past the deadline: the client writes its outcome itself.
        """
        shown = event if self.redact is None else self.redact(event)
        if not isinstance(shown, Event):
            shown = await self._redacted(event, asyncio.ensure_future(shown), durable=durable)
        operation = wire.APPEND if durable else wire.APPEND_BUFFERED
        try:
            payload = msgspec.json.encode(shown)
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
            payload = encode(shown)
        if len(payload) > wire.MAX_EVENT:
            payload = encode(shown)
        answer = await self._ask(operation, payload, shown)
        return Receipt(ref=reference(self.instance, answer.seq), seq=answer.seq, hash=answer.hash)

    async def _redacted(self, event: Event, work: asyncio.Future[Event], *, durable: bool) -> Event:
        """What came of `work`. Where its caller goes away: an intent is not begun, all else is written."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if isinstance(event, _Intent):
                work.cancel()
            else:
                begin_task(self._append_later(work, durable=durable), self._later)
            raise

    async def _append_later(self, work: asyncio.Future[Event], *, durable: bool) -> None:
        with contextlib.suppress(BridgeholdError):
            event = await work
            await self._ask(wire.APPEND if durable else wire.APPEND_BUFFERED, encode(event), event)

    async def head(self) -> Head:
        """Where the chain stands, durably: (instance, count, head)."""
        answer = await self._ask(wire.HEAD, b"")
        self.instance = answer.instance
        return Head(answer.instance, answer.seq, answer.hash)

    async def bound(self, tenant: str, most: int) -> None:
        """From now on the tenant has `most` bytes of the journal, never more than each; 0: as each."""
        await self._ask(wire.QUOTA, msgspec.json.encode(wire.Quota(tenant, most)))

    async def anchor(self, signed: SignedAnchor) -> Receipt:
        """Store a signed anchor beside the audit and write `anchor.signed`."""
        answer = await self._ask(wire.ANCHOR, render(signed).encode("ascii"))
        return Receipt(ref=reference(self.instance, answer.seq), seq=answer.seq, hash=answer.hash)

    async def rotated(self, signed: rotations.SignedRotation) -> None:
        """Store the record of a change of the anchors' key beside them and write `anchor.key_rotated`."""
        await self._ask(wire.ANCHOR, rotations.render(signed).encode("ascii"))

    async def sealed(self, seal: seals.Seal) -> None:
        """Write `segment.sealed`."""
        await self._ask(wire.ANCHOR, seals.render(seal).encode("ascii"))

    async def publish_key(self, line: str) -> None:
        """Lay the anchors' public key (`anchors.key_line`) beside them."""
        await self._ask(wire.ANCHOR, line.encode("ascii"))

    async def close(self) -> None:
        """Send what is queued and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)

    async def _ask(self, operation: int, payload: bytes, event: Event | None = None) -> wire.Answer:
        if self._gone:
            raise self._gone_error()
        if len(self._waiting) >= _MOST_PENDING:
            raise AuditError("the journal does not keep up: too many events wait", retry="later")
        self._next += 1
        identity = self._next
        loop = asyncio.get_running_loop()
        future: asyncio.Future[wire.Answer] = loop.create_future()
        frame = wire.request(operation, identity, payload)
        self._waiting[identity] = (future, event)
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(frame)
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await future
        except asyncio.CancelledError:
            self._given_up(event, future)
            raise
        except TimeoutError as error:
            self._given_up(event, future)
            raise AuditError(
                f"the journal did not confirm a write within {self._deadline_s:g} s",
                hint="The audit's disk is too slow or stuck; nothing runs without its event.",
                retry="later",
            ) from error
        if answer.code and (refused := wire.refusal(answer)) is not None:
            raise refused
        return answer

    def _given_up(self, event: Event | None, future: asyncio.Future[wire.Answer]) -> None:
        """Its caller went away when the answer had come already; one that is to come finds nobody."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self._close(event, future.result())

    def _close(self, intent: Event | None, answer: wire.Answer) -> None:
        """Nobody waits for `answer` any more: an intent that is written gets its outcome."""
        if answer.code or self._gone or not isinstance(intent, _Intent):
            return
        self._next += 1
        payload = encode(undone(intent, reference(self.instance, answer.seq)))
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(wire.request(wire.APPEND_BUFFERED, self._next, payload))

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Answers to waiting calls; one whose caller has gone finds nobody."""
        self._received += data
        try:
            answers = wire.take_answers(self._received)
        except AuditError as error:
            self._break(error.message)
            return
        for answer in answers:
            future, event = self._waiting.pop(answer.id, (None, None))
            if future is not None and not future.done():
                future.set_result(answer)
            elif future is not None:  # cancelled, though its caller may not have run since
                self._close(event, answer)

    def _break(self, reason: str) -> None:
        self._lost(reason)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: so is the journal, for whoever waits and whoever asks from now on."""
        self._lost(type(exc).__name__ if exc else "its end of the socket closed")

    def _lost(self, reason: str) -> None:
        """The connection ended: every waiting and every later call fails."""
        self._gone = reason
        self.gone.set()
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(self._gone_error())

    def _gone_error(self) -> AuditError:
        return AuditError(
            f"the journal is gone: {self._gone}",
            hint="Restart the host; `bridgehold audit verify` shows what was written.",
            where="journal:gone",
        )


def undone(intent: _Intent, reference: str) -> Event:
    """The outcome of what was announced and never begun (pure)."""
    ties: dict[str, Any] = {
        "tenant": intent.tenant,
        "principal": intent.principal,
        "session": intent.session,
        "command": intent.command,
        "intent": reference,
        "code": "cancelled",
    }
    if isinstance(intent, CommandIntent):
        return CommandOutcome(transport_ok=False, application_ok=False, reason=_UNDONE, **ties)
    if isinstance(intent, ToolIntent):
        return ToolOutcome(tool=intent.tool, ok=False, reason=_UNDONE, **ties)
    if isinstance(intent, EgressSent):
        return EgressEnded(
            provider=intent.provider,
            host=intent.host,
            method=intent.method,
            path=intent.path,
            unsent=True,
            **ties,
        )
    return EgressOutcome(
        kept=intent.kept,
        provider=intent.provider,
        host=intent.host,
        method=intent.method,
        path=intent.path,
        background=intent.background,
        status=0,
        request_bytes=0,
        response_bytes=0,
        ms=0,
        unsent=True,
        **ties,
    )


def encode(event: Event) -> bytes:
    """`event` as the wire's JSON: lone surrogates escaped, over-long texts clipped to fit."""
    try:
        payload = msgspec.json.encode(event)
    except UnicodeEncodeError:
        payload = msgspec.json.encode(with_texts(event, _escaped))
    except (TypeError, ValueError, RecursionError) as error:
        raise AuditError(f"an event can't be encoded: {error}") from error
    if len(payload) > wire.MAX_EVENT:
        payload = msgspec.json.encode(with_texts(event, _clipped))
    if len(payload) > wire.MAX_EVENT:
        raise AuditError(f"an event has {len(payload)} bytes; the journal takes {wire.MAX_EVENT}")
    return payload


def with_texts(event: Event, change: Callable[[str, str], str]) -> Event:
    """`event` with each text replaced by `change` of it and of its field's name, in one order always.

    A name within a field (of a table) has that field's.
    """

    def walk(value: object, field: str) -> object:
        if isinstance(value, str):
            return change(value, field)
        if isinstance(value, dict):
            return {walk(key, field): walk(item, field) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(walk(item, field) for item in value)
        return value

    fields: dict[str, Any] = {name: walk(getattr(event, name), name) for name in event.__struct_fields__}
    return type(event)(**fields)


def texts_of(event: Event) -> list[str]:
    """Every text of `event`, in the order of `with_texts`."""
    found: list[str] = []
    left: list[object] = [*reversed(msgspec.structs.astuple(event))]
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            left += [one for pair in reversed(value.items()) for one in reversed(pair)]
        elif isinstance(value, (list, tuple)):
            left += reversed(value)
    return found


def _escaped(text: str, _field: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _clipped(text: str, field: str) -> str:
    short = text if len(text) <= _CLIP else f"{text[:_CLIP]}…[{len(text)} characters]"
    return _escaped(short, field)
