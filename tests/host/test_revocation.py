"""What is revoked ends: whatever its connection says meanwhile, whatever the disk or the journal can't take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bridgehold.audit.events import AdminIntent
from bridgehold.config.layout import Layout, find_layout
from bridgehold.config.load import Config
from bridgehold.config.sections import PrincipalSection
from bridgehold.errors import (
    AuditError,
    BridgeholdError,
    ConfigError,
    PolicyError,
    SuspendedError,
    UsageError,
)
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.cell.methods import Methods
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.front.ceiling_events import CeilingEvents
from bridgehold.host.front.method import Method
from bridgehold.host.front.principals import Principals
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.server import SocketServer
from bridgehold.host.front.tenants import TenantFiles, TokenFiles
from bridgehold.host.revocation import AtRest, Ending
from bridgehold.host.startup import FileChange
from bridgehold.host.tenancy import Tenancy
from bridgehold.host.token_admin import TokenAdmin
from bridgehold.keeper.spending import Spending
from bridgehold.policies import tokens
from bridgehold.policies.model import Machine
from bridgehold.protocol.frames import NoParams, RequestFrame, pack, read_frame
from bridgehold.protocol.tenants import CreateTokenParams, NameParams, RemoveParams, StateParams
from bridgehold.protocol.values import Principal
from bridgehold.supervisor import files as supervisor
from waiting import PATIENCE, eventually

OPERATOR = Principal(name="owner", tenants=("*",), operator=True)


async def _nothing() -> None: ...


class Journal:
    """Takes what it is given, unless it is `full`; each intent comes after `before_intent`."""

    def __init__(self) -> None:
        self.full = False
        self.before_intent: Callable[[], Awaitable[None]] = _nothing
        self.bounds: dict[str, int] = {}

    async def append(self, event: object, *, durable: bool = True) -> SimpleNamespace:
        if isinstance(event, AdminIntent):
            await self.before_intent()
        return SimpleNamespace(ref="j.1")

    async def bound(self, tenant: str, most: int) -> None:
        self.bounds[tenant] = most

    async def rejected_peer(self, uid: int, reason: str) -> str:
        if self.full:
            raise AuditError("the journal is full", where="journal:full")
        return ""

    async def caller(self, *_: object) -> str:
        return ""


class House:
    """The files of a host and who changes them, without a host."""

    def __init__(self, home: Path, *tenants: str, configured: tuple[str, ...] = ()) -> None:
        self.layout: Layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, 0)
        self.layout.tenants.mkdir(parents=True)
        self.layout.tokens.mkdir()
        self.layout.audit.mkdir(parents=True)
        self.unwritable: tuple[str, ...] = ()
        self.ended: list[str] = []
        self.journal = Journal()
        section = PrincipalSection(tenants=configured)
        config = Config(principals={"app": section}) if configured else Config()
        for name in tenants:
            (self.layout.tenants / f"{name}.toml").write_text('[tenant]\nstate = "active"\n')
        journal: Any = self.journal
        self.registry = Registry(self.layout, config, Machine(cgroup="v2", uids="range", cpus=2), None)
        self.tenants = TenantFiles(self.registry.files, self.layout.tenants, self.write)
        self.tokens = TokenFiles(self.layout.tokens, self.write)
        self.lookups = 0
        self.before_token: Callable[[], Awaitable[None]] = _nothing
        settings: Any = SimpleNamespace(now=config)
        keeper: Any = SimpleNamespace(forget=self._end("keys"))
        ending = Ending(
            sessions=self._end("sessions"),
            zygotes=self._end("zygotes"),
            warm_pool=self._end("pool"),
        )
        at_rest = AtRest(
            submissions=self._end("submissions"),
            artifacts=self._left,
            proposals=self._end("proposals"),
            ends=lambda _: self.ended.append("ends"),
        )
        self.tenancy = Tenancy(
            self.tenants,
            self.tokens,
            tuple,
            settings,
            Spending().used,
            ending,
            at_rest,
            keeper,
            journal,
            AdminLog(journal),
            self.registry.entries,
            self.look_up_again,
            CeilingEvents(journal, self.layout.audit),
        )
        self.admin = TokenAdmin(self.tokens, self.tenancy.log, self.tenancy.demand, self.look_up_again)

    def _end(self, part: str) -> Any:
        async def end(*_: str) -> int:
            self.ended.append(part)
            return 0

        return end

    async def _left(self, _tenant: str, _gone: bool) -> tuple[int, int]:
        return (0, 0)

    async def look_up_again(self) -> None:
        self.lookups += 1

    async def write(self, change: FileChange) -> None:
        if change.kind == "tokens":
            await self.before_token()
        if change.kind in self.unwritable:
            raise ConfigError("Read-only file system", hint="ReadWritePaths=")
        supervisor.change(self.layout, msgspec.json.encode(change), supervisor.Once(0))

    def token(self, name: str, *tenants: str, secret: str = "") -> str:
        secret = secret or tokens.new_token(name)
        one = tokens.Token(name=name, digest=tokens.digest_of(secret), scope=tokens.Scope(tenants=tenants))
        (self.layout.tokens / f"{name}.toml").write_text(tokens.render(one))
        return secret

    async def revoke(self, name: str, reason: str = "unpaid") -> object:
        return await self.tenancy.revoke(OPERATOR, StateParams(name=name, reason=reason), lambda _: None)

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[SocketServer]:
        async def follow(principal: Principal, _params: NoParams, emit: Callable[[object], None]) -> None:
            emit({"as": principal.name})
            await asyncio.Event().wait()

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        refusals: Any = self.journal
        principals = Principals({}, 12_345, None, self.tokens)
        table = {"follow": Method(NoParams, follow, reads=True)}
        server = SocketServer(listener, principals, table, refusals, tokens_only=True)
        await server.start()
        try:
            yield server
        finally:
            await server.close()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, path: Path, token: str) -> Caller:
        one = cls(*await asyncio.open_unix_connection(str(path)))
        one.send(1, "hello", token=token)
        assert "result" in await one.answer()
        return one

    def send(self, request_id: int, method: str, **params: str) -> None:
        raw = msgspec.Raw(json.dumps(params).encode())
        self._writer.write(pack(RequestFrame(id=request_id, method=method, params=raw)))

    async def answer(self, request_id: int = 0) -> dict[str, Any]:
        """The next frame, of `request_id` where that is given; empty: the connection has ended."""
        try:
            while (frame := await asyncio.wait_for(read_frame(self._reader), PATIENCE)) is not None:
                found: dict[str, Any] = json.loads(frame)
                if request_id in (0, found["id"]):
                    return found
        except OSError:
            pass
        return {}

    async def ended(self) -> bool:
        while await self.answer():
            pass
        return True

    async def follow(self) -> None:
        self.send(2, "follow")
        assert (await self.answer(2))["event"]


def test_no_other_token_takes_the_place_of_the_one_that_a_request_runs_by(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    first, other = house.token("first", "acme"), house.token("other", "mine")

    async def act() -> None:
        path = tmp_path / "socket"
        async with house.serving(path) as server:
            caller = await Caller.connect(path, first)
            await caller.follow()
            caller.send(3, "hello", token=other)
            assert (await caller.answer(3))["error"]["code"] == "usage"
            caller.send(4, "hello", token=first)
            assert "result" in await caller.answer(4)
            # Narrowed and said again before anybody has looked: what was begun under the wider one is no less over.
            house.token("first", "mine", secret=first)
            caller.send(5, "hello", token=first)
            assert (await caller.answer(5))["error"]["code"] == "usage"
            await server.look_up_again()
            assert await caller.ended()
            again = await Caller.connect(path, first)
            again.send(2, "hello", token=other)  # nothing runs
            assert (await again.answer(2))["result"]["principal"] == "token:other"
            await again.follow()
            again.send(3, "hello", token="")
            assert await again.ended(), "who is nobody keeps nothing that runs"

    asyncio.run(act())


def test_a_journal_that_takes_nothing_keeps_nobody_connected(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    secrets = [house.token(name, "acme") for name in ("one", "two", "stays")]

    async def act() -> None:
        path = tmp_path / "socket"
        async with house.serving(path) as server:
            callers = [await Caller.connect(path, secret) for secret in secrets]
            for caller in callers:
                await caller.follow()
            for name in ("one", "two"):
                (house.layout.tokens / f"{name}.toml").unlink()
            house.journal.full = True
            await server.look_up_again()
            assert await callers[0].ended()
            assert await callers[1].ended()
            callers[2].send(3, "hello", token=secrets[2])
            assert "result" in await callers[2].answer(3)

    asyncio.run(act())


@pytest.mark.parametrize("how", ["unwritable", "broken", "both", "no file"])
def test_what_no_file_can_say_is_refused_all_the_same(tmp_path: Path, how: str) -> None:
    house = House(tmp_path / "home", "beside", *(["acme"] if how != "no file" else []), configured=("acme",))
    alone, shared = house.token("alone", "acme"), house.token("shared", "acme", "beside")
    file = house.layout.tenants / "acme.toml"
    before = '[tenant]\nstate = "active"\n[tenant.limits]\nsessions = 3\n'
    if how != "no file":
        file.write_text(before + ("[limits\n" if how in ("broken", "both") else ""))
    house.unwritable = () if how == "broken" else ("tenants", "tokens")
    if how == "unwritable":
        asyncio.run(house.registry.grant("acme", "python"))

    async def act() -> None:
        with pytest.raises(BridgeholdError) as caught:
            await house.revoke("acme")
        assert "by hand" in caught.value.hint
        assert sorted(house.ended) == ["keys", "pool", "sessions", "submissions", "zygotes"]
        assert house.lookups == 1
        file.write_text(before)  # what is mended alone lifts nothing
        for ask in (house.tenants.demand, house.tenancy.demand):
            with pytest.raises(SuspendedError, match=r"acme is revoked.*unpaid"):
                ask("acme")
        with pytest.raises(SuspendedError):
            await house.registry.grant("acme", "python")
        assert await house.registry.grant("beside", "python")
        assert house.tokens.principal(alone, 1.0) is None
        found = house.tokens.principal(shared, 1.0)
        assert found is None or found.tenants == ("beside",)
        with pytest.raises(BridgeholdError):
            await house.tenancy.resume(OPERATOR, StateParams(name="acme"), lambda _: None)
        house.unwritable = ()
        await house.revoke("acme")
        assert "sessions = 3" in file.read_text()
        assert 'state = "revoked"' in file.read_text()
        assert house.tokens.names() == ("shared",)
        assert house.tenancy._shown("acme").state == "revoked"

    asyncio.run(act())


def test_a_tenant_is_not_removed_before_nothing_can_speak_for_its_name(tmp_path: Path) -> None:
    """A token or a key that could not be ended would be of whoever is created anew, from the next host on."""
    house = House(tmp_path / "home", "acme")
    house.token("alone", "acme")
    house.unwritable = ("tokens",)

    async def remove() -> None:
        await house.tenancy.remove(OPERATOR, RemoveParams(name="acme"), lambda _: None)

    async def act() -> None:
        with pytest.raises(UsageError, match="not revoked"):
            await remove()
        with pytest.raises(BridgeholdError):
            await house.revoke("acme")
        with pytest.raises(UsageError, match="token alone may still act for acme"):
            await remove()
        house.unwritable = ()
        await house.admin.revoke_token(OPERATOR, NameParams(name="alone"), lambda _: None)
        house.ended.clear()
        await remove()
        assert house.ended == ["keys", "proposals", "ends"]
        assert not (house.layout.tenants / "acme.toml").exists()

    asyncio.run(act())


def test_a_token_whose_file_stays_makes_nobody_all_the_same(tmp_path: Path) -> None:
    house = House(tmp_path / "home", "acme")
    secret, other = house.token("gone", "acme"), house.token("stays", "acme")
    house.unwritable = ("tokens",)

    async def revoke() -> None:
        await house.admin.revoke_token(OPERATOR, NameParams(name="gone"), lambda _: None)

    async def act() -> None:
        assert house.tokens.principal(secret, 1.0) is not None
        with pytest.raises(BridgeholdError) as caught:
            await revoke()
        assert "until this host restarts" in caught.value.hint
        assert house.lookups == 1, "whoever is connected by it is looked at again"
        assert house.tokens.principal(secret, 1.0) is None
        assert house.tokens.principal(other, 1.0) is not None
        listed = {
            one.name: one.state for one in await house.admin.list_tokens(OPERATOR, NoParams(), lambda _: None)
        }
        assert listed == {"gone": "broken", "stays": "valid"}
        with pytest.raises(BridgeholdError):
            await house.admin.revoke_token(OPERATOR, NameParams(name="nobody"), lambda _: None)
        house.unwritable = ()
        await revoke()
        assert house.tokens.names() == ("stays",)

    asyncio.run(act())


def test_a_tenant_whose_file_can_not_be_written_is_suspended_all_the_same(tmp_path: Path) -> None:
    house = House(tmp_path / "home", "acme", "beside", configured=("acme",))
    house.unwritable = ("tenants",)

    async def act() -> None:
        with pytest.raises(BridgeholdError) as caught:
            await house.tenancy.suspend(
                OPERATOR, StateParams(name="acme", reason="looked at"), lambda _: None
            )
        assert "until this host restarts" in caught.value.hint
        with pytest.raises(SuspendedError, match="looked at"):
            house.tenancy.demand("acme")
        house.tenancy.demand("beside")
        with pytest.raises(BridgeholdError):
            await house.tenancy.resume(OPERATOR, StateParams(name="acme"), lambda _: None)
        with pytest.raises(SuspendedError):
            house.tenancy.demand("acme")
        house.unwritable = ()
        await house.tenancy.resume(OPERATOR, StateParams(name="acme"), lambda _: None)
        house.tenancy.demand("acme")

    asyncio.run(act())


def test_ceilings_that_could_not_be_read_are_told_as_soon_as_they_can(tmp_path: Path) -> None:
    house = House(tmp_path / "home", "acme", "beside", configured=("acme",))
    (house.layout.tenants / "acme.toml").write_text('[tenant]\n[tenant.limits]\njournal = "3MiB"\n')
    folder, aside = house.layout.tenants, tmp_path / "aside"

    async def act() -> None:
        house.tenancy.demand("beside")
        folder.rename(aside)
        folder.symlink_to(tmp_path / "nothing")  # which nobody can list, root neither
        telling = asyncio.ensure_future(house.tenancy.tell_journal())
        with pytest.raises(PolicyError):
            house.tenancy.demand("acme")
        assert house.journal.bounds == {}
        folder.unlink()
        aside.rename(folder)
        await asyncio.wait_for(telling, PATIENCE)
        assert house.journal.bounds == {"acme": 3 << 20, "beside": 0}

    asyncio.run(act())


@pytest.mark.parametrize("waits", ["for its intent", "for its file"])
def test_a_token_that_is_made_while_its_tenant_is_revoked_is_refused_or_ends(
    tmp_path: Path, waits: str
) -> None:
    house = House(tmp_path / "home", "acme")

    async def create() -> str:
        params = CreateTokenParams(name="late", tenants=("acme",))
        try:
            await house.admin.create_token(OPERATOR, params, lambda _: None)
        except SuspendedError:
            return "refused"
        return "made"

    async def act() -> None:
        reached, go = asyncio.Event(), asyncio.Event()

        async def stop_here() -> None:
            house.journal.before_intent = house.before_token = _nothing
            reached.set()
            await go.wait()

        if waits == "for its intent":
            house.journal.before_intent = stop_here
        else:
            house.before_token = stop_here
        creating = asyncio.ensure_future(create())
        await reached.wait()
        revoking = asyncio.ensure_future(house.revoke("acme"))
        if waits == "for its intent":
            await revoking
        else:
            await eventually(lambda: "keys" in house.ended)
        go.set()
        await revoking
        assert await creating == ("refused" if waits == "for its intent" else "made")
        assert house.tokens.names() == ()

    asyncio.run(act())


def test_a_folder_of_tenants_that_cant_be_read_ends_no_host(tmp_path: Path) -> None:
    house = House(tmp_path / "home", "acme")
    file = house.layout.tenants / "acme.toml"
    file.rename(tmp_path / "away")
    with pytest.raises(PolicyError, match="it was here and is gone"):
        house.tenants.artifacts("acme")
    file.write_text("")
    with pytest.raises(PolicyError, match="is empty"):
        house.tenants.artifacts("acme")
    file.write_text('[tenant.limits]\nartifacts = "3 B"\n')
    assert house.tenants.artifacts("acme") == 3
    file.unlink()
    house.layout.tenants.rmdir()
    house.layout.tenants.write_text("no folder")

    async def telling() -> None:
        told = asyncio.ensure_future(house.tenancy.tell_journal())
        await asyncio.sleep(0)
        assert not told.done(), "it goes on until the folder can be read"
        told.cancel()

    asyncio.run(telling())
    with pytest.raises(PolicyError):
        house.tenants.demand("acme")


def test_a_token_is_changed_as_it_was_read(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.token("app", "acme")
    file = house.layout.tokens / "app.toml"

    def edit(token: tokens.Token) -> tokens.Token:
        file.write_text(file.read_text() + "# somebody else's\n")
        return token

    with pytest.raises(BridgeholdError) as caught:
        asyncio.run(house.tokens.change("app", edit))
    assert caught.value.code == "busy"
    assert "somebody else's" in file.read_text()


def test_tenants_of_the_configuration_have_their_part_kept(tmp_path: Path) -> None:
    house = House(tmp_path / "home", "hog", "acme", configured=("acme", "third", "*"))
    assert house.registry.tenants_with("hog") == 3
    assert house.registry.share_of("fourth").tenants == 4
    assert Config().host.max_sessions <= house.registry.share_of("fourth").sandboxes
    house.registry.replace(Config())
    assert house.registry.tenants_with("hog") == 2


def test_a_tokens_bridges_hold_for_lost_sessions_and_zygotes() -> None:
    key = SessionKey("acme", "python", "one")
    dropped: list[SessionKey] = []
    sessions: Any = SimpleNamespace(
        _recovery=SimpleNamespace(key_of=lambda *_: key, drop=dropped.append),
    )
    assert not Sessions.give_up(sessions, lambda _: True, lambda bridge: bridge == "dspy", "s-1")
    assert dropped == []
    assert Sessions.give_up(sessions, lambda _: True, lambda bridge: bridge == "python", "s-1")
    assert dropped == [key]
    bridges = ("python", "dspy")
    methods: Any = SimpleNamespace(
        _zygotes=lambda: [SimpleNamespace(tenant="acme", bridge=bridge) for bridge in bridges],
        _pool_counts=lambda: {("acme", bridge): 1 for bridge in bridges},
    )
    caller = Principal(name="token:app", tenants=("acme",), bridges=("dspy",))
    found: Any = asyncio.run(Methods.list_zygotes(methods, caller, NoParams(), lambda _: None))
    assert [one.bridge for one in found["zygotes"]] == ["dspy"]
    assert [one["bridge"] for one in found["parked"]] == ["dspy"]
