"""A gateway on a real listener, a real keeper process, a provider that plays the paid API; the guest
is a raw socket. Only the journal is a list here, so that tests can look at what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bridgehold.audit.events import Event, Receipt
from bridgehold.bridges.kit.provider import Provider
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import AuditError
from bridgehold.host.cell.gateway.gateway import Gateway
from bridgehold.host.cell.gateway.values import Attribution, GatewayLimits, ProviderFacts, SessionFacts
from bridgehold.host.cell.store.artifacts import ArtifactStore, SerialChanges
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.shares.buffers import Buffers
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.main import Keeper
from bridgehold.keeper.places import Places
from bridgehold.keeper.resolve import Lookup, system_lookup
from bridgehold.keeper.values import KeeperConfig, StoreConfig
from bridgehold.policies.model import (
    GIB,
    Connect,
    Endpoint,
    Grant,
    Limits,
    Machine,
    Rate,
    Rules,
    SandboxRules,
    SecretGrant,
    Source,
)

KEYS = {
    "acme": "sk-real-acme-0123456789abcdefghijklmnop/+",
    "umbra": "sk-real-umbra-zyxwvutsrqponmlkjihgfedcba",
}
PLACEHOLDER = "sk-bh-acme-openai-0000000000000000"
OTHER_PLACEHOLDER = "sk-bh-acme-other-1111111111111111"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
PATHS = ("/chat/completions", "/responses", "/embeddings", "/v1/chat/completions")


def make_grant(tenant: str = "acme", **changes: Any) -> Grant:
    given: dict[str, Any] = {
        "tenant": tenant,
        "bridge": "dspy",
        "bridge_version": "1",
        "policy": "dspy",
        "limits": Limits(),
        "endpoints": (Endpoint(provider="openai", paths=PATHS), Endpoint(provider="other", paths=PATHS)),
        "connects": (),
        "secrets": (
            SecretGrant(name="openai", provider="openai"),
            SecretGrant(name="other", provider="other"),
        ),
        "operations": Rules(),
        "tools": Rules(),
        "resources": Rules(),
        "read": (),
        "rate": Rate(),
        "inline_keys": "capture",
        "sandbox": SandboxRules(),
        "weakenings": (),
        "machine": Machine(cgroup="v2", uids="range", memory_bytes=GIB, cpus=2),
        "sources": {"network": Source("dspy.toml", 7)},
    }
    return Grant(**{**given, **changes})


class Recorder:
    """An audit in memory, with receipts; `failing` refuses every write."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.durable: list[bool] = []
        self.failing = False

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        if self.failing:
            raise AuditError("the disk is full")
        self.events.append(event)
        self.durable.append(durable)
        return Receipt(ref=f"i-test.{len(self.events)}", seq=len(self.events), hash="0" * 64)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


@dataclass
class Stand:
    """Everything of one test. `keeper` and `audit` are shared by all gateways opened on it."""

    provider: Provider
    keeper: KeeperClient
    providers: dict[str, ProviderFacts]
    downloads: Downloads
    audit: Recorder = field(default_factory=Recorder)
    budgets: Budgets = field(default_factory=Budgets)
    buffers: Buffers = field(default_factory=lambda: Buffers(256 * 1024 * 1024, patience_s=2))
    descriptors: Places = field(default_factory=lambda: Places(1_000, lambda _: 2))
    command: str = "c-0000000000000001"
    port: int = 0
    gateways: list[Gateway] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)

    async def open(
        self,
        grant: Grant | None = None,
        *,
        session: str = "s-acme",
        placeholders: dict[str, str] | None = None,
        limits: GatewayLimits | None = None,
        lookup: Lookup = system_lookup,
    ) -> int:
        """Open a gateway; its port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        grant = grant or make_grant()
        own = {"openai": PLACEHOLDER, "other": OTHER_PLACEHOLDER} if placeholders is None else placeholders
        events = SessionEvents(
            self.audit,
            grant.tenant,
            session,
            per_second=grant.rate.audit_events_per_second,
            on_degraded=self.degraded.append,
        )
        gateway = Gateway(
            listener,
            grant,
            SessionFacts(tenant=grant.tenant, session=session, placeholders=own),
            keeper=self.keeper,
            events=events,
            budgets=self.budgets,
            buffers=self.buffers,
            providers=self.providers,
            downloads=self.downloads,
            attribution=lambda: Attribution(self.command, "tester"),
            descriptors=self.descriptors,
            limits=limits,
            lookup=lookup,
        )
        gateway.start()
        self.gateways.append(gateway)
        self.port = int(listener.getsockname()[1])
        return self.port

    async def raw(self, data: bytes, *, port: int = 0, timeout: float = 20) -> bytes:
        """Send bytes, then read to the end of the stream."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), timeout)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def ask(
        self,
        path: str = "/openai/chat/completions",
        body: object = CHAT,
        *,
        key: str | None = PLACEHOLDER,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        port: int = 0,
    ) -> Reply:
        """One well-formed request on a connection of its own."""
        port = port or self.port
        payload = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        lines += [f"Authorization: Bearer {key}"] if key is not None else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        return parse(await self.raw("\r\n".join([*lines, "", ""]).encode() + payload, port=port))

    def everything(self) -> bytes:
        """What was written anywhere, to look for keys in."""
        return msgspec.json.encode(self.audit.events)


def parse(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunk(body)
    return Reply(int(first.split()[1]) if first else 0, headers, body)


def _dechunk(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        found, data = found + rest[:length], rest[length + 2 :]
    return found


@contextlib.asynccontextmanager
async def keeper_process(config: KeeperConfig) -> AsyncIterator[tuple[KeeperClient, subprocess.Popen[bytes]]]:
    """The real process, as the supervisor starts it."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    os.write(write, msgspec.json.encode(config))
    os.close(write)
    argv = [sys.executable, "-P", "-m", "bridgehold.keeper.main"]
    argv += ["--fd-host", str(theirs.fileno()), "--fd-config", str(read)]
    process = subprocess.Popen(argv, pass_fds=(theirs.fileno(), read), stderr=subprocess.PIPE)
    theirs.close()
    os.close(read)
    client = await KeeperClient.connect(ours)
    try:
        yield client, process
    finally:
        await client.close()
        ours.close()
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()


@contextlib.asynccontextmanager
async def keeper_inside(config: KeeperConfig, lookup: Lookup) -> AsyncIterator[KeeperClient]:
    """The keeper in this process, with names resolved by `lookup`."""
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(Keeper(config, lookup).serve(theirs))
    client = await KeeperClient.connect(ours)
    try:
        yield client
    finally:
        await client.close()
        ours.close()
        await asyncio.wait({serving})


def credentials(folder: Path) -> StoreConfig:
    """A systemd credentials folder that holds both tenants' keys, for ``openai`` and ``other``."""
    folder.mkdir(exist_ok=True)
    for tenant, key in KEYS.items():
        for name in ("openai", "other"):
            (folder / f"{tenant}.{name}").write_text(key)
    return StoreConfig(folder=str(folder), store="systemd", credentials_directory=str(folder))


@contextlib.asynccontextmanager
async def stand(tmp_path: Path, *, lookup: Lookup | None = None, **entry: Any) -> AsyncIterator[Stand]:
    """A provider with acme's key behind a keeper; with `lookup`, the keeper runs in this process."""
    async with Provider.open(key=KEYS["acme"]) as provider:
        given: dict[str, Any] = {"base_url": provider.base_url, "private": True, **entry}
        entries = tuple(ProviderEntry(name=name, **given) for name in ("openai", "other"))
        config = KeeperConfig(secrets=credentials(tmp_path / "credentials"), providers=entries)
        facts = {
            e.name: ProviderFacts(
                name=e.name, host=e.host, port=provider.port, base_url=e.base_url, version="v1"
            )
            for e in entries
        }
        async with contextlib.AsyncExitStack() as stack:
            if lookup is None:
                keeper, _ = await stack.enter_async_context(keeper_process(config))
            else:
                keeper = await stack.enter_async_context(keeper_inside(config, lookup))
            audit = Recorder()
            downloads = make_downloads(tmp_path / "artifacts", audit)
            made = Stand(provider=provider, keeper=keeper, providers=facts, downloads=downloads, audit=audit)
            try:
                yield made
            finally:
                for gateway in made.gateways:
                    await gateway.close()


def on_stand(
    tmp_path: Path, test: Callable[[Stand], Awaitable[None]], grant: Grant | None = None, **options: Any
) -> None:
    """Run `test` on a stand with one open gateway; no key may stand in any event afterwards.

    `process=True` starts the real keeper process; otherwise the same keeper runs in this one, over
    the same socket.
    """
    limits = options.pop("limits", None)
    if not options.pop("process", False):
        options.setdefault("lookup", system_lookup)
    outward = options.pop("outward", system_lookup)

    async def run() -> None:
        async with stand(tmp_path, **options) as made:
            await made.open(grant, limits=limits, lookup=outward)
            await test(made)
            for gateway in made.gateways:
                await gateway.close()
            written = made.everything()
            for key in KEYS.values():
                assert key.encode() not in written
            assert PLACEHOLDER.encode() not in written

    asyncio.run(run())


def make_downloads(folder: Path, audit: Recorder, quota: int = 1 << 30) -> Downloads:
    return Downloads(ArtifactStore(folder, quota), SerialChanges(), folder, audit)


def connects(*hosts: tuple[str, int, bool]) -> tuple[Connect, ...]:
    return tuple(Connect(host=host, port=port, private=private) for host, port, private in hosts)
