"""One connection to the host's socket: frames in, each request in a task of its own, answers out.

Whatever it takes is counted first: by the principal, or by the uid of who is nobody yet. Who breaks a bound
waits, then gets a typed error, then loses its connection with all that runs on it; nobody else does.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TypeVar

import msgspec

from bridgehold.error_texts import defect_of
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    DeniedError,
    HostLeavingError,
    LimitError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from bridgehold.host.front.callers import SMALL
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.entrances import Entrances, Proven, let_go, shown
from bridgehold.host.front.faulty import Request, faulty
from bridgehold.host.front.identity import SAY_WHO, Identity
from bridgehold.host.front.method import Method, Scope, ServerContext, forwarded, visible_info
from bridgehold.host.front.outgoing import Emit, Events
from bridgehold.host.front.stash import METHODS, Stash
from bridgehold.host.shares.callers import CALLER, LEAVING
from bridgehold.protocol import parts
from bridgehold.protocol.frames import (
    HEADER,
    MAX_FRAME,
    PLACES,
    WHOLE_CONNECTION,
    AnswerFrame,
    CancelParams,
    HelloParams,
    RequestFrame,
    pack,
    read_frame,
    read_params,
    weight,
)
from bridgehold.protocol.plain import loads
from bridgehold.protocol.values import Principal

_MAX_REQUESTS = 256
"""Requests in flight on one connection; the connection is not read beyond that."""
_NEVER_LATE = ("hello", "tool.reply")
"""What a command, or all that follows, may be waiting for: where it is small, it always has room."""
_UNIDENTIFIED_FRAME = 4 * 1024
_LAST_ANSWERS_S = 2.0
"""Of a host that is replaced: what sessions' ends have answered is written in far less."""
_HEAD_BYTES = 4 * 1024
"""Of a frame, beside its parameters."""
_PARTS = (b"", *(b',"part":"%s"' % one.encode() for one in PLACES))
_TAILS = (b"}", *(b'%s,"parts":true}' % one for one in _PARTS))
"""What our clients write after the parameters."""

T = TypeVar("T", bound=msgspec.Struct)


class Connection:
    """One caller's, from its first byte to its last. `serve` once."""

    def __init__(
        self, server: ServerContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._callers = server.callers
        self._limits = server.callers.limits
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._counted: dict[int, tuple[str, int]] = {}
        """Of requests in flight: for whom each is counted, and the bytes that it takes."""
        self._room = asyncio.Semaphore(_MAX_REQUESTS)
        self._beside: list[bytes] = []
        """What came beside the JSON of the frame that was read last."""
        self._identity = Identity(server, writer)
        self._out = self._identity.out
        self._stash = Stash(self._identity, self._limits.frame_s, takes=server.takes_bodies)

    async def serve(self) -> None:
        """Until either side ends it. All that runs on it then ends too, and what it held is given back."""
        CALLER.set(self)
        nobody = asyncio.get_running_loop().call_later(self._limits.unknown_s, self._still_nobody)
        reading = asyncio.ensure_future(self._read())
        cut = asyncio.ensure_future(self._out.cut.wait())
        try:
            await asyncio.wait({reading, cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nobody.cancel()
            if self._server.leaving and not reading.done():
                await self._take_leave(reading)
            for task in (reading, cut, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(reading, cut, *self._tasks.values(), return_exceptions=True)
            self._identity.bytes.give_back()
            self._stash.forget()
            for request_id in tuple(self._counted):  # of one that was waited for, there is no task
                self._give_back(request_id)
            try:
                await self._out.close(self._limits.last_s)
            finally:
                self._identity.seat.give_back()

    async def _take_leave(self, reading: asyncio.Future[None]) -> None:
        """Read nothing more and say so, once all that was begun here has its answer.

        Whoever reads that knows: what has none was not begun, and may be sent to the host that comes.
        """
        reading.cancel()
        await asyncio.wait({reading})
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_LAST_ANSWERS_S)
        if all(task.done() for task in self._tasks.values()):
            self._say_last(HostLeavingError(LEAVING))

    def look_up_again(self) -> tuple[int, str] | None:
        """See `Identity.look_up_again`."""
        return self._identity.look_up_again()

    async def relayed(self, method: str, params: msgspec.Raw, emit: Emit) -> object:
        """What the front answers its caller, for the cell that has this connection."""
        known = self._server.methods.get(method)
        if method == "hello" or (known is not None and issubclass(known.params, Scope) and method != "ping"):
            raise UsageError(f"no front answers {method[:80]!r}")
        return await self._handle(Request(id=WHOLE_CONNECTION, method=method, params=params), None, emit)

    async def _read(self) -> None:
        try:
            self._identity.sit(self._identity.seat)
            while True:
                await self._room.acquire()
                await self._out.at_ease.wait()  # who leaves its answers unread is not read either
                entrances = self._server.entrances
                if (
                    entrances is not None
                    and (one := self._quiet)
                    and (cell := entrances.living(one)) is not None
                ):
                    return await self._go(entrances, cell, one, b"")
                body = await read_frame(
                    self._reader,
                    room=self._identity.make_room,
                    small=_UNIDENTIFIED_FRAME,
                    patience_s=self._limits.frame_s,
                    beside=self._beside,
                )
                if body is None:
                    return None
                request, size = _request(body), len(body)
                if self._beside:
                    request.data = self._beside.pop()
                    size += len(request.data)
                    if not request.part:
                        raise ProtocolError("a frame with a part that says no place for it")
                    if len(body) > parts.MOST_JSON:
                        request.fault = parts.too_much(len(body))
                elif entrances is not None and size <= SMALL and (one := self._quiet):
                    cell = await entrances.begun(one, request.method)
                    if cell is not None and one is self._identity.principal:
                        return await self._go(entrances, cell, one, HEADER.pack(len(body)) + body)
                more = self._stash.give(request) if request.part == parts.FROM_BODY else 0
                task = await self._begin(request, size + more, weight(body) + size - len(body) + more)
                if task is not None and (self._identity.principal is None or request.method == "hello"):
                    await asyncio.wait({task})  # what follows is heard once it is known from whom
        except BridgeholdError as error:
            self._say_last(error)

    @property
    def _quiet(self) -> Principal | None:
        """Whose it is, where that is known and nothing is under way."""
        return None if self._tasks or self._out.unread else self._identity.principal

    async def _go(self, entrances: Entrances, cell: Cell, principal: Principal, ahead: bytes) -> None:
        """A cell has the connection from here on, with what was read of it; until it is over."""
        proven = Proven(principal=principal, shown=shown(self._identity.token, self._identity.tenant))
        sock = let_go(self._writer)
        self._reader.feed_eof()
        self._identity.bytes.give_back()
        await entrances.hand(cell, proven, sock, ahead + await self._reader.read(), self.relayed)

    def _say_last(self, error: BridgeholdError) -> None:
        """Why the connection ends, for whoever reads it."""
        self._out.put(pack(AnswerFrame(id=WHOLE_CONNECTION, error=error.info())))

    def _still_nobody(self) -> None:
        if self._identity.principal is None:
            self._say_last(DeniedError("the connection did not say in time whose it is", hint=SAY_WHO))
            self._out.finish(self._limits.last_s)

    async def _begin(self, request: Request, length: int, size: int) -> asyncio.Task[None] | None:
        """Answer it in a task of its own, once there is room for it. None: there is nothing to answer."""
        if self._identity.bytes.amount:
            self._identity.bytes.give_back()
        if request.method == "cancel":
            self._room.release()
            target = self._tasks.get((await _decode(request, CancelParams)).id)
            if target is not None:
                target.cancel()
            return None
        if request.id in self._tasks or request.id == WHOLE_CONNECTION:
            raise ProtocolError(f"id {request.id} is already in use on this connection")
        method = self._server.methods.get(request.method)
        size += method.gives if method is not None else SMALL
        failure = await self._count(request, size, length)
        task = asyncio.create_task(self._answer(request, failure))
        self._tasks[request.id] = task
        # Not in a `finally` of its own: a task that is cancelled before its first step runs none.
        task.add_done_callback(partial(self._settle, request.id))
        return task

    async def _count(self, request: Request, size: int, length: int) -> BridgeholdError | None:
        """Count a request and its `size` bytes, as long as it runs: why that can't be, if it can't.

        `length`: of those, what is here while the others wait for room.
        """
        who, requests, held = self._identity.seat.who, self._callers.requests, self._callers.bytes
        if not requests.take(who, 1):
            return BusyError(f"{who} has as many requests under way as it may")
        self._counted[request.id] = who, 0
        owed = length <= SMALL and request.method in _NEVER_LATE
        if size > held.most and not owed:
            return LimitError(
                f"a request that takes {size} bytes here; {held.most} are to be had at the most"
            )
        if not held.let_in(who, size, owed=owed) and not await self._callers.wait(who, size, length):
            return self._identity.full()
        self._counted[request.id] = who, size
        return None

    def _give_back(self, request_id: int) -> None:
        """It is counted no longer; a second time changes nothing."""
        if (counted := self._counted.pop(request_id, None)) is not None:
            who, size = counted
            self._callers.requests.take(who, -1)
            self._callers.bytes.take(who, -size)

    def _settle(self, request_id: int, _task: object) -> None:
        """A request is over, however it ended."""
        self._tasks.pop(request_id, None)
        if request_id in self._counted:
            self._give_back(request_id)
        self._room.release()

    async def _answer(self, request: Request, failure: BridgeholdError | None) -> None:
        refused, beside = False, b""
        try:
            made = await self._handle(request, failure)
            if request.parts:
                answer, beside = parts.answered(request.id, made)
            else:
                result = made if isinstance(made, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(made))
                answer = pack(AnswerFrame(id=request.id, result=result))
            if len(answer) + len(beside) > MAX_FRAME:
                size, beside = len(answer) + len(beside), b""
                large = LimitError(f"an answer of {size} bytes; {MAX_FRAME} are possible")
                answer = pack(AnswerFrame(id=request.id, error=large.info()))
        except BridgeholdError as error:
            refused = self._identity.principal is None
            answer = pack(AnswerFrame(id=request.id, error=visible_info(error, self._identity.principal)))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last border: a defect must not end the host
            defect = defect_of(error, request.method)
            answer = pack(AnswerFrame(id=request.id, error=defect.info()))
        self._give_back(request.id)  # the answer counts as unread from here on
        self._out.put(answer)
        if beside:
            self._out.put(beside)
        if refused:
            self._out.finish(self._limits.last_s)  # nobody gets one answer, and no further try here

    async def _handle(
        self, request: Request, failure: BridgeholdError | None, emit: Emit | None = None
    ) -> object:
        """`emit`: where it is a cell's to write that it was refused, and to send events."""
        if failure is not None:
            raise failure
        if request.method == "hello":
            said = await _decode(request, HelloParams)
            found = await self._become(request, said.token, said.tenant)
            return {"principal": found.name, "tenants": found.tenants}
        who = self._identity
        principal = who.principal or await self._become(request, who.token, who.tenant)
        if request.method in METHODS:
            return await self._stash.answer(request)
        method = self._server.methods.get(request.method)
        if method is None:
            raise UsageError(
                f"no method {request.method[:80]!r}", hint="docs/reference/host-protocol.md lists them."
            )
        if request.fault is not None:
            raise request.fault
        params: msgspec.Struct
        if issubclass(method.params, Scope):
            raw = request.params
            if request.part:
                raw = await parts.merged(raw, request.part, request.data)
            params = forwarded(request.method, raw, method.params)
        else:
            part = (request.part, request.data) if request.part else None
            params = await read_params(request.method, request.params, method.params, part)
        try:
            _check(principal, request.method, method, params)
            if not (method.decides or principal.operator):
                self._server.demand(getattr(params, "tenant", None))
            told = emit or Events(lambda event: self._emit(request, event), self._out)
            return await method.handler(principal, params, told)
        except (DeniedError, NotFoundError) as error:
            if not error.event and emit is None:
                written = await self._server.refusals.caller(principal, request.method, params, error)
                # What is not there and what is another's look alike, to the last letter.
                error.event = written if isinstance(error, DeniedError) else ""
            raise

    async def _become(self, request: Request, token: str, tenant: str) -> Principal:
        """See `Identity.become`."""
        return await self._identity.become(token, tenant, lambda: not self._tasks.keys() - {request.id})

    def _emit(self, request: Request, event: object) -> None:
        """Send one event. A client that doesn't read loses its connection, never our memory."""
        if request.parts:
            data, beside = parts.told(request.id, event)
        else:
            data = pack(AnswerFrame(id=request.id, event=msgspec.Raw(msgspec.json.encode(event))))
            beside = b""
        self._out.put(data, most=self._limits.unread_events)
        if beside:
            self._out.put(beside)


def _check(principal: Principal, name: str, method: Method, params: msgspec.Struct) -> None:
    """Whether `principal` may ask this at all, for the tenant that it names. Raises `DeniedError`."""
    if method.operator and not principal.operator:
        raise DeniedError(
            f"{name} is for operators",
            hint="An operator can set `operator = true` for your principal in config.toml.",
        )
    if principal.read_only and not method.reads:
        raise DeniedError(
            f"{principal.name} may only read, and {name} does more",
            hint="An operator makes one that may with `bridgehold token create`, without --read-only.",
        )
    if bridge := getattr(params, "bridge", ""):
        principal.demand_bridge(bridge)
    tenant = getattr(params, "tenant", None)
    if tenant is not None and not method.decides and not principal.may_act_for(tenant):
        raise DeniedError(
            f"{principal.name} may not act for tenant {tenant[:64]!r}",
            hint="An operator can add the tenant to your principal in config.toml.",
        )


def _request(body: bytes) -> Request:
    """Raises `ProtocolError` for what can't be answered."""
    try:
        frame = msgspec.json.decode(body, type=RequestFrame)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return faulty(body, error)
    head = b'{"id":%d,"method":"%s","params":' % (frame.id, frame.method.encode())
    tail = body[len(head) + len(memoryview(frame.params)) :] if body.startswith(head) else b""
    if tail in _TAILS and len(head) <= _HEAD_BYTES:  # as our clients write it: each once, and nothing beside
        return Request(
            id=frame.id, method=frame.method, params=frame.params, part=frame.part, parts=frame.parts
        )
    start = body.find(frame.params)
    head = body if start < 0 else body[:start] + b"0" + body[start + len(memoryview(frame.params)) :]
    if len(head) > _HEAD_BYTES:
        raise ProtocolError(f"not a request frame: more than {_HEAD_BYTES} bytes beside its parameters")
    fault = None
    try:
        loads(head)
    except UsageError as error:
        fault = error
    return Request(
        id=frame.id,
        method=frame.method,
        params=frame.params,
        part=frame.part,
        parts=frame.parts,
        fault=fault,
    )


async def _decode(request: Request, kind: type[T]) -> T:
    if request.fault is not None:
        raise request.fault
    return await read_params(request.method, request.params, kind)
