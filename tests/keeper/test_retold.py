"""Where keys go is the supervisor's to tell, which reads it itself: a host that lies binds no key elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from gateway_support import credentials

from bridgehold.bridges.kit.behaviour import Behaviour
from bridgehold.bridges.kit.provider import Provider, fingerprint
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.config.settings import digest_of_told
from bridgehold.errors import BridgeholdError
from bridgehold.host.startup import GO, REREAD
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.keeper import protocol
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.values import keeper_config
from bridgehold.retold import Teller, hear
from bridgehold.supervisor.handover import OriginalMounts, Replacing
from bridgehold.supervisor.rereading import Rereading
from waiting import eventually

pytestmark = pytest.mark.hostile
KEY = "sk-real-acme-0123456789abcdef"
SECTION = '[providers.{}]\nbase_url = "{}"\nprivate = true\n'


class Supervised:
    """A real keeper, its supervisor's part in this process, and the test in the place of their host."""

    def __init__(self, layout: Layout, keeper: KeeperClient, host: socket.socket) -> None:
        self.layout = layout
        self.keeper = keeper
        self.link = SupervisorLink(host)
        self.host = host

    def write(self, *sections: str) -> None:
        self.layout.config_file.write_text("".join(sections))

    async def reread(self) -> None:
        assert await self.link.reread() == digest_of_told(load_config(self.layout.config_file))

    async def known(self) -> set[str]:
        return set((await self.keeper.status()).providers) - {"openai", "anthropic", "gemini"}

    async def key_at(self, provider: Provider, name: str, session: str = "s-1") -> str:
        """With which key `provider` was reached under `name`."""
        before = len(provider.log)
        asked = protocol.UpstreamRequest(
            tenant="acme", session=session, provider=name, method="GET", path="/models"
        )
        async with await self.keeper.request(asked, b"") as response:
            async for _ in response.body():
                pass
        assert len(provider.log) == before + 1
        return provider.log[-1].key_fingerprint


@contextlib.asynccontextmanager
async def supervised(folder: Path) -> AsyncIterator[Supervised]:
    layout = Layout(config=folder, state=folder / "state", run=folder / "run")
    layout.config_file.write_text("")
    credentials(folder / "c")
    for name in ("fresh", "elsewhere"):
        (folder / "c" / f"acme.{name}").write_text(KEY)
    layout.config_file.write_text('[secrets]\nstore = "systemd"\n')
    config = keeper_config(layout, load_config(layout.config_file), credentials_directory=str(folder / "c"))
    ours, theirs = socket.socketpair()
    teller, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher, launcher_told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host.setblocking(False)
    read, write = os.pipe()
    os.write(write, msgspec.json.encode(config))
    os.close(write)
    argv = [sys.executable, "-P", "-m", "bridgehold.keeper.main", "--fd-host", str(theirs.fileno())]
    argv += ["--fd-config", str(read), "--fd-supervisor", str(told.fileno())]
    process = subprocess.Popen(argv, pass_fds=(theirs.fileno(), read, told.fileno()))
    os.close(read)
    theirs.close()
    told.close()
    rereading = Rereading(layout, Teller("keeper", teller), Teller("launcher", launcher))
    replacing = Replacing(
        channel, (), OriginalMounts(), ready=None, leave=lambda: None,
        write=lambda _: GO, reread=rereading.answer,
    )  # fmt: skip
    ending = asyncio.Event()

    def supervise() -> None:
        poller = select.poll()
        replacing.watch(poller)
        while not ending.is_set():
            for descriptor, _ in poller.poll(20):
                replacing.takes(descriptor, poller)

    def launch() -> None:
        while hear(launcher_told, lambda _: None) and not ending.is_set():
            select.select([launcher_told], [], [], 0.02)

    threads = [asyncio.create_task(asyncio.to_thread(one)) for one in (supervise, launch)]
    keeper = await KeeperClient.connect(ours)
    try:
        yield Supervised(layout, keeper, host)
    finally:
        ending.set()
        await asyncio.wait(threads)
        await keeper.close()
        ours.close()
        replacing.close()
        rereading.close()
        host.close()
        launcher_told.close()
        assert process.wait(30) == 0


def test_a_host_that_lies_adds_no_provider(tmp_path: Path) -> None:
    """It has both its channels, and says on them whatever there is to say."""

    async def act() -> None:
        async with Provider.open(key=KEY) as evil, supervised(tmp_path) as there:
            entry = {"name": "elsewhere", "base_url": evil.base_url, "private": True}
            table = msgspec.json.encode(
                {"secrets": {"folder": "/"}, "providers": [entry], "read_roots": ["/"]}
            )
            for said in (table, SECTION.format("elsewhere", evil.base_url).encode(), b"", b"/etc/evil.toml"):
                answer = (await there.link._ask(REREAD, said, 30)).removeprefix(GO + b" ").decode()
                assert answer == digest_of_told(load_config(there.layout.config_file))
            with open(there.layout.config / "evil.toml", "wb") as file:
                file.write(SECTION.format("elsewhere", evil.base_url).encode())
                file.flush()
                socket.send_fds(there.host, [REREAD + b" 77 "], [file.fileno()])
            await there.reread()  # so that this one has been heard
            assert await there.known() == set()
            put = protocol.PutSessionSecret(session="s-1", provider="elsewhere", value=KEY, tenant="acme")
            for ask in (put, protocol.Prefetch(tenant="acme", provider="elsewhere")):
                with pytest.raises(BridgeholdError):
                    await there.keeper._ask(ask)
            with pytest.raises(BridgeholdError, match="knows no provider 'elsewhere'"):
                await there.key_at(evil, "elsewhere")
            assert not evil.log

    asyncio.run(act())


def test_what_stood_for_another_place_ends_with_it(tmp_path: Path) -> None:
    """Keys of sessions, connections, and what is under way; another provider's go on."""

    async def act() -> None:
        slow = Behaviour(latency_ms=60_000)
        async with (
            Provider.open(key=KEY) as first,
            Provider.open(key=KEY) as second,
            Provider.open(key=KEY) as other,
            supervised(tmp_path) as there,
        ):
            head = there.layout.config_file.read_text()
            there.write(
                head, SECTION.format("fresh", first.base_url), SECTION.format("elsewhere", other.base_url)
            )
            await there.reread()
            assert await there.known() == {"fresh", "elsewhere"}
            assert await there.key_at(first, "fresh") == fingerprint(KEY)
            await there.keeper.put_session_secret(
                "s-own", "fresh", "sk-of-a-session-0123456789", tenant="acme"
            )
            assert await there.key_at(first, "fresh", "s-own") == fingerprint("sk-of-a-session-0123456789")
            first.behave(slow)
            under_way = asyncio.ensure_future(there.key_at(first, "fresh"))
            beside = asyncio.ensure_future(there.key_at(other, "elsewhere"))
            await eventually(lambda: len(first.log) == 3)
            there.write(
                head, SECTION.format("fresh", second.base_url), SECTION.format("elsewhere", other.base_url)
            )
            await there.reread()
            with pytest.raises(BridgeholdError) as caught:
                await asyncio.wait_for(under_way, 30)
            assert caught.value.code == "provider"
            assert await beside == fingerprint(KEY)
            assert await there.key_at(second, "fresh", "s-own") == fingerprint(KEY), "the tenant's own"
            there.write(head, "[providers.fresh]\n")
            with pytest.raises(BridgeholdError) as caught:
                await there.link.reread()
            assert caught.value.code == "config"
            assert await there.key_at(second, "fresh") == fingerprint(KEY), "a fault changes nothing"
            there.layout.config_file.unlink()
            with pytest.raises(BridgeholdError):
                await there.link.reread()
            there.write(head)
            await there.reread()
            with pytest.raises(BridgeholdError, match="knows no provider 'fresh'"):
                await there.key_at(second, "fresh")

    asyncio.run(act())


def test_a_process_that_is_silent_or_late_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    teller = Teller("keeper", ours)
    monkeypatch.setattr("bridgehold.retold.SECONDS", 0.2)
    with pytest.raises(BridgeholdError, match="the keeper does not answer"):
        teller.tell(b"{}")
    theirs.send(b"1 late")
    theirs.send(b"2 ")
    teller.tell(b"{}")
    theirs.close()
    with pytest.raises(BridgeholdError, match="the keeper does not answer"):
        teller.tell(b"{}")
    teller.close()
