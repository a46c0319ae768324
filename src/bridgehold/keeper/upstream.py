"""One decided request to one provider: key in, dial, stream back, key out of what comes back.

The URL, the slot and the secret come from the keeper's own table. Nothing of an exception's text
goes out: a URL may hold a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping
from types import SimpleNamespace
from typing import Any, Protocol
from weakref import WeakValueDictionary

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bridgehold.audit.encodings import Encodings
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BridgeholdError, DeniedError, LimitError, ProviderError
from bridgehold.keeper.bodies import SMALL, receive_body
from bridgehold.keeper.channel import Stream
from bridgehold.keeper.follow import FOLLOWED, MOST_HOPS, PASSED_ON, REDIRECTS, Hop, next_hop
from bridgehold.keeper.heads import checked_headers, coding, make_url, returned_headers
from bridgehold.keeper.paced import PacedSocket, Reads
from bridgehold.keeper.places import Turns
from bridgehold.keeper.protocol import REDIRECT, UNREACHED, Done, UpstreamHead, UpstreamRequest
from bridgehold.keeper.resolve import Lookup, resolve, shared, system_lookup
from bridgehold.keeper.scrub import Scrubber
from bridgehold.keeper.slots import inject
from bridgehold.keeper.stores import check_value
from bridgehold.keeper.values import UpstreamLimits
from bridgehold.policies.downloads import parse_hub_item

_PIECE = 64 * 1024
_POOLS = 256


class Account(Protocol):
    """What is kept of a cell's request on its way (`sending`)."""

    under_way: asyncio.Event
    body: bytes

    def head(self, status: int, content_type: str) -> None:
        """The provider answers."""

    def feed(self, chunk: bytes) -> None:
        """A piece of its answer."""

    def whole(self) -> None:
        """It has come to its end."""


class _RefusedError(OSError):
    """Carries a `BridgeholdError` through aiohttp, which turns a resolver's `OSError` into its own."""

    def __init__(self, reason: BridgeholdError) -> None:
        super().__init__("refused")
        self.reason = reason


class _Pinned(AbstractResolver):
    """Vetted addresses for one provider; aiohttp dials exactly these."""

    def __init__(self, entry: ProviderEntry, lookup: Lookup) -> None:
        self._entry = entry
        self._lookup = lookup

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        try:
            addresses = await resolve(host, port, private=self._entry.private, lookup=self._lookup)
        except BridgeholdError as error:
            raise _RefusedError(error) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        return None


class Upstream:
    """Connections to providers: a pool for each tenant and provider, so that no two tenants share one."""

    def __init__(
        self,
        limits: UpstreamLimits,
        providers: Mapping[str, ProviderEntry],
        lookup: Lookup = system_lookup,
        turns: Turns | None = None,
    ) -> None:
        """`providers`: as they are now, by name. `turns`: in which answers are looked through."""
        self._providers = providers
        self._turns = turns or Turns()
        self._limits = limits
        self._lookup = shared(lookup)
        self._pools: OrderedDict[tuple[str, str], aiohttp.ClientSession] = OrderedDict()
        self._reads: WeakValueDictionary[str, Reads] = WeakValueDictionary()
        self._closing: set[asyncio.Future[None]] = set()
        self._tls = ssl.create_default_context()
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2

    async def close(self) -> None:
        """End every connection to providers."""
        for pool in self._pools.values():
            await pool.close()

    def drop(self, names: Collection[str]) -> None:
        """End every connection to these, and what is under way over them."""
        for key in [key for key in self._pools if key[1] in names]:
            self._close(self._pools.pop(key))

    async def answer(
        self,
        stream: Stream,
        request: UpstreamRequest,
        entry: ProviderEntry,
        key: bytes,
        encodings: Encodings,
        account: Account | None = None,
    ) -> None:
        """Send `request` with `key`, and stream the answer without it in any of its `encodings`. Raises typed
        errors that hold no key. `account`: of a cell's request."""
        if entry.keyed:
            check_value(key)
        under_way = asyncio.Event() if account is None else account.under_way
        try:
            try:
                async with asyncio.timeout(min(request.deadline_ms, self._limits.total_ms) / 1000):
                    await self._answer(stream, request, entry, key, encodings, under_way, account)
            except TimeoutError:
                raise ProviderError(f"{entry.name} did not answer in time", where=UNREACHED) from None
            except aiohttp.ClientError as error:
                raise _explain(error, entry) from None
        except BridgeholdError as error:
            if under_way.is_set():
                error.where = _seen_at(error, entry)
            raise

    async def _answer(
        self,
        stream: Stream,
        request: UpstreamRequest,
        entry: ProviderEntry,
        key: bytes,
        encodings: Encodings,
        under_way: asyncio.Event,
        account: Account | None,
    ) -> None:
        """`under_way` is set once there is a connection, so that the provider may have seen the request."""
        headers, query = inject(entry, key.decode("ascii"), checked_headers(request), list(request.query))
        url = make_url(entry, request, query)
        await self._vet_literal(entry, entry.host)
        if entry.shape == "hub":
            await self._download(stream, request, entry, encodings, (url, headers), under_way, account)
            return
        if request.body_bytes or request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(request.body_bytes)
        body = await self._body(stream, request) if account is None else _sent(account.body)
        pool = self._pool(request.tenant, entry)
        async with pool.request(
            request.method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            trace_request_ctx=under_way,
        ) as response:
            await self._pass_on(stream, request, response, Scrubber(encodings), entry, account=account)

    async def _download(
        self,
        stream: Stream,
        request: UpstreamRequest,
        entry: ProviderEntry,
        encodings: Encodings,
        first: tuple[URL, dict[str, str]],
        under_way: asyncio.Event,
        account: Account | None,
    ) -> None:
        """A hub is only read; its redirects are followed, the key stays at its own origin."""
        if request.method != "GET" or request.body_bytes:
            raise DeniedError("a hub is only read", where="method")
        parse_hub_item(request.path)  # a host that was taken over reads models too, and no accounts
        hop = Hop(url=str(first[0]), host=entry.host, keyed=True)
        told: dict[str, str] = {}
        for _ in range(MOST_HOPS + 1):
            await self._vet_literal(entry, hop.host)
            headers = first[1] if hop.keyed else {"Accept-Encoding": "identity"}
            async with self._pool(request.tenant, entry).get(
                URL(hop.url, encoded=True),
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=under_way,
            ) as response:
                if hop.keyed:
                    told |= {name: response.headers[name] for name in PASSED_ON if name in response.headers}
                if response.status not in REDIRECTS:
                    if not hop.keyed:
                        told[FOLLOWED] = hop.host
                    scrubber = Scrubber(encodings if hop.keyed else b"")
                    await self._pass_on(
                        stream, request, response, scrubber, entry, told=told, account=account
                    )
                    return
                hop = next_hop(entry, hop, response.headers.get("Location", ""))
        raise ProviderError(f"{entry.name} redirects more than {MOST_HOPS} times", where=entry.host)

    async def _vet_literal(self, entry: ProviderEntry, host: str) -> None:
        """aiohttp asks no resolver for an address; ours vets it all the same."""
        if not entry.private and not re.search(r"[a-z]", host):
            await resolve(host, 0, private=False, lookup=self._lookup)

    async def _body(self, stream: Stream, request: UpstreamRequest) -> bytes | AsyncIterator[bytes] | None:
        if request.body_bytes > self._limits.request_bytes:
            raise LimitError(f"a request has at most {self._limits.request_bytes} bytes", where=UNREACHED)
        pieces = receive_body(stream, request.body_bytes)
        if request.body_bytes > SMALL:
            return pieces
        return b"".join([piece async for piece in pieces]) or None

    async def _pass_on(
        self,
        stream: Stream,
        request: UpstreamRequest,
        response: aiohttp.ClientResponse,
        scrubber: Scrubber,
        entry: ProviderEntry,
        *,
        told: Mapping[str, str] | None = None,
        account: Account | None = None,
    ) -> None:
        """`told`: what a hub said of a file, before it led elsewhere."""
        bound = self._limits.response_bytes if told is None else self._limits.download_bytes
        if coded := coding(response.headers):
            raise ProviderError(
                f"{entry.name} compressed or recoded its answer ({coded}) though it was asked not to, "
                "so it can't be scrubbed",
                where=entry.host,
            )
        if response.status < 200:
            raise ProviderError(f"{entry.name} wants to switch protocols", where=entry.host)
        await self._turns.take(request.tenant)
        headers = returned_headers(response.headers, scrubber)
        if told is not None:
            kept = tuple(pair for pair in headers if pair[0] not in (*PASSED_ON, FOLLOWED))
            headers = (*kept, *((name, scrubber.text(value)) for name, value in told.items()))
        head = UpstreamHead(status=response.status, headers=headers)
        if account is not None:
            account.head(response.status, response.headers.get("Content-Type", ""))
        await stream.send_head(msgspec.json.encode(head))
        total = 0
        if request.method != "HEAD":
            async for chunk in response.content.iter_any():
                total += len(chunk)
                if total > bound:
                    raise LimitError(f"an answer has at most {bound} bytes")
                if account is not None:
                    account.feed(chunk)
                await stream.send(await self._turns.work(request.tenant, scrubber.steps(chunk)))
        if account is not None:
            account.whole()
        await stream.send(scrubber.finish())
        await stream.end(msgspec.json.encode(Done(scrubbed=scrubber.count, response_bytes=total)))

    def _pool(self, tenant: str, entry: ProviderEntry) -> aiohttp.ClientSession:
        if self._providers.get(entry.name) != entry:  # since the request began
            raise ProviderError(f"{entry.name} was changed or removed", where=UNREACHED, retry="same")
        key = (tenant, entry.name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._open_pool(entry, self._reads.setdefault(tenant, Reads()))
            if len(self._pools) > _POOLS:
                self._close_idle_pool()
        self._pools.move_to_end(key)
        return pool

    def _open_pool(self, entry: ProviderEntry, reads: Reads) -> aiohttp.ClientSession:
        def paced(facts: tuple[Any, ...]) -> socket.socket:
            return PacedSocket.over(socket.socket(*facts[:3]), reads)

        connector = aiohttp.TCPConnector(
            resolver=_Pinned(entry, self._lookup),
            use_dns_cache=False,
            ssl=self._tls,
            limit=256,
            socket_factory=paced,
            keepalive_timeout=20,
        )
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._limits.connect_ms / 1000, sock_read=self._limits.idle_ms / 1000
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_watched()],
            skip_auto_headers=("User-Agent", "Content-Type"),
            max_line_size=8_190,
            max_field_size=8_190,
        )

    def _close_idle_pool(self) -> None:
        for key, pool in list(self._pools.items()):
            connector = pool.connector
            if connector is not None and not connector._acquired:  # noqa: SLF001 - there is no public count
                self._close(self._pools.pop(key))
                return

    def _close(self, pool: aiohttp.ClientSession) -> None:
        closing = asyncio.ensure_future(pool.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _watched() -> aiohttp.TraceConfig:
    """Tells each request that it has a connection."""

    async def connected(_session: object, context: SimpleNamespace, _params: object) -> None:
        if isinstance(context.trace_request_ctx, asyncio.Event):
            context.trace_request_ctx.set()

    watched = aiohttp.TraceConfig()
    watched.on_connection_create_end.append(connected)
    watched.on_connection_reuseconn.append(connected)
    return watched


def _sent(body: bytes) -> bytes | AsyncIterator[bytes] | None:
    """As it is written: what is long in pieces."""
    return _pieces(body) if len(body) > SMALL else body or None


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]


def _seen_at(error: BridgeholdError, entry: ProviderEntry) -> str:
    """Where it went wrong, if the provider may have seen the request: what is denied then is a redirect."""
    if isinstance(error, DeniedError):
        return REDIRECT
    return entry.host if error.where == UNREACHED else error.where


def _explain(error: aiohttp.ClientError, entry: ProviderEntry) -> BridgeholdError:
    """What went wrong, in our own words: aiohttp's text may hold the URL, and the URL the key."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _RefusedError):
        reason = error.os_error.reason
        return ProviderError(reason.message, where=UNREACHED) if isinstance(reason, ProviderError) else reason
    if isinstance(error, aiohttp.ClientSSLError):
        why = "its TLS certificate is not trusted"
        with contextlib.suppress(AttributeError):
            why = f"TLS failed: {error.certificate_error.reason}"  # type: ignore[attr-defined]  # not on all
    elif isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error.strerror or type(error.os_error).__name__
    else:
        why = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return ProviderError(f"{entry.name} could not be reached: {why}", where=UNREACHED)
    return ProviderError(f"{entry.name} broke off: {why}", where=entry.host)
