"""A cell's channel to the keeper: its tenant's keys, as the host handed it in, and nothing of anybody else's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_support import Recorder, credentials, make_grant

from bridgehold.bridges.kit.behaviour import Behaviour
from bridgehold.bridges.kit.provider import Provider, fingerprint
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    DeniedError,
    HostUnavailableError,
    SecretError,
)
from bridgehold.intake import hand_in
from bridgehold.keeper import protocol
from bridgehold.keeper.accounts import allowed_part
from bridgehold.keeper.bodies import Bodies
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.main import Keeper
from bridgehold.keeper.places import QUESTIONS_EACH
from bridgehold.keeper.spending import Prices, Spending
from bridgehold.keeper.values import KeeperConfig
from bridgehold.policies.model import Ceilings, Endpoint
from bridgehold.policies.tenants import Tenant
from bridgehold.records.sendings import EgressEnded, EgressSent
from waiting import eventually

pytestmark = pytest.mark.hostile

ACME, UMBRA = "sk-real-acme-0123456789abcdef", "sk-real-umbra-0123456789abcdef"


class House:
    """A keeper with a host's client, and an intake for cells."""

    def __init__(
        self,
        host: KeeperClient,
        intake: socket.socket,
        provider: Provider,
        recorder: Recorder,
        spending: Spending,
        keeper: Keeper,
    ) -> None:
        self.keeper = keeper
        self.recorder = recorder
        self.spending = spending
        self.host = host
        self.intake = intake
        self.provider = provider

    async def cell(self, tenant: str) -> KeeperClient:
        ours, theirs = socket.socketpair()
        await hand_in(self.intake, tenant, theirs)
        return await KeeperClient.connect(ours)


@contextlib.asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    async with Provider.open() as provider:
        store = credentials(folder / "c")
        for tenant, key in (("acme", ACME), ("umbra", UMBRA)):
            (folder / "c" / f"{tenant}.openai").write_text(key)
        entry = ProviderEntry(name="openai", base_url=provider.base_url, private=True)
        ours, theirs = socket.socketpair()
        intake, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        recorder = Recorder()
        keeper = Keeper(KeeperConfig(secrets=store, providers=(entry,)))
        serving = asyncio.create_task(keeper.serve(theirs, inner, recorder))
        host = await KeeperClient.connect(ours)
        for tenant in ("acme", "umbra"):
            await host.allow_tenant(protocol.AllowTenant(tenant=tenant, rules=Tenant(name=tenant)))
            await host.allow_session(allowed(tenant))
        try:
            yield House(host, intake, provider, recorder, keeper._sendings.accounts.budgets.spending, keeper)
        finally:
            await host.close()
            intake.close()
            with contextlib.suppress(BridgeholdError):
                await asyncio.wait_for(serving, 30)


def allowed(tenant: str, session: str = "s-1", **changes: Any) -> protocol.AllowSession:
    """The front's word: the session may read the provider's models."""
    endpoint = Endpoint(
        provider="openai", methods=("GET", "POST"), paths=("/models", "/chat/completions"), fields=("*",)
    )
    given = {"endpoints": (endpoint,), **changes}
    return protocol.AllowSession(
        tenant=tenant, session=session, grant=allowed_part(make_grant(tenant, **given))
    )


def request(tenant: str, **changes: Any) -> protocol.UpstreamRequest:
    given = {
        "tenant": tenant,
        "session": "s-1",
        "provider": "openai",
        "method": "GET",
        "path": "/models",
        "secret": "openai",
    }
    return protocol.UpstreamRequest(**{**given, **changes})


async def key_of(client: KeeperClient, tenant: str, provider: Provider) -> str:
    async with await client.request(request(tenant), b"") as response:
        async for _ in response.body():
            pass
    return provider.log[-1].key_fingerprint


ANOTHERS: dict[str, protocol.Ask] = {
    "a request": request("umbra"),
    "a key of a session": protocol.PutSessionSecret(
        session="s-9", provider="openai", value="sk-planted-0123456789", tenant="umbra"
    ),
    "the end of its sessions' keys": protocol.DropSession(session="s-1", tenant="umbra"),
    "marks": protocol.AskMarks(tenant="umbra"),
    "texts": protocol.AskRedact(tenant="umbra", body_bytes=2),
    "versions": protocol.AskVersions(tenant="umbra"),
    "a key at hand": protocol.Prefetch(tenant="umbra", provider="openai"),
    "its own key revealed": protocol.AskReveal(tenant="acme", name="openai"),
    "its own end": protocol.Forget(tenant="acme"),
    "a session of its own order": protocol.AllowSession(
        tenant="acme", session="s-2", grant=make_grant("acme")
    ),
    "a session's end": protocol.EndSession(tenant="acme", session="s-1"),
    "ceilings of its own": protocol.AllowTenant(tenant="acme", rules=Tenant(name="acme")),
    "a signature": protocol.AskSign(text="anchor"),
    "the public key": protocol.AskPublicKey(),
    "all names": protocol.AskReferences(),
    "which are missing": protocol.AskMissing(tenant="acme", names=("openai",)),
    "how the keeper is": protocol.AskStatus(),
}


def test_every_ask_is_a_cells_own_or_among_what_ends_it() -> None:
    asks = {type(ask) for ask in ANOTHERS.values()}
    assert asks == {getattr(protocol, kind.__name__) for kind in protocol.Ask.__args__}


@pytest.mark.parametrize("ask", ANOTHERS.values(), ids=ANOTHERS)
def test_what_is_not_its_own_ends_a_cells_channel_and_no_other(tmp_path: Path, ask: protocol.Ask) -> None:
    async def act() -> None:
        async with house(tmp_path) as at:
            hostile, victim = await at.cell("acme"), await at.cell("umbra")
            await victim.put_session_secret("s-1", "openai", "sk-umbras-own-0123456789", tenant="umbra")
            with pytest.raises(BridgeholdError):
                await hostile._ask(ask)
            await asyncio.wait_for(hostile.gone(), 30)
            with pytest.raises(HostUnavailableError):
                await key_of(hostile, "acme", at.provider)
            assert await key_of(victim, "umbra", at.provider) == fingerprint("sk-umbras-own-0123456789")
            assert await key_of(at.host, "acme", at.provider) == fingerprint(ACME)
            assert (await at.host.status()).session_secrets == 1

    asyncio.run(act())


def test_a_cell_that_asks_all_that_it_may_at_once_doesnt_keep_the_fronts_word_away(tmp_path: Path) -> None:
    """Texts that never come hold every place of its tenant's: the end of a session is heard all the same."""

    async def act() -> None:
        async with house(tmp_path) as at:
            ours, theirs = socket.socketpair()
            await hand_in(at.intake, "acme", theirs)
            asked = msgspec.json.encode(protocol.AskRedact(tenant="acme", body_bytes=2))
            for stream in range(1, 2 * QUESTIONS_EACH, 2):
                ours.sendall(protocol.HEADER.pack(len(asked), protocol.OPEN, stream) + asked)
            other = await at.cell("acme")
            while True:  # until they are all there
                try:
                    await other.versions("acme")
                except BusyError:
                    break
            await at.host.end_session("acme", "s-1")
            with pytest.raises(DeniedError):
                await other.request(request("acme"), b"")
            assert not at.provider.log
            ours.close()
            await other.close()

    asyncio.run(asyncio.wait_for(act(), 60))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o-mini","messages":[],"model":"gpt-9-dear"}',
        b'{"messages":[],"tools":[{"type":"web_search"}],"tools":[],"model":"gpt-4o-mini"}',
        b'{"model":"gpt-4o-mini","messages":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
def test_what_two_readers_may_read_in_two_ways_is_not_sent_for_a_cell(tmp_path: Path, body: bytes) -> None:
    """Its honest gateway encodes anew what it decided on; one that was taken over sends what it likes."""

    async def act() -> None:
        async with house(tmp_path) as found:
            cell = await found.cell("acme")
            before = len(found.provider.log)
            ask = request("acme", method="POST", path="/chat/completions", body_bytes=len(body))
            with pytest.raises(DeniedError, match="JSON"):
                async with await cell.request(ask, body):
                    pass
            assert len(found.provider.log) == before
            await cell.close()

    asyncio.run(act())


LONG = b'"%s"' % (b"x" * (300 * 1024))
MANY = b"[%s]" % b",".join([b"[]"] * 6_000)
PADDED: dict[str, tuple[bytes, dict[str, object], str]] = {
    "another path": (LONG, {"path": "/files"}, "default-deny"),
    "another provider": (LONG, {"provider": "other"}, "provider"),
    "another key": (LONG, {"secret": "other"}, "secrets"),
    "another method": (LONG, {"method": "DELETE"}, ""),
    "a query": (LONG, {"query": (("store", "true"),)}, "content"),
    "a tool of the provider's": (b'{"model":"gpt-4o-mini","messages":[],"tools":[{"type":"web_search"}],"user":%s}' % LONG, {}, "content"),
    "behind many values": (b'{"logit_bias":{"a":%s},"model":"gpt-4o-mini","messages":[],"tools":[{"type":"web_search"}]}' % MANY, {}, "content"),
    "no JSON": (LONG[:-1], {}, "content"),
    "more than a tenant's whole budget": (b'{"model":"gpt-4o-mini","messages":[],"user":%s}' % LONG, {"tokens": 0}, ""),
}  # fmt: skip


def test_a_long_body_is_looked_into_as_a_short_one(tmp_path: Path) -> None:
    """A cell that was taken over pads what isn't granted, or fills it with values: nothing of it goes out."""

    async def act() -> None:
        async with house(tmp_path) as at:
            endpoint = Endpoint(
                provider="openai", methods=("POST",), paths=("/chat/completions",), fields=("logit_bias",)
            )  # fmt: skip
            await at.host.allow_session(allowed("acme", endpoints=(endpoint,)))
            at.provider.key = ACME
            rules = Tenant(name="acme", limits=Ceilings(tokens_per_day=200_000))
            cell, other = await at.cell("acme"), await at.cell("umbra")

            async def said(body: bytes, **changes: Any) -> str:
                asked = {"method": "POST", "path": "/chat/completions", "body_bytes": len(body), **changes}
                try:
                    async with await cell.request(request("acme", **asked), body) as answer:
                        async for _ in answer.body():
                            pass
                        return str(answer.status)
                except BridgeholdError as error:
                    return f"{error.code} {error.where}"

            found = {name: await said(body, **changes) for name, (body, changes, _) in PADDED.items()}
            sent = found.pop("more than a tenant's whole budget")
            assert {name: one for name, one in found.items() if not one.startswith("denied")} == {}
            assert {name: one for name, one in found.items() if PADDED[name][2] not in one} == {}
            assert sent == "200"
            assert [one.path for one in at.recorder.of(EgressSent)] == ["/chat/completions"]
            assert at.recorder.of(EgressSent)[0].reserved >= len(LONG)
            await at.host.allow_tenant(protocol.AllowTenant(tenant="acme", rules=rules))
            body = PADDED["more than a tenant's whole budget"][0]
            assert await said(body) == "200"
            before = at.spending.used("acme").tokens_per_day
            at.provider.behave(Behaviour(latency_ms=60_000))
            left = asyncio.create_task(said(body))
            await eventually(lambda: len(at.provider.log) == 3)
            left.cancel()  # it has been sent: it is charged with all that it may use
            at.provider.behave(Behaviour())
            ended = await eventually(lambda: at.recorder.of(EgressEnded)[2:])
            assert (ended[0].code, ended[0].charged >= len(body)) == ("cancelled", True)
            assert at.spending.used("acme").tokens_per_day >= before + len(body) >= 200_000
            assert await said(body) == "budget tenant.limits.tokens_per_day"
            assert not at.keeper._sendings._bodies._places.taken
            assert await key_of(other, "umbra", at.provider) == fingerprint(UMBRA)
            await cell.close()
            await other.close()

    asyncio.run(asyncio.wait_for(act(), 60))


def test_what_a_cell_leaves_out_of_its_fees_the_keeper_charges(tmp_path: Path) -> None:
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"web_search_options":{}}'

    async def act() -> None:
        async with house(tmp_path) as found:
            rules = Tenant(name="acme", limits=Ceilings(money_per_day=1_000_000))
            await found.host.allow_tenant(protocol.AllowTenant(tenant="acme", rules=rules))
            cell = await found.cell("acme")
            ask = request("acme", method="POST", path="/chat/completions", body_bytes=len(body))
            spending, found.provider.key = found.spending, ACME
            spending.prices = Prices({"openai": 1.0})
            with pytest.raises(BudgetError, match="web_search_options"):
                async with await cell.request(ask, body):
                    pass
            spending.prices = Prices({"openai": 1.0}, fees={"openai": {"*": 0.5}})
            async with await cell.request(ask, body) as answer:
                assert answer.status == 200
                async for _ in answer.body():
                    pass
            await eventually(lambda: found.recorder.of(EgressEnded))
            assert [
                one.fees for one in (*found.recorder.of(EgressSent), *found.recorder.of(EgressEnded))
            ] == [500_000] * 2
            assert spending.used("acme").money_per_day >= 500_000
            await cell.close()

    asyncio.run(act())


def test_a_cell_has_its_tenants_key_and_a_sessions_own_one_is_no_other_tenants(tmp_path: Path) -> None:
    async def act() -> None:
        async with house(tmp_path) as at:
            acme, umbra = await at.cell("acme"), await at.cell("umbra")
            assert await key_of(acme, "acme", at.provider) == fingerprint(ACME)
            assert await key_of(umbra, "umbra", at.provider) == fingerprint(UMBRA)
            own = "sk-umbras-own-0123456789"
            await umbra.put_session_secret("s-1", "openai", own, tenant="umbra")
            assert await key_of(acme, "acme", at.provider) == fingerprint(
                ACME
            )  # of a session of that id, too
            with pytest.raises(SecretError, match="another tenant"):
                await acme.put_session_secret("s-1", "openai", "sk-planted-0123456789", tenant="acme")
            await acme.drop_session("s-1", tenant="acme")
            assert await key_of(umbra, "umbra", at.provider) == fingerprint(own)
            await acme.close()
            assert await key_of(umbra, "umbra", at.provider) == fingerprint(own)

    asyncio.run(act())


def test_what_comes_in_at_the_intake_without_a_tenant_or_a_channel_is_nothing(tmp_path: Path) -> None:
    async def act() -> None:
        async with house(tmp_path) as at:
            pipe, kept = os.pipe()
            sound = msgspec.json.encode({"tenant": "acme"})
            for said, given in (
                (sound, []),
                (b"{}", [kept]),
                (b"[" * 4_000, [kept]),
                (b'{"tenant":""}', [kept]),
            ):
                socket.send_fds(at.intake, [said], given)
            acme = await at.cell("acme")
            assert await key_of(acme, "acme", at.provider) == fingerprint(ACME)
            os.close(kept)
            assert await asyncio.to_thread(os.read, pipe, 1) == b""
            os.close(pipe)

    asyncio.run(act())


def test_what_is_under_way_ends_with_its_session(tmp_path: Path) -> None:
    """A cell that was taken over keeps a request open, behind a body that it holds back: another one's goes on."""

    async def act() -> None:
        async with house(tmp_path) as at:
            cell, other = await at.cell("acme"), await at.cell("umbra")
            size, go = 1 << 20, asyncio.Event()

            async def held_back() -> AsyncIterator[bytes]:
                yield b"{" + b" " * 999
                await go.wait()
                yield b" " * (size - 1_001) + b"}"

            def ask(client: KeeperClient, tenant: str) -> asyncio.Task[Any]:
                asked = request(tenant, method="POST", path="/chat/completions", body_bytes=size)
                return asyncio.create_task(client.request(asked, held_back()))

            mine, theirs = ask(cell, "acme"), ask(other, "umbra")
            sendings = at.keeper._sendings
            await eventually(lambda: len(sendings._under_way) == 2)
            await at.host.end_session("acme", "s-1")
            with pytest.raises(DeniedError, match="session has ended"):
                await mine
            assert not theirs.done()
            assert not at.recorder.of(EgressSent), "before it was looked into"
            go.set()
            response = await theirs
            await response.close()
            assert [one.tenant for one in at.recorder.of(EgressSent)] == ["umbra"]
            await eventually(lambda: not sendings._bodies._places.taken)
            for client in (cell, other):
                await client.close()

    asyncio.run(asyncio.wait_for(act(), 60))


def test_what_is_looked_into_is_held_until_that_is_over() -> None:
    """A cell that sends a long body and gives it up, again and again, has no more of them looked into or held."""

    async def act() -> None:
        bodies, begun, over = Bodies(100, lambda _: 1), threading.Event(), threading.Event()

        def slow() -> bool:
            begun.set()
            return over.wait(30)

        looked: list[int] = []
        first = asyncio.create_task(bodies.look("acme", slow))
        await asyncio.to_thread(begun.wait, 30)
        waiting = [asyncio.create_task(bodies.look("acme", partial(looked.append, one))) for one in range(3)]
        await asyncio.sleep(0)
        for one in (first, *waiting):
            one.cancel()
        await asyncio.wait(waiting)
        assert [one.cancelled() for one in waiting] == [True] * 3
        first.cancel()
        await asyncio.sleep(0)
        assert not first.done(), "its thread has the body still"
        over.set()
        await asyncio.wait({first})
        assert first.cancelled()
        assert await bodies.look("acme", lambda: looked) == []

    asyncio.run(act())
