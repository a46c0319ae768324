"""When a zygote is made, kept, renewed and given up."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import SimpleNamespace

import pytest

from bridgehold.host.cell.workers import zygote_rules as rules
from bridgehold.host.cell.workers.starts import bubblewrap_refusal
from bridgehold.host.cell.workers.zygote import Zygote, ZygoteKey
from bridgehold.host.cell.workers.zygotes import NoZygoteError, Zygotes
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.logs import SessionLog
from bridgehold.policies.model import Limits, Rate
from bridgehold.sandbox.values import ExitReport, Launched, Usage

LIMITS = rules.ZygoteLimits(
    budget_bytes=1000, memory_bytes=400, max_age_s=60, growth=1.5, warm_s=10, check_s=30
)


def facts(name: str = "z", **changes: object) -> rules.ZygoteFacts:
    base: dict[str, object] = {
        "name": name,
        "memory_bytes": 100,
        "first_bytes": 100,
        "age_s": 1.0,
        "idle_s": 1.0,
        "sessions": 0,
    }
    return rules.ZygoteFacts(**(base | changes))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"age_s": 60.0}, ""),
        ({"age_s": 60.1}, "age"),
        ({"memory_bytes": 150}, ""),
        ({"memory_bytes": 151}, "growth"),
    ],
)
def test_it_is_replaced_for_age_and_growth(changes: dict[str, object], why: str) -> None:
    assert rules.worn(facts(**changes), LIMITS) == why


def test_the_longest_unused_leaves_first_and_none_with_sessions() -> None:
    zygotes = [
        facts("used", memory_bytes=300, idle_s=99, sessions=1),
        facts("old", memory_bytes=300, idle_s=50),
        facts("new", memory_bytes=300, idle_s=5),
    ]
    assert rules.evicted(zygotes, needed_bytes=100, budget_bytes=1000) == []
    assert rules.evicted(zygotes, needed_bytes=101, budget_bytes=1000) == ["old"]
    assert rules.evicted(zygotes, needed_bytes=401, budget_bytes=1000) == ["old", "new"]
    assert rules.evicted(zygotes, needed_bytes=701, budget_bytes=1000) is None


def test_failures_are_tried_again_later_and_later() -> None:
    once = rules.failed(rules.Failures(), "crash", 100.0, lasting=False)
    assert not rules.closed(once, 100.9)
    assert rules.closed(once, 101.0)
    twice = rules.failed(once, "crash", 101.0, lasting=False)
    assert not rules.closed(twice, 102.9)
    assert rules.closed(twice, 103.0)
    open_now = rules.failed(twice, "crash", 103.0, lasting=False)
    assert not rules.closed(open_now, 402.0)
    assert rules.closed(open_now, 403.0)


def test_what_will_not_pass_by_itself_is_not_tried_again() -> None:
    lasting = rules.failed(rules.Failures(), "threads at import", 0.0, lasting=True)
    assert not rules.closed(lasting, 1e9)


def test_what_dies_soon_after_it_was_warm_counts_as_failures_in_a_row() -> None:
    once = rules.failed(rules.Failures(), "crash", 100.0, lasting=False)
    assert rules.lived(once, 59.9) == once
    assert rules.lived(once, 60.0) == rules.Failures()


def test_each_fork_under_way_holds_its_zygote_and_the_last_lets_it_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act() -> None:
        launched = Launched(worker="w-1", pid=1, uid=1, spec_digest="", phases_us={}, descriptors=0)
        zygote = Zygote(ZygoteKey("acme", "b", "", "", ""), launched, SessionLog(10))
        zygotes = Zygotes(None, LIMITS)  # type: ignore[arg-type]  # nothing is started here

        async def get(_order: object) -> Zygote:
            return zygote

        monkeypatch.setattr(zygotes, "_get", get)
        free: list[Zygote] = []
        zygote.when_free(free.append)
        first, second = (zygotes.borrow(None) for _ in range(2))  # type: ignore[arg-type]  # as above
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        assert zygote.facts().sessions == 1  # the second is still forking: it is not to be evicted
        assert free == []
        with contextlib.suppress(ValueError):
            await second.__aexit__(ValueError, ValueError("the fork failed"), None)
        assert zygote.facts().sessions == 0
        assert free == [zygote]  # one that was to leave meanwhile leaves now

    asyncio.run(act())


class DyingLauncher:
    """Whose zygotes end before they are warm, with `said` in their log."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._killed = asyncio.Event()
        self.launched = 0

    async def launch(self, _spec: object, _note: object) -> tuple[Launched, list[int]]:
        self.launched += 1
        self._killed.clear()
        (read, to_guest), (from_guest, write), (log, told) = (os.pipe() for _ in range(3))
        os.write(told, self._said)
        for descriptor in (read, write, told):
            os.close(descriptor)
        launched = Launched(worker="w-1", pid=1, uid=1, spec_digest="", phases_us={}, descriptors=3)
        return launched, [to_guest, from_guest, log]

    async def kill(self, _worker: str) -> None:
        self._killed.set()

    async def exited(self, worker: str) -> ExitReport:
        await self._killed.wait()
        return ExitReport(worker=worker, cause="exited", status=1, usage=Usage(), emptied_ms=0, uid=1)


@pytest.mark.parametrize(
    ("said", "tries"), [(b"bwrap: prctl(PR_SET_SECCOMP): Unknown error 524\n", 5), (b"no module\n", 1)]
)
def test_a_filter_that_the_machine_has_no_memory_for_is_not_held_against_a_zygote_s_key(
    said: bytes, tries: int
) -> None:
    """What bubblewrap meets once its launcher is done: the machine's failure, tried again at the next start."""

    async def act() -> None:
        async def append(_event: object) -> None:
            return None

        launcher = DyingLauncher(said)
        services = SimpleNamespace(
            launcher=launcher,
            journal=SimpleNamespace(append=append),
            frames=FrameBudget(Shares(1 << 20, part=0)),
        )
        zygotes = Zygotes(services, LIMITS)  # type: ignore[arg-type]  # as much of them as is used
        key = ZygoteKey("acme", "b", "", "", "")
        order = SimpleNamespace(
            grant=SimpleNamespace(limits=Limits(), rate=Rate()),
            manifest=SimpleNamespace(preload=(), preload_calls=()),
            weights=(),
        )
        for _ in range(5):
            with pytest.raises(NoZygoteError):
                await zygotes._start(key, None, order)  # type: ignore[arg-type]  # as above
        assert launcher.launched == tries
        assert bool(zygotes._failures) == (tries == 1)

    asyncio.run(act())


def test_a_full_budget_is_held_against_nobody_who_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' zygotes with sessions fill it: whoever comes meanwhile starts cold, and is warm once they are gone."""

    async def act() -> None:
        zygotes = Zygotes(None, LIMITS)  # type: ignore[arg-type]  # nothing is started here
        key = ZygoteKey("acme", "b", "", "", "")
        monkeypatch.setattr(rules, "evicted", lambda *_: None)
        for _ in range(5):
            with pytest.raises(NoZygoteError, match="memory budget"):
                await zygotes._start(key, None, None)  # type: ignore[arg-type]  # as above
        assert not zygotes._failures

    asyncio.run(act())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"bwrap: Can't set hostname to sandbox: Operation not permitted\n", "unsupported"),
        (b"bwrap: prctl(PR_SET_SECCOMP): Unknown error 524\n", "shortage"),
        (b"bwrap: \x1b[2J" + b"x" * 4000 + b"\n", "unsupported"),
        (b"bwrap: two\nlines\n", None),
        (b"my own words: Operation not permitted\n", None),
    ],
)
def test_what_bubblewrap_wrote_is_why_a_guest_did_not_start(said: bytes, code: str | None) -> None:
    log = SessionLog(1 << 16, 1 << 16)
    log.write(said)
    refusal = bubblewrap_refusal(log)
    assert (refusal and refusal.code) == code
    if code == "unsupported":
        assert refusal is not None
        assert "bridgehold doctor" in refusal.hint
        assert refusal.message.isprintable()
        assert len(refusal.message) < 400
