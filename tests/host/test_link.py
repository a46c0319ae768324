"""The link of front and cell: questions both ways, and an end that breaks its rules ends alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from bridgehold.errors import (
    BusyError,
    CellEndedError,
    DeniedError,
    InternalError,
    LimitError,
)
from bridgehold.host.shares.link import MOST, UNREAD_EVENTS, Bounds, Frame, Link, Waiting, decoded
from bridgehold.protocol.frames import HEADER
from waiting import eventually

Answer = Callable[[str, msgspec.Raw, Waiting], Awaitable[object]]


async def nothing(_method: str, _body: msgspec.Raw, _told: Waiting) -> object:
    return None


@contextlib.asynccontextmanager
async def pair(answers: Answer, other: Answer = nothing) -> AsyncIterator[tuple[Link, Link]]:
    """(who asks, who answers)."""
    one, two = socket.socketpair()
    asking, answering = Link(other), Link(answers)
    await asking.connect(one)
    await answering.connect(two)
    running = [asyncio.create_task(link.run()) for link in (asking, answering)]
    try:
        yield asking, answering
    finally:
        asking.close()
        answering.close()
        await asyncio.wait_for(asyncio.gather(*running), 30)


class Told:
    """A caller that reads only when the test lets it."""

    def __init__(self, *, slow: bool = False) -> None:
        self.events: list[object] = []
        self.slow = slow

    def __call__(self, event: msgspec.Raw, /) -> None:
        self.events.append(msgspec.json.decode(event))

    def full(self, _most: int = 0) -> bool:
        return self.slow


def test_questions_go_both_ways_with_events_before_each_answer() -> None:
    async def answer(method: str, body: msgspec.Raw, told: Waiting) -> object:
        for number in range(3):
            told({"n": number})
        return {"method": method, "said": msgspec.json.decode(body)}

    async def act() -> None:
        async with pair(answer, answer) as (one, two):
            for link in (one, two):
                told = Told()
                asked = [link.ask("echo", {"a": [1, None, "é"]}, told) for _ in range(20)]
                answers = [msgspec.json.decode(raw) for raw in await asyncio.gather(*asked)]
                assert answers == [{"method": "echo", "said": {"a": [1, None, "é"]}}] * 20
                assert len(told.events) == 60
            assert decoded(await one.ask("echo", None), dict[str, object])["said"] is None

    asyncio.run(act())


def test_typed_errors_stay_typed_and_a_defect_tells_its_kind_alone() -> None:
    async def answer(method: str, _body: msgspec.Raw, _told: Waiting) -> object:
        if method == "refuse":
            raise DeniedError("not yours", hint="ask", where="rule", event="e-1")
        raise RuntimeError("a secret of ours")

    async def act() -> None:
        async with pair(answer) as (one, _):
            with pytest.raises(DeniedError) as denied:
                await one.ask("refuse", None)
            assert (denied.value.message, denied.value.hint, denied.value.event) == (
                "not yours",
                "ask",
                "e-1",
            )
            with pytest.raises(InternalError) as defect:
                await one.ask("other", None)
            assert "secret" not in str(defect.value.info())

    asyncio.run(act())


def test_who_gives_up_ends_the_work_and_who_goes_ends_all_of_it() -> None:
    ended: list[str] = []

    async def answer(method: str, _body: msgspec.Raw, _told: Waiting) -> object:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(method)
        return None

    async def act() -> None:
        async with pair(answer) as (one, two):
            first = asyncio.create_task(one.ask("first", None))
            await eventually(lambda: len(two._answering) == 1)
            first.cancel()
            await eventually(lambda: ended == ["first"])
            second = asyncio.create_task(one.ask("second", None))
            await eventually(lambda: len(two._answering) == 1)
            two.close()
            with pytest.raises(CellEndedError):
                await asyncio.wait_for(second, 30)
            with pytest.raises(CellEndedError):
                await one.ask("third", None)
            await eventually(lambda: ended == ["first", "second"])

    asyncio.run(act())


def test_events_that_nobody_reads_are_counted_at_the_sender_and_end_their_question() -> None:
    sent = 0

    async def answer(_method: str, _body: msgspec.Raw, told: Waiting) -> object:
        nonlocal sent
        while True:
            told("x" * 100_000)
            sent += 1
            await asyncio.sleep(0)

    async def act() -> None:
        async with pair(answer) as (one, two):
            slow = Told(slow=True)
            with pytest.raises(LimitError):
                await asyncio.wait_for(one.ask("flood", None, slow), 60)
            assert sent <= UNREAD_EVENTS // 100_000 + 2
            assert not two._answering
            quick = Told()
            asked = asyncio.create_task(one.ask("flood", None, quick))
            await eventually(lambda: len(quick.events) > 2 * UNREAD_EVENTS // 100_000)  # who reads goes on
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(act())


def test_a_question_says_when_its_asker_does_not_read() -> None:
    seen: list[bool] = []

    async def answer(_method: str, _body: msgspec.Raw, told: Waiting) -> object:
        told("x" * 200_000)
        seen.append(told.full())
        await eventually(lambda: not told.full())
        return None

    async def act() -> None:
        async with pair(answer) as (one, _):
            told = Told(slow=True)
            asked = asyncio.create_task(one.ask("say", None, told))
            await eventually(lambda: seen == [True])
            told.slow = False
            await asyncio.wait_for(asked, 30)

    asyncio.run(act())


def framed(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


ASK = b'{"kind":"ask","id":1,"method":"wait"}'


@pytest.mark.hostile
@pytest.mark.parametrize(
    "said",
    [
        framed(b"nonsense"),
        framed(b"[" * 200_000),
        framed(b'{"kind":"take","id":1}'),
        framed(ASK) * 2,
        HEADER.pack(MOST + 1),
        b"\x00\x00",
    ],
    ids=["no JSON", "deep", "another kind", "the same question twice", "too long", "half a length"],
)
def test_what_breaks_the_rules_ends_the_link_and_all_that_it_asked(said: bytes) -> None:
    ended: list[str] = []

    async def wait(method: str, _body: msgspec.Raw, _told: Waiting) -> object:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(method)
        return None

    async def act() -> None:
        ours, theirs = socket.socketpair()
        front = Link(wait)
        await front.connect(ours)
        running = asyncio.create_task(front.run())
        asked = asyncio.create_task(front.ask("call", None))
        await asyncio.to_thread(theirs.recv, 65_536)
        await asyncio.to_thread(theirs.sendall, said)
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(running, 30)
        with pytest.raises(CellEndedError):
            await asked
        assert front.gone.is_set()
        assert not front._answering
        theirs.close()

    asyncio.run(act())


@pytest.mark.hostile
def test_answers_to_nothing_and_credit_that_was_not_asked_for_change_nothing() -> None:
    async def act() -> None:
        async with pair(nothing) as (one, two):
            for frame in (
                Frame(kind="result", id=99),
                Frame(kind="error", id=99),
                Frame(kind="event", id=99),
                Frame(kind="taken", id=99, size=1 << 60),
                Frame(kind="cancel", id=99),
            ):
                two._send(frame)
            assert msgspec.json.decode(await one.ask("on", None)) is None

    asyncio.run(act())


@pytest.mark.hostile
def test_an_end_that_does_not_read_takes_no_memory_here() -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair()
        front = Link(nothing)
        await front.connect(ours)
        running = asyncio.create_task(front.run())
        large = "x" * 4_000_000
        for _ in range(20):
            asked = asyncio.create_task(front.ask("call", large))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
        assert front._writer is not None
        assert front._writer.transport.get_write_buffer_size() < 9_000_000
        for _ in range(30):
            front.tell("config", large)
        assert front.gone.is_set()  # what is told and not read ends it
        await asyncio.wait_for(running, 30)
        theirs.close()

    asyncio.run(act())


@pytest.mark.hostile
def test_what_one_end_asks_is_bounded_and_paced_where_the_other_says_so() -> None:
    turns = 0

    async def act() -> None:
        nonlocal turns
        ours, theirs = socket.socketpair()
        told: list[str] = []
        bounds = Bounds(asked=4, question_bytes=1_024, frames_per_second=500)
        front = Link(nothing, bounds, lambda method, _: method == "over" and not told.append(method))
        await front.connect(ours)
        running = asyncio.create_task(front.run())
        one = framed(b'{"kind":"ask","id":1,"method":"over"}')
        await asyncio.to_thread(theirs.sendall, one * 3_000)
        begun = asyncio.get_running_loop().time()
        while len(told) < 1_500:
            turns += 1
            await asyncio.sleep(0)
            assert asyncio.get_running_loop().time() - begun < 30
        assert len(told) < 2_000  # the others wait for their time
        assert turns > 100  # and this loop had its own meanwhile
        assert not front._answering
        running.cancel()
        theirs.close()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(act())


@pytest.mark.hostile
def test_a_question_that_is_too_large_ends_the_link() -> None:
    async def act() -> None:
        ours, theirs = socket.socketpair()
        front = Link(nothing, Bounds(question_bytes=1_024))
        await front.connect(ours)
        running = asyncio.create_task(front.run())
        theirs.sendall(framed(b'{"kind":"ask","id":1,"method":"order","body":"%b"}' % (b"x" * 2_000)))
        await asyncio.wait_for(running, 30)
        assert front.gone.is_set()
        theirs.close()

    asyncio.run(act())


def test_what_the_other_end_does_not_take_is_refused_and_ends_no_link() -> None:
    """A caller of a cell's chooses both: how much it asks the front, and how often at once."""
    bounds = Bounds(asked=2, question_bytes=1_024)

    async def act() -> None:
        go = asyncio.Event()

        async def wait(_method: str, body: msgspec.Raw, _told: Waiting) -> object:
            await go.wait()
            return body

        ours, theirs = socket.socketpair()
        front, cell = Link(wait, bounds), Link(nothing, theirs=bounds)
        await front.connect(ours)
        await cell.connect(theirs)
        running = [asyncio.create_task(one.run()) for one in (front, cell)]
        with pytest.raises(LimitError):
            await cell.ask("relay", "x" * 1_024)
        asked = [asyncio.create_task(cell.ask("relay", number)) for number in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert done == {asked[2]}
        with pytest.raises(BusyError):
            await asked[2]
        go.set()
        assert [bytes(await one) for one in asked[:2]] == [b"0", b"1"]
        front.close()
        cell.close()
        await asyncio.gather(*running)

    asyncio.run(act())


@pytest.mark.hostile
def test_what_is_told_and_makes_no_sense_ends_the_link_without_a_word_on_stderr() -> None:
    def told(_method: str, body: msgspec.Raw) -> bool:
        decoded(body, int)
        return True

    async def act() -> None:
        ours, theirs = socket.socketpair()
        front = Link(nothing, tells=told)
        await front.connect(ours)
        running = asyncio.create_task(front.run())
        theirs.sendall(framed(b'{"kind":"ask","id":1,"method":"over","body":{"session":7}}'))
        await asyncio.wait_for(running, 30)  # raises nothing
        assert front.gone.is_set()
        theirs.close()

    asyncio.run(act())
