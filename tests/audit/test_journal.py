"""The journal's process: durable appends, one writer, crashes in mid-write, and every way to end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import Filler, LiveJournal, connected, intent, lines_of, outcome, segment_files
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.audit import anchors
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import (
    CommandRefused,
    EgressIntent,
    GrantResolved,
    HostStopped,
    ToolIntent,
)
from bridgehold.audit.segments import digest_of
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.errors import AuditError, BridgeholdError, BudgetError
from bridgehold.records import wire
from waiting import eventually, until

Live = Callable[..., LiveJournal]


def test_an_append_is_on_the_disk_when_its_receipt_is_there(live: Live, audit: Path) -> None:
    async def act() -> None:
        async with connected(live()) as client:
            receipt = await client.append(intent())
            line = lines_of(segment_files(audit)[0])[receipt.seq - 1]
            stored = json.loads(line)
            assert stored["hash"] == receipt.hash
            assert receipt.ref == f"{stored['instance']}.{stored['seq']}"
            assert stored["arguments_preview"] == '{"code":"print(1)"}'
            buffered = await client.append(HostStopped(reason="x"), durable=False)
            assert (await client.head()).count == buffered.seq

    asyncio.run(act())


def test_thousands_in_flight_keep_their_order_and_their_receipts(live: Live, audit: Path) -> None:
    async def act() -> None:
        async with connected(live()) as client:
            receipts = await asyncio.gather(
                *(client.append(intent(command=f"c-{n:016d}"), durable=n % 3 > 0) for n in range(3000))
            )
            stored = [json.loads(line) for line in lines_of(segment_files(audit)[0])]
            for number, receipt in enumerate(receipts):
                assert stored[receipt.seq - 1]["command"] == f"c-{number:016d}"
                assert stored[receipt.seq - 1]["hash"] == receipt.hash

    asyncio.run(act())
    assert verify_audit(audit).integrity.ok


def test_the_end_of_every_client_ends_it_in_order(live: Live, audit: Path) -> None:
    journal = live()

    async def act() -> None:
        async with connected(journal) as client:
            await client.append(intent())

    asyncio.run(act())
    assert journal.end() == 0
    last = json.loads(lines_of(segment_files(audit)[0])[-1])
    assert (last["kind"], last["unfinished_count"]) == ("journal.closed", 1)


def test_sigterm_writes_what_is_under_way_and_closes(live: Live, audit: Path) -> None:
    journal = live()

    async def act() -> None:
        async with connected(journal) as client:
            await client.append(HostStopped(reason="before"))
            journal.process.terminate()
            await asyncio.sleep(0.2)
            await client.append(HostStopped(reason="after"))

    asyncio.run(act())
    assert journal.end() == 0
    kinds = [json.loads(line)["kind"] for line in lines_of(segment_files(audit)[0])]
    assert kinds == ["journal.opened", "host.stopped", "host.stopped", "journal.closed"]


def test_a_second_writer_is_refused_and_the_first_goes_on(live: Live, audit: Path) -> None:
    first = live()

    async def act() -> None:
        async with connected(first) as client:
            await client.append(HostStopped(reason="a"))
            second = live()
            assert second.process.wait(30) == AuditError.exit_status
            assert "another journal writes this audit" in second.errors()
            await client.append(HostStopped(reason="b"))

    asyncio.run(act())
    assert first.end() == 0
    assert len(segment_files(audit)) == 1
    assert verify_audit(audit).ok


def test_a_killed_journal_is_a_typed_error_for_waiting_and_for_later_callers(live: Live) -> None:
    journal = live()

    async def act() -> None:
        client = await JournalClient.connect(journal.socket)
        journal.process.send_signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(client.append(intent())) for _ in range(50)]
        await eventually(lambda: len(client._waiting) == 50)
        journal.kill()
        for task in waiting:
            with pytest.raises(AuditError, match="gone"):
                await task
        with pytest.raises(AuditError, match="gone"):
            await client.append(intent())
        await client.close()

    asyncio.run(act())


def test_a_stuck_journal_is_a_typed_error_after_the_deadline_and_late_answers_reach_nobody(
    live: Live, audit: Path
) -> None:
    journal = live()

    async def act() -> None:
        async with connected(journal) as client:
            client._deadline_s = 0.3
            journal.process.send_signal(signal.SIGSTOP)
            with pytest.raises(AuditError, match="did not confirm"):
                await client.append(intent(command="c-late"))
            journal.process.send_signal(signal.SIGCONT)
            client._deadline_s = 30.0  # the machine may be busy, the journal is no longer stuck
            receipt = await client.append(intent(command="c-next"))
            stored = json.loads(lines_of(segment_files(audit)[0])[receipt.seq - 1])
            assert stored["command"] == "c-next"

    asyncio.run(act())


def test_cancelled_callers_do_not_shift_the_answers(live: Live, audit: Path) -> None:
    async def act() -> None:
        async with connected(live()) as client:
            chosen = random.Random(7)
            for _ in range(40):
                tasks = [asyncio.create_task(client.append(intent(command=f"c-{n}"))) for n in range(40)]
                await asyncio.sleep(chosen.choice([0, 0, 0.0005]))
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                stored = lines_of(segment_files(audit)[0])
                for number, receipt in enumerate(done):
                    if not isinstance(receipt, BaseException):
                        assert json.loads(stored[receipt.seq - 1])["command"] == f"c-{number}"
            assert not client._waiting

    asyncio.run(act())
    assert verify_audit(audit).integrity.ok


def test_sigkill_in_mid_write_again_and_again(live: Live, audit: Path) -> None:
    """The chain goes on, torn tails are kept aside, and what was acknowledged is there."""
    acknowledged: dict[str, str] = {}
    chosen = random.Random(11)

    async def act(journal: LiveJournal) -> None:
        client = await JournalClient.connect(journal.socket)

        async def write(number: int) -> None:
            while True:
                receipt = await client.append(intent(arguments_preview="x" * chosen.randrange(60_000)))
                acknowledged[receipt.ref] = receipt.hash

        tasks = [asyncio.create_task(write(n)) for n in range(24)]
        await asyncio.sleep(chosen.uniform(0.02, 0.12))
        journal.kill()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()

    for _ in range(15):
        asyncio.run(act(live()))
    assert live().end() == 0
    report = verify_audit(audit)
    assert report.ok, report.first_bad
    assert report.instances == 16
    assert report.completeness.interrupted_count > 0
    stored = {}
    for file in segment_files(audit):
        for line in lines_of(file):
            event = json.loads(line)
            stored[f"{event['instance']}.{event['seq']}"] = event["hash"]
    assert acknowledged
    assert acknowledged.items() <= stored.items()


@pytest.mark.parametrize("tail", [b'{"v":1,"instance":"i-', b"\0" * 5000, b"half\0\0\0\nmore\0"])
def test_a_torn_tail_is_kept_aside_byte_for_byte_and_recorded(
    audit: Path, filler: Callable[..., Filler], tail: bytes
) -> None:
    writer = filler()
    writer.pairs(2)
    os.close(writer.journal._lock)
    file = segment_files(audit)[0]
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    assert not verify_audit(audit).integrity.ok
    after = filler()
    after.close()
    assert file.read_bytes() == whole
    torn = file.with_name(file.name + ".torn")
    assert torn.read_bytes() == tail
    opened = json.loads(lines_of(segment_files(audit)[1])[0])
    assert opened["quarantined_bytes"] == len(tail)
    assert opened["quarantined"] == {f"{file.parent.name}/{torn.name}": digest_of(torn)}
    report = verify_audit(audit)
    assert report.ok
    assert report.completeness.quarantined == (f"{file.parent.name}/{torn.name}",)


def test_recovery_never_moves_complete_lines_however_wrong(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    writer.pairs(2)
    os.close(writer.journal._lock)
    file = segment_files(audit)[0]
    data = file.read_bytes().replace(b"python:execute", b"python:nothing")
    file.write_bytes(data)
    filler().close()
    assert file.read_bytes() == data
    assert not verify_audit(audit).integrity.ok


def test_a_start_that_died_before_its_first_line_breaks_nothing(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    reference = writer.put(intent())[0].ref
    os.close(writer.journal._lock)
    early = audit / "00000002-i-aaaaaaaaaaaa"
    early.mkdir()
    (early / "00000001.jsonl").write_bytes(b'{"v":1,"inst')
    filler().close()
    report = verify_audit(audit)
    assert report.ok, report.first_bad
    assert report.completeness.interrupted_count == 1
    opened = json.loads(lines_of(segment_files(audit)[-1])[0])
    assert opened["unfinished"] == [reference]
    assert (early / "00000001.jsonl.torn").exists()


def test_intents_in_flight_survive_rotation_for_recovery(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler(limits=Limits(segment_bytes=4_000))
    kept = writer.put(intent())[0].ref
    writer.pairs(20)
    os.close(writer.journal._lock)
    assert len(segment_files(audit)) > 3
    filler(limits=Limits(segment_bytes=4_000)).close()
    report = verify_audit(audit)
    assert report.completeness.interrupted_count == 1
    opened = next(
        json.loads(lines_of(f)[0])
        for f in segment_files(audit)
        if b"journal.opened" in f.read_bytes() and b'recovered_from":"i-' in f.read_bytes()
    )
    assert opened["unfinished"] == [kept]


def test_nonsense_is_refused(live: Live, audit: Path) -> None:
    async def act() -> None:
        async with connected(live()) as client:
            for payload in (
                b"{",
                b"[]",
                b'{"kind":"no.such"}',
                b'{"kind":"host.stopped","reason":1}',
                b"[" * 100_000,
            ):
                with pytest.raises(AuditError):
                    await client._ask(wire.APPEND, payload)
            with pytest.raises(AuditError):
                await client._ask(99, b"")
            with pytest.raises(AuditError):
                await client.append(GrantResolved(digest="d", grant={"rate": 0.5}))
            assert (await client.append(HostStopped(reason="still here"))).seq == 2

    asyncio.run(act())
    assert verify_audit(audit).ok


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff" + b"x" * 100, b"\0\0\0\0", b"\0\0\0\x03abc"])
def test_a_client_that_breaks_the_wire_is_cut_off_and_nobody_else(
    audit: Path, live: Live, frame: bytes
) -> None:
    journal = live()
    journal.socket.sendall(frame)
    journal.socket.settimeout(10)
    assert journal.socket.recv(100) == b""
    assert journal.process.wait(30) == 0  # its only client has gone
    assert verify_audit(audit).ok


def test_a_name_of_any_kind_is_one_line_and_too_much_text_is_clipped(live: Live, audit: Path) -> None:
    names = ["a\nb", '"}\n{"v":1', "\ud800\udfff", "\x00\x1b[31m", "x" * 10_000_000, "\U0010ffff" * 30_000]

    async def act() -> None:
        async with connected(live()) as client:
            for name in names:
                await client.append(
                    CommandRefused(
                        bridge=name, operation=name, rule=name, reason=name, source=name, session=name
                    )
                )

    asyncio.run(act())
    lines = lines_of(segment_files(audit)[0])[: 1 + len(names)]
    assert [json.loads(line)["kind"] for line in lines[1:]] == ["command.refused"] * len(names)
    assert all(line.isascii() and len(line) < 300_000 for line in lines)
    assert json.loads(lines[1])["bridge"] == "a\nb"
    assert "10000000 characters" in json.loads(lines[5])["bridge"]
    assert verify_audit(audit).ok


def test_a_tenant_past_its_quota_is_refused_others_go_on_and_its_ends_are_still_written(
    live: Live, audit: Path
) -> None:
    async def act() -> None:
        journal = live(limits=Limits(tenant_quota_bytes=20_000))
        async with connected(journal) as client:
            references: list[str] = []

            async def fill() -> None:
                for _ in range(100):
                    receipt = await client.append(intent(tenant="greedy"))
                    references.append(receipt.ref)

            async def end_all() -> None:
                for reference in references * 10:
                    await client.append(outcome(reference, tenant="greedy", reason="x" * 4000))

            with pytest.raises(BudgetError):
                await fill()
            assert 10 < len(references) < 40
            await client.append(outcome(references[0], tenant="greedy"))
            await client.append(intent(tenant="modest"))
            await client.append(HostStopped(reason="the host's own"))
            with pytest.raises(BudgetError):
                await client.append(intent(tenant="greedy"))
            with pytest.raises(BudgetError):
                await end_all()
            ended = [json.loads(line) for line in lines_of(segment_files(audit)[0])]
            assert {one.get("intent") for one in ended} >= set(references), "an intent's outcome has room"

    asyncio.run(act())
    assert verify_audit(audit).integrity.ok


def test_a_tenants_own_quota_is_below_the_others_and_never_above(live: Live, audit: Path) -> None:
    async def act() -> None:
        async with connected(live(limits=Limits(tenant_quota_bytes=40_000))) as client:

            async def written(tenant: str) -> int:
                for count in range(200):
                    try:
                        await client.append(intent(tenant=tenant))
                    except BudgetError:
                        return count
                return 200

            await client.bound("small", 10_000)
            await client.bound("wide", 10**12)
            small, wide, plain = [await written(one) for one in ("small", "wide", "plain")]
            assert 0 < 2 * small < plain
            assert abs(wide - plain) <= 2, "no word of the host's makes a quota larger"
            await client.bound("small", 0)
            assert abs(small + await written("small") - plain) <= 2
            with pytest.raises(AuditError):
                await client._ask(wire.QUOTA, b'{"tenant": "small"}')

    asyncio.run(act())
    assert verify_audit(audit).integrity.ok


def test_an_anchor_is_stored_and_written_and_only_of_this_audit(
    live: Live, audit: Path, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    kept = tmp_path / "anchors"
    kept.mkdir()

    async def act() -> None:
        async with connected(live(anchors=str(kept))) as client:
            await client.append(intent())
            head = await client.head()
            anchor = anchors.anchor_at(head, time="2026-11-20T09:30:00.000Z", public_key=public)
            receipt = await client.anchor(anchors.sign_anchor(anchor, key.sign))
            stored = json.loads(lines_of(segment_files(audit)[0])[receipt.seq - 1])
            assert (stored["kind"], stored["head"]) == ("anchor.signed", head.head)
            ahead = anchors.Anchor(
                instance=head.instance, count=99, head=head.head, time=anchor.time, key=anchor.key
            )
            with pytest.raises(AuditError):
                await client.anchor(anchors.sign_anchor(ahead, key.sign))
            with pytest.raises(AuditError):
                await client._ask(wire.ANCHOR, b"\xff not an anchor")

    asyncio.run(act())
    assert len(anchors.load(kept)) == 1
    report = verify_audit(audit, beside=kept, keys={anchors.key_id(public): public})
    assert report.ok, report.first_bad


def test_the_process_is_hardened_and_its_files_are_its_group_s_at_most(live: Live, audit: Path) -> None:
    journal = live()

    async def act() -> None:
        async with connected(journal) as client:
            await client.append(HostStopped(reason="x"))
            process = Path(f"/proc/{journal.process.pid}")
            core = next(
                line for line in process.joinpath("limits").read_text().splitlines() if "core" in line
            )
            assert core.split()[4:6] == ["0", "0"]
            if os.getuid() != 0:  # not dumpable: nobody else of this uid may look inside
                with pytest.raises(PermissionError):
                    process.joinpath("environ").read_bytes()
            else:
                assert process.joinpath("environ").stat().st_uid == 0
            assert "--fd-host" in process.joinpath("cmdline").read_text()

    asyncio.run(act())
    journal.end()
    for path in audit.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0, path
    assert stat.S_IMODE(segment_files(audit)[0].stat().st_mode) == 0o440


def test_the_journal_ends_when_its_parent_is_killed(audit: Path, tmp_path: Path) -> None:
    """The parent dies, its end of the socket is held open by somebody else: the signal ends it."""
    script = f"""
import os, socket, subprocess, sys, tempfile, time
import msgspec
from bridgehold.audit.journal import JournalConfig
ours, theirs = socket.socketpair()
file = tempfile.TemporaryFile()
file.write(msgspec.json.encode(JournalConfig(folder={str(audit)!r}, reserve_bytes=65536)))
file.seek(0)
journal = subprocess.Popen([sys.executable, "-I", "-m", "bridgehold.audit.journal", "--fd-config",
    str(file.fileno()), "--fd-host", str(theirs.fileno())], pass_fds=(file.fileno(), theirs.fileno()))
holder = subprocess.Popen(["sleep", "60"], pass_fds=(ours.fileno(),), stdout=subprocess.DEVNULL)
print(journal.pid, holder.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    journal_pid, holder_pid = map(int, parent.stdout.readline().split())
    watched, holder = os.pidfd_open(journal_pid), os.pidfd_open(holder_pid)
    try:
        until(lambda: any(lines_of(file) for file in segment_files(audit)))
        parent.kill()
        parent.wait()
        import select

        ready, _, _ = select.select([watched], [], [], 30)
        assert ready, "the journal outlived its parent"
    finally:
        signal.pidfd_send_signal(holder, signal.SIGKILL)
        os.close(watched)
        os.close(holder)
        parent.stdout.close()
    last = json.loads(lines_of(segment_files(audit)[0])[-1])
    assert last["kind"] == "journal.closed"


def test_a_client_that_reads_nothing_bounds_itself(live: Live) -> None:
    """The journal stops reading from it; its memory does not grow with what is sent."""
    journal = live()
    payload = b'{"kind":"host.stopped","reason":"x"}'
    frame = wire.request(wire.APPEND_BUFFERED, 1, payload)
    journal.socket.setblocking(False)
    sent, still = 0, 0
    deadline = time.monotonic() + 20
    while still < 20 and time.monotonic() < deadline:
        try:
            sent += journal.socket.send(frame * 1000)
            still = 0
        except BlockingIOError:
            still += 1
            time.sleep(0.05)
    assert still == 20, "the journal never stopped reading"
    peak = Path(f"/proc/{journal.process.pid}/status").read_text()
    resident = int(next(line for line in peak.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < 150_000  # KiB


def test_two_clients_share_one_chain_and_one_s_end_is_not_the_other_s(audit: Path, live: Live) -> None:
    journal = live(clients=2)

    async def act() -> None:
        one = await JournalClient.connect(journal.sockets[0])
        two = await JournalClient.connect(journal.sockets[1])
        both = [client.append(HostStopped(reason="x")) for client in (one, two) for _ in range(50)]
        receipts = await asyncio.gather(*both)
        assert sorted(receipt.seq for receipt in receipts) == list(range(2, 102))
        await one.close()
        await two.append(HostStopped(reason="still here"))
        await two.close()

    asyncio.run(act())
    assert journal.end() == 0
    assert verify_audit(audit).ok


def test_errors_are_of_the_one_root(audit: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()

    async def act() -> None:
        with pytest.raises(BridgeholdError):
            await JournalClient.connect(ours)

    asyncio.run(act())


def test_an_intent_whose_caller_left_or_lost_patience_is_closed_once_it_is_written(
    live: Live, audit: Path
) -> None:
    """A command, a tool and a request that were announced, and never begun."""
    ties = {"tenant": "acme", "session": "s-0123456789abcdef", "command": "c-0123456789abcdef"}
    announced = [
        intent(),
        ToolIntent(
            parent="c-0123456789abcdef", tool="ask", how="caller", rule="tools.allow[0]",
            arguments_digest="", arguments_bytes=2, arguments_preview="{}", **ties,
        ),
        EgressIntent(provider="openai", host="h", method="POST", path="/v1", rule="network", **ties),
    ]  # fmt: skip
    journal = live()

    async def act() -> None:
        async with connected(journal) as client:
            client._deadline_s = 0.3
            journal.process.send_signal(signal.SIGSTOP)
            left = [asyncio.ensure_future(client.append(event)) for event in announced]
            late = [asyncio.ensure_future(client.append(event)) for event in announced]
            await eventually(lambda: len(client._waiting) == 6)
            for one in left:
                one.cancel()
            said = await asyncio.gather(*left, *late, return_exceptions=True)
            assert [type(one).__name__ for one in said] == ["CancelledError"] * 3 + ["AuditError"] * 3
            journal.process.send_signal(signal.SIGCONT)
            await eventually(lambda: not client._waiting)
            client._deadline_s = 30.0
            await client.head()  # the answers to the outcomes are here: what comes next is the moment's
            arrived, moment = (
                client.data_received,
                [asyncio.ensure_future(client.append(e)) for e in announced],
            )

            def received(data: bytes) -> None:
                for one in moment:  # none of them runs before the answers are here
                    one.cancel()
                arrived(data)

            client.data_received = received  # type: ignore[method-assign]  # the moment is the act
            said = await asyncio.gather(*moment, return_exceptions=True)
            assert [type(one).__name__ for one in said] == ["CancelledError"] * 3
        await eventually(lambda: journal.process.poll() is not None)

    asyncio.run(act())
    report = verify_audit(audit)
    assert report.ok
    assert report.completeness.interrupted_count == 0
    kinds = [json.loads(line)["kind"] for line in lines_of(segment_files(audit)[0])]
    assert sorted(kinds.count(f"{what}.outcome") for what in ("command", "tool", "egress")) == [3, 3, 3]
