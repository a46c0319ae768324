"""The keeper's process: ``python -m bridgehold.keeper.main --fd-host N --fd-config M``.

It holds keys and talks to providers; it takes decided requests from the host over one socket, and
checks against its own table where each key may go. That table is the supervisor's to tell, at the start and
over a socket of its own (``--fd-supervisor``), and nobody else's. It ends with the host's end of the host's
socket. Cells have channels of their own, which the host hands in at the intake (``--fd-intake``): each is one
tenant's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.encodings import Encodings
from bridgehold.audit.redact import Redactor
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    DeniedError,
    InternalError,
    LimitError,
    ProtocolError,
    SecretError,
)
from bridgehold.hardening import harden, hear_no_more, leave, open_descriptors
from bridgehold.intake import Intake
from bridgehold.keeper import protocol
from bridgehold.keeper.accounts import Accounts
from bridgehold.keeper.approver import Approver
from bridgehold.keeper.bodies import receive_body
from bridgehold.keeper.carrier import Carrier
from bridgehold.keeper.channel import Channel, Stream
from bridgehold.keeper.paced import PacedSocket, Reads
from bridgehold.keeper.places import QUESTIONS, QUESTIONS_EACH, REQUESTS, Places, Turns
from bridgehold.keeper.resolve import Lookup, system_lookup
from bridgehold.keeper.sending import Journal, Sending, Sendings
from bridgehold.keeper.signer import Signer
from bridgehold.keeper.values import KeeperConfig, parse_config, prices_told
from bridgehold.keeper.vault import CachedSecret, Vault
from bridgehold.records.workers import Event
from bridgehold.retold import LONGEST, hear
from bridgehold.tasks import begin_task

_REFERENCES = 200
"""In one answer: each is a few hundred bytes at most."""
_TEXTS_BOUND = 16 * 1024 * 1024
"""Of one question. Of all there are four times as many, each tenant's part kept."""
_NOBODYS = Encodings(b"")
"""Of what the guest brought itself, or of no key at all."""


class Keeper:
    """Serves one host over one socket, and its cells each over another."""

    def __init__(self, config: KeeperConfig, lookup: Lookup = system_lookup) -> None:
        self._config = config
        self._providers = {entry.name: entry for entry in config.providers}
        self._vault = Vault(config, self._providers)
        self._work = Turns()
        self._upstream = Carrier(config, self._providers, lookup, self._work)
        folder = Path(config.secrets.folder)
        self._signer, self._approver = Signer(folder), Approver(folder)
        self._requests = Places(REQUESTS, self._vault.tenants_with)
        self._questions = Places(QUESTIONS, self._vault.tenants_with, each=QUESTIONS_EACH)
        self._texts = Places(4 * _TEXTS_BOUND, self._vault.tenants_with)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: Channel | None = None
        self._cells: set[asyncio.Task[None]] = set()
        accounts = Accounts(prices_told(config))
        self._sendings = Sendings(accounts, config.limits.request_bytes, self._vault.tenants_with)

    async def serve(
        self, sock: socket.socket, intake: socket.socket | None = None, journal: Journal | None = None
    ) -> None:
        """Until the host closes its end, or breaks the protocol (`ProtocolError`).

        `journal`: where cells' requests are written down; without one they have none.
        """
        self._sendings.journal = journal
        self._channel = await Channel.connect(sock, self._opened)
        watching = asyncio.create_task(self._vault.watch())
        if intake is not None:
            Intake(intake, self._enter).open()
        try:
            await self._channel.run()
        finally:
            watching.cancel()
            for task in (*self._tasks, *self._cells):
                task.cancel()
            await asyncio.gather(*self._tasks, *self._cells, watching, return_exceptions=True)
            await self._upstream.close()
            self._vault.close()

    def retake(self, said: bytes) -> None:
        """From now on keys go where the supervisor tells, and nowhere else. Raises `ConfigError`.

        What is under way to a provider that went, or is another one now, ends; sessions' own keys for it do.
        """
        config = parse_config(said)
        told = {entry.name: entry for entry in config.providers}
        gone = {name for name, entry in self._providers.items() if told.get(name) != entry}
        self._providers.clear()
        self._providers.update(told)
        self._vault.drop_providers(gone)
        self._upstream.drop(gone)
        self._sendings.accounts.budgets.spending.prices = prices_told(config)

    def _enter(self, tenant: str, sock: socket.socket) -> None:
        """A channel for a cell of `tenant`, which ends by itself."""
        begin_task(self._serve_cell(tenant, sock), self._cells)

    async def _serve_cell(self, tenant: str, sock: socket.socket) -> None:
        def opened(stream: Stream, payload: bytes) -> None:
            ask = protocol.decode_ask(payload)
            if not (isinstance(ask, protocol.OF_CELL) and ask.tenant == tenant):
                channel.close()
                sys.stderr.write(
                    f"bridgehold keeper: a cell of {tenant[:64]!r} asked for what is not its own\n"
                )
                raise ProtocolError("a cell asked for what is not its own")
            self._begin(stream, ask, cell=True)

        channel = await Channel.connect(PacedSocket.over(sock, Reads()), opened)
        with contextlib.suppress(BridgeholdError):
            await channel.run()

    async def redacted(self, event: Event) -> Event:
        """An event of the keeper's own, without a value of its tenant's in it. Raises `SecretError`."""
        redactor = Redactor(await self._vault.encodings(event.tenant))
        shown = {
            name: redactor.text(value)
            for name in event.__struct_fields__
            if isinstance(value := getattr(event, name), str) and value
        }
        return msgspec.structs.replace(event, **shown)

    def stop(self) -> None:
        """Close the socket: `serve` ends as if the host had."""
        if self._channel is not None:
            self._channel.close()

    def _opened(self, stream: Stream, payload: bytes) -> None:
        self._begin(stream, protocol.decode_ask(payload))

    def _begin(self, stream: Stream, ask: protocol.Ask, *, cell: bool = False) -> None:
        tenant = protocol.tenant_of(ask)
        places = self._requests if isinstance(ask, protocol.UpstreamRequest) else self._questions
        if not places.take(tenant):
            raise BusyError("the tenant has as much at the keeper as it may", hint="Try again in a moment.")
        stream.tenant = tenant
        stream.on_close = lambda: places.give_back(tenant)
        task = begin_task(self._serve_stream(stream, ask, cell=cell), self._tasks)
        # A task that is cancelled before its first step runs no `finally` of its own.
        task.add_done_callback(lambda _: stream.close())
        stream.on_cancel = lambda: _cancel(task, stream)

    async def _serve_stream(self, stream: Stream, ask: protocol.Ask, *, cell: bool) -> None:
        try:
            if isinstance(ask, protocol.UpstreamRequest) and cell:
                await self._of_cell(stream, ask)
            elif isinstance(ask, protocol.UpstreamRequest):
                await self._request(stream, ask, None)
            elif isinstance(ask, protocol.AskRedact):
                await self._redact(stream, ask)
            else:
                if cell and isinstance(ask, protocol.PutSessionSecret):
                    self._sendings.accounts.demand_capture(ask.tenant, ask.session, ask.provider)
                await stream.end(await self._control(ask))
        except BridgeholdError as error:
            await stream.fail(error)
        except Exception as error:  # noqa: BLE001 - a defect ends one stream, and its text may hold a key
            await stream.fail(InternalError(f"the keeper failed: {type(error).__name__}"))

    async def _of_cell(self, stream: Stream, ask: protocol.UpstreamRequest) -> None:
        """What the front's word allows, between two events of our own."""
        with self._sendings.allowed(ask):
            sending = await self._sendings.begin(stream, ask, self._entry)
            try:
                await self._request(stream, ask, sending)
            except BridgeholdError as error:
                sending.code = error.code
                raise
            finally:
                await asyncio.shield(sending.end())

    async def _request(self, stream: Stream, ask: protocol.UpstreamRequest, account: Sending | None) -> None:
        entry = self._entry(ask.provider)
        if ask.how == "pass":
            await self._upstream.load().answer(
                stream, ask, entry, ask.credential.encode("ascii", "replace"), _NOBODYS, account
            )
            return
        if not entry.keyed:
            await self._upstream.load().answer(stream, ask, entry, b"", _NOBODYS, account)
            return
        held = await self._vault.find(ask.tenant, ask.session, entry, ask.secret)
        await self._with_key(stream, ask, entry, held, account)

    async def _redact(self, stream: Stream, ask: protocol.AskRedact) -> None:
        if ask.body_bytes > _TEXTS_BOUND:
            raise LimitError(f"texts to redact have at most {_TEXTS_BOUND} bytes together")
        await self._texts.wait(ask.tenant, ask.body_bytes)
        try:
            body = b"".join([piece async for piece in receive_body(stream, ask.body_bytes)])
            texts = protocol.decode_texts(body)
            redactor = Redactor(await self._vault.encodings(ask.tenant))
            await stream.send(await self._work.work(ask.tenant, _redacted(redactor, texts)))
        finally:
            self._texts.give_back(ask.tenant, ask.body_bytes)
        await stream.end()

    async def _with_key(
        self,
        stream: Stream,
        ask: protocol.UpstreamRequest,
        entry: ProviderEntry,
        held: CachedSecret,
        account: Sending | None,
    ) -> None:
        try:
            with held.use() as key:
                encodings = await held.encodings()
                try:
                    await self._upstream.load().answer(stream, ask, entry, key, encodings, account)
                except BridgeholdError as error:  # its text may say what the provider said
                    error.message, error.hint = map(Redactor([encodings]).text, (error.message, error.hint))
                    raise
        except asyncio.CancelledError:
            if not held.revoked:
                raise
            raise SecretError(
                f"the request was ended: {held.revoked}", hint="A new request uses the new key.", retry="same"
            ) from None

    async def _control(self, ask: protocol.Ask) -> bytes:
        match ask:
            case protocol.Prefetch():
                self._upstream.load()
                if self._entry(ask.provider).keyed:
                    await self._vault.find(ask.tenant, "", self._entry(ask.provider), ask.secret)
            case protocol.PutSessionSecret():
                self._vault.put_session(ask.session, ask.provider, ask.value, ask.tenant)
            case protocol.DropSession():
                self._vault.drop_session(ask.session, ask.tenant)
            case protocol.AllowSession():
                self._sendings.accounts.allow(ask)
            case protocol.EndSession():
                self._sendings.end(ask.tenant, ask.session)
            case protocol.AllowTenant():
                self._sendings.accounts.tell(ask)
            case protocol.AskSign():
                return base64.b64encode(self._signer.sign(ask.text.encode("utf-8", "replace")))
            case protocol.AskPublicKey():
                held = self._signer.held()
                approvals = self._approver.public_key()
                return msgspec.json.encode(protocol.AnchorKey(held.public, held.records, approvals))
            case protocol.AskReveal() | protocol.AskMarks() | protocol.Forget():
                return await self._of_values(ask)
            case protocol.AskMissing() | protocol.AskVersions() | protocol.AskReferences():
                return self._answer_for(ask)
            case _:
                return msgspec.json.encode(self._status())
        return b""

    async def _of_values(self, ask: protocol.AskReveal | protocol.AskMarks | protocol.Forget) -> bytes:
        if isinstance(ask, protocol.Forget):
            return str(await self._vault.forget(ask.tenant)).encode()
        if isinstance(ask, protocol.AskMarks):
            return msgspec.json.encode(await self._vault.marks(ask.tenant))
        return (await self._vault.reveal(ask.tenant, ask.name)).encode("ascii")

    def _answer_for(self, ask: protocol.AskMissing | protocol.AskVersions | protocol.AskReferences) -> bytes:
        if isinstance(ask, protocol.AskReferences):
            return msgspec.json.encode(self._vault.references(ask.first, _REFERENCES))
        if isinstance(ask, protocol.AskMissing):
            return msgspec.json.encode(self._vault.missing(ask.tenant, ask.names))
        return self._vault.versions(ask.tenant).encode("ascii")

    def _entry(self, provider: str) -> ProviderEntry:
        entry = self._providers.get(provider)
        if entry is None:
            raise DeniedError(
                f"the keeper knows no provider {provider[:64]!r}",
                where="provider",
                hint="Add `[providers.NAME]` to config.toml, and `bridgehold reload`.",
            )
        return entry

    def _status(self) -> protocol.KeeperStatus:
        self._vault.refresh()
        references, held, session_secrets, generation = self._vault.counts
        return protocol.KeeperStatus(
            store=self._config.secrets.store,
            providers=tuple(self._providers),
            secrets=references,
            held=held,
            session_secrets=session_secrets,
            streams=len(self._channel) if self._channel is not None else 0,
            generation=generation,
            problem=self._vault.problem,
        )


def _redacted(redactor: Redactor, texts: list[str]) -> Generator[None, None, bytes]:
    found = []
    for text in texts:
        shown = yield from redactor.steps(text)
        found.append(shown)
    return msgspec.json.encode(found)


def _cancel(task: asyncio.Task[None], stream: Stream) -> None:
    """The host counts the stream's place as free from here on."""
    task.cancel()
    stream.release()


def main() -> int:
    """Exit status: 0 after the host's end, 70 after a broken protocol, the error's own otherwise."""
    parser = argparse.ArgumentParser(prog="bridgehold keeper")
    parser.add_argument("--fd-host", type=int, required=True)
    parser.add_argument("--fd-config", type=int, required=True)
    for name in ("intake", "supervisor", "journal"):
        parser.add_argument(f"--fd-{name}", type=int, default=-1)
    args = parser.parse_args()
    os.umask(0o077)
    sys.excepthook = _hook
    try:
        harden(parent=os.getppid())
        open_descriptors()  # each request has a connection
        sys.setswitchinterval(0.001)  # what threads compute keeps no stream waiting for longer
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to pass on
        with os.fdopen(args.fd_config, "rb") as file:
            config = parse_config(file.read(LONGEST))
        intake, supervisor, journal = (
            socket.socket(fileno=number) if number >= 0 else None
            for number in (args.fd_intake, args.fd_supervisor, args.fd_journal)
        )
        asyncio.run(_run(config, socket.socket(fileno=args.fd_host), intake, supervisor, journal))
    except BridgeholdError as error:
        sys.stderr.write(f"bridgehold keeper: {error.code}: {error.message}\n")
        return error.exit_status
    return 0


async def _run(
    config: KeeperConfig,
    sock: socket.socket,
    intake: socket.socket | None,
    supervisor: socket.socket | None,
    journal: socket.socket | None,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_loop_hook)
    keeper = Keeper(config)
    loop.add_signal_handler(signal.SIGTERM, keeper.stop)

    def ready(told: socket.socket) -> None:
        if not hear(told, keeper.retake):
            loop.remove_reader(told)
            told.close()

    if supervisor is not None:
        loop.add_reader(supervisor, ready, supervisor)
    try:
        recorder = await JournalClient.connect(journal) if journal is not None else None
        if recorder is not None:
            recorder.redact = keeper.redacted
        await keeper.serve(sock, intake, recorder)
    finally:
        hear_no_more(signal.SIGTERM)


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Names of exceptions only: their texts and frames may hold a key."""
    sys.stderr.write(f"bridgehold keeper: ended by {kind.__name__}\n")


def _loop_hook(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    sys.stderr.write(f"bridgehold keeper: {type(error).__name__ if error else 'loop error'}\n")


if __name__ == "__main__":
    leave(main())
