"""The journal's channels: each is bound to its recorder, has its turn, and ends alone when it breaks its rules."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audit_support import Filler, LiveJournal, intent, lines_of, outcome, segment_files

from bridgehold.audit.channels import GROUP, Channel, Opening, turns
from bridgehold.audit.client import JournalClient, encode
from bridgehold.audit.events import (
    ChannelEnded,
    Event,
    HostStarted,
    HostStopped,
    JournalClosed,
    SessionClosed,
)
from bridgehold.audit.recorders import Recorder
from bridgehold.audit.segments import instance_folders
from bridgehold.audit.tally import Tally
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.errors import AuditError, BudgetError
from bridgehold.records import wire
from bridgehold.records.workers import WorkerExited, WorkerRefused, WorkerStarted
from waiting import eventually

Live = Callable[..., LiveJournal]
ALL = ("launcher", "keeper", "intake")


def refused(**changes: object) -> WorkerRefused:
    return WorkerRefused(**{"tenant": "acme", "worker": "w-1", "differences": (), **changes})  # type: ignore[arg-type]


def exited(of: str) -> WorkerExited:
    return WorkerExited(
        tenant="acme", worker="w-1", intent=of, cause="exited", status=0, cpu_us=0, memory_peak_bytes=0,
        oom_kills=0, emptied_ms=0,
    )  # fmt: skip


def started() -> WorkerStarted:
    return WorkerStarted(
        tenant="acme", worker="w-1", purpose="worker", bridge="b", start="cold", spec="", environment="", uid=1,
        cgroup="",
    )  # fmt: skip


FORGED: dict[str, tuple[str, Event]] = {
    "an end of the journal's by the host": ("host", JournalClosed(reason="forged")),
    "an end of a worker by the host": ("host", exited("")),
    "a refused worker by the host": ("host", refused()),
    "an intent by the launcher": ("launcher", intent()),
    "an intent by the keeper": ("keeper", intent()),
    "an intent for another tenant": ("acme", intent(tenant="umbra")),
    "an intent for no tenant": ("acme", intent(tenant="")),
    "a host's start by a tenant": ("acme", HostStarted(tenant="acme", version="", uid=0, machine={})),
    "an end of a worker by a tenant": ("acme", exited("")),
}


async def all_channels(journal: LiveJournal) -> dict[str, JournalClient]:
    """Of every recorder, by its name; of two tenants by theirs."""
    channels = {"host": await JournalClient.connect(journal.socket)}
    for name in ("launcher", "keeper"):
        channels[name] = await JournalClient.connect(journal.others[name])
    for tenant in ("acme", "umbra"):
        channels[tenant] = await JournalClient.open(journal.others["intake"], tenant)
    return channels


@pytest.mark.parametrize("what", FORGED)
def test_an_event_that_is_not_its_recorder_s_ends_that_channel_alone(
    live: Live, audit: Path, what: str
) -> None:
    name, event = FORGED[what]
    event = msgspec.structs.replace(event, command="c-forged")
    own: dict[str, Event] = {
        "host": HostStopped(reason="still here"),
        "launcher": refused(),
        "acme": intent(),
        "umbra": intent(tenant="umbra"),
    }
    journal = live(others=ALL)

    async def act() -> None:
        channels = await all_channels(journal)
        with pytest.raises(AuditError):
            await channels[name].append(event)
        await asyncio.wait_for(channels[name].gone.wait(), 30)
        with pytest.raises(AuditError, match="gone"):
            await channels[name].append(event)
        for other in own.keys() - {name}:
            await channels[other].append(own[other])
        for channel in channels.values():
            await channel.close()

    asyncio.run(act())
    journal.end()
    stored = [json.loads(line) for line in lines_of(segment_files(audit)[0])]
    assert sorted(stored[0]["recorders"]) == ["host", "keeper", "launcher"]
    ended = [line for line in stored if line["kind"] == "channel.ended" and not line["unfinished"]]
    assert [(one["recorder"], one["tenant"]) for one in ended] == [
        ("tenant", "acme") if name == "acme" else (name, "")
    ]
    assert not [line for line in stored if line["command"] == "c-forged"]
    assert verify_audit(audit).integrity.ok


def test_nobody_ends_what_another_recorder_has_begun(live: Live, audit: Path) -> None:
    journal = live(others=ALL)

    async def act() -> None:
        channels = await all_channels(journal)
        of_host = await channels["host"].append(intent())
        of_umbra = await channels["umbra"].append(intent(tenant="umbra"))
        for name, event in (
            ("acme", outcome(of_umbra.ref)),  # under its own name, another tenant's intent
            ("umbra", outcome(of_host.ref, tenant="umbra")),
        ):
            with pytest.raises(AuditError):
                await channels[name].append(event)
            await asyncio.wait_for(channels[name].gone.wait(), 30)
        await channels["host"].append(outcome(of_host.ref))
        for channel in channels.values():
            await channel.close()

    asyncio.run(act())
    assert journal.end() == 0
    report = verify_audit(audit)
    assert report.integrity.ok, report.first_bad
    found = [finding.kind for finding in report.completeness.findings]
    assert found == ["start_missing"], "no outcome is an orphan; the session is one of nobody's start"
    assert report.completeness.interrupted_count == 1


def test_what_a_channel_has_left_open_that_is_gone_is_named_once_and_counts_no_longer(
    live: Live, audit: Path
) -> None:
    journal = live(others=ALL)

    def named() -> list[dict[str, Any]]:
        stored = [json.loads(line) for line in lines_of(segment_files(audit)[0])]
        return [line for line in stored if line["kind"] == "channel.ended"]

    async def act() -> list[str]:
        channels = await all_channels(journal)
        next_one = await JournalClient.open(journal.others["intake"], "acme")
        begun = [(await channels["acme"].append(intent())).ref for _ in range(300)]
        await channels["acme"].append(outcome(begun.pop(), transport_ok=False))
        own = (await next_one.append(intent())).ref
        start = (await channels["launcher"].append(started())).ref
        transport = channels["acme"]._transport
        assert transport is not None
        transport.abort()
        await eventually(lambda: sum(len(one["unfinished"]) for one in named()) == len(begun))
        assert {(one["recorder"], one["tenant"]) for one in named()} == {("tenant", "acme")}
        await next_one.append(outcome(own, transport_ok=False))
        for channel in (next_one, *channels.values()):
            await channel.close()
        return [*begun, start]

    left = asyncio.run(act())
    assert journal.end() == 0
    assert [one for line in named() for one in line["unfinished"]] == left, "each once"
    report = verify_audit(audit)
    assert report.ok, (report.first_bad, report.completeness)
    assert report.completeness.interrupted_count == len(left)


def test_an_audit_that_names_as_left_open_what_was_not_is_not_whole(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    begun = writer.put(intent())[0].ref
    for named in (begun, begun, "i-0000000000000000.7", "no reference"):
        ended = ChannelEnded(recorder="tenant", tenant="acme", reason="gone", unfinished=(named,))
        writer.journal.writer.write([ended])
    writer.close()
    found = verify_audit(audit).completeness
    assert [one.kind for one in found.findings] == ["orphan_outcome"] * 3
    assert (found.ok, found.interrupted_count) == (False, 1)


def test_what_was_left_open_leaves_no_count() -> None:
    tally = Tally(1_000)
    for owner in ("tenant acme 1", "tenant acme 2"):
        changes = tally.begin()
        for number in range(3):
            changes.add(intent(), f"i.{owner}.{number}", 10, owner)
        changes.keep()
    left = tally.left_by("tenant acme 1")
    tally.forget([*left, "i.unknown"])
    assert (len(left), tally.left_by("tenant acme 1")) == (3, ())
    assert tally.counts == {("tenant acme 2", "acme"): 3, ("tenant acme 2", "*"): 3}


def test_bounds_and_anchors_are_the_host_s_and_a_bound_holds_for_a_tenant_s_channel(
    live: Live, audit: Path
) -> None:
    journal = live(others=ALL)

    async def act() -> None:
        channels = await all_channels(journal)
        await channels["host"].bound("umbra", 1)
        with pytest.raises(BudgetError):
            await channels["umbra"].append(intent(tenant="umbra"))
        await channels["acme"].append(intent())
        with pytest.raises(AuditError):
            await channels["acme"].bound("umbra", 0)
        await asyncio.wait_for(channels["acme"].gone.wait(), 30)
        assert not channels["umbra"].gone.is_set(), "a full quota breaks no rule"
        for channel in channels.values():
            await channel.close()

    asyncio.run(act())
    journal.end()


def test_a_door_that_breaks_its_rules_is_closed_and_its_channels_go_on(live: Live, audit: Path) -> None:
    def acme() -> list[int]:
        ours, theirs = socket.socketpair()
        ours.detach()
        return [theirs.detach()]

    good = msgspec.json.encode(Opening("acme"))
    for data, descriptors in (
        (b"{", acme()),
        (b'{"tenant":"acme","role":"launcher"}', acme()),
        (msgspec.json.encode(Opening("a" * 257)), acme()),
        (b'{"tenant":"' + b"a" * 8000 + b'"}', acme()),
        (good, []),
        (good, [*acme(), *acme()]),
        (good, [os.open("/dev/null", os.O_RDWR)]),
        (good, [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0].detach()]),
    ):
        journal = live(others=ALL)

        async def act(
            journal: LiveJournal = journal, data: bytes = data, given: list[int] = descriptors
        ) -> None:
            channels = await all_channels(journal)
            socket.send_fds(journal.others["intake"], [data], given)
            with pytest.raises(AuditError):
                await JournalClient.open(journal.others["intake"], "acme")
            await channels["acme"].append(intent())
            await channels["host"].append(HostStopped(reason="still here"))
            for channel in channels.values():
                await channel.close()

        asyncio.run(act())
        assert journal.end() == 0
    assert verify_audit(audit).integrity.ok


def test_one_that_floods_has_no_more_than_its_turn() -> None:
    """Of each group everybody has an equal part, whatever waits in one; and one that is cut off gives nothing."""
    ends = [socket.socketpair() for _ in range(4)]
    flood, calm, also, broken = channels = [
        Channel(theirs, Recorder("tenant", f"t-{number}")) for number, (_, theirs) in enumerate(ends)
    ]
    frame = wire.request(wire.APPEND, 1, b"x" * 100)
    for (ours, _), count in zip(ends, (1500, 1, 2, 0), strict=True):
        ours.sendall(frame * count)
    ends[3][0].sendall(b"\xff" * 100)
    for channel in channels:
        channel.read()
    for expected in ((GROUP // 4, 1, 2), (GROUP, 0, 0)):
        taken = {channel: len(requests) for channel, requests in turns(channels)}
        assert (taken[flood], taken.get(calm, 0), taken.get(also, 0)) == expected
        if broken.recorder.broken:
            broken.cut()
    assert broken.recorder.broken
    for ours, theirs in ends:
        ours.close()
        theirs.close()


def test_a_tenant_s_channel_has_so_many_bytes_a_second() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs, Recorder("tenant", "acme"))
    frame = wire.request(wire.APPEND, 1, b"x" * 200_000)
    ours.setblocking(False)
    taken = 0
    for _ in range(200):  # one second's part is forty of them
        try:
            ours.sendall(frame)
        except BlockingIOError:
            pytest.fail("a frame that fits did not")
        channel.read()
        found = sum(len(requests) for _, requests in turns([channel]))
        if not found:
            break
        taken += found
    assert 40 <= taken < 100
    assert channel.pending
    ours.close()
    theirs.close()


def test_noise_on_one_channel_is_nobody_else_s(live: Live, audit: Path) -> None:
    """Random bytes, cut frames, unknown operations, events of any kind: who sends them is cut off or refused."""
    chosen = random.Random(5)
    journal = live(others=ALL)
    kinds = [encode(event) for _, event in FORGED.values()]
    kinds += [encode(intent()), encode(SessionClosed(tenant="acme", reason="x"))]

    async def act() -> None:
        channels = await all_channels(journal)
        for _ in range(60):
            noisy = await JournalClient.open(journal.others["intake"], "acme")
            transport = noisy._transport
            assert transport is not None
            for _ in range(chosen.randrange(1, 6)):
                data = wire.request(chosen.randrange(7), chosen.randrange(100), chosen.choice(kinds))
                if chosen.random() < 0.5:
                    at = chosen.randrange(len(data))
                    data = data[:at] + chosen.randbytes(chosen.randrange(1, 40)) + data[at:]
                transport.write(data)
            await channels["umbra"].append(intent(tenant="umbra"))
            await channels["launcher"].append(refused())
            if chosen.random() < 0.5:
                transport.abort()
            else:
                await noisy.close()
        await eventually(lambda: not journal.process.poll())
        for channel in channels.values():
            await channel.close()

    asyncio.run(act())
    assert journal.end() == 0
    stored = [json.loads(line) for line in lines_of(segment_files(audit)[0])]
    assert sum((line["tenant"], line["kind"]) == ("umbra", "command.intent") for line in stored) == 60
    assert {line["tenant"] for line in stored if line["kind"] == "command.intent"} == {"acme", "umbra"}
    assert sum(line["kind"] == "worker.refused" for line in stored) == 60
    assert verify_audit(audit).integrity.ok


def test_whoever_begins_without_end_is_refused_and_the_journal_forgets_nobody_s(audit: Path) -> None:
    filler = Filler(audit, recorders=("host", "launcher"), limits=Limits(segment_bytes=2_000_000))
    journal, evil, cell = filler.journal, Recorder("tenant", "evil"), Recorder("tenant", "umbra")

    def flood(recorder: Recorder, count: int, event: Event) -> list[str]:
        flood = [wire.Request(wire.APPEND_BUFFERED, n, encode(event)) for n in range(count)]
        return [answer.code for answer in journal.answer(flood, [recorder] * count)]

    begun = intent(tenant="evil")
    codes = [code for _ in range(11) for code in flood(evil, 1_000, begun)]
    assert codes == [""] * 10_000 + ["budget"] * 1_000
    own, other = filler.put(intent(tenant="umbra"), intent(tenant="evil"))
    # Who is refused has room again once it ends what it began; nothing that it says of others counts.
    flood(evil, 5, outcome(f"{journal.writer.instance}.2", tenant="evil"))
    assert flood(evil, 3, begun) == ["", "budget", "budget"]
    taken = Recorder("tenant", "umbra")
    (answer,) = journal.answer(
        [wire.Request(wire.APPEND, 1, encode(outcome(own.ref, tenant="umbra")))], [taken]
    )
    assert (answer.code, taken.broken) == (wire.BREACH, "command.outcome of what another recorder has begun")
    assert flood(cell, 2, intent(tenant="umbra")) == ["", ""]
    left = journal.writer.tally.unfinished()
    assert len(left) == 10_004
    assert {own.ref, other.ref} <= set(left[:8])
    os.close(journal._lock)  # as a crash does
    later = Filler(audit)
    named = json.loads(lines_of(instance_folders(audit)[-1].segments()[0].path)[0])
    assert named["unfinished_count"] == 10_004
    assert {own.ref, other.ref} & set(named["unfinished"]) == {own.ref}
    later.close()


def test_what_was_said_is_written_though_nobody_hears_the_answer() -> None:
    """A recorder says its last and closes, while the answer to what it said before is on its way."""
    ours, theirs = socket.socketpair()
    channel = Channel(theirs, Recorder("launcher"))
    for number in range(2):
        ours.sendall(wire.request(wire.APPEND_BUFFERED, number, encode(refused())))
        if not number:
            channel.read()
    ours.close()
    channel.outgoing += wire.answers([wire.Answer(0)])
    channel.write()
    while channel.mask() & select.POLLIN:
        channel.read()
    assert [one.id for one in channel.take(9, 1 << 20)] == [0, 1]
    assert channel.ended
    theirs.close()


def test_a_door_and_a_rotation_without_descriptors_are_tried_again(live: Live, audit: Path) -> None:
    journal = live(others=ALL, limits=Limits(segment_bytes=2_000))
    pid, full = journal.process.pid, list[JournalClient]()

    async def open_until_full() -> None:
        while True:
            full.append(await JournalClient.open(journal.others["intake"], "acme"))

    async def act() -> None:
        host = await JournalClient.connect(journal.socket)
        await host.append(HostStopped(reason="before"))
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        room = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, usual[1]))
        try:
            with pytest.raises(AuditError):
                await open_until_full()
            for _ in range(12):
                await host.append(HostStopped(reason="in the old file for now"))
            assert len(segment_files(audit)) == 1
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        await host.append(HostStopped(reason="after"))
        full.append(await JournalClient.open(journal.others["intake"], "acme"))
        await full[-1].append(intent())
        assert len(segment_files(audit)) > 1
        for channel in (*full, host):
            await channel.close()

    asyncio.run(act())
    journal.end()
    assert verify_audit(audit).integrity.ok
