"""The channel between the host and its supervisor: neither is stopped, stalled or deceived by the other."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from bridgehold.errors import BridgeholdError, HostUnavailableError, PolicyError, UnsupportedError
from bridgehold.host import supervisor_link
from bridgehold.host.startup import ANOTHER, GO, WRITE, FileChange
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.supervisor.handover import OriginalMounts, Replacing

CHANGE = FileChange(kind="tokens", name="app", text=None, was="")
REFUSED = msgspec.json.encode(PolicyError("refused").info())
Pair = tuple[socket.socket, socket.socket]
Answers = Callable[[socket.socket, bytes], None]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def replacing(channel: socket.socket, command: tuple[str, ...] = ()) -> tuple[Replacing, select.poll]:
    asked = Replacing(
        channel, command, OriginalMounts(), ready=None, leave=lambda: None, write=lambda said: said or GO
    )
    poller = select.poll()
    asked.watch(poller)
    return asked, poller


def told(asked: Replacing, poller: select.poll) -> list[int]:
    """What could be read within no time, and has been."""
    found = [descriptor for descriptor, _ in poller.poll(0)]
    for descriptor in found:
        assert asked.takes(descriptor, poller)
    return found


def test_a_host_that_reads_no_answer_does_not_stop_its_supervisor(pair: Pair) -> None:
    ours, theirs = pair
    ours.setblocking(True)  # the supervisor's waits, if it is let
    asked, poller = replacing(ours)
    questions = 0
    with contextlib.suppress(BrokenPipeError):
        while questions < 5_000:
            theirs.send(WRITE + b" 1 x")
            questions += 1
            told(asked, poller)
    assert 1 < questions < 5_000
    assert poller.poll(0) == [], "it is heard no longer"
    assert asked.takes(ours.fileno(), poller), "also where it was told together with another"
    asked.close()


@pytest.mark.parametrize("dying", [False, True])
def test_a_host_that_dies_with_an_answer_unread_loses_no_agreed_replacement(
    pair: Pair, *, dying: bool
) -> None:
    ours, theirs = pair
    left: list[str] = []
    asked, poller = replacing(ours, (sys.executable, "-c", "import time; time.sleep(0.2)"))
    asked._leave = lambda: left.append("asked")
    theirs.send(ANOTHER + b" 1 ")
    assert told(asked, poller) == [ours.fileno()]
    if dying:
        theirs.send(WRITE + b" 2 x")
        assert told(asked, poller) == [ours.fileno()]
        theirs.close()
    while not asked.agreed:
        for descriptor, _ in poller.poll(30_000):
            assert asked.takes(descriptor, poller)
    assert left == ["asked"]
    if not dying:
        assert theirs.recv(100) == b"1 " + GO
    asked.close()


def test_an_answer_has_the_number_of_its_question_and_no_more(pair: Pair) -> None:
    ours, theirs = pair
    asked, poller = replacing(ours)
    for question, answer in (
        (WRITE + b" 7 a b", b"7 a b"),
        (WRITE + b" " + b"9" * 30_000 + b" a", b"9" * 20 + b" a"),
        (WRITE, b" go"),
        (WRITE + b" \xff", b"\xff go"),
        (ANOTHER + b" 8 ", b"8 it is a private host, and ends with whoever started it"),
    ):
        theirs.send(question)
        told(asked, poller)
        assert theirs.recv(40_000) == answer
    for nothing in (b" ", b"anothe", b"writes 1 x", b"\0" * 9):
        theirs.send(nothing)
        assert told(asked, poller) == [ours.fileno()]
        with pytest.raises(BlockingIOError):
            theirs.recv(1, socket.MSG_DONTWAIT)
    asked.close()


def outcome(pair: Pair, ask: Callable[[SupervisorLink], Awaitable[None]], *answers: Answers) -> str:
    """The code of the error of the last of as many questions as `answers`; empty: done."""
    ours, theirs = pair
    ours.setblocking(False)
    theirs.settimeout(30)
    link = SupervisorLink(ours)

    def reply(answer: Answers) -> None:
        answer(theirs, theirs.recv(200_000).split(b" ")[1])

    async def all_of_them() -> str:
        found = ""
        for answer in answers:
            replying = asyncio.get_running_loop().run_in_executor(None, reply, answer)
            try:
                await ask(link)
                found = ""
            except BridgeholdError as error:
                found = error.code
            await replying
        return found

    return asyncio.run(all_of_them())


def says(rest: bytes, *, before: int = 0) -> Answers:
    """Answer this question, or one of those before it."""

    def reply(theirs: socket.socket, number: bytes) -> None:
        theirs.send(b"%d " % (int(number) - before) + rest)

    return reply


def both(*answers: Answers) -> Answers:
    def reply(theirs: socket.socket, number: bytes) -> None:
        for one in answers:
            one(theirs, number)

    return reply


def nothing(_theirs: socket.socket, _number: bytes) -> None:
    pass


def write(link: SupervisorLink) -> Awaitable[None]:
    return link.write(CHANGE)


def another(link: SupervisorLink) -> Awaitable[None]:
    return link.ask_for_another()


def test_a_late_answer_is_no_answer_to_what_is_asked_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = PolicyError("").code
    late = both(says(GO, before=1), says(REFUSED))
    monkeypatch.setattr(supervisor_link, "CHECK_SECONDS", 0.2)
    assert outcome(pair, write, nothing) == HostUnavailableError("").code
    assert outcome(pair, write, nothing, nothing) == HostUnavailableError("").code
    monkeypatch.setattr(supervisor_link, "CHECK_SECONDS", 30)
    assert outcome(pair, write, says(GO)) == ""
    assert outcome(pair, write, says(GO), late) == refused, "a refused change is never told as done"
    assert outcome(pair, write, both(says(b"a reason", before=1), says(b"x", before=-1), says(GO))) == ""
    assert outcome(pair, another, both(says(REFUSED, before=1), says(GO))) == ""
    assert outcome(pair, another, both(says(GO, before=1), says(b"a reason"))) == UnsupportedError("").code


@pytest.mark.parametrize("said", [b"a reason", b"", b"{", b'{"code": 3}', b"\xff", b"[" * 3_000])
def test_an_answer_that_cannot_be_read_is_a_typed_error(pair: Pair, said: bytes) -> None:
    assert outcome(pair, write, says(said)) == HostUnavailableError("").code


def test_a_supervisor_that_listens_no_longer_is_told_at_once(pair: Pair) -> None:
    def end(theirs: socket.socket, _number: bytes) -> None:
        theirs.shutdown(socket.SHUT_RDWR)

    for ask in (write, another):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            assert outcome((ours, theirs), ask, end) == HostUnavailableError("").code
