"""What a session, a pool, a zygote, a recovery and a user script's relay do, each in the state that it is about."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import pytest

from bridgehold.audit.events import CommandIntent, CommandOutcome, CommandRefused, SessionClosed
from bridgehold.config.layout import find_layout
from bridgehold.config.load import Config
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    CommandTimeoutError,
    CrashError,
    DeniedError,
    MemoryLimitError,
    ProtocolError,
    SessionEndedError,
    SuspendedError,
    UsageError,
)
from bridgehold.host.cell.commands import refusals
from bridgehold.host.cell.commands.chains import Chain
from bridgehold.host.cell.scripts.ledger import Ledger
from bridgehold.host.cell.scripts.relay import Relay
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.front.boots import Script
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares.refusals import Refusals
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import Ceilings, Grant, Machine, Rate
from bridgehold.policies.model import Rules as Allowed
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import Principal, Reply
from bridgehold.sandbox.values import ExitReport
from doubles import clock
from doubles.guest import SILENT, Guest, obedient
from doubles.house import CALLER, METRICS, OPERATIONS, House, manifest_of
from doubles.steps import Steps


def played(act: Callable[[House], Awaitable[None]], **given: Any) -> None:
    """`act` in a house that is empty afterwards."""

    async def play() -> None:
        house = House(**given)
        await act(house)
        await house.settle(60.0)
        house.check()
        await house.stop()
        house.check_empty()

    clock.run(play())


def test_who_is_refused_for_concurrency_takes_nothing_from_the_warm_pool() -> None:
    async def act(house: House) -> None:
        await house.open()
        await house.settle(60.0)
        before, events = house.launcher.workers(), len(house.journal.events)
        assert len(before) == 3
        for _ in range(3):
            with pytest.raises(BusyError, match="already has 1 sessions"):
                await house.open("two")
        await house.settle(60.0)
        assert house.launcher.workers() == before
        assert len(house.journal.events) == events

    played(act, pool=2, concurrency=1)


def test_who_is_refused_for_the_hosts_bound_takes_nothing_either() -> None:
    async def act(house: House) -> None:
        await house.open()
        await house.settle(60.0)
        before = house.launcher.workers()
        with pytest.raises(BusyError, match="this host already has 1 sessions"):
            await house.open(tenant="umbra")
        assert house.launcher.workers() == before

    played(act, pool=2, bound=1)


def test_what_dies_in_the_warm_pool_is_not_counted_nor_given_to_anybody() -> None:
    async def act(house: House) -> None:
        first = await house.open()
        await house.settle(60.0)
        assert house.warm.counts() == {("acme", "first"): 2}
        zygote = first.worker.launched.zygote
        house.launcher.end(zygote, "signal", 9)  # its forks end with it
        await house.settle(1.0)
        assert house.launcher.workers() == set()
        assert house.warm.counts() == {("acme", "first"): 0}
        session = await house.open("two")
        await house.settle(60.0)
        assert session.worker.launched.zygote != zygote
        assert house.warm.counts() == {("acme", "first"): 2}

    played(act, pool=2)


@pytest.mark.parametrize("cause", ["zygote", "exited", "memory"])
def test_whoever_comes_while_a_session_ends_is_told_what_its_worker_ended_of(cause: str) -> None:
    """In flight, queued behind that, or after any number of the loop's turns, if that finds no new session."""
    said = {
        "zygote": "ended with its zygote",
        "exited": "ended by itself with status 7",
        "memory": "memory cap",
    }

    def told(error: object) -> bool:
        return isinstance(error, BridgeholdError) and said[cause] in error.message

    def silent(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return SILENT if "wait" in arguments else obedient(guest, command, arguments)

    async def act(house: House, turns: int) -> None:
        session = await house.open()
        asked = [asyncio.ensure_future(house.command(wait=True)) for _ in range(3)]
        while session._queued < len(asked):
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        ends = session.worker.launched.zygote if cause == "zygote" else session.worker.name
        house.launcher.end(ends, "memory" if cause == "memory" else "exited", 7)
        for _ in range(turns):
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked, house.command(session.id), return_exceptions=True)
        assert [told(one) for one in answers[:3]] == [True] * 3, answers
        assert told(answers[3]) or isinstance(answers[3], Reply), answers
        code = {"zygote": "zygote", "exited": "crash", "memory": "memory"}[cause]
        assert next(house.journal.of(SessionClosed)).code == code

    for turns in range(24):
        played(functools.partial(act, turns=turns), behaviour=silent)


@pytest.mark.parametrize(("cause", "said"), [("exited", CrashError), ("killed", ProtocolError)])
def test_who_closed_its_frames_is_blamed_for_running_on_only_where_it_did(
    cause: Literal["exited", "killed"], said: type[BridgeholdError]
) -> None:
    """On a busy machine the launcher's word of an end comes seconds after the end of its pipe."""

    async def act(house: House) -> None:
        session = await house.open()
        name = session.worker.name

        async def late(worker: str) -> ExitReport:
            await asyncio.sleep(1.0)
            house.launcher.end(worker, cause, 7)
            return await house.launcher.exited(worker)

        house.launcher.kill = late  # type: ignore[method-assign]  # it had begun to end it before it was asked
        asked = asyncio.ensure_future(house.command(wait=True))
        while not session.worker.calls.in_flight:
            await asyncio.sleep(0)
        house.launcher.guest(name).close()
        with pytest.raises(said):
            await asked
        del house.launcher.kill

    def silent(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return SILENT if "wait" in arguments else obedient(guest, command, arguments)

    played(act, behaviour=silent)


def test_nothing_stands_in_the_warm_pool_whose_proof_the_audit_does_not_have() -> None:
    async def act(house: House) -> None:
        await house.open()
        standing = house.launcher.workers()
        proofs = [event.worker for event in house.journal.events if getattr(event, "worker", "")]  # type: ignore[attr-defined]

        def refuse(name: str) -> None:
            if name == "journal WorkerAttested":
                raise BridgeholdError("no room")

        house.steps.every(refuse)
        await house.settle(60.0)
        house.steps.every(None)
        assert house.launcher.workers() == standing, proofs
        assert house.warm.counts() == {("acme", "first"): 0}

    played(act, pool=2)


@pytest.mark.parametrize("way", ["close", "drain"])
def test_a_close_goes_on_though_who_asked_has_left_and_nothing_runs_in_a_closed_bridge(way: str) -> None:
    async def act(house: House) -> None:
        session = await house.open()
        guest = house.launcher.guest(session.worker.name)
        closing = asyncio.ensure_future(
            session.drain("asked", 1.0) if way == "drain" else session.close("asked")
        )
        while "common:close" not in guest.calls:
            await asyncio.sleep(0)
        assert not session.alive
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(SessionEndedError):
            async with session.turn("c-1", "caller"):
                raise AssertionError("it runs in a bridge that is closed")
        reply = await house.command()  # by its name: in the next one
        assert reply.session != session.id
        assert session.over
        assert [one.reason for one in house.journal.of(SessionClosed)] == ["asked"]

    played(act)


def test_who_ends_a_session_waits_for_no_polite_end() -> None:
    def silent(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return SILENT if command == "common:close" else obedient(guest, command, arguments)

    async def act(house: House) -> None:
        session = await house.open()
        closing = asyncio.ensure_future(session.close("asked"))
        await asyncio.sleep(0.5)
        assert not session.over
        begun = asyncio.get_running_loop().time()
        await session.end("in a hurry")
        await closing
        assert asyncio.get_running_loop().time() - begun < 0.1
        assert [one.reason for one in house.journal.of(SessionClosed)] == ["asked"]

    played(act, behaviour=silent)


def test_a_kill_that_fails_is_tried_again_until_the_worker_is_gone() -> None:
    async def act(house: House) -> None:
        session = await house.open()
        tries = []

        def refuse(name: str) -> None:
            if name == "launcher kill" and len(tries) < 9:
                tries.append(name)
                raise BridgeholdError("the socket is full")

        house.steps.every(refuse)
        await session.end("asked")
        assert len(tries) == 9
        assert house.launcher.workers() == set()
        assert session.over

    played(act)


def test_a_start_that_is_cancelled_again_and_again_is_not_over_before_its_worker_is() -> None:
    def silent(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return SILENT if command == "common:open" else obedient(guest, command, arguments)

    async def act(house: House) -> None:
        order = await house.order("acme", SessionKey("acme", "first", "one").asks("s-1", "caller"))
        starting = asyncio.ensure_future(
            house.warm.start(order, lambda _order: asyncio.ensure_future(asyncio.sleep(0)))
        )
        await house.settle(1.0)
        assert len(house.launcher.workers()) == 1
        for _ in range(5):
            starting.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert house.launcher.workers() == set()
        assert house.journal.open_workers() == set()

    steps = Steps(lambda name: 1.0 if name == "launcher kill" else 0.0)
    played(act, behaviour=silent, start="cold", steps=steps)


def test_who_opens_a_session_whose_worker_ends_just_then_is_told_what_it_ended_of() -> None:
    """The launcher knows it no longer, and that is no answer for a caller: nothing of its was not found."""

    async def act(house: House) -> None:
        order = await house.order("acme", SessionKey("acme", "first", "one").asks("s-1", "caller"))
        starting = asyncio.ensure_future(
            house.warm.start(order, lambda _order: asyncio.ensure_future(asyncio.sleep(0)))
        )
        await house.settle(0.5)
        [name] = house.launcher.workers()
        house.launcher.end(name, "exited", 3)
        with pytest.raises(CrashError, match="by itself with status 3"):
            await starting

    steps = Steps(lambda name: 1.0 if name == "launcher account" else 0.0)
    played(act, start="cold", steps=steps)


def test_a_zygote_that_makes_room_leaves_though_who_needed_the_room_has_left() -> None:
    async def act(house: House) -> None:
        await (await house.open()).close("asked")
        assert len(house.launcher.zygotes()) == 1

        def full(name: str) -> None:
            if name == "launcher launch worker":
                raise BusyError("no room")

        house.steps.every(full)
        house.registry.start = "cold"
        order = await house.order("umbra", SessionKey("umbra", "first", "one").asks("s-1", "caller"))
        starting = asyncio.ensure_future(
            house.warm.start(order, lambda _order: asyncio.ensure_future(asyncio.sleep(0)))
        )
        await asyncio.sleep(0.5)
        starting.cancel()
        await asyncio.wait({starting})
        house.steps.every(None)
        await house.settle(60.0)
        assert house.launcher.zygotes() == set()

    played(act, steps=Steps(lambda name: 1.0 if name == "launcher kill" else 0.0))


def test_a_host_that_stops_waits_for_a_zygote_that_was_ending_already() -> None:
    async def act(house: House) -> None:
        await (await house.open()).close("asked")
        house.zygotes.retire("sha256:0", "another environment")
        while house.launcher.zygotes():
            await asyncio.sleep(0.001)
        assert len(house.journal.open_zygotes()) == 1
        await house.stop()
        assert house.journal.open_zygotes() == set()

    played(act, steps=Steps(lambda name: 1.0 if name == "journal ZygoteEnded" else 0.0))


class Data:
    """What a caller had in hand when something failed."""


async def failed(house: House, kept: list[weakref.ref[Data]]) -> Session:
    """A session that was ended by an error, whose frames held the caller's data."""
    session = await house.open()

    def fail() -> None:
        data = Data()
        kept.append(weakref.ref(data))
        raise MemoryLimitError(f"too much {id(data)}")

    try:
        fail()
    except MemoryLimitError as error:
        await session.end("a fault", error)
        error.hint = "for one caller alone"
    return session


def test_an_ended_session_keeps_facts_and_no_error_that_was_raised() -> None:
    async def act(house: House) -> None:
        kept: list[weakref.ref[Data]] = []
        session = await failed(house, kept)
        gc.collect()
        assert kept[0]() is None
        told = []
        for _ in range(2):
            with pytest.raises(MemoryLimitError) as caught:
                async with session.turn("c-1", "caller"):
                    raise AssertionError("it has ended")
            told.append(caught.value)
        assert told[0] is not told[1]
        assert told[0].hint == MemoryLimitError.default_hint
        assert all(isinstance(one, msgspec.Struct) for one in (session.ending, session.worker.failure))
        with pytest.raises(MemoryLimitError):
            await session.worker.call("first:act", {}, deadline_ms=1_000)

    played(act)


def test_a_lost_session_is_made_again_once_and_a_recovery_that_fails_ends_it() -> None:
    def makes(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return {"id": arguments["id"]} if command == "first:make" else obedient(guest, command, arguments)

    async def act(house: House) -> None:
        before = (await house.command(operation="first:make", id="a")).session
        worker = next(iter(house.sessions)).worker.name
        house.launcher.end(worker, "signal", 9)
        await house.settle(1.0)
        reply = await house.command()
        again = [one for one in house.journal.of(CommandIntent) if one.replays]
        assert [one.operation for one in again] == ["first:make"]
        assert before in reply.anew
        house.launcher.end(next(iter(house.sessions)).worker.name, "signal", 9)
        await house.settle(1.0)
        house.launcher.behaviour = lambda _guest, command, _arguments: (
            {"id": "b"} if command == "first:make" else {}
        )
        with pytest.raises(SessionEndedError, match="could not be made again"):
            await house.command()
        await house.settle(1.0)
        house.launcher.behaviour = makes
        assert "could not be made again" in (await house.command()).anew
        assert len([one for one in house.journal.of(CommandIntent) if one.replays]) == 2

    played(act, behaviour=makes)


class ToldCaller(list[dict[str, object]]):
    """What a caller of a script is told."""

    def __call__(self, item: dict[str, object]) -> None:
        self.append(item)

    def full(self, _most: int) -> bool:
        return False


SCRIPT = Script(kind="script", text="/bridge/script.py")


async def relayed(
    house: House,
    emit: ToldCaller,
    script: Script = SCRIPT,
    principal: Principal = CALLER,
    ceilings: Ceilings | None = None,
    rates: CommandRates | None = None,
) -> Relay:
    key = SessionKey("acme", "first", "script")

    async def order(session: str) -> Any:
        made = await house.order(key.tenant, key.asks(session, "caller"))
        return msgspec.structs.replace(made, script=script)

    session = await house.sessions.get_or_open(key, order, "caller")
    ledger = Ledger(
        session,
        CALLER,
        house.journal,
        METRICS,
        Refusals(house.journal, METRICS),
        house.degraded.append,  # type: ignore[arg-type]
    )

    async def rules() -> Grant:
        return msgspec.structs.replace(
            await house.registry.grant("acme", "first"), ceilings=ceilings or Ceilings()
        )

    relay = Relay(
        session,
        formats=("json",),
        protocol=script.protocol,
        ledger=ledger,
        rules=rules,
        rates=rates or CommandRates(),
        keys=house.keys,
        emit=emit,  # type: ignore[arg-type]
        may_read=True,
    )
    await relay.start(script, principal)
    return relay


def asked(number: int, command: str = "act") -> bytes:
    return msgspec.json.encode({"id": number, "command": command, "args": {}})


@pytest.mark.parametrize("end", ["answers", "dies", "late", "leaves"])
def test_each_command_of_a_script_has_an_outcome_however_it_ends(end: str) -> None:
    def script(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return (
            obedient(guest, command, arguments)
            if command.startswith("common:") or end == "answers"
            else SILENT
        )

    async def act(house: House) -> None:
        emit = ToldCaller()
        relay = await relayed(house, emit)
        await relay.send(asked(1), CALLER)
        await relay.send(asked(2), CALLER)
        await house.settle(1.0)
        if end == "dies":
            house.launcher.end(relay.session.worker.name, "memory", 9)
        elif end == "leaves":
            relay.finish_input()
        await house.settle(100.0)
        outcomes = list(house.journal.of(CommandOutcome))
        codes = {"answers": "", "dies": "memory", "late": "timeout", "leaves": "session_ended"}
        assert [one.code for one in outcomes] == [codes[end]] * 2
        assert len(emit) == (2 if end == "answers" else 0)
        assert relay.session.alive == (end == "answers")

    played(act, behaviour=script)


def test_a_script_is_refused_by_the_rules_that_hold_now_and_an_intent_that_fails_sends_nothing() -> None:
    async def act(house: House) -> None:
        emit = ToldCaller()
        relay = await relayed(house, emit)
        with pytest.raises(BridgeholdError, match="not a command's name"):
            await relay.send(asked(1, "a b"), CALLER)
        assert len(list(house.journal.of(CommandRefused))) == 1

        def refuse(name: str) -> None:
            if name == "journal CommandIntent":
                raise BridgeholdError("no room")

        house.steps.every(refuse)
        with pytest.raises(BridgeholdError, match="no room"):
            await relay.send(asked(2), CALLER)
        house.steps.every(None)
        await house.settle(1.0)
        assert emit == []
        await relay.send(asked(2), CALLER)
        await house.settle(1.0)
        assert [one["id"] for one in emit] == [2]

    played(act)


class OneKind:
    """A registry whose policy allows what has to do with one kind of resource, and so many commands."""

    def __init__(self, house: House, *, operations: tuple[str, ...] = ("*",), commands: int = 60) -> None:
        self._grant = msgspec.structs.replace(
            house.registry.stands("acme", "first")[0],
            rate=Rate(commands_per_minute=commands),
            operations=Allowed(allow=operations),
            resources=Allowed(allow=("none",)),
        )

    async def granted(self, _tenant: str, bridge: str) -> Any:
        return SimpleNamespace(manifest=manifest_of(bridge), grant=self._grant, decisions={})


def test_what_the_ids_in_a_large_request_refuse_costs_the_rate_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(house: House) -> None:
        house.dispatch._registry = OneKind(house, commands=6)  # type: ignore[assignment]
        large = {"rows": [dict.fromkeys("abc", 1)] * 20_000, "thing_id": "t-1"}
        asked = asyncio.ensure_future(house.command("one", **large))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20
        with pytest.raises(DeniedError, match="kind of resource 'thing' is not granted"):
            await asked
        with pytest.raises(BudgetError, match="commands"):
            await house.command("one", **large)
        assert [one.rule for one in house.journal.of(CommandRefused)] == [
            "default-deny",
            "rate.commands_per_minute",
        ]
        told = [one.arguments_preview for one in house.journal.of(CommandRefused)]
        assert told == ['{"…":"more than 5000 values"}'] * 2
        monkeypatch.setattr(refusals, "split_in_turns", None)  # of so many values nothing more is looked at
        # What needs no look at the arguments is decided without one, and costs no rate.
        house.dispatch._registry = OneKind(house, operations=("first:make",), commands=1)  # type: ignore[assignment]
        for operation, why in (("act", "operation 'first:act'"), ("make", "kind of resource 'thing'")) * 3:
            with pytest.raises(DeniedError, match=why):
                await house.command("one", f"first:{operation}", **large)
        assert not list(house.journal.of(CommandIntent))

    played(act)


SCOPED = msgspec.structs.replace(CALLER, name="token:app", operations=("first:act",))


def test_a_tokens_operations_bind_what_it_sends_a_script_whoever_opened_it() -> None:
    async def act(house: House) -> None:
        emit = ToldCaller()
        relay = await relayed(house, emit)
        with pytest.raises(DeniedError, match="may not run first:make"):
            await relay.send(asked(1, "make"), SCOPED)
        (refused,) = house.journal.of(CommandRefused)
        assert (refused.rule, refused.principal) == ("token:app.scope", "token:app")
        assert not list(house.journal.of(CommandIntent))
        await relay.send(asked(1), SCOPED)
        await relay.send(asked(2, "make"), CALLER)
        await house.settle(1.0)
        assert [one["id"] for one in emit] == [1, 2]
        for kind in (CommandIntent, CommandOutcome):
            assert [one.principal for one in house.journal.of(kind)] == ["token:app", "caller"]

    played(act)


@pytest.mark.parametrize("kind", ["code", "module", "stdin"])
def test_code_of_ones_own_is_for_a_token_whose_operations_leave_out_none(kind: Any) -> None:
    async def act(house: House) -> None:
        code = Script(kind=kind, text="print(1)", protocol=False)
        for operations in (("first:act",), ("first:python",), ("firs*:*",), ("second:*",)):
            principal = msgspec.structs.replace(SCOPED, operations=operations)
            with pytest.raises(DeniedError, match="may not run first:python"):
                await relayed(house, ToldCaller(), code, principal)
            await next(iter(house.sessions)).close("refused")
        assert not list(house.journal.of(CommandIntent))
        relay = await relayed(
            house, ToldCaller(), code, msgspec.structs.replace(SCOPED, operations=("a:b", "first:*"))
        )
        assert len(list(house.journal.of(CommandIntent))) == 1
        with pytest.raises(DeniedError, match="may not run first:python"):
            await relay.send(b"print(2)\n", SCOPED)
        await relay.session.close("asked")
        rates, ceilings = CommandRates(), Ceilings(commands_per_second=1)
        relay = await relayed(house, ToldCaller(), code, ceilings=ceilings, rates=rates)
        await relay.session.close("asked")
        rates.take(relay._grant, asyncio.get_running_loop().time())  # its close took longer than a second
        with pytest.raises(BudgetError, match="commands_per_second"):
            relay = await relayed(house, ToldCaller(), code, ceilings=ceilings, rates=rates)
        await next(iter(house.sessions)).close("refused")
        assert len(list(house.journal.of(CommandIntent))) == 2
        await relay.session.close("asked")

    played(act)


def test_a_scripts_bytes_count_for_its_tenant_both_ways_and_what_is_past_the_ceiling_waits() -> None:
    async def act(house: House) -> None:
        emit, loop = ToldCaller(), asyncio.get_running_loop()
        relay = await relayed(house, emit, ceilings=Ceilings(bytes_per_second=100))
        guest = house.launcher.guest(relay.session.worker.name)
        guest._say({"said": "x" * 1_000})
        await asyncio.sleep(0.1)
        guest._say({"said": "y"})
        await asyncio.sleep(1.0)
        assert len(emit) == 1
        with pytest.raises(BudgetError, match="bytes_per_second"):
            await relay.send(asked(1), CALLER)
        assert not list(house.journal.of(CommandIntent))
        await house.settle(20.0)
        assert len(emit) == 2
        await relay.send(asked(1)[:-1] + b" " * 2_000 + b"}", CALLER)
        with pytest.raises(BudgetError, match="bytes_per_second"):
            await relay.send(asked(2), CALLER)
        await house.settle(1.0)
        assert len(emit) == 2, "its answer waits"
        await house.settle(30.0)
        assert len(emit) == 3
        await relay.session.close("asked")

        code = Script(kind="stdin", text="", protocol=False)
        relay = await relayed(house, emit, code, ceilings=Ceilings(bytes_per_second=100))
        begun = loop.time()
        for _ in range(3):
            await relay.send(b"#" * 500, CALLER)
        assert 9.0 < loop.time() - begun < 12.0
        await relay.session.close("asked")

    played(act)


class Rules:
    """A registry's files, of a tenant and a bridge that `House` has, and the real registry that reads them."""

    def __init__(self, home: Path, house: House) -> None:
        layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, 0)
        bridge = layout.bridges / "first"
        for folder in (layout.policies, layout.tenants, bridge):
            folder.mkdir(parents=True)
        operations = "".join(f'[operations.{name}]\nsummary = "x"\neffect = "run"\n' for name in OPERATIONS)
        (bridge / "bridge.toml").write_text(
            f'name = "first"\nversion = "1.0.0"\nentry = "module:Class"\n{operations}'
        )
        self._policy, self._ceiling = layout.policies / "first.toml", layout.tenants / "acme.toml"
        self.put("granted")
        machine = Machine(cgroup="v2", uids="range", cpus=2)
        journal: Any = house.journal
        real: Any = Registry(layout, Config(), machine, journal)
        house.dispatch._registry = real

    def put(self, state: str) -> None:
        deny = 'deny = ["first:act"]\n' if state == "denied" else ""
        self._policy.write_text(f'extends = "baseline"\n[operations]\nallow = ["first:*"]\n{deny}')
        self._ceiling.write_text('[tenant]\nstate = "suspended"\n' if state == "suspended" else "# active\n")


@pytest.mark.parametrize("state", ["suspended", "denied"])
@pytest.mark.parametrize("behind", ["a command", "its opening"])
def test_a_command_that_waited_begins_by_the_rules_that_hold_when_it_begins(
    tmp_path: Path, state: str, behind: str
) -> None:
    refused = SuspendedError if state == "suspended" else DeniedError

    async def act(house: House) -> None:
        rules = Rules(tmp_path, house)
        begun = []
        if behind == "a command":
            begun = [asyncio.ensure_future(house.command())]
            while not list(house.journal.of(CommandIntent)):
                await asyncio.sleep(0)
        house.dispatch._chains["c-tool"] = Chain("acme", ("s-other",))
        nested = CommandRequest(
            operation="first:act", arguments={}, tenant="acme", session="one", parent="c-tool"
        )
        waiting = [
            *(asyncio.ensure_future(house.command()) for _ in range(3)),
            asyncio.ensure_future(house.dispatch.run(CALLER, nested)),
        ]
        await asyncio.sleep(0.5)
        rules.put(state)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in answers] == [refused] * 4, answers
        assert len(list(house.journal.of(CommandRefused))) == 4
        assert len(list(house.journal.of(CommandIntent))) == len(begun)
        await asyncio.gather(*begun)
        rules.put("granted")
        assert (await house.command()).value == {"command": "first:act"}

    slow = "guest first:act" if behind == "a command" else "order"
    played(act, steps=Steps(lambda name: 1.0 if name == slow else 0.0))


def test_a_command_past_its_deadline_ends_its_session_and_says_so_to_its_caller_alone() -> None:
    def silent(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        return SILENT if command == "first:act" else obedient(guest, command, arguments)

    async def act(house: House) -> None:
        with pytest.raises(CommandTimeoutError) as caught:
            await house.command()
        session = next(house.journal.of(CommandIntent)).session
        await house.settle(1.0)
        assert caught.value.event
        with pytest.raises(SessionEndedError) as later:
            house.sessions.find(CALLER.may_act_for, session)
        assert later.value.event == ""

    played(act, behaviour=silent)


def test_arguments_that_take_turns_to_check_are_decided_by_what_holds_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    takes = {"type": "object", "properties": {"rows": {"items": {"type": "integer"}}}}
    manifest = manifest_of("first")
    act_ = msgspec.structs.replace(manifest.operations["act"], arguments=takes)
    checked = msgspec.structs.replace(manifest, operations={**manifest.operations, "act": act_})

    async def act(house: House) -> None:
        looks: list[Grant] = []

        async def granted(tenant: str, bridge: str) -> Any:
            looks.append(house.registry.stands(tenant, bridge)[0])
            return SimpleNamespace(manifest=checked, grant=looks[-1], decisions={})

        monkeypatch.setattr(house.registry, "granted", granted)
        await house.command(rows=[1])
        looks.clear()
        await house.command(rows=[1])
        assert len(looks) == 1
        asked = asyncio.create_task(house.command(rows=list(range(5_000))))
        while len(looks) == 1:
            await asyncio.sleep(0)
        house.registry.generation += 1  # the policy is written anew while the arguments are looked at
        await asyncio.wait_for(asked, 30)
        old, new = looks[0].digest, looks[-1].digest
        assert [look.digest for look in looks[:4]] == [old, old, new, new]
        intents = [event for event in house.journal.events if isinstance(event, CommandIntent)]
        assert [intent.grant for intent in intents] == [old, old, new]
        with pytest.raises(UsageError, match=r"rows\[4999\]: integer expected"):
            await house.command(rows=[*range(4_999), "x"])

    played(act)


@pytest.mark.parametrize("left", [False, True])
def test_a_files_next_part_passes_none_before_it_however_long_that_one_is_decided(
    monkeypatch: pytest.MonkeyPatch, *, left: bool
) -> None:
    seen: list[object] = []

    def writes(guest: Guest, command: str, arguments: dict[str, Any]) -> object:
        if command == "first:act":
            seen.append(arguments.get("base64"))
        return obedient(guest, command, arguments)

    async def act(house: House) -> None:
        await house.command()
        seen.clear()
        pauses = iter([5.0, 3.0, 0.0, 0.0])
        stands = house.registry.granted

        async def granted(tenant: str, bridge: str) -> Any:
            await asyncio.sleep(next(pauses, 0.0))
            return await stands(tenant, bridge)

        monkeypatch.setattr(house.registry, "granted", granted)
        parts = [asyncio.ensure_future(house.command(base64=f"AAA{n}")) for n in range(3)]
        aside = asyncio.ensure_future(house.command(name="two"))
        await asyncio.sleep(1.0)
        assert aside.done()  # another session's command waits for none of them
        assert not any(part.done() for part in parts)
        if left:
            parts[1].cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        assert [one for one in seen if one is not None] == [f"AAA{n}" for n in range(3) if n != 1 or not left]
        assert house.dispatch._arrivals == {}

    played(act, behaviour=writes)
