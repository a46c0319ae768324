"""CONNECT and plain proxying: the weakening ``connect``, without keys, to granted hosts only.

The name is resolved once, each address decided on, and that address dialled. A tunnel must begin
with a TLS ClientHello that names the host it was granted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import h11

from bridgehold import clock
from bridgehold.errors import BridgeholdError, BusyError, DeniedError, SuspendedError
from bridgehold.host.cell.gateway.clienthello import ClientHello, NotTls
from bridgehold.host.cell.gateway.credentials import holds_placeholder
from bridgehold.host.cell.gateway.parse import Target, declared
from bridgehold.host.cell.gateway.replies import Refusal, Replies
from bridgehold.host.cell.gateway.wire import GuestGone, Wire
from bridgehold.host.shares.dialling import Apart, Dial, apart
from bridgehold.keeper.resolve import Lookup, resolve
from bridgehold.keeper.slots import HOP_HEADERS
from bridgehold.policies.decide import decide_address, decide_connect
from bridgehold.policies.names import normalise_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bridgehold.host.cell.gateway.served import Served, Slow
    from bridgehold.host.cell.gateway.values import ProviderFacts
    from bridgehold.policies.model import Grant

_CHUNK = 64 * 1024
_HELLO_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Places:
    """How names are looked up, and where providers are: those are reached through the gateway alone."""

    lookup: Lookup
    dial: Dial
    providers: Mapping[str, ProviderFacts]

    @property
    def hosts(self) -> frozenset[str]:
        """Names of providers' hosts."""
        return self._apart()[0]

    @property
    def addresses(self) -> frozenset[tuple[str, int]]:
        """Of providers that have no name."""
        return self._apart()[1]

    def _apart(self) -> Apart:
        return apart({name: (one.host, one.port) for name, one in self.providers.items()})


class Outbound:
    """One allowed way out at a time, and its accounting."""

    def __init__(
        self,
        served: Served,
        places: Places,
        slow: Slow,
        wire: Wire,
        target: Target,
        active: Callable[[str], None],
    ) -> None:
        """`slow`: before each refusal. `active`: raises where nothing begins for a tenant."""
        self._served = served
        self._active = active
        self._places = places
        self._slow = slow
        self._wire = wire
        self._target = target
        self._started = time.monotonic()
        self._sent = 0
        self._received = 0
        self._status = 0

    async def serve(self, connection: h11.Connection, request: h11.Request) -> None:
        """Tunnel or forward, then the connection is done. Raises `GuestGone`, `BadRequest`."""
        replies = Replies(self._wire, connection, "openai", bodiless=request.method == b"HEAD")
        refusal = self._check(request)
        if refusal is None:
            try:
                self._active(self._served.facts.tenant)
                address, rule = await self._address()
                announced = await self._served.records.intent(
                    provider="",
                    host=self._place,
                    method=self._target.method,
                    path=self._shown_path,
                    rule=rule,
                    how="connect" if self._target.kind == "tunnel" else "proxy",
                )
            except SuspendedError as error:
                refusal = Refusal(status=403, rule="tenant.state", reason=error.message, hint=error.hint)
            except DeniedError as error:
                refusal = Refusal(status=403, rule=error.where, reason=error.message, hint=error.hint)
            except BridgeholdError as error:
                refusal = Refusal(
                    status=502, rule=f"gateway.{error.code}", reason=error.message, hint=error.hint
                )
        if refusal is not None:
            await self._refuse(replies, refusal)
            return
        code = "cancelled"
        try:
            code = await self._allowed(replies, connection, request, (address, announced.reference))
        except GuestGone:
            code = "guest_gone"
            raise
        finally:
            outcome = self._served.records.outcome(
                announced,
                started=self._started,
                status=self._status,
                request_bytes=self._sent,
                response_bytes=self._received,
                code=code,
            )
            await asyncio.shield(outcome)

    async def _allowed(
        self, replies: Replies, connection: h11.Connection, request: h11.Request, decided: tuple[str, str]
    ) -> str:
        """Read the body, within what the host holds for sandboxes, and pass it on. The outcome's code.

        `decided`: the address to dial, and the intent's event.
        """
        address, intent = decided
        bound = self._served.grant.limits.request_bytes
        try:
            async with self._served.buffers.hold(
                self._served.facts.owner, declared(request, bound)
            ) as holding:
                body = await self._wire.read_body(connection, bound)
                if body is None:
                    raise GuestGone("its body is too long")
                holding.shrink(len(body))
                return await self._through(replies, request, body, address)
        except BusyError as error:
            self._status = 503
            refusal = Refusal(status=503, rule="gateway.busy", reason=error.message)
            await self._last_answer(replies, refusal, intent)
            return "busy"

    @property
    def _place(self) -> str:
        return f"{self._target.host}:{self._target.port}"

    @property
    def _shown_path(self) -> str:
        return self._target.path if self._target.kind == "proxy" else ""

    def _check(self, request: h11.Request) -> Refusal | None:
        """Whether the policy allows it at all, before any name is asked for."""
        texts = [value.decode("latin-1") for _, value in request.headers]
        if holds_placeholder((*texts, self._target.path, self._target.query)):
            return Refusal(
                status=403,
                rule="placeholder.host",
                reason=f"a placeholder was sent to {self._target.host}, which no provider is bound to",
                severity="high",
            )
        hosts = self._places.hosts
        decision = decide_connect(self._served.grant, self._target.host, self._target.port, hosts)
        if decision.allowed:
            return None
        return Refusal(status=403, rule=decision.rule, reason=decision.reason, source=decision.source)

    async def _address(self) -> tuple[str, str]:
        """(address to dial, rule). Every address must be allowed: a name that mixes is one that rebinds."""
        host, port = self._target.host, self._target.port
        rule = ""
        addresses = await resolve(host, port, private=True, lookup=self._places.lookup)
        for text in addresses:
            decision = decide_address(self._served.grant, host, port, ip_address(text))
            if decision.allowed and (text, port) in self._places.addresses:
                raise DeniedError(f"{host} leads to a provider, around the gateway", where="provider-binding")
            if not decision.allowed:
                raise DeniedError(decision.reason, where=decision.rule)
            rule = decision.rule
        return addresses[0], rule

    async def _refuse(self, replies: Replies, refusal: Refusal) -> None:
        """Answer first; of a body that comes all the same nothing is kept."""
        event = await self._audit_refusal(refusal)
        await self._slow()
        await self._last_answer(replies, refusal, event)

    async def _last_answer(self, replies: Replies, refusal: Refusal, event: str) -> None:
        await replies.refuse(refusal, event, close=True)
        await self._wire.drop_body(self._served.grant.limits.request_bytes)

    async def _audit_refusal(self, refusal: Refusal) -> str:
        return await self._served.records.refused(
            host=self._place,
            method=self._target.method,
            path=self._shown_path,
            rule=refusal.rule,
            reason=refusal.reason,
            source=refusal.source,
            severity=refusal.severity,
        )

    async def _through(self, replies: Replies, request: h11.Request, body: bytes, address: str) -> str:
        try:
            upstream = await self._places.dial(self._target.host, address, self._target.port)
        except (OSError, TimeoutError):
            self._status = 502
            refusal = Refusal(status=502, rule="gateway.dial", reason=f"{self._place} does not answer")
            await replies.refuse(refusal, "", close=True)
            return "provider"
        try:
            if self._target.kind == "tunnel":
                return await self._tunnel(upstream)
            return await self._forward(upstream, replies, request, body)
        except OSError:
            return "provider"
        finally:
            upstream.close()

    async def _tunnel(self, upstream: socket.socket) -> str:
        self._status = 200
        await self._wire.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        fault = await self._check_hello()
        if fault:
            refusal = Refusal(status=403, rule="connect.sni", reason=fault, severity="high")
            await self._audit_refusal(refusal)
            await self._slow()
            return "connect.sni"
        loop = asyncio.get_running_loop()
        first = bytes(self._wire.buffer)
        self._wire.buffer.clear()
        end = self._served.grant.end_of(self._is_granted)
        try:
            async with asyncio.timeout(max(0.0, end - clock.now()) if end else None):
                await loop.sock_sendall(upstream, first)
                self._sent += len(first)
                await self._pump(self._wire.sock, upstream)
        except TimeoutError:
            return "grant.until"
        return ""

    def _is_granted(self, grant: Grant) -> bool:
        return decide_connect(grant, self._target.host, self._target.port, self._places.hosts).allowed

    async def _check_hello(self) -> str:
        """Why the tunnel is closed, or empty once the ClientHello named the granted host."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _HELLO_SECONDS
        hello = ClientHello()
        try:
            name = hello.feed(bytes(self._wire.buffer))
            while name is None:
                data = await self._wire.receive(max(0.0, deadline - loop.time()))
                if not data:
                    return "the tunnel ended before a TLS ClientHello"
                self._wire.buffer += data
                name = hello.feed(data)
            if not name:
                return "the TLS ClientHello names no server"
            if normalise_host(name).name != self._target.host:
                return f"the TLS ClientHello names {name[:100]!r}, the tunnel is for {self._target.host}"
        except (NotTls, DeniedError) as error:
            return f"no TLS ClientHello: {error}"
        except GuestGone:
            return "no TLS ClientHello came in time"
        return ""

    async def _pump(self, guest: socket.socket, upstream: socket.socket) -> None:
        """Both directions until both have ended, or nothing moved for the tunnel's idle time."""
        loop = asyncio.get_running_loop()
        moved = [loop.time()]

        async def copy(source: socket.socket, sink: socket.socket, outward: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await loop.sock_recv(source, _CHUNK):
                    if outward:
                        await self._wire.pace()
                    moved[0] = loop.time()
                    await loop.sock_sendall(sink, data)
                    if outward:
                        self._sent += len(data)
                    else:
                        self._received += len(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        idle = self._served.limits.tunnel_idle_ms / 1000
        tasks = {
            asyncio.create_task(copy(guest, upstream, True)),
            asyncio.create_task(copy(upstream, guest, False)),
        }
        try:
            left = tasks
            while left and loop.time() - moved[0] < idle:
                _, left = await asyncio.wait(left, timeout=max(0.05, idle - (loop.time() - moved[0])))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _forward(
        self, upstream: socket.socket, replies: Replies, request: h11.Request, body: bytes
    ) -> str:
        """Plain HTTP: the request made anew, the answer parsed and framed anew."""
        loop = asyncio.get_running_loop()
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
        await loop.sock_sendall(upstream, _request_bytes(client, self._target, request, body))
        self._sent += len(body)
        parsed = 0
        try:
            async with asyncio.timeout(self._served.limits.request_ms / 1000):
                while True:
                    event = client.next_event()
                    parsed += 1
                    await self._wire.parsed(parsed)
                    if event is h11.NEED_DATA:
                        client.receive_data(await loop.sock_recv(upstream, _CHUNK))
                    elif isinstance(event, h11.Response):
                        self._status = event.status_code
                        await replies.head(event.status_code, _response_headers(event))
                    elif isinstance(event, h11.Data):
                        self._received += len(event.data)
                        await replies.data(bytes(event.data))
                    elif isinstance(event, h11.EndOfMessage):
                        await replies.end()
                        return ""
                    elif not isinstance(event, h11.InformationalResponse):
                        raise GuestGone("the other side closed within its answer")
        except (h11.RemoteProtocolError, TimeoutError):
            if replies.started:
                raise GuestGone("the other side broke off within its answer") from None
            refusal = Refusal(
                status=502, rule="gateway.upstream", reason="the other side's answer can't be read"
            )
            await replies.refuse(refusal, "", close=True)
            return "provider"


def _request_bytes(client: h11.Connection, target: Target, request: h11.Request, body: bytes) -> bytes:
    dropped = {name.encode("ascii") for name in HOP_HEADERS} | {
        b"host", b"content-length", b"expect", b"proxy-authorization"
    }  # fmt: skip
    named = {
        token.strip().lower()
        for name, value in request.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    kept = [(name, value) for name, value in request.headers if name not in dropped | named]
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = host if target.port == 80 else f"{host}:{target.port}"
    kept += [(b"host", authority.encode("ascii")), (b"connection", b"close")]
    if body or request.method in (b"POST", b"PUT", b"PATCH"):
        kept.append((b"content-length", str(len(body)).encode("ascii")))
    path = target.path + (f"?{target.query}" if target.query else "")
    events: list[h11.Event] = [h11.Request(method=request.method, target=path.encode("ascii"), headers=kept)]
    if body:
        events.append(h11.Data(data=body))
    events.append(h11.EndOfMessage())
    return b"".join(client.send(event) or b"" for event in events)


def _response_headers(event: h11.Response) -> list[tuple[str, str]]:
    listed = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers]
    return [(name, value) for name, value in listed if name not in HOP_HEADERS]
