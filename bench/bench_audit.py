"""The audit: durable appends in groups and one by one, against bare fdatasyncs; verification; formatting;
and questions over a million events, each by a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from common import Row, median, row, show, times

from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import (
    CommandIntent,
    CommandOutcome,
    CommandRefused,
    GrantResolved,
    SessionClosed,
    SessionOpened,
)
from bridgehold.audit.formatter import EventFormatter
from bridgehold.audit.journal import Journal
from bridgehold.audit.preview import preview
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits

EVENTS = 60_000
WORKERS = 256
SINGLE = 400
MANY = 1_000_000


def an_intent(number: int, tenant: str = "acme", session: str = "s-0123456789abcdef") -> CommandIntent:
    return CommandIntent(
        tenant=tenant,
        principal="app",
        session=session,
        command=f"c-{number:016d}",
        bridge="python",
        operation="python:execute",
        grant="sha256:" + "a" * 64,
        rule="operations.allow[0]",
        arguments_digest="sha256:" + "b" * 64,
        arguments_bytes=20,
        arguments_preview='{"code":"print(1)"}',
        deadline_ms=60_000,
    )


def start(folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as file, theirs:
        file.write(msgspec.json.encode(JournalConfig(folder=str(folder))))
        file.seek(0)
        inherited = (file.fileno(), theirs.fileno())
        argv = [sys.executable, "-I", "-m", "bridgehold.audit.journal"]
        argv += ["--fd-config", str(inherited[0]), "--fd-host", str(inherited[1])]
        return subprocess.Popen(argv, pass_fds=inherited), ours


async def append_all(client: JournalClient) -> float:
    """Durable commands (intent, then outcome) per second, as events, with many callers at once."""

    async def work(first: int) -> None:
        for number in range(first, EVENTS // 2, WORKERS):
            receipt = await client.append(an_intent(number))
            await client.append(
                CommandOutcome(
                    tenant="acme",
                    session="s-0123456789abcdef",
                    command=f"c-{number:016d}",
                    intent=receipt.ref,
                    transport_ok=True,
                    application_ok=True,
                )
            )

    began = time.perf_counter()
    await asyncio.gather(*(work(first) for first in range(WORKERS)))
    return EVENTS / (time.perf_counter() - began)


async def append_single(client: JournalClient, *, durable: bool) -> float:
    """Median milliseconds of one append with nothing else under way."""
    found = []
    for number in range(SINGLE):
        began = time.perf_counter()
        await client.append(an_intent(number), durable=durable)
        found.append((time.perf_counter() - began) * 1000)
    return median(found)


def bare_sync(folder: Path) -> float:
    """Median milliseconds of one append and fdatasync on the same disk."""
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def one() -> None:
        os.write(descriptor, b"x" * 780)
        os.fdatasync(descriptor)

    try:
        return median(times(one, SINGLE))
    finally:
        os.close(descriptor)
        (folder / "bare").unlink()


async def measure_journal(folder: Path) -> list[Row]:
    process, sock = start(folder)
    client = await JournalClient.connect(sock, deadline_s=60)
    single = await append_single(client, durable=True)
    bare = bare_sync(folder.parent)
    buffered = await append_single(client, durable=False)
    groups = await append_all(client)
    await client.close()
    process.wait(30)
    return [
        row("durable events a second, in groups", groups, "1/s", baseline=1000 / bare, least=25_000),
        row("one durable event", single, "ms", baseline=bare),
        row("one durable event above one fdatasync", single - bare, "ms", most=0.5),
        row("one buffered event", buffered, "ms"),
    ]


def measure_verify(folder: Path) -> Row:
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        report = verify_audit(folder)
        rates.append(report.events / (time.perf_counter() - began))
        assert report.ok, report.first_bad
    return row("verified events a second", median(rates), "1/s", least=150_000)


def a_million(folder: Path, many: int = MANY, segment_bytes: int = Limits().segment_bytes) -> None:
    """`many` events, 200 of each session, of 50 tenants, as the journal writes them, but not made durable."""
    config = JournalConfig(folder=str(folder), limits=Limits(segment_bytes=segment_bytes))
    journal = Journal(config, sync=lambda _: None)
    journal.writer.write([GrantResolved(digest="sha256:" + "a" * 64, grant={})])
    for number in range(many // 200):
        ties: dict[str, Any] = {"tenant": f"tenant{number % 50}", "session": f"s-{number:016d}"}
        journal.writer.write(
            [SessionOpened(bridge="python", grant="sha256:" + "a" * 64, start="fork", **ties)]
        )
        intents = [an_intent(100 * number + each, **ties) for each in range(100)]
        written = journal.writer.write(intents)
        outcomes = [
            CommandOutcome(
                command=intent.command,
                intent=f"{journal.writer.instance}.{getattr(result, 'seq', 0)}",
                transport_ok=True,
                application_ok=True,
                **ties,
            )
            for intent, result in zip(intents, written, strict=True)
        ]
        journal.writer.write([*outcomes, SessionClosed(reason="idle time", **ties)])
        if number % 100 == 0:
            journal.writer.write([CommandRefused(
                bridge="python", operation="python:rm", rule="default-deny", reason="no", source="", **ties,
            )])  # fmt: skip
    journal.close("bench")


ASK = """
import resource, sys, time
from pathlib import Path
from bridgehold.audit.query import Query, query
from bridgehold.audit.why import story
began, audit = time.process_time(), Path(sys.argv[1])
{act}
print((time.process_time() - began) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
QUESTIONS = {
    "the newest 100 refusals": "assert len(list(query(audit, Query(kind='command.refused')))) == 50",
    "the newest 100 of a tenant": "assert len(list(query(audit, Query(tenant='tenant7')))) == 100",
    "a command by its id": "assert len(list(query(audit, Query(command='c-0000000000250007')))) == 2",
    "a text that is nowhere": "assert not list(query(audit, Query(text='nowhere at all')))",
    "why of a command in the middle": "assert story(audit, 'c-0000000000250007').related",
    "why of a command among the oldest": "assert story(audit, 'c-0000000000000007').related",
    "why of the newest command": f"assert story(audit, 'c-{MANY // 2 - 1:016d}').related",
}


def measure_questions(folder: Path) -> list[Row]:
    """Of the processor: what else runs here says nothing of them."""
    rows, peaks = [], []
    for name, act in QUESTIONS.items():
        found = []
        for _ in range(3):
            argv = [sys.executable, "-I", "-c", ASK.format(act=act), str(folder)]
            took, peak = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
            found.append(float(took))
            peaks.append(float(peak))
        rows.append(row(f"of a million events: {name}", median(found), "ms", most=500))
    return [*rows, row("of a million events: the most memory of all these", max(peaks), "MiB", most=100)]


INDEX = """
import resource, sys, time
from pathlib import Path
from bridgehold.audit.reading.desk import Desk
began = time.process_time()
with Desk.open(Path(sys.argv[1]), Path(sys.argv[2])) as desk:
    rate = desk.added / (time.process_time() - began)
print(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
FILTER = """
import resource, sys, time
from pathlib import Path
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.language import parse
began = time.process_time()
with Desk.open(Path(sys.argv[1]), Path(sys.argv[2])) as desk:
    assert desk.indexed and not desk.added
    found = desk.select(parse({question!r}))
assert (len(found) > 0) is {some}
print((time.process_time() - began) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WHY = """
import resource, sys, time
from pathlib import Path
from bridgehold.audit.reading.desk import Desk
began = time.process_time()
with Desk.as_it_is(Path(sys.argv[1]), Path(sys.argv[2])) as desk:
    assert desk.indexed
    assert desk.story({name!r}).related
print((time.process_time() - began) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TOLD = {"in the middle": "c-0000000000250007", "among the oldest": "c-0000000000000007"}
FILTERS = {
    "": True,
    "kind = command.refused": True,
    "framework = python and tenant = tenant7": True,
    "command = c-0000000000250007": True,
    '"nowhere at all"': False,
    "rule ~ nothing": False,
    "ms > 1h or memory_peak_bytes > 1GiB": False,
    'not code = "" and time >= yesterday': False,
    'arguments_preview ~ "print(2)"': False,
}


def measure_index(folder: Path) -> list[Row]:
    """Built once, then asked by processes of their own."""
    cache = folder.parent / "cache"

    def run(code: str) -> tuple[float, float]:
        argv = [sys.executable, "-I", "-c", code, str(folder), str(cache)]
        first, second = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
        return float(first), float(second)

    rate, peak = run(INDEX)
    rows = [
        row("events indexed a second", rate, "1/s", least=100_000),
        row("memory of building the index", peak, "MiB", most=150),
        row("the index, of the audit's size", _size(cache) / _size(folder) * 100, "%"),
    ]
    for question, some in FILTERS.items():
        took = [run(FILTER.format(question=question, some=some))[0] for _ in range(3)]
        rows.append(row(f"by the index: {question or 'everything'}", median(took), "ms", most=500))
    for where, name in TOLD.items():
        told = [run(WHY.format(name=name))[0] for _ in range(3)]
        rows.append(row(f"by the index: why of a command {where}", median(told), "ms", most=500))
    return rows


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure_formats() -> list[Row]:
    formatter, event = EventFormatter(), an_intent(1)

    def one() -> None:
        formatter.line(event, instance="i-0123456789ab", seq=1, time="T", mono_ns=1, boot="b", prev="0" * 64)

    large = {"data": "x" * 10_000_000}
    return [
        row("format one event", median(times(one, 2000)) * 1000, "µs"),
        row("preview of 10 MB of arguments", median(times(lambda: preview(large, ["k" * 40]), 10)), "ms"),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-bench-", dir=Path.cwd()) as home:
        folder = Path(home) / "audit"
        folder.mkdir()
        rows = asyncio.run(measure_journal(folder))
        rows += [measure_verify(folder), *measure_formats()]
        many = Path(home) / "many"
        many.mkdir()
        a_million(many)
        show([*rows, *measure_questions(many), *measure_index(many)])


if __name__ == "__main__":
    main()
