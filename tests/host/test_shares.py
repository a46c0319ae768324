"""Who takes what of one thing: however much the first ask for, who comes late finds something."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import TenantFullError
from bridgehold.host.cell.sessions.admission import Admission
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.shares.fair import Share, Shares
from bridgehold.policies.files import PolicyFiles

TOTAL = 1_000
NAMES = ["a", "b", "c", "d"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-TOTAL, 2 * TOTAL)), max_size=60))
def test_nobody_has_more_than_half_and_a_newcomer_gets_a_share(acts: list[tuple[str, int]]) -> None:
    shares = Shares(TOTAL)
    held: dict[str, Share] = {name: shares.of(name) for name in NAMES}
    for name, amount in acts:
        share, before = held[name], shares.taken
        if amount < 0:
            share.hold(max(0, share.amount + amount))
        elif not share.take(amount):
            assert shares.taken == before
        assert shares.taken == sum(one.amount for one in held.values()) <= TOTAL
        assert all(one.amount <= shares.most for one in held.values())
        crowd = sum(one.amount > 0 for one in held.values())
        assert shares.fits("late", TOTAL // (2 ** (crowd + 1)))
    for share in held.values():
        share.give_back()
        share.give_back()
    assert shares.taken == 0


def test_who_waits_gets_it_once_others_give_back_and_not_before() -> None:
    async def act() -> None:
        shares = Shares(100)
        first, second = shares.of("a"), shares.of("a")
        assert first.take(50)
        assert not await second.wait(1, 0.02)
        waiting = asyncio.ensure_future(second.wait(10, 5))
        await asyncio.sleep(0)
        first.give_back()
        assert await waiting
        assert shares.held_by("a") == 10
        assert second.take(1_000, owed=True)  # what others wait for is never refused
        assert not shares.of("b").take(1)

    asyncio.run(act())


def test_one_tenant_s_sessions_never_take_all_places_of_the_host(tmp_path: Path) -> None:
    """A tenant is known by its file, before it has ever asked for anything."""
    tenants = tmp_path / "tenants"
    tenants.mkdir()
    for name in ("hog", "other"):
        (tenants / f"{name}.toml").write_text("")
    files = PolicyFiles(tmp_path / "policies", tenants)
    assert [files.count_with("tenant", [name]) for name in ("hog", "local")] == [2, 3]
    admission = Admission((), 8, lambda name: files.count_with("tenant", [name]))

    def fill(tenant: str) -> tuple[int, object]:
        for number in range(9):
            refusal = admission._no_place(tenant, [])
            if refusal is not None:
                return number, refusal
            admission._admitted[SessionKey(tenant, "python", f"s-{number}")] = 0
        raise AssertionError("more than there are")

    taken, refusal = fill("hog")
    assert taken == 6
    assert isinstance(refusal, TenantFullError)
    assert "hog has 6 of this host's 8 sessions" in refusal.message
    taken, refusal = fill("other")
    assert (taken, type(refusal).__name__) == (2, "BusyError")
