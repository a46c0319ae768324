"""What came of a body before the request that takes it: of one connection, counted as what it sends is."""

from __future__ import annotations

import msgspec

from bridgehold.errors import BridgeholdError, LimitError, UsageError
from bridgehold.host.front.faulty import Request
from bridgehold.host.front.identity import Identity
from bridgehold.protocol import bodies
from bridgehold.protocol.bodies import Begun, Looked, LookParams
from bridgehold.protocol.frames import MAX_FRAME, NoParams, read_params, weight

METHODS = (bodies.BEGIN, bodies.PUT, bodies.LOOK)


class Stash:
    """Empty until `body.begin`; gone with who takes it, the next `body.begin` and the connection."""

    def __init__(self, identity: Identity, patience_s: float, *, takes: bool) -> None:
        """`takes`: whether bodies are read by who has this connection. `patience_s`: to wait for room."""
        self._identity = identity
        self._patience_s = patience_s
        self._takes = takes
        self._open = False
        self._data = bytearray()
        self._member, self._raw = "", b""
        self._share = identity.callers_bytes()

    async def answer(self, request: Request) -> object:
        """One of `METHODS`. Raises `UsageError`, `LimitError`, `BusyError`."""
        try:
            return await self._answer(request)
        except BridgeholdError:
            self.forget()
            raise

    async def _answer(self, request: Request) -> object:
        if request.fault is not None:
            raise request.fault
        if request.method != bodies.LOOK:
            await read_params(request.method, request.params, NoParams)
        if request.method == bodies.BEGIN:
            self.forget()
            self._open = self._takes
            return Begun(taken=self._takes)
        if not self._open:
            raise UsageError(f"{request.method} without a {bodies.BEGIN} that is taken")
        if request.method == bodies.PUT:
            if request.part != "data":
                raise UsageError("a part of a body comes beside its frame", where="data")
            await self._put(request.data)
            return Begun(taken=True)
        name = (await read_params(request.method, request.params, LookParams)).member
        beside, self._raw = bodies.split(bytes(self._data), name)
        self._open, self._member, self._data = False, name, bytearray()
        self._share.hold(len(self._raw))
        return Looked(beside=beside.decode(), kept=bool(self._raw))

    async def _put(self, data: bytes) -> None:
        if len(self._data) + len(data) > MAX_FRAME:
            raise LimitError(f"a body of more than {MAX_FRAME} bytes")
        if not await self._share.wait(len(data), self._patience_s):
            raise self._identity.full()
        self._data += data

    def give(self, request: Request) -> int:
        """Make what was kept a member of the parameters: the bytes that this takes, to be counted now."""
        raw, name = self._raw, self._member
        self.forget()
        request.part = ""
        if not raw:
            request.fault = UsageError(f"no {bodies.LOOK} came before, or nothing was kept by it")
            return 0
        try:
            request.params = msgspec.Raw(bodies.joined(bytes(request.params), name, raw))
        except UsageError as fault:
            request.fault = fault.bare()
        return weight(raw)

    def forget(self) -> None:
        """All of it."""
        self._open, self._data, self._member, self._raw = False, bytearray(), "", b""
        self._share.give_back()
