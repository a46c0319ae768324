"""Zygotes that age, grow and crash under a running host: what their sessions notice, and what starts next."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from hostile.stage import Stage, stage, zygote_process
from waiting import until

KIND = "root" if os.getuid() == 0 else "self"
OPERATOR = '[principals.tester]\nuids = [{uid}]\ntenants = ["*"]\noperator = true\n'


def staged(settings: str) -> Iterator[Stage]:
    with stage(KIND, "fork", settings + OPERATOR.format(uid=os.getuid())) as ready:
        yield ready


@pytest.fixture
def ageing() -> Iterator[Stage]:
    yield from staged("max_age_s = 1\ncheck_s = 0.1\n")


@pytest.fixture
def growing() -> Iterator[Stage]:
    yield from staged("growth = 1.0001\ncheck_s = 0.1\n")


@pytest.fixture
def lasting() -> Iterator[Stage]:
    yield from staged("")


def zygotes(stage: Stage) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in stage.client.request("zygotes")["zygotes"]}


def reason(stage: Stage, zygote: str) -> str:
    return next((str(e["reason"]) for e in stage.events("zygote.ended") if e["zygote"] == zygote), "")


def test_an_old_zygote_leaves_with_its_last_session_and_a_new_one_serves(ageing: Stage) -> None:
    with ageing.session() as first:
        first.run("act", {"code": "result['x'] = 1"})
        (old,) = zygotes(ageing)
        until(lambda: zygotes(ageing)[old]["state"] == "leaving")
        with ageing.session() as second:
            second.run("common:ping")
            assert len(zygotes(ageing)) == 2
        assert first.run("act", {"code": "result['y'] = 2"}) == {"y": 2}  # it goes on with its session
        assert reason(ageing, old) == ""
    until(lambda: reason(ageing, old) == "age")
    assert ageing.events("start.fell_back") == []


def test_a_zygote_that_has_grown_is_replaced(growing: Stage) -> None:
    with growing.session() as session:
        session.run("common:ping")
        (old,) = zygotes(growing)
        for _ in range(3):
            with growing.session() as other:
                other.run("common:ping")
    until(lambda: reason(growing, old) == "growth")
    with growing.session() as session:
        session.run("common:ping")
    assert growing.events("start.fell_back") == []


def crash(stage: Stage) -> None:
    """The zygote dies as one does whose framework crashes it: by a signal that the host didn't send."""
    (name,) = zygotes(stage)
    os.kill(zygote_process(name), signal.SIGKILL)
    until(lambda: not zygotes(stage))


def test_one_that_crashes_again_and_again_is_given_up_and_sessions_start_cold(lasting: Stage) -> None:
    for failures in range(3):

        def begun() -> object:  # the delay after the last crash
            with lasting.session() as session:
                assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
            return zygotes(lasting)

        until(begun)
        assert len(lasting.events("zygote.started")) == failures + 1
        crash(lasting)
    time.sleep(2.5)  # longer than the delay after the first, and after the second
    with lasting.session() as session:
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
    assert zygotes(lasting) == {}
    assert len(lasting.events("zygote.started")) == 3
    assert "zygote ended" in str(lasting.events("start.fell_back")[-1]["reason"])
