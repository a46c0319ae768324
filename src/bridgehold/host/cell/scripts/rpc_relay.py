"""A gRPC worker's session: its start, the connections to and from it, and its end.

No process of ours is inside: the listener that it calls back at and the sockets that lead to it were made in
its network namespace and handed out before anything foreign ran. Between them and its caller stand pairs of
HTTP/2 connections (`rpc_pair`), whose calls are judged (`rpc_judge`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine

from bridgehold.bridges.legacy.frames import Splitter
from bridgehold.bridges.legacy.messages import read_exit
from bridgehold.bridges.legacy.rpc_start import read_ready
from bridgehold.errors import (
    BridgeholdError,
    CommandTimeoutError,
    CrashError,
    NotFoundError,
    PolicyError,
    UnsupportedError,
    UsageError,
)
from bridgehold.host.cell.scripts.ledger import Ledger
from bridgehold.host.cell.scripts.relay import Fault, Rules
from bridgehold.host.cell.scripts.rpc_judge import Callbacks, Commands, most_held, past_held
from bridgehold.host.cell.scripts.rpc_links import AT_ONCE, InsideLink, OutsideLink, Pace
from bridgehold.host.cell.scripts.rpc_pair import Pair
from bridgehold.host.cell.scripts.rpc_peer import Peer
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.front.boots import Script
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.dialling import Connect
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.units import format_ms
from bridgehold.protocol.frames import INPUT_CLOSED
from bridgehold.protocol.values import Principal
from bridgehold.tasks import begin_task

_MOST_INSIDE = 16
"""Connections that the worker may have at once to what it calls back."""
_MOST_OUTSIDE = 16
_LARGEST_FRAME = 4_096
_LOOK_SECONDS = 0.05
_LAST_WORDS = 16_384
_ACCEPTS = 64
"""A second, and no more: what is beyond is accepted later."""
_LONGEST_TURN = 30.0
"""Seconds that a worker which doesn't come to listen keeps others of its tenant from beginning."""


class RpcRelay:
    """One session's connections, from where the worker is about to run to where it has ended."""

    def __init__(
        self,
        session: Session,
        *,
        ledger: Ledger,
        rules: Rules,
        rates: CommandRates,
        emit: Emit,
        may_read: bool,
        connect: Connect,
        turns: asyncio.Semaphore,
    ) -> None:
        """As of `Relay`. `connect`: one of the sockets that lead to the worker. `turns`: of its tenant's
        workers, to begin: their imports take all processors, so that many at once would all be late."""
        self._connect = connect
        self._turns = turns
        self._turn: asyncio.TimerHandle | None = None
        """Its own, while it has one."""
        self.session = session
        self.ledger = ledger
        self.grant = session.order.grant
        self.sessions: dict[str, str] = {}
        self._rules = rules
        self._rates = rates
        self._emit = emit
        self._may_read = may_read
        self.exit_status = -1
        self._port = 0
        """Where the worker listens, inside."""
        self._held = 0
        self._pace = Pace()
        self._to_worker = Commands(self, rates)
        self._from_worker = Callbacks(self, rates)
        self._pairs: dict[int, Pair] = {}
        self._last = 0
        """Number of the newest connection that the worker made."""
        self._leaving = False
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener, *self._dials = session.worker.take_sockets()

    async def start(self, _script: Script, _principal: Principal) -> None:
        """The worker runs from here on."""
        worker = self.session.worker
        worker.relay(Splitter(_LARGEST_FRAME), self._on_body, lambda: False)
        self._accepting = asyncio.create_task(self._accept())
        self.spawn(self._settle())
        await self._take_turn()
        await worker.send_raw(b"\n")

    async def _take_turn(self) -> None:
        """Wait for it, or for the session's end."""
        if self._turns.locked():
            waits = "bridgehold: others of this tenant start: this worker waits for its turn\n"
            self._emit({"type": "err", "data": waits.encode()})
        taking = asyncio.ensure_future(self._turns.acquire())
        ending = asyncio.ensure_future(self.session.wait_ended())
        try:
            await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            if not taking.done():
                taking.cancel()
            elif self.session.alive:
                self._turn = asyncio.get_running_loop().call_later(_LONGEST_TURN, self._give_turn)
            else:
                self._turns.release()

    def _give_turn(self) -> None:
        """The next one's, once."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self._turns.release()

    async def send(self, _data: bytes, _principal: Principal) -> None:
        """Raises: such a worker has no input."""
        raise UsageError("a worker that speaks gRPC has no frames", hint="Its calls go by `foreign.wire`.")

    async def wire(self, conn: int, data: bytes, principal: Principal, *, end: bool) -> None:
        """Bytes of one of the caller's connections; its next ones wait until these are taken."""
        self.ledger.principal = principal
        self.session.used_at = time.monotonic()
        pair = self._pairs.get(conn)
        if pair is None:
            if conn <= 0 or end:
                return
            pair = self._open(conn)
        self._rates.charge(self.grant, len(data), time.monotonic())
        while self.session.alive and self._rates.owed(self.grant, time.monotonic()) > 0:  # noqa: ASYNC110 - time pays
            await asyncio.sleep(_LOOK_SECONDS)
        async with pair.turn:
            await self._feed(pair, pair.asking if conn > 0 else pair.answering, data)
        if end:
            pair.close("the caller's connection has ended")

    async def _feed(self, pair: Pair, peer: Peer, data: bytes) -> None:
        """As much at once as the worker's own, and within its part of the loop's time."""
        for at in range(0, len(data), AT_ONCE):
            began = time.perf_counter()
            pair.feed(peer, data[at : at + AT_ONCE])
            wait = self._pace.spend(time.perf_counter() - began)
            if pair.closed:
                return
            if wait or at + AT_ONCE < len(data):
                await asyncio.sleep(wait)

    def _open(self, conn: int) -> Pair:
        """A connection of the caller's begins, and one to the worker with it."""
        if not self._port:
            raise UsageError("the worker does not listen yet")
        if len(self._pairs) >= _MOST_OUTSIDE + _MOST_INSIDE:
            raise UsageError("too many connections")
        if not self._dials:
            raise CrashError("no further connection can be made to this worker", hint="Start another one.")
        pair = Pair(self._to_worker, lambda _: self._forget(conn))
        self._pairs[conn] = pair
        pair.connect(pair.asking, OutsideLink(conn, self._emit, lambda: pair.resume(pair.asking)))
        self.spawn(self._dial(pair, self._dials.pop()))
        return pair

    async def _dial(self, pair: Pair, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(self.grant.limits.startup_ms / 1000):
                await self._connect(sock, self._port)
        except (OSError, BridgeholdError):  # a timeout is one
            sock.close()
            pair.close("the worker takes no connection")
            return
        await self._attach(pair, pair.answering, sock)

    async def _attach(self, pair: Pair, peer: Peer, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = InsideLink(
            lambda data: self._came(pair, peer, data),
            lambda: pair.resume(peer),
            lambda: pair.close("the worker's connection has ended"),
            self._pace,
        )
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, sock=sock)
        except OSError:
            sock.close()
            pair.close("the worker's connection has ended")
            return
        if pair.closed:
            link.close()
        else:
            pair.connect(peer, link)

    def _came(self, pair: Pair, peer: Peer, data: bytes) -> None:
        self._rates.charge(self.grant, len(data), time.monotonic())
        pair.feed(peer, data)

    async def _accept(self) -> None:
        """What the worker connects to its starter's address."""
        loop = asyncio.get_running_loop()
        while self.session.alive:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError:
                return
            if sum(conn < 0 for conn in self._pairs) >= _MOST_INSIDE:
                sock.close()
                self.session.worker.violation(f"more than {_MOST_INSIDE} connections to its starter")
            else:
                self._last -= 1
                conn = self._last
                sock.setblocking(False)
                pair = Pair(self._from_worker, self._forgetting(conn))
                self._pairs[conn] = pair
                pair.connect(pair.answering, self._outside(conn, pair))
                await self._attach(pair, pair.asking, sock)
            await asyncio.sleep(1 / _ACCEPTS)

    def _outside(self, conn: int, pair: Pair) -> OutsideLink:
        return OutsideLink(conn, self._emit, lambda: pair.resume(pair.answering))

    def _forgetting(self, conn: int) -> Callable[[Pair], None]:
        return lambda _: self._forget(conn)

    def _forget(self, conn: int) -> None:
        self._pairs.pop(conn, None)

    async def look_up(self) -> BridgeholdError | None:
        """The grant as the files say it now; why that can't be told, where it can't."""
        try:
            self.grant = await self._rules()
        except (PolicyError, NotFoundError, UnsupportedError) as error:
            fault: Fault = error
            return fault
        return None

    def hold(self, size: int) -> None:
        """So many bytes more are held for calls, or fewer. Raises `LimitError` past the session's bound."""
        self._held += size
        self.session.worker.hold(self, self._held)
        if size > 0 and self._held > (most := most_held(self.grant)):
            raise past_held(self._held, most)

    def late(self, deadline_ms: int) -> None:
        """A command is past its deadline: its worker is ended."""
        error = CommandTimeoutError(
            f"a command did not end within {format_ms(deadline_ms)}; its session was ended",
            hint="Give it more time in the policy (`[limits] command`), or ask for less.",
        )

        async def end() -> None:
            await self.session.end("command deadline", error)

        self.spawn(end())

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do `work` beside what comes next."""
        begin_task(work, self._tasks)

    def _on_body(self, body: bytes) -> None:
        """One frame of the runner's inside, or of whatever writes in its name: a port there, a status."""
        status = read_exit(body)
        if status is not None:
            self.exit_status = status
            return
        port = read_ready(body)
        if port is None or self._port:
            self.session.worker.violation("a frame of a worker that has none")
            return
        self._port = port
        self._give_turn()
        self._emit({"type": "ready"})

    def say_last_words(self) -> None:
        """What a worker wrote that never came to listen is its caller's, too, where that may read it."""
        printed = self.session.worker.log.text(_LAST_WORDS)
        if printed and not self._port and self._may_read:
            self._emit({"type": "err", "data": printed.encode()})

    def finish_input(self) -> None:
        """Its starter ends it: it gets SIGTERM inside, and the grace."""
        if not self._leaving:
            self._leaving = True
            self.spawn(self.session.close(INPUT_CLOSED))

    async def _settle(self) -> None:
        await self.session.wait_ended()
        self._give_turn()
        for pair in list(self._pairs.values()):
            pair.close("the worker has ended")
        self.session.worker.hold(self, 0)
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        for one in (self._listener, *self._dials):
            one.close()
