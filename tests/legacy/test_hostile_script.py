"""Scripts that attack through the wire: the caller gets a typed answer, and nobody else notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.stage import Stage
from legacy.conftest import PROFILES, make_shim
from legacy.peer import Peer
from waiting import until

pytestmark = pytest.mark.hostile


@pytest.fixture(params=list(PROFILES))
def peer(host: Stage, tmp_path: Path, started: list[Peer], request: pytest.FixtureRequest) -> Peer:
    program = make_shim(host, tmp_path / "venv", PROFILES[request.param])
    found = Peer([str(program), str(host.log / "hostile_like.py")], tmp_path, tmp_path)
    started.append(found)
    found.handshake()
    return found


@pytest.mark.parametrize(
    ("act", "code", "status"),
    [
        ("length", "protocol", 34),
        ("larger", "protocol", 34),
        ("json", "protocol", 34),
        ("utf8", "protocol", 34),
        ("depth", "protocol", 34),
        ("shape", "protocol", 34),
        ("memory", "memory", 31),
        ("deaf", "timeout", 30),
    ],
)
def test_a_broken_wire_ends_that_session_alone_and_typed(
    host: Stage, peer: Peer, act: str, code: str, status: int
) -> None:
    peer.send(1, "act", {"act": act})
    answer = peer.receive(30)
    assert answer["id"] == 1
    assert "error" in answer, (str(answer)[:300], peer.stderr[-500:])
    assert answer["error"].startswith(f"{code}: "), answer["error"]
    assert peer.end(30) == (status, b"")
    assert "Traceback" not in peer.stderr
    with host.session() as other:
        assert other.run("act", {"code": "result = {'alive': 1}"}) == {"alive": 1}


def test_a_script_that_closes_its_output_is_ended(peer: Peer) -> None:
    """At once where nobody else in the sandbox holds the pipe, at the command's deadline otherwise."""
    peer.send(1, "act", {"act": "close"})
    assert peer.receive(30)["error"].partition(":")[0] in {"protocol", "timeout"}
    assert peer.end(30)[0] in {34, 30}


def test_a_status_in_the_middle_is_no_answer_and_no_end(peer: Peer) -> None:
    assert peer.ask(1, "act", {"act": "status"})["result"] == {"status": "ok"}
    assert peer.ask(2, "act")["result"] == {"status": "ok"}
    peer.to.close()
    assert peer.end() == (0, b"")


def test_answers_that_nobody_waits_for_are_dropped_and_written_down_within_bounds(
    host: Stage, peer: Peer
) -> None:
    assert peer.ask(1, "act", {"act": "strays"})["id"] == 1
    assert peer.ask(2, "act")["id"] == 2
    newest = host.events("session.opened")[-1]["session"]
    seen = until(lambda: [event for event in host.events("protocol.violation") if event["session"] == newest])
    assert len(seen) <= 20


def test_a_script_that_kills_everything_it_can_kills_itself(host: Stage, peer: Peer) -> None:
    peer.send(1, "act", {"act": "kill"})
    first = peer.receive(30)
    assert first["id"] == 1
    with host.session() as other:
        assert other.run("act", {"code": "result = {'alive': 1}"}) == {"alive": 1}
