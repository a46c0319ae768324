"""The host's end of the keeper: asks, streams, and never sees a key (but those it captured itself)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from bridgehold.errors import BridgeholdError, BusyError, ProtocolError
from bridgehold.keeper.channel import Channel, Stream
from bridgehold.keeper.index import Index, Reference
from bridgehold.keeper.places import QUESTIONS, QUESTIONS_EACH, REQUESTS, Places
from bridgehold.keeper.protocol import (
    DATA,
    END,
    HEAD,
    UNREACHED,
    AllowSession,
    AllowTenant,
    AnchorKey,
    Ask,
    AskMarks,
    AskMissing,
    AskPublicKey,
    AskRedact,
    AskReferences,
    AskReveal,
    AskSign,
    AskStatus,
    AskVersions,
    Done,
    DropSession,
    EndSession,
    Forget,
    KeeperStatus,
    Marks,
    Prefetch,
    PutSessionSecret,
    UpstreamHead,
    UpstreamRequest,
    tenant_of,
)

_Reply = TypeVar("_Reply")


class UpstreamResponse:
    """A provider's answer: head at once, body as it comes. Close it; leaving early cancels upstream."""

    def __init__(self, stream: Stream, head: UpstreamHead, upload: asyncio.Task[None] | None) -> None:
        self.status = head.status
        self.headers = head.headers
        self.done = Done()
        """Filled once the body has ended."""
        self._stream = stream
        self._upload = upload
        self._ended = False

    async def body(self) -> AsyncIterator[bytes]:
        """Chunks as the provider sends them. Raises the typed error if it breaks off."""
        while True:
            frame = await self._stream.receive()
            if frame.kind == END:
                self.done = _decode(frame.payload, Done)
                self._ended = True
                return
            if frame.kind == DATA:
                yield frame.payload

    async def close(self) -> None:
        """Let go of the response; the keeper ends the provider's connection if it was not read to its end."""
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.wait({self._upload})
        if not self._ended and not self._stream.closed:
            await self._stream.cancel()
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class KeeperClient:
    """One per host. Every method raises `HostUnavailableError` when the keeper is gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.tenants_with: Callable[[str], int] = lambda _: 2
        """How many tenants this host has, the named one included."""
        self.keeps_account = False
        """Whether the keeper writes down what goes out over this channel, and charges it: of a cell's."""
        self._requests = Places(REQUESTS, self._count)
        self._questions = Places(QUESTIONS, self._count, each=QUESTIONS_EACH)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, sock: socket.socket) -> KeeperClient:
        """Take over `sock`, a connected stream socket."""
        return cls(await Channel.connect(sock))

    def _count(self, tenant: str) -> int:
        return self.tenants_with(tenant)

    async def _read(self) -> None:
        with contextlib.suppress(ProtocolError):  # every stream was told already
            await self._channel.run()

    async def gone(self) -> None:
        """Returns when the keeper has ended."""
        await asyncio.wait({self._reading})

    async def close(self) -> None:
        """End the channel to the keeper."""
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def request(self, request: UpstreamRequest, body: AsyncIterator[bytes] | bytes) -> UpstreamResponse:
        """Send a decided request. Raises `ProviderError`, `SecretError`, `DeniedError` (an address), and
        `BusyError` where the tenant has as many under way as it may.
        """
        if not self._requests.take(request.tenant):
            raise BusyError(
                f"{self._requests.held_by(request.tenant)} requests of the tenant's are under way",
                hint="Try again in a moment.",
                where=UNREACHED,
            )
        stream = await self._open(request, self._requests)
        upload: asyncio.Task[None] | None = None
        try:
            if isinstance(body, bytes):
                if body:
                    upload = asyncio.create_task(_upload_bytes(stream, body))
                else:
                    await stream.end()
            else:
                upload = asyncio.create_task(_upload(stream, body))
            return UpstreamResponse(stream, await _receive_head(stream), upload)
        except BaseException:
            if upload is not None:
                upload.cancel()
            if not stream.closed:
                await asyncio.shield(stream.cancel())
            stream.close()
            raise

    async def prefetch(self, tenant: str, provider: str, secret: str = "") -> None:
        """Have the secret at hand before the first request. Raises `SecretError` if there is none."""
        await self._ask(Prefetch(tenant=tenant, provider=provider, secret=secret))

    async def put_session_secret(self, session: str, provider: str, value: str, *, tenant: str) -> None:
        """Use `value` for this session's requests to `provider`, until the session is dropped."""
        await self._ask(PutSessionSecret(session=session, provider=provider, value=value, tenant=tenant))

    async def marks(self, tenant: str) -> Marks:
        """How the tenant's values begin. Raises `SecretError` where one of them can't be read."""
        return _decode(await self._ask(AskMarks(tenant=tenant)), Marks)

    async def redact(self, tenant: str, texts: list[str]) -> list[str]:
        """`texts` without the tenant's values, in any plain spelling. Raises `SecretError`, `LimitError`."""
        body = msgspec.json.encode(texts)
        stream = await self._question(AskRedact(tenant=tenant, body_bytes=len(body)))
        upload = asyncio.create_task(_upload_bytes(stream, body))
        said = bytearray()
        ended = False
        try:
            while (frame := await stream.receive()).kind != END:
                said += frame.payload
            ended = True
        finally:
            upload.cancel()
            stream.leave(ended=ended)
        found = _decode(bytes(said), list[str])
        if len(found) != len(texts):
            raise ProtocolError("the keeper answered for other texts")
        return found

    async def drop_session(self, session: str, *, tenant: str) -> None:
        """Wipe the secrets that belong to the tenant's `session` alone. Raises `SecretError`."""
        await self._ask(DropSession(session=session, tenant=tenant))

    async def forget(self, tenant: str) -> int:
        """Every secret of the tenant's is worth nothing from here on, streams that use one included.

        How many there were. Raises `SecretError` where they can't be let go of.
        """
        return int(await self._ask(Forget(tenant=tenant)))

    async def allow_session(self, said: AllowSession) -> None:
        """The cell's session may ask for what its grant says. `LimitError` for one that is too long."""
        await self._ask(said)

    async def end_session(self, tenant: str, session: str) -> None:
        """Nothing more goes out for the session; an empty name means all of the tenant's."""
        await self._ask(EndSession(tenant=tenant, session=session))

    async def allow_tenant(self, said: AllowTenant) -> None:
        """The tenant's ceilings hold for its cell's requests from now on."""
        await self._ask(said)

    async def status(self) -> KeeperStatus:
        """What the keeper holds, counted. Raises `SecretError`, `HostUnavailableError`."""
        return _decode(await self._ask(AskStatus()), KeeperStatus)

    async def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature of an anchor's text, or of the record that an older key was lost;
        anything else is refused, and an anchor that names another key than signs now.
        """
        return base64.b64decode(await self._ask(AskSign(text=data.decode("ascii", "replace"))))

    async def anchor_key(self) -> AnchorKey:
        """The key that signs anchors now, and the records of its changes."""
        return _decode(await self._ask(AskPublicKey()), AnchorKey)

    async def reveal(self, tenant: str, name: str) -> str:
        """The value of a secret that was stored with `allow_env`. Raises `DeniedError` for any other."""
        return (await self._ask(AskReveal(tenant=tenant, name=name))).decode("ascii")

    async def versions(self, tenant: str) -> str:
        """A digest of which secrets the tenant has, and in which version."""
        return (await self._ask(AskVersions(tenant=tenant))).decode("ascii")

    async def references(self) -> list[Reference]:
        """All tenants' secrets by name. Raises `SecretError` where the index can't be read now."""
        found: list[Reference] = []
        generation = -1
        while True:
            part = _decode(await self._ask(AskReferences(first=len(found))), Index)
            if part.generation != generation:  # it has changed between two parts: from the beginning
                again = bool(found)
                found, generation = [], part.generation
                if again:
                    continue
            found += part.secrets
            if not part.secrets:
                return found

    async def missing(self, tenant: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of `names` the tenant has no secret of."""
        said = await self._ask(AskMissing(tenant=tenant, names=names))
        return msgspec.json.decode(said, type=tuple[str, ...])

    async def _question(self, ask: Ask) -> Stream:
        await self._questions.wait(tenant_of(ask))
        return await self._open(ask, self._questions)

    async def _open(self, ask: Ask, places: Places) -> Stream:
        """A stream that gives back its place as soon as it is closed."""
        tenant = tenant_of(ask)
        try:
            stream = await self._channel.open(msgspec.json.encode(ask), tenant)
        except BaseException:
            places.give_back(tenant)
            raise
        stream.on_close = lambda: places.give_back(tenant)
        return stream

    async def _ask(self, ask: Ask) -> bytes:
        stream = await self._question(ask)
        try:
            frame = await stream.receive()
            if frame.kind != END:
                raise ProtocolError("the keeper's reply has the wrong form")
            return frame.payload
        finally:
            stream.close()


async def _receive_head(stream: Stream) -> UpstreamHead:
    frame = await stream.receive()
    if frame.kind != HEAD:
        raise ProtocolError("the keeper answered without a head")
    return _decode(frame.payload, UpstreamHead)


async def _upload_bytes(stream: Stream, body: bytes) -> None:
    with contextlib.suppress(BridgeholdError):  # whoever receives learns the reason
        await stream.send(body)
        await stream.end()


async def _upload(stream: Stream, body: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(BridgeholdError):
        async for chunk in body:
            await stream.send(chunk)
        await stream.end()


def _decode(payload: bytes, kind: type[_Reply]) -> _Reply:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError("the keeper's reply can't be read") from error
