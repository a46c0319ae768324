"""One bound of bytes over all cells: lent by the front, and counted there before a cell takes any."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest

from bridgehold.errors import BusyError, UsageError
from bridgehold.host.shares import lending
from bridgehold.host.shares.buffers import Buffers
from bridgehold.host.shares.fair import FrameBudget
from bridgehold.host.shares.lending import (
    OF_CALLERS,
    CallersLent,
    Lending,
    Lent,
    Recalled,
    lendable,
    own_part,
)
from bridgehold.host.startup import MOST_CELLS
from waiting import eventually

MIB = 1 << 20
TOTAL = 256 * MIB


def lent_by(front: Lending, tenant: str, total: int = TOTAL) -> Lent:
    """A cell's end, as its link joins it to the front."""

    async def ask(amount: int) -> None:
        await front.lend(tenant, f"c-{tenant}", amount)

    return Lent(total, ask, lambda amount: front.take_back(tenant, f"c-{tenant}", amount))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "PATIENCE_SECONDS", 0.05)


def test_all_cells_together_never_hold_more_than_the_bound() -> None:
    """Each tenant takes whatever it gets: the sum stays below, and who comes last still finds something."""

    async def act() -> None:
        front = Lending(TOTAL, _no_recall)
        cells = {f"t{number}": lent_by(front, f"t{number}") for number in range(40)}
        for name, cell in cells.items():
            front_before = front.lent_to(f"c-{name}")
            for _ in range(200):
                if not await cell.wait("", MIB, 0.2):
                    break
            assert cell.taken <= own_part(TOTAL) + front.lent_to(f"c-{name}")
            assert front.lent_to(f"c-{name}") >= front_before
        lent = sum(front.lent_to(f"c-{name}") for name in cells)
        assert lent + MOST_CELLS * own_part(TOTAL) <= TOTAL
        assert cells["t0"].taken <= TOTAL // 2, "one tenant may not have what all others could"
        late = lent_by(front, "late")
        assert late.fits("", own_part(TOTAL)), "each has a part without asking"

    asyncio.run(act())


def test_what_a_cell_gives_back_is_what_it_was_lent_whatever_it_says() -> None:
    async def act() -> None:
        front = Lending(TOTAL, _no_recall)
        await front.lend("acme", "c-1", 90 * MIB)
        with pytest.raises(BusyError):
            await front.lend("rival", "c-2", 90 * MIB)
        front.take_back("rival", "c-2", 1 << 40)  # a lie: it has nothing
        front.take_back("acme", "c-1", 1 << 40)
        assert front.lent_to("c-1") == 0
        front.take_back("acme", "c-1", 1 << 40)
        await front.lend("rival", "c-2", 90 * MIB)
        with pytest.raises(BusyError):
            await front.lend("acme", "c-1", 90 * MIB)
        front.end("rival", "c-2")
        await front.lend("acme", "c-1", 90 * MIB)

    asyncio.run(act())


def test_frames_and_requests_of_a_cell_share_what_it_has_and_wait_for_more() -> None:
    async def act() -> None:
        front = Lending(TOTAL, _no_recall)
        cell = lent_by(front, "acme")
        frames, buffers = FrameBudget(cell), Buffers(TOTAL, lent=cell, patience_s=5)
        frames.hold(front, own_part(TOTAL))
        assert frames.spent, "and so it has asked for more"
        await eventually(lambda: not frames.spent)
        async with buffers.hold(("acme", "s-1"), 16 * MIB):
            assert cell.taken == own_part(TOTAL) + 16 * MIB <= cell.total
        frames.hold(front, 0)
        assert front.lent_to("c-acme") >= 16 * MIB
        cell.tidy()  # what was needed until now stays for a while
        cell.tidy()
        assert front.lent_to("c-acme") == 4 * MIB
        cell.recall()
        assert front.lent_to("c-acme") == 0
        assert cell.total == own_part(TOTAL)

    asyncio.run(act())


def test_without_room_nothing_is_taken_and_the_refusal_is_typed() -> None:
    async def act() -> None:
        front = Lending(TOTAL, _no_recall)
        other, asked = lent_by(front, "other"), 0
        assert await other.wait("", 90 * MIB, 1.0)

        async def refused(amount: int) -> None:
            nonlocal asked
            asked += 1
            await front.lend("acme", "c-acme", amount)

        cell = Lent(TOTAL, refused, _nothing)
        buffers = Buffers(TOTAL, lent=cell, patience_s=0.3)
        async with contextlib.AsyncExitStack() as stack:
            held = [
                stack.enter_async_context(buffers.hold(("acme", f"s-{number}"), 32 * MIB))
                for number in range(4)
            ]
            with pytest.raises(BusyError):  # more than what stays free beside the other's
                await asyncio.gather(*held)
            assert cell.taken
            assert cell.taken <= own_part(TOTAL) + front.lent_to("c-acme")
        assert (asked > 1, cell.taken) == (True, 0)

    asyncio.run(act())


def test_what_idle_cells_hold_is_there_for_who_needs_it() -> None:
    """Each cell begins with a step of its own; another's need recalls it, and a liar is told once at a time."""

    async def act() -> None:
        cells: list[Lent] = []
        recalls = 0

        def recall() -> None:
            nonlocal recalls
            recalls += 1
            for cell in cells:
                cell.recall()

        front = Lending(TOTAL, recall)
        for number in range(60):
            name = f"idle{number}"
            begun = front.begin(name, f"c-{name}")
            back = partial(front.take_back, name, f"c-{name}")
            cells.append(Lent(TOTAL, _refuse, back, begun))
        assert cells[0].total == own_part(TOTAL) + 4 * MIB
        assert sum(front.lent_to(f"c-idle{number}") for number in range(60)) > 150 * MIB
        cells[0].tidy()
        assert cells[0].total == own_part(TOTAL) + 4 * MIB, "kept as long as nobody else needs it"
        cells[1].take("", own_part(TOTAL) + MIB, owed=True)
        await front.lend("busy", "c-busy", 64 * MIB)
        assert recalls == 1
        assert (front.lent_to("c-idle0"), front.lent_to("c-idle1")) == (0, MIB), "but for what is in use"
        asking = asyncio.create_task(front.lend("busy", "c-busy", 150 * MIB))
        await asyncio.sleep(0)
        with pytest.raises(UsageError):
            await front.lend("busy", "c-busy", 1)
        with pytest.raises(BusyError):
            await asking
        assert recalls == 1, "not more than once a second, however often one asks"

    asyncio.run(act())


def test_callers_of_all_cells_and_of_the_front_have_one_bound() -> None:
    """However many connections a tenant has, in its cell or at the front, the next one's largest request finds room."""

    async def act() -> None:
        cells: dict[str, CallersLent] = {}

        def recall() -> None:
            for cell in cells.values():
                cell.recall()

        held = Recalled(lendable(TOTAL, OF_CALLERS))
        front = Lending(TOTAL, recall, held)
        for name in ("greedy", "late", *(f"idle{number}" for number in range(40))):
            begun = front.begin(name, f"c-{name}")
            back = partial(front.take_back, name, f"c-{name}")
            cells[name] = CallersLent(TOTAL, partial(front.lend, name, f"c-{name}"), back, begun)
        greedy, own = cells["greedy"], own_part(TOTAL, OF_CALLERS)
        for number in range(1_000):  # of eight callers, each over many connections
            if not await greedy.wait(f"p{number % 8}", MIB, 0.1):
                break
        assert greedy.taken <= own + front.lent_to("c-greedy") <= own + TOTAL // 2
        assert await held.wait("an operator", 32 * MIB, 1.0), "the front's own callers take of the same"
        assert await cells["late"].wait("p", 32 * MIB, 1.0), "another tenant's find room"
        assert held.taken + MOST_CELLS * own <= TOTAL

        # What answers a caller isn't cut for what is not lent yet, and nothing is let in until it is.
        assert cells["late"].take("p", 8 * MIB)
        assert cells["late"].taken > cells["late"].total
        assert not cells["late"].let_in("q", 1)
        await eventually(lambda: cells["late"].taken <= cells["late"].total)
        assert cells["late"].most < TOTAL // 2, "what finds no room in any case is refused at once"
        assert not cells["late"].take("p", TOTAL)

    asyncio.run(act())


def _nothing(_amount: int) -> None:
    return None


def _no_recall() -> None:
    return None


async def _refuse(_amount: int) -> None:
    raise BusyError("not lent here")
