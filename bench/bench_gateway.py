"""What the gateway and the keeper add to a provider call, against the same call without them.

Gateway, keeper process and simulator are the real ones, on loopback; both ways are measured in turn
in one run. The simulator answers at once, so what is left is the way there and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from common import Row, median, percentile, row, show

from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.client import JournalClient
from bridgehold.config.load import Config
from bridgehold.config.providers import ProviderEntry
from bridgehold.config.sections import ProviderSection
from bridgehold.host.cell.gateway.gateway import Gateway
from bridgehold.host.cell.gateway.opener import provider_facts
from bridgehold.host.cell.gateway.values import Attribution, SessionFacts
from bridgehold.host.cell.store.artifacts import ArtifactStore, SerialChanges
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.shares.buffers import Buffers
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.places import Places
from bridgehold.keeper.values import KeeperConfig, StoreConfig
from bridgehold.policies.model import (
    GIB,
    MIB,
    Endpoint,
    Grant,
    Limits,
    Machine,
    Rate,
    Rules,
    SandboxRules,
    SecretGrant,
)

COUNT = 300
PLACEHOLDER = "sk-bh-bench-0000000000000000"
KEY = "sk-bench-0123456789abcdefghij"


def grant() -> Grant:
    return Grant(
        tenant="local",
        bridge="bench",
        bridge_version="1",
        policy="bench",
        limits=Limits(),
        endpoints=(Endpoint(provider="openai", paths=("/chat/completions",)),),
        connects=(),
        secrets=(SecretGrant(name="openai", provider="openai"),),
        operations=Rules(),
        tools=Rules(),
        resources=Rules(),
        read=(),
        rate=Rate(provider_requests_per_minute=6_000_000),
        inline_keys="capture",
        sandbox=SandboxRules(),
        weakenings=(),
        machine=Machine(cgroup="v2", uids="range", memory_bytes=GIB, cpus=2),
        sources={},
    )


@contextlib.asynccontextmanager
async def process(module: str, option: str, config: msgspec.Struct) -> AsyncIterator[socket.socket]:
    """One of our processes, as the supervisor starts it; our end of its socket."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(config))
        file.flush()
        file.seek(0)
        argv = [sys.executable, "-P", "-m", module, f"--fd-{option}", str(theirs.fileno())]
        child = subprocess.Popen(
            [*argv, "--fd-config", str(file.fileno())], pass_fds=(theirs.fileno(), file.fileno())
        )
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.terminate()
        child.wait()


@contextlib.asynccontextmanager
async def simulator(key_file: Path) -> AsyncIterator[str]:
    """The provider in a process of its own; its base URL. Streams send an event every 5 ms."""
    argv = [sys.executable, "-P", "-m", "bridgehold.bridges.kit", "--key-file", str(key_file)]
    child = subprocess.Popen([*argv, "--chunk-ms", "5"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield (await asyncio.to_thread(child.stdout.readline)).strip()
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


class Caller:
    """A keep-alive client: a raw socket, so that it adds the same little to both ways."""

    def __init__(self, port: int, path: str, key: str) -> None:
        self._port, self._path, self._key = port, path, key

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)

    def _send(self, body: dict[str, object]) -> None:
        payload = json.dumps(body).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Authorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self._writer.write(head.encode() + payload)

    async def call(self, body: dict[str, object]) -> float:
        """Milliseconds of a whole call."""
        start = time.perf_counter()
        self._send(body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head, head
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return (time.perf_counter() - start) * 1000

    async def first_token(self, body: dict[str, object]) -> tuple[float, float]:
        """Milliseconds to the first event, and to the end."""
        start = time.perf_counter()
        self._send({**body, "stream": True})
        await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readuntil(b"data:")
        first = (time.perf_counter() - start) * 1000
        await self._reader.readuntil(b"0\r\n\r\n")
        return first, (time.perf_counter() - start) * 1000


async def measure(folder: Path) -> list[Row]:
    (folder / "local.openai").write_text(KEY)
    (folder / "audit").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(simulator(folder / "local.openai"))
        entry = ProviderEntry(name="openai", base_url=base_url, private=True)
        store = StoreConfig(folder=str(folder), store="systemd", credentials_directory=str(folder))
        keeper_config = KeeperConfig(secrets=store, providers=(entry,))
        keeper_socket = await stack.enter_async_context(
            process("bridgehold.keeper.main", "host", keeper_config)
        )
        journal_config = JournalConfig(folder=str(folder / "audit"))
        journal_socket = await stack.enter_async_context(
            process("bridgehold.audit.journal", "host", journal_config)
        )
        journal = await JournalClient.connect(journal_socket)
        config = Config(providers={"openai": ProviderSection(base_url=base_url, private=True)})
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        gateway = Gateway(
            listener,
            grant(),
            SessionFacts(tenant="local", session="s-bench", placeholders={"openai": PLACEHOLDER}),
            keeper=await KeeperClient.connect(keeper_socket),
            events=SessionEvents(journal, "local", "s-bench", per_second=1_000_000, on_degraded=print),
            budgets=Budgets(),
            buffers=Buffers(256 * MIB),
            providers=provider_facts(config),
            downloads=Downloads(ArtifactStore(folder, GIB), SerialChanges(), folder, journal),
            attribution=lambda: Attribution(command="c-bench"),
            descriptors=Places(1_000, lambda _: 2),
        )
        gateway.start()
        direct = Caller(urlsplit(base_url).port or 0, "/v1/chat/completions", KEY)
        through = Caller(port, "/openai/chat/completions", PLACEHOLDER)
        rows = await compare(direct, through)
        rows.insert(1, await syncs(folder))
        await gateway.close()
        await journal.close()
    return rows


async def compare(direct: Caller, through: Caller) -> list[Row]:
    body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "hello " * 50}]}
    for caller in (direct, through):
        await caller.open()
        for _ in range(20):
            await caller.call(body)
    plain, added = [], []
    for _ in range(COUNT):
        plain.append(await direct.call(body))
        added.append(await through.call(body))
        await asyncio.sleep(0.011)  # below the session's bucket of requests: what is measured is the way
    firsts = [(await direct.first_token(body), await through.first_token(body)) for _ in range(30)]
    base, held = median(plain), median(added)
    first_direct = median([pair[0][0] for pair in firsts])
    first_through = median([pair[1][0] for pair in firsts])
    whole = median([pair[1][1] for pair in firsts])
    return [
        row("gateway: added to a provider call, p50", held - base, "ms", most=2.0),
        row("provider call through gateway and keeper, p50", held, "ms", baseline=base),
        row(
            "provider call through gateway and keeper, p99",
            percentile(added, 0.99),
            "ms",
            baseline=percentile(plain, 0.99),
        ),
        row("first streamed token through gateway, p50", first_through, "ms", baseline=first_direct),
        row("first streamed token as a part of the whole stream", first_through / whole * 100, "%", most=50),
    ]


async def syncs(folder: Path) -> Row:
    """One durable write belongs to every call: what the disk alone takes for it."""

    def one() -> float:
        start = time.perf_counter()
        with (folder / "sync").open("ab") as file:
            file.write(b"x" * 600)
            file.flush()
            os.fdatasync(file.fileno())
        return (time.perf_counter() - start) * 1000

    return row("of it: one append and fdatasync on this disk", median([one() for _ in range(100)]), "ms")


def main() -> None:
    place = Path("build")  # on the project's own disk, and never a part of it
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bh-bench-", dir=place) as folder:
        show(asyncio.run(measure(Path(folder))))


if __name__ == "__main__":
    main()
