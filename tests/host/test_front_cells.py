"""The front, with a cell that was taken over: it speaks for its own tenant whatever it says, and ends alone.

The cell is the test: it has the cell's end of the link, and asks what no sound one would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bridgehold import clock
from bridgehold.audit.events import Event, Receipt, kind_of
from bridgehold.config.layout import Layout
from bridgehold.errors import (
    BudgetError,
    BusyError,
    CellEndedError,
    DeniedError,
    InternalError,
    NotFoundError,
    TenantFullError,
    UsageError,
)
from bridgehold.host.cell.artifact_methods import Artifacts
from bridgehold.host.cell.methods import Methods
from bridgehold.host.cell.unified import Unified
from bridgehold.host.cell_process import CellProcess
from bridgehold.host.front import opens
from bridgehold.host.front.allowances import Allowances
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.cell_starts import Intakes
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.directory import Directory
from bridgehold.host.front.entrances import Entrances, Proven
from bridgehold.host.front.forwarding import Forwarding, begins_cell
from bridgehold.host.front.method import Forwarded, OfTenant, Scope
from bridgehold.host.shares import cell_wire, openings, session_ends
from bridgehold.host.shares.callers import CALLER
from bridgehold.host.shares.lending import step
from bridgehold.host.shares.link import Link, Waiting
from bridgehold.host.shares.observe import Metrics, counted, figures_of, merged, sound
from bridgehold.host.shares.places import Places
from bridgehold.host.shares.refusals import Refusals
from bridgehold.host.shares.session_ends import SessionEnd
from bridgehold.host.startup import HostConfig
from bridgehold.keeper.protocol import AllowTenant
from bridgehold.policies.model import Machine
from bridgehold.policies.tenants import Tenant
from bridgehold.protocol.frames import NoParams, SessionsParams
from bridgehold.protocol.values import Principal
from waiting import eventually

pytestmark = pytest.mark.hostile
INFO: dict[str, object] = {
    "id": "s-1",
    "name": "n",
    "bridge": "python",
    "tenant": "globex",
    "state": "idle",
    "start": "cold",
    "commands": 0,
    "age_ms": 0,
    "idle_ms": 0,
    "memory_bytes": 0,
    "pid": 1,
    "uid": 1,
    "grant": "",
}
BOSS = Principal(name="boss", tenants=("*",), operator=True)


def forwarding_of(cells: Any) -> Forwarding:
    return Forwarding(cells, lambda _bridge, _tenant: None, Refusals(SimpleNamespace(), Metrics()))  # type: ignore[arg-type]  # nothing is refused


class FakeTemplate:
    """Its cells are processes that wait, whose link's end the test has."""

    def __init__(self) -> None:
        self.links: list[socket.socket] = []
        self.entrances: list[socket.socket] = []
        self.pids: list[int] = []
        self.configs: list[cell_wire.CellConfig] = []

    async def fork(self, ends: list[int]) -> int:
        self.links.append(socket.socket(fileno=ends[1]))
        self.entrances.append(socket.socket(fileno=ends[5]))
        with os.fdopen(ends[0], "rb") as file:
            self.configs.append(msgspec.json.decode(file.read(), type=cell_wire.CellConfig))
        for end in (*ends[2:5], *ends[6:]):
            os.close(end)
        process = await asyncio.create_subprocess_exec("sleep", "120")
        self.pids.append(process.pid)
        return os.pidfd_open(process.pid)

    def close(self) -> None:
        for entrance in self.entrances:
            entrance.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class House:
    """A front's cells, with what it asks of the rest."""

    def __init__(self, bound: int = 8) -> None:
        self.template = FakeTemplate()
        self.ordered: list[tuple[str, ...]] = []
        self.events: list[Event] = []
        self.closed: list[str] = []
        self.allowed: list[tuple[str, str, str]] = []
        self.rooms = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        launcher: Any = SimpleNamespace(open_cell=self._open, allow=self._allow, close_cell=self._close)
        orders: Any = SimpleNamespace(make=self._make, grant=self._grant)
        template: Any = self.template
        intakes = Intakes(launcher=launcher, keeper=self.rooms[0][0], journal=self.rooms[1][0])
        self.places = Places(bound, lambda _: 2)
        journal: Any = SimpleNamespace(append=self._append)
        house: Any = SimpleNamespace(layout=Layout(config=Path("/c"), state=Path("/s"), run=Path("/r")))
        self.rules = Tenant(name="acme")
        self.told_keeper: list[AllowTenant] = []
        keeper: Any = SimpleNamespace(allow_tenant=self._allow_tenant)
        settings: Any = None  # of operators' tools: no session is ordered here
        allowances = Allowances(keeper, settings, lambda _: self.rules)
        self.cells = Cells(
            template,
            intakes,
            orders,
            self.places,
            journal,
            self._config,
            lambda: 1 << 28,
            house,
            allowances,
            buffered_bytes=256 << 20,
            caller_bytes=512 << 20,
        )

    async def _close(self, cell: str) -> None:
        self.closed.append(cell)

    async def _config(self, tenant: str) -> cell_wire.CellConfig:
        host = HostConfig(config="/c", state="/s", run="/r", owner_uid=0, supervisor=1)
        return cell_wire.CellConfig(
            tenant=tenant,
            host=host,
            machine=Machine(cgroup="v2", uids="range", cpus=2),
            config="{}",
            spent=cell_wire.Spent(),
        )

    async def _append(self, event: Event, *, durable: bool) -> None:
        self.events.append(event)

    async def _open(self, _cell: str, _tenant: str, end: socket.socket) -> tuple[int, int]:
        end.close()
        return -1, -1

    async def _allow(self, cell: str, bridge: str, tenant: str, _specs: object) -> None:
        self.allowed.append((cell, bridge, tenant))

    async def _allow_tenant(self, said: AllowTenant) -> None:
        self.told_keeper.append(said)

    async def _make(self, *order: str) -> object:
        self.ordered.append(order)
        raise BusyError("as far as this test goes")

    async def _grant(self, *names: str) -> None:
        self.ordered.append(names)

    @contextlib.asynccontextmanager
    async def taken_over(self, tenant: str, answers: Any = None) -> AsyncIterator[tuple[Cell, Link]]:
        async def silent(_method: str, _body: msgspec.Raw, _told: Waiting) -> object:
            await asyncio.Event().wait()

        cell = await self.cells.of(tenant)
        link = Link(answers or silent)
        await link.connect(self.template.links[-1])
        running = asyncio.create_task(link.run())
        try:
            yield cell, link
        finally:
            link.close()
            await asyncio.wait_for(running, 30)
            await asyncio.wait_for(cell.ended.wait(), 30)

    async def close(self) -> None:
        self.template.close()
        for pair in self.rooms:
            for end in pair:
                end.close()


@contextlib.asynccontextmanager
async def house(bound: int = 8) -> AsyncIterator[House]:
    made = House(bound)
    try:
        yield made
    finally:
        await made.close()


def order(session: str = "s-1", bridge: str = "dspy") -> cell_wire.AskOrder:
    return cell_wire.AskOrder(bridge=bridge, session=session, session_name="n", principal="p")


def test_an_order_is_for_the_cells_own_tenant_whatever_it_says() -> None:
    async def act() -> None:
        async with house() as at, at.taken_over("acme") as (_, link):
            said = msgspec.to_builtins(order()) | {"tenant": "globex"}
            with pytest.raises(BusyError):
                await link.ask("order", said)
            await link.ask("granted", {"bridge": "x", "tenant": "globex"})
            assert [one[0] for one in at.ordered] == ["acme", "acme"]
            assert len(at.places) == 0  # an order that failed holds no place
            assert not at.allowed

    asyncio.run(act())


def test_a_cell_knows_the_latest_time_that_the_host_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock went forward after the start of what cells are forked from, and back again."""
    monkeypatch.setattr(clock, "ONE", clock.Clock())
    late = time.time() + 86_400

    async def act() -> None:
        async with house() as at:
            clock.ONE.saw(late)
            async with at.taken_over("acme"):
                monkeypatch.setattr(clock, "ONE", clock.Clock())  # as the template has it
                assert clock.ONE.now() < late
                CellProcess(at.template.configs[-1])
                assert clock.ONE.now() >= late - 0.001  # it is told in milliseconds

    asyncio.run(act())


def test_the_keeper_hears_of_a_tenant_with_what_it_has_spent_first_and_of_new_rules_after() -> None:
    """New rules alone, said first, would have it count from nothing."""

    async def act() -> None:
        async with house() as at:
            at.cells.rules_changed("acme")
            async with at.taken_over("acme"):
                spent = cell_wire.Spent()
                first = AllowTenant(
                    tenant="acme", rules=at.rules, requests=spent.providers, periods=spent.periods
                )
                assert at.told_keeper == [first]
                at.rules = Tenant(name="acme", state="suspended")
                at.cells.rules_changed("acme")
                await eventually(lambda: len(at.told_keeper) == 2)
                assert at.told_keeper[1] == AllowTenant(tenant="acme", rules=at.rules)

    asyncio.run(act())


def test_places_are_counted_by_orders_and_one_tenant_never_has_them_all() -> None:
    async def act() -> None:
        async with house(8) as at:
            for number in range(8):
                with contextlib.suppress(TenantFullError):
                    at.places.take("acme", "c-1", f"s-{number}")
            assert at.places.of("acme") < 8
            async with at.taken_over("acme") as (_, link), at.taken_over("globex") as (_, other):
                with pytest.raises(TenantFullError):
                    await link.ask("order", order("s-99"))
                with pytest.raises(BusyError, match="as far as"):  # it had its place
                    await other.ask("order", order("s-1"))
                at.places.take("globex", "c-2", "s-mine")
                link.tell(
                    "over", cell_wire.SessionOver(session="s-mine")
                )  # another's is not a cell's to give back
                await link.ask("granted", cell_wire.Granted(bridge="x"))
                assert at.places.of("globex") == 1
            at.places.clear("acme", "c-1")
            assert at.places.of("acme") == 0

    asyncio.run(act())


def test_a_cell_borrows_for_its_own_tenant_alone() -> None:
    """What it says that it gives back is no more than it has, and all of it is free once it has ended."""

    async def act() -> None:
        async with house() as at, at.taken_over("globex") as (globex, other):
            lending, most, first = at.cells.asks.lending[False], 80 << 20, step(256 << 20)
            async with at.taken_over("acme") as (acme, link):
                await link.ask("lend", {"amount": most, "tenant": "globex", "cell": globex.name})
                assert (lending.lent_to(acme.name), lending.lent_to(globex.name)) == (first + most, first)
                for amount in (0, -1, "1"):
                    with pytest.raises(InternalError):
                        await link.ask("lend", {"amount": amount})
                other.tell("returned", cell_wire.Bytes(amount=most))
                await other.ask("granted", cell_wire.Granted(bridge="x"))
                assert lending.lent_to(acme.name) == first + most
                asking = asyncio.create_task(other.ask("lend", cell_wire.Bytes(amount=most)))
                await eventually(lambda: bool(globex.link and globex.link._answering))
            await asyncio.wait_for(asking, 30)
            assert (lending.lent_to(acme.name), lending.lent_to(globex.name)) == (0, most)

    asyncio.run(act())


@pytest.mark.parametrize("method", ["call", "stop", "config", "reload", "tenant.create", ""])
def test_what_is_no_cells_to_ask_is_refused(method: str) -> None:
    async def act() -> None:
        async with house() as at, at.taken_over("acme") as (_, link):
            with pytest.raises(UsageError):
                await link.ask(method, {"tenant": "globex"})
            with pytest.raises(InternalError):
                await link.ask("order", {"bridge": 7})

    asyncio.run(act())


def test_a_cell_that_breaks_the_link_ends_alone_and_its_callers_know() -> None:
    async def act() -> None:
        async with house() as at, at.taken_over("globex") as (_, other):
            async with at.taken_over("acme") as (cell, link):
                asked = asyncio.create_task(cell.ask("call", {}))
                await eventually(lambda: bool(link._answering))
                link._writer.write(b"\xff" * 8)  # type: ignore[union-attr]  # it is connected
                with pytest.raises(CellEndedError):
                    await asyncio.wait_for(asked, 30)
                await asyncio.wait_for(cell.ended.wait(), 30)
                with pytest.raises(CellEndedError):
                    await cell.ask("call", {})
            await other.ask("granted", cell_wire.Granted(bridge="x"))
            assert [one.tenant for one in at.cells.living()] == ["globex"]
            told = [(kind_of(event), event.tenant) for event in at.events]
            assert told[-2:] == [("cell.started", "acme"), ("cell.ended", "acme")]

    asyncio.run(act())


def test_what_is_asked_of_all_waits_for_no_cell_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridgehold.host.front.forwarding._GATHER_SECONDS", 0.2)
    events: list[object] = []

    class Emit:
        def __call__(self, event: object, /) -> None:
            events.append(event)

        def full(self, _most: int = 0) -> bool:
            return False

    async def answers(_method: str, _body: msgspec.Raw, told: Waiting) -> object:
        told({"type": "planted"})
        return [INFO]

    async def act() -> None:
        CALLER.set(object())
        async with house() as at, at.taken_over("acme"), at.taken_over("globex", answers):
            found = await forwarding_of(at.cells).list_sessions(BOSS, SessionsParams(), Emit())
            assert [one["id"] for one in msgspec.to_builtins(found)] == ["s-1"]
            assert events == [{"type": "silent", "tenants": ["acme"]}]

    asyncio.run(act())


@pytest.mark.parametrize(
    "said",
    [
        [INFO | {"tenant": "acme"}],
        [INFO, "no session"],
        [INFO | {"memory_bytes": "much"}],
        {"sessions": 1},
        7,
        [INFO | {"name": "x" * 5_000_000}],
    ],
    ids=["another tenant's", "no session", "no number", "another form", "a number", "too large"],
)
def test_a_cell_that_lies_to_an_operator_is_as_one_that_says_nothing(said: object) -> None:
    events: list[object] = []

    class Emit:
        def __call__(self, event: object, /) -> None:
            events.append(event)

        def full(self, _most: int = 0) -> bool:
            return False

    async def answers(method: str, _body: msgspec.Raw, _told: Waiting) -> object:
        return "bridgehold_x 1\nforged{} 7 x" if method == "metrics" else said

    async def act() -> None:
        CALLER.set(object())
        async with house() as at, at.taken_over("globex", answers):
            forwarding = forwarding_of(at.cells)
            assert await forwarding.list_sessions(BOSS, SessionsParams(), Emit()) == []
            assert events == [{"type": "silent", "tenants": ["globex"]}]
            assert await forwarding.metrics(BOSS, NoParams(), Emit()) == {"text": ""}

    asyncio.run(act())


def test_what_a_cell_says_of_ends_is_its_tenants_bounded_and_given_to_the_next() -> None:
    log = b"x" * session_ends.CARRIED_LOG_BYTES

    def end(number: int, **said: Any) -> SessionEnd:
        said = {"session": f"s-{number}", "name": "n", "bridge": "b", "why": "crash: it"} | said
        return SessionEnd(**said)

    async def act() -> None:
        async with house() as at, at.taken_over("acme") as (_, link):
            ends = at.cells.ends
            async with at.taken_over("globex") as (cell, other):
                for number in range(session_ends.MOST_ENDED + 4):
                    await other.ask("ended", end(number, log=log))
                await other.ask("ended", end(300, why="first"))
                await other.ask("ended", end(300, why="later"))
                opened = cell_wire.SessionOpened(session="s-open", name="kept", bridge="b")
                other.tell("opened", opened)
                await other.ask("granted", cell_wire.Granted(bridge="x"))
                kept = ends.of("globex")
                assert len(kept) == session_ends.MOST_ENDED
                assert kept[-1].why == "first"
                assert sum(len(one.log or b"") for one in kept) <= session_ends.TENANT_LOG_BYTES
                assert kept[-2].log == log
                assert ends.find("globex", "kept") is None
                cell.kill("enough")
            lost = ends.find("globex", "kept")
            assert lost is not None
            assert (lost.session, lost.log) == ("s-open", None)
            assert lost.error.message.endswith("cell_ended: the tenant's cell has ended: enough")
            assert ends.of("acme") == ()
            assert ends.find("acme", "s-300") is None
            with pytest.raises(InternalError):
                await link.ask("ended", end(1, why="x" * 601))

    asyncio.run(act())


def test_whose_a_session_is_decides_the_first_word_of_it_and_no_later_claim() -> None:
    known = Directory()
    theirs = f"s-{'t' * 16}"
    known.add("victim", theirs, "shared")
    known.add("hostile", theirs, "shared")
    known.add("hostile", "shared", theirs)  # a name said as an id, and an id said as a name
    for number in range(10_000):
        known.add("hostile", f"s-{number:016}", f"n-{number}")
    assert known.owner(theirs, lambda _: True) == "victim"
    assert known.owner(theirs, lambda one: one == "hostile") == ""
    assert known.owner("shared", lambda one: one == "victim") == "victim"
    assert known.owner(f"s-{0:016}", lambda _: True) == ""  # its own older ones go first
    known.add("hostile", f"s-{'m' * 16}", "shared")
    with pytest.raises(UsageError, match="2 tenants"):
        known.owner("shared", lambda _: True)


def test_a_cell_that_is_killed_has_ended_though_a_child_of_it_keeps_its_link() -> None:
    async def act() -> None:
        async with house() as at:
            cell = await at.cells.of("acme")
            os.kill(at.template.pids[-1], signal.SIGKILL)  # the test goes on to hold its end of the link
            await asyncio.wait_for(cell.ended.wait(), 30)
            assert at.closed == [cell.name]  # what the launcher has of it dies with its cgroup
            with pytest.raises(CellEndedError):
                await cell.ask("call", {})
            again = await at.cells.of("acme")
            assert again is not cell
            os.kill(at.template.pids[-1], signal.SIGKILL)
            await asyncio.wait_for(again.ended.wait(), 30)
            with pytest.raises(CellEndedError, match="2 times"):  # who dies young begins again later
                await at.cells.of("acme")

    asyncio.run(act())


def test_a_revocation_meets_a_cell_that_has_only_begun() -> None:
    async def act() -> None:
        async with house() as at:
            beginning = asyncio.create_task(at.cells.of("acme"))
            await asyncio.sleep(0)
            await asyncio.wait_for(at.cells.end("acme", "revoked"), 30)
            cell = await beginning
            assert cell.ended.is_set()
            assert not at.cells.living()

    asyncio.run(act())


def test_an_environment_that_has_changed_is_told_to_every_cell() -> None:
    told: list[tuple[str, object]] = []

    async def answers(method: str, body: msgspec.Raw, _told: Waiting) -> object:
        told.append((method, msgspec.json.decode(body)))
        return None

    async def act() -> None:
        async with house() as at, at.taken_over("acme", answers), at.taken_over("globex", answers):
            at.cells.retire("sha256:00", "its environment has changed on disk")
            await eventually(lambda: len(told) == 2)
        said = {"environment": "sha256:00", "reason": "its environment has changed on disk"}
        assert told == [("retire", said)] * 2

    asyncio.run(act())


def test_what_a_cell_refuses_is_charged_to_its_tenant_whoever_asked() -> None:
    written: list[Event] = []

    class Journal:
        async def append(self, event: Event, *, durable: bool = True) -> Receipt:
            written.append(event)
            if kind_of(event) == "events.folded" and len(written) < 53:
                raise BudgetError("its share is used up")
            return Receipt(ref="i.1", seq=1, hash="")

    async def act() -> None:
        journal: Any = Journal()
        refusals = Refusals(journal, Metrics(), "acme")
        asked = Forwarded(scope=Scope(session="s-1"), raw=msgspec.Raw(b"{}"))
        for _ in range(60):
            await refusals.caller(BOSS, "logs", asked, DeniedError("no"))
        await refusals.close()
        assert {event.tenant for event in written} == {"acme"}
        assert kind_of(written[-1]) == "events.folded"

    asyncio.run(act())


def test_who_says_null_asks_for_the_local_tenant() -> None:
    asked = Forwarded(scope=OfTenant(tenant=None), raw=msgspec.Raw(b"{}"))
    assert asked.tenant == "local"


@pytest.mark.parametrize(
    "text",
    [
        "bridgehold_x 1..2",
        "bridgehold_x 1e999999",
        "bridgehold_commands_total{a=b} 1",
        'bridgehold_commands_total{bridge="a"} 1',
        'bridgehold_command_seconds_bucket{bridge="a",le="q"} 1',
        'bridgehold_command_seconds_bucket{bridge="a"} 1',
        "bridgehold_x NaN",
        "python_info 1",
        "bridgehold_x 1\n" * 100_000,
    ],
)
def test_what_are_no_metrics_of_ours_are_none(text: str) -> None:
    assert sound(text) == ""


def test_metrics_of_ours_are_sound_and_add_up() -> None:
    one = Metrics()
    one.commands.labels("python", "execute", "ok").inc(2)
    one.seconds.labels("python", "execute").observe(0.00012)
    text = one.text()
    assert sound(text) == text
    (figures,) = figures_of(merged([text, sound(text)]))
    assert (figures.operation, figures.commands) == ("python:execute", 4)
    assert "bridgehold_sessions" not in counted(text)


@pytest.mark.parametrize("name", ["../x", "", "A", "x" * 100_000, "a\nb", "*"])
def test_what_is_no_tenants_name_begins_no_cell(name: str) -> None:
    async def act() -> None:
        async with house() as at:
            with pytest.raises(UsageError):
                await at.cells.of(name)
            assert not at.template.links

    asyncio.run(act())


def test_what_another_tenants_cell_holds_is_looked_for_where_its_caller_may_act() -> None:
    reached: list[str] = []

    async def answers(_method: str, body: msgspec.Raw, _told: Waiting) -> object:
        reached.append(msgspec.json.decode(body)["method"])
        return {}

    async def act() -> None:
        CALLER.set(object())
        async with house() as at, at.taken_over("acme", answers):
            stranger = Principal(name="stranger", tenants=("globex",))
            asked = Forwarded(scope=Scope(session="s-of-acme"), raw=msgspec.Raw(b'{"session":"s-of-acme"}'))
            table = forwarding_of(at.cells).table()
            for name in ("session.kill", "logs", "session.find", "tool.reply", "foreign.send"):
                with pytest.raises(Exception, match="no session"):
                    await table[name].handler(stranger, asked, lambda _: None)
            assert not reached

    asyncio.run(act())


def test_whatever_a_cell_answers_the_front_leads_there() -> None:
    kinds: tuple[Any, ...] = (Methods, Unified, Artifacts)
    answered = {name: method for kind in kinds for name, method in kind.__new__(kind).table().items()}
    led: dict[str, Any] = forwarding_of(SimpleNamespace()).table()
    assert set(led) == set(answered)
    for name, method in answered.items():
        assert (led[name].reads, led[name].operator) == (method.reads, method.operator), name
        assert led[name].gives >= method.gives, name


def test_a_cell_that_does_not_hear_what_holds_for_its_tenant_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspension that no file says: whoever asked for it has no answer before the cell knows."""
    monkeypatch.setattr("bridgehold.host.front.cells._HEAR_SECONDS", 0.2)
    heard: list[str] = []

    async def answers(method: str, _body: msgspec.Raw, _told: Waiting) -> object:
        heard.append(method)
        return None

    async def act() -> None:
        async with house() as at, at.taken_over("acme"), at.taken_over("globex", answers) as (sound, _):
            deaf = at.cells.now("acme")
            await at.cells.hear_rules("globex")
            assert heard == ["rules"]
            await at.cells.hear_rules("nobody")
            await at.cells.hear_rules("acme")
            await asyncio.wait_for(deaf.ended.wait(), 30)
            assert "did not hear" in deaf.reason
            assert not sound.gone.is_set()

    asyncio.run(act())


def test_the_end_of_a_session_is_said_until_the_keeper_has_heard_it() -> None:
    ended: list[tuple[str, str]] = []
    deaf = True

    async def end(tenant: str, session: str) -> None:
        if deaf:
            raise BusyError("the keeper has no room")
        ended.append((tenant, session))

    async def act() -> None:
        nonlocal deaf
        keeper: Any = SimpleNamespace(end_session=end)
        settings: Any = None
        allowances = Allowances(keeper, settings, lambda name: Tenant(name=name))
        grant: Any = None
        allowances._grants.update(
            {("acme", name): grant for name in ("s-1", "s-2")} | {("globex", "s-3"): grant}
        )
        await allowances.over("acme", "s-1")
        await allowances.over("acme")  # its cell has ended; the tenant's next one may have begun
        await allowances.end_owed()
        assert ended == []
        deaf = False
        await allowances.end_owed()
        await allowances.end_owed()
        assert sorted(ended) == [("acme", "s-1"), ("acme", "s-2")]
        await allowances.over("globex", "s-3")
        assert ended[-1] == ("globex", "s-3")

    asyncio.run(act())


def test_no_cell_begins_for_what_no_bridge_of_its_tenants_answers() -> None:
    written: list[Event] = []

    async def append(event: Event) -> Receipt:
        written.append(event)
        return Receipt(ref="i-1", seq=1, hash="")

    def manifest(bridge: str, tenant: str) -> object:
        if (bridge, tenant) != ("python", "acme"):
            raise NotFoundError(f"no bridge {bridge!r}")
        return object()

    async def act() -> None:
        CALLER.set(object())
        journal: Any = SimpleNamespace(append=append)
        async with house() as at:
            table = Forwarding(at.cells, manifest, Refusals(journal, Metrics())).table()
            emit: Any = None

            def asked(**scope: str) -> Forwarded:
                return Forwarded(scope=OfTenant(**scope), raw=msgspec.Raw(b"{}"))

            for number in range(3):
                with pytest.raises(DeniedError, match="nobody:act is not granted") as caught:
                    await table["run"].handler(BOSS, asked(tenant=f"t{number}", operation="nobody:act"), emit)
                assert caught.value.event == "i-1"
                with pytest.raises(NotFoundError):
                    await table["session.open"].handler(BOSS, asked(tenant="acme", bridge="nobody"), emit)
            assert [(kind_of(one), one.tenant) for one in written] == [
                ("command.refused", f"t{number}") for number in range(3)
            ]
            assert not at.template.pids

    asyncio.run(act())


def test_a_tools_answer_by_another_connection_is_for_the_tenant_that_it_names_alone() -> None:
    """As the HTTP face gives it: what runs, runs by one link, and its tools are answered by the next."""
    asked: list[str] = []
    cells = [SimpleNamespace(tenant=tenant, calls={1: 1}) for tenant in ("acme", "globex", "rival")]

    class Living:
        def living(self, may_act_for: Any) -> list[Any]:
            return [cell for cell in cells if may_act_for(cell.tenant)]

        async def call(self, cell: Any, *_: object) -> msgspec.Raw:
            asked.append(cell.tenant)
            return msgspec.Raw(b"{}")

    living: Any = Living()
    emit: Any = None
    answered = forwarding_of(living).table()["tool.reply"].handler
    principal = Principal(name="alice", tenants=("acme", "globex"))

    def answer(tenant: str | None) -> None:
        CALLER.set(object())
        asyncio.run(answered(principal, Forwarded(scope=Scope(tenant=tenant), raw=msgspec.Raw(b"{}")), emit))

    CALLER.set(object())
    answer("globex")
    assert asked == ["globex"]
    for whose in ("rival", "nobody", "", None):
        with pytest.raises(NotFoundError):
            answer(whose)
    assert asked == ["globex"]


def refuse(tenant: str) -> None:
    raise DeniedError(f"{tenant} is suspended")


def test_a_cell_speaks_for_a_connection_that_it_has_and_for_no_other() -> None:
    said: list[str] = []

    async def relay(method: str, _params: msgspec.Raw, _emit: object) -> object:
        said.append(method)
        return {}

    async def act() -> None:
        async with house() as at, at.taken_over("acme") as (cell, link):
            entrances = Entrances(at.cells, begins_cell, lambda _: None)
            narrow = Principal(name="p", tenants=("acme",))
            assert entrances.living(narrow) is cell
            for other in (BOSS, Principal(name="q", tenants=("acme", "globex")), BOSS.narrowed("globex")):
                assert entrances.living(other) is None
            for name in ("ping", "tenant.list"):  # what the front answers begins no cell
                assert await entrances.begun(Principal(name="r", tenants=("new",)), name) is None
            reader = Principal(name="r", tenants=("new",), read_only=True)
            assert await entrances.begun(reader, "run") is None
            suspended = Entrances(at.cells, begins_cell, refuse)
            assert suspended.living(narrow) is await suspended.begun(narrow, "run") is None
            ours, theirs = socket.socketpair()
            proven = Proven(principal=narrow, shown="")
            handing = asyncio.create_task(entrances.hand(cell, proven, ours, b"read ahead", relay))
            await eventually(lambda: len(cell.handed) == 1)
            (number,) = cell.handed
            told, given, _, _ = socket.recv_fds(at.template.entrances[-1], 65_536, 2)
            assert msgspec.json.decode(told, type=cell_wire.HandedIn).principal == narrow
            assert os.pread(given[1], 100, 0) == b"read ahead"
            for descriptor in given:
                os.close(descriptor)
            await link.ask("relay", {"connection": number, "method": "ping", "params": {}})
            assert said == ["ping"]
            with pytest.raises(UsageError):
                await link.ask("relay", {"connection": number + 1, "method": "ping", "params": {}})
            link.tell("shut", {"caller": number + 1})
            link.tell("shut", {"caller": number})
            await asyncio.wait_for(handing, 30)
            assert not cell.handed
            assert theirs.recv(1) == b""  # its caller sees the end
            with pytest.raises(UsageError):
                await link.ask("relay", {"connection": number, "method": "ping", "params": {}})
            theirs.close()

    asyncio.run(act())


def test_the_connections_of_a_cell_end_with_it_typed_also_where_it_takes_none() -> None:
    async def act() -> None:
        async with house() as at:
            entrances, proven = (
                Entrances(at.cells, begins_cell, lambda _: None),
                Proven(principal=BOSS.narrowed("acme"), shown=""),
            )
            pairs = [socket.socketpair() for _ in range(2)]

            async def relay(*_: object) -> object:
                raise AssertionError

            async with at.taken_over("acme") as (cell, _):
                handing = asyncio.create_task(entrances.hand(cell, proven, pairs[0][0], b"", relay))
                await eventually(lambda: len(cell.handed) == 1)
            await asyncio.wait_for(handing, 30)
            await asyncio.wait_for(entrances.hand(cell, proven, pairs[1][0], b"", relay), 30)
            for _, theirs in pairs:
                assert b"cell_ended" in theirs.recv(4_096)
                assert theirs.recv(1) == b""
                theirs.close()

    asyncio.run(act())


@contextlib.asynccontextmanager
async def opening(house: SimpleNamespace) -> AsyncIterator[socket.socket]:
    """The cell's end of its socket, with the front's `Opens` at the other."""
    given, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = opens.Opens(
        house,  # type: ignore[arg-type]  # what of it is asked
        given,
        tenant="globex",
        cell="c",
        bridges=lambda: ["python"],
        broken=pytest.fail,
    )
    with theirs:
        try:
            yield theirs
        finally:
            made.close()


def test_a_cell_has_no_more_processes_of_tools_than_it_may_however_it_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """LimitsRequest all at once, and by one number: none is begun past the bound, none outlives the cell."""
    begun: list[int] = []

    async def adopt(_: str, pid: int) -> None:
        begun.append(pid)

    async def grant(*_: object) -> Any:
        return SimpleNamespace()

    monkeypatch.setattr(opens, "_MOST_TOOLS", 3)
    monkeypatch.setattr(opens, "decide_tool", lambda *_: SimpleNamespace(allowed=True))
    house = SimpleNamespace(
        adopt=adopt,
        layout=SimpleNamespace(tools=tmp_path),
        registry=SimpleNamespace(grant=grant),
        settings=SimpleNamespace(now=SimpleNamespace(tools={"nap": SimpleNamespace(entry="time:sleep")})),
    )

    def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in begun)

    async def act() -> None:
        for numbers, most in (([7] * 8, 1), (range(8), 3)):
            begun.clear()
            async with opening(house) as theirs:
                for number in numbers:
                    theirs.send(msgspec.json.encode(openings.AskTool(id=number, tool="nap")))
                codes = []
                for _ in numbers:
                    data, given, *_ = await asyncio.to_thread(socket.recv_fds, theirs, 65536, 3)
                    for descriptor in given:
                        os.close(descriptor)
                    answer = msgspec.json.decode(data, type=openings.Opened)
                    codes.append(answer.error.code if answer.error is not None else "")
                assert sorted(codes) == [""] * most + ["busy"] * (8 - most)
                assert len(begun) == most
            await eventually(gone)

    asyncio.run(act())


def test_a_cell_has_only_sockets_of_sandboxes_connected() -> None:
    """One of the machine's own network, however it came by it, would lead anywhere."""

    async def act() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket() as own,
            open(os.devnull) as file,
        ):
            port = server.getsockname()[1]
            async with opening(SimpleNamespace()) as theirs:
                for given in ([], [own.fileno()], [file.fileno()], [theirs.fileno()]):
                    ask = openings.AskConnect(id=7, port=port)
                    socket.send_fds(theirs, [msgspec.json.encode(ask)], given)
                    data = await asyncio.to_thread(theirs.recv, 65_536)
                    answer = msgspec.json.decode(data, type=openings.Opened)
                    assert answer.error is not None
                    assert answer.error.code == "usage"
                ask_rules = msgspec.json.encode(openings.EndTool(id=8, tool=1))
                before = len(os.listdir("/proc/self/fd"))
                for _ in range(32):  # what comes beside another question is kept by nobody
                    socket.send_fds(theirs, [ask_rules], [own.fileno()])
                last = openings.AskConnect(id=9, port=port)
                theirs.send(msgspec.json.encode(last))
                assert b'"id":9' in await asyncio.to_thread(theirs.recv, 65_536)
                assert len(os.listdir("/proc/self/fd")) <= before
            with pytest.raises(OSError, match="not connected"):
                own.getpeername()

    asyncio.run(act())


def test_a_cell_that_always_asks_for_its_bridges_has_a_tenth_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float] = []

    def own(*_: object, **__: object) -> list[object]:
        looks.append(time.monotonic())
        while time.monotonic() < looks[-1] + 0.01:
            pass
        return []

    monkeypatch.setattr(opens, "_BURST", 20)

    async def act() -> None:
        async with opening(SimpleNamespace(registry=SimpleNamespace(own=own))) as theirs:
            for _ in range(6):
                theirs.send(msgspec.json.encode(openings.AskBridges(id=1, anew=True, known="")))
            await eventually(lambda: len(looks) == 6)

    asyncio.run(act())
    assert looks[-1] - looks[0] > 4 * 0.1  # what was saved up is for the first
