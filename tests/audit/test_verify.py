"""Every hostile edit is found, and named at its line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import Filler, intent, lines_of, outcome, rewrite, segment_files
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridgehold.audit import anchors, chain
from bridgehold.audit.anchors import SignedAnchor
from bridgehold.audit.events import HostStopped
from bridgehold.audit.verdicts import Report
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.errors import AuditError

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture
def closed(audit: Path, filler: Callable[..., Filler]) -> Path:
    """An audit of one instance: opened, ten commands, closed. 22 lines."""
    writer = filler()
    writer.pairs(10)
    writer.close()
    return audit


def first_bad(audit: Path) -> tuple[str, str]:
    """(kind, line number as text) of the first bad line."""
    finding = verify_audit(audit).first_bad
    assert finding is not None
    return finding.kind, finding.place.rpartition(":")[2]


def anchor_of(filler: Filler, time: str = "") -> SignedAnchor:
    writer = filler.journal.writer
    head = chain.Head(writer.instance, writer.count, writer.head)
    time = time or "2999-01-01T00:00:00.000Z"
    return anchors.sign_anchor(anchors.anchor_at(head, time=time, public_key=PUBLIC), KEY.sign)


def test_a_sound_audit_is_sound_whole_and_unanchored(closed: Path) -> None:
    report = verify_audit(closed)
    assert report.ok
    assert (report.events, report.instances, report.segments) == (22, 1, 1)
    assert report.anchoring.status == "unanchored"
    assert report.anchoring.unanchored[0].last == 22
    assert report.completeness.unfinished_count == report.completeness.interrupted_count == 0


def test_every_single_flipped_byte_is_found_at_its_line(closed: Path) -> None:
    file = segment_files(closed)[0]
    data = file.read_bytes()
    file.chmod(0o600)
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 0x01
        file.write_bytes(changed)
        report = verify_audit(closed)
        line = str(data.count(b"\n", 0, at) + 1)
        assert not report.integrity.ok, f"byte {at} of line {line}"
        assert report.first_bad is not None
        assert report.first_bad.place.rpartition(":")[2] == line


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_any_change_of_any_byte_is_found_at_its_line(closed: Path, position: float, value: int) -> None:
    file = segment_files(closed)[0]
    backup = closed / "backup"
    data = backup.read_bytes() if backup.exists() else file.read_bytes()
    backup.write_bytes(data)
    at = int(position * len(data))
    changed = bytearray(data)
    changed[at] ^= value
    file.chmod(0o600)
    file.write_bytes(changed)
    report = verify_audit(closed)
    assert not report.integrity.ok
    assert report.first_bad is not None
    assert report.first_bad.place.rpartition(":")[2] == str(data.count(b"\n", 0, at) + 1)


def test_a_changed_line_says_so_and_nothing_behind_it_is_blamed(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines[6] = lines[6].replace(b"python:execute", b"python:exec_te").replace(b'"acme"', b'"evil"')
    rewrite(file, lines)
    report = verify_audit(closed)
    assert first_bad(closed) == ("changed", "7")
    assert report.integrity.count == 1


def test_a_dropped_line_is_named_where_it_stood(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    del lines[6]
    rewrite(file, lines)
    report = verify_audit(closed)
    assert first_bad(closed) == ("missing", "7")
    assert report.integrity.count == 1
    assert "seq 7 left out" in report.integrity.findings[0].reason


def test_many_dropped_lines_are_one_finding(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    rewrite(file, lines[:4] + lines[14:])
    report = verify_audit(closed)
    assert report.integrity.count == 1
    assert "seq 5 to 14" in report.integrity.findings[0].reason


def test_two_swapped_lines_are_named_as_moved(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines[6], lines[7] = lines[7], lines[6]
    rewrite(file, lines)
    report = verify_audit(closed)
    assert first_bad(closed) == ("moved", "7")
    assert {finding.kind for finding in report.integrity.findings} == {"moved"}


def test_a_repeated_line_is_a_duplicate(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines.insert(7, lines[6])
    rewrite(file, lines)
    assert first_bad(closed) == ("duplicate", "8")


def test_the_first_line_gone(closed: Path) -> None:
    file = segment_files(closed)[0]
    rewrite(file, lines_of(file)[1:])
    assert first_bad(closed) == ("missing", "1")


def test_a_line_of_another_instance_is_foreign(closed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    writer = Filler(other)
    writer.pairs(3)
    writer.close()
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines.insert(4, lines_of(segment_files(other)[0])[4])
    rewrite(file, lines)
    assert first_bad(closed) == ("foreign", "5")


def test_a_forged_line_with_a_hash_of_its_own_breaks_the_link_behind_it(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    facts = chain.read_line(lines[6])
    assert facts is not None
    body = lines[6][: -chain.TAIL].replace(b'"acme"', b'"evil"')
    digest = chain.line_hash(chain.hash_prefix(facts.instance), facts.prev, body)
    lines[6] = body + chain.HASH_OPEN + digest.encode() + b'"}'
    rewrite(file, lines)
    assert first_bad(closed) == ("unlinked", "8")


def test_an_invented_line_is_malformed(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines[6] = b'{"v":1,"kind":"command.intent"}'
    rewrite(file, lines)
    assert first_bad(closed) == ("malformed", "7")
    assert verify_audit(closed).integrity.count == 1


def test_a_line_without_end_of_any_length_is_bounded(closed: Path) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines[6] = b"x" * (3 * chain.MAX_LINE)
    rewrite(file, lines)
    assert first_bad(closed) == ("oversize", "7")


@pytest.mark.parametrize("size", [chain.MAX_LINE + 1, 5 * chain.MAX_LINE])
def test_lines_behind_one_without_measure_keep_their_numbers(closed: Path, size: int) -> None:
    file = segment_files(closed)[0]
    lines = lines_of(file)
    lines[6] = b"x" * size
    lines[12] = lines[12].replace(b"acme", b"evil")
    rewrite(file, lines)
    report = verify_audit(closed)
    places = [finding.place.rpartition(":")[2] for finding in report.integrity.findings]
    assert places == ["7", "13"]
    file.write_bytes(file.read_bytes() + b"y" * size)
    assert verify_audit(closed).integrity.findings[-1].kind == "torn"


def test_half_a_line_at_the_end_is_torn(closed: Path) -> None:
    file = segment_files(closed)[0]
    file.chmod(0o600)
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - 10)
    assert first_bad(closed) == ("torn", "22")


def recompute(lines: list[bytes], instance: str) -> list[bytes]:
    """What an owner of the machine can do: a whole chain made anew."""
    prefix, prev, made = chain.hash_prefix(instance), chain.GENESIS, []
    for line in lines:
        body = line[: -chain.TAIL]
        body = body[: -chain.PREV_TAIL] + b',"prev":"' + prev.encode() + b'"'
        prev = chain.line_hash(prefix, prev, body)
        made.append(body + chain.HASH_OPEN + prev.encode() + b'"}')
    return made


def test_a_rewritten_file_contradicts_its_anchor(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    writer.pairs(5)
    anchor = anchor_of(writer)
    writer.pairs(5)
    writer.close()
    file = segment_files(audit)[0]
    lines = [line.replace(b"python:execute", b"python:nothing") for line in lines_of(file)]
    rewrite(file, recompute(lines, anchor.anchor.instance))
    assert verify_audit(audit).integrity.ok  # the chain alone can't tell
    report = verify_audit(audit, outside=[("kept", anchor)], keys={anchors.key_id(PUBLIC): PUBLIC})
    assert not report.ok
    assert report.anchoring.status == "contradicted"
    assert "seq 1 to 11" in report.anchoring.findings[0].reason


def test_a_cut_tail_below_an_anchor_is_found_and_above_it_is_unanchored(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    writer.pairs(5)
    anchor = anchor_of(writer)
    writer.pairs(5)
    file = segment_files(audit)[0]
    lines = lines_of(file)
    rewrite(file, lines[:15])
    report = verify_audit(audit, outside=[("kept", anchor)])
    assert report.integrity.ok
    assert report.anchoring.status == "anchored"  # the rest is younger than the set time
    assert report.anchoring.anchored_to == f"{anchor.anchor.instance}.11"
    assert report.anchoring.signature == "unchecked"
    assert (report.anchoring.unanchored[0].first, report.anchoring.unanchored[0].last) == (12, 15)
    assert verify_audit(audit, outside=[("kept", anchor)], within_s=-1).anchoring.status == "unanchored"
    rewrite(file, lines[:9])
    report = verify_audit(audit, outside=[("kept", anchor)])
    assert report.anchoring.status == "contradicted"
    assert "seq 10 to 11" in report.anchoring.findings[0].reason


def test_a_local_anchor_contradicts_but_does_not_anchor(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    writer.pairs(2)
    anchor = anchor_of(writer)
    writer.close()
    beside = audit / "anchors"
    beside.mkdir()
    anchors.store(beside, anchor)
    assert verify_audit(audit, beside=beside).anchoring.status == "unanchored"
    file = segment_files(audit)[0]
    rewrite(file, lines_of(file)[:3])
    assert verify_audit(audit, beside=beside).anchoring.status == "contradicted"


def test_anchors_with_a_bad_signature_an_unknown_key_or_an_unknown_instance(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    writer = filler()
    writer.pairs(2)
    good = anchor_of(writer)
    keys = {anchors.key_id(PUBLIC): PUBLIC}
    assert verify_audit(audit, outside=[("a", good)], keys=keys).anchoring.signature == "verified"
    forged = anchors.attach(good.anchor, b"\1" * 64)
    other = Ed25519PrivateKey.generate()
    raw = other.public_key().public_bytes_raw()
    head = chain.Head(good.anchor.instance, good.anchor.count, good.anchor.head)
    strange = anchors.sign_anchor(anchors.anchor_at(head, time=good.anchor.time, public_key=raw), other.sign)
    for bad in (forged, strange):
        report = verify_audit(audit, outside=[("a", bad)], keys=keys)
        assert report.anchoring.status == "contradicted"
        assert report.anchoring.findings[0].kind == "anchor_signature"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    another = Filler(elsewhere)
    another.pairs(1)
    report = verify_audit(elsewhere, outside=[("a", good)])
    assert report.anchoring.findings[0].kind == "anchor_unknown"
    assert not report.ok


def three_segments(audit: Path, filler: Callable[..., Filler]) -> list[Path]:
    writer = filler(limits=Limits(segment_bytes=6_000))
    writer.pairs(12)
    writer.close()
    files = segment_files(audit)
    assert len(files) >= 3
    return files


def test_rotation_carries_the_chain(audit: Path, filler: Callable[..., Filler]) -> None:
    files = three_segments(audit, filler)
    report = verify_audit(audit)
    assert report.ok
    assert report.segments == len(files)
    first = json.loads(lines_of(files[1])[0])
    assert (first["kind"], first["previous_segment"]) == ("segment.rotated", files[0].name)


def test_a_removed_segment_is_named(audit: Path, filler: Callable[..., Filler]) -> None:
    files = three_segments(audit, filler)
    files[1].unlink()
    report = verify_audit(audit)
    assert not report.completeness.ok
    assert report.completeness.findings[0].kind == "segment_missing"
    assert report.completeness.findings[0].place.endswith("00000003.jsonl:1")
    assert not report.integrity.ok


def test_a_segment_that_is_a_link_or_a_pipe_is_not_followed(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    files = three_segments(audit, filler)
    aside = audit / "aside"
    files[1].rename(aside)
    files[1].symlink_to(aside)
    report = verify_audit(audit)
    assert any(finding.kind == "unreadable" for finding in report.integrity.findings)
    files[1].unlink()
    os.mkfifo(files[1])
    report = verify_audit(audit)
    assert any(finding.kind == "unreadable" for finding in report.integrity.findings)


def two_instances(audit: Path, filler: Callable[..., Filler]) -> None:
    for _ in range(2):
        writer = filler()
        writer.pairs(3)
        writer.close()


def test_instances_are_one_chain(audit: Path, filler: Callable[..., Filler]) -> None:
    two_instances(audit, filler)
    assert verify_audit(audit).ok
    first, second = segment_files(audit)
    opened = json.loads(lines_of(second)[0])
    last = json.loads(lines_of(first)[-1])
    assert (opened["previous"], opened["previous_head"]) == (last["instance"], last["hash"])


@pytest.mark.parametrize("removed", [0, 1])
def test_a_removed_instance_is_named(audit: Path, filler: Callable[..., Filler], removed: int) -> None:
    two_instances(audit, filler)
    writer = filler()
    writer.close()
    shutil.rmtree(sorted(audit.glob("0*"))[removed])
    report = verify_audit(audit)
    assert not report.completeness.ok
    assert {finding.kind for finding in report.completeness.findings} == {"instance_missing"}


def test_an_older_instance_s_cut_tail_is_known_to_the_next(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    two_instances(audit, filler)
    file = segment_files(audit)[0]
    rewrite(file, lines_of(file)[:-2])
    report = verify_audit(audit)
    assert [finding.kind for finding in report.integrity.findings] == ["cut"]


def test_an_older_instance_made_anew_is_known_to_the_next(audit: Path, filler: Callable[..., Filler]) -> None:
    two_instances(audit, filler)
    file = segment_files(audit)[0]
    lines = lines_of(file)
    instance = json.loads(lines[0])["instance"]
    rewrite(file, recompute([line.replace(b"python:execute", b"python:nothing") for line in lines], instance))
    report = verify_audit(audit)
    assert [finding.kind for finding in report.integrity.findings] == ["rewritten"]


def test_an_instance_made_anew_without_its_first_line_is_found(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    two_instances(audit, filler)
    file = segment_files(audit)[1]
    lines = lines_of(file)
    instance = json.loads(lines[0])["instance"]
    renumbered = [line.replace(b'"seq":%d,' % n, b'"seq":%d,' % (n - 1)) for n, line in enumerate(lines, 1)]
    rewrite(file, recompute(renumbered[1:], instance))
    report = verify_audit(audit)
    assert [finding.kind for finding in report.integrity.findings] == ["rewritten"]


def test_an_anchor_of_a_later_instance_covers_the_earlier_ones(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    two_instances(audit, filler)
    writer = filler()
    anchor = anchor_of(writer)
    report = verify_audit(audit, outside=[("kept", anchor)], within_s=-1)
    assert report.anchoring.status == "anchored"
    assert report.anchoring.unanchored == ()


def test_unfinished_intents_are_in_flight_then_accounted_for(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    writer.pairs(1)
    reference = writer.put(intent())[0].ref
    report = verify_audit(audit)
    assert report.completeness.ok
    assert report.completeness.in_flight == (reference,)
    os.close(writer.journal._lock)  # the process dies: nothing is written any more
    filler().close()
    report = verify_audit(audit)
    assert report.completeness.ok
    assert report.completeness.interrupted_count == 1
    opened = json.loads(lines_of(segment_files(audit)[1])[0])
    assert opened["unfinished"] == [reference]
    assert opened["recovered_from"] == opened["previous"]


def test_an_outcome_without_its_intent_is_not_whole(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    instance = writer.journal.writer.instance
    writer.put(outcome(f"{instance}.1"))
    report = verify_audit(audit)
    assert report.integrity.ok
    assert [finding.kind for finding in report.completeness.findings] == ["orphan_outcome"]


def test_a_clock_that_steps_back_is_flagged_and_no_fault(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    now = [2_000_000_000_000_000_000]
    writer.journal.writer._now_ns = lambda: now[0]
    writer.put(HostStopped(reason="a"))
    now[0] -= 3_600_000_000_000
    writer.put(HostStopped(reason="b"))
    report = verify_audit(audit)
    assert report.ok
    assert report.clock_steps == 1
    assert report.first_clock_step.endswith(":3")


def test_a_back_dated_line_makes_nothing_that_no_anchor_covers_younger(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    day, now = 86_400 * 10**9, [2_000_000_000_000_000_000]
    writer.journal.writer._now_ns = lambda: now[0]
    writer.put(HostStopped(reason="anchored"))
    anchor = anchor_of(writer)
    for days in (0, 3):
        now[0] += days * day
        writer.put(HostStopped(reason="not anchored"))
    assert verify_audit(audit, outside=[("kept", anchor)]).anchoring.status == "unanchored"
    for back in (3, 30):
        now[0] -= back * day
        writer.put(HostStopped(reason="back-dated"))
        assert verify_audit(audit, outside=[("kept", anchor)]).anchoring.status == "unanchored"


def test_a_segment_that_is_nearly_all_hole_has_a_verdict(closed: Path) -> None:
    file = segment_files(closed)[0]
    file.chmod(0o600)
    os.truncate(file, 2 << 40)
    done = run_verify(closed)
    assert done.returncode == 50
    assert "Traceback" not in done.stderr
    assert ":23" in done.stdout


def test_a_folder_without_an_audit_is_no_sound_audit(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AuditError):
            verify_audit(folder)


@pytest.mark.parametrize("left", ["nothing", "no line"])
def test_an_instance_of_which_nothing_is_left_has_a_verdict(closed: Path, left: str) -> None:
    [file] = segment_files(closed)
    file.write_bytes(b"") if left == "no line" else file.unlink()
    report = verify_audit(closed)
    assert report.events == 0


def run_verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "bridgehold.audit.verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={}, cwd="/", timeout=60, check=False)


def test_the_program_verifies_a_copied_folder(closed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(closed, copy)
    done = run_verify(copy)
    assert done.returncode == 0, done.stderr
    assert "integrity     sound" in done.stdout
    file = segment_files(copy)[0]
    data = bytearray(file.read_bytes())
    data[data.index(b"python:execute")] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    done = run_verify(copy)
    assert done.returncode == 50
    assert "00000001.jsonl:2" in done.stdout
    done = run_verify(copy, "--json")
    assert done.returncode == 50
    assert json.loads(done.stdout)["integrity"]["findings"][0]["kind"] == "changed"


def test_the_program_takes_anchors_and_keys(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    writer = filler()
    writer.pairs(2)
    anchor = anchor_of(writer)
    writer.close()
    kept = tmp_path / "kept"
    kept.mkdir()
    file = anchors.store(kept, anchor)
    assert anchors.load(kept) == [(str(file), anchor)]
    key = tmp_path / "key"
    key.write_text(anchors.key_line(PUBLIC))
    done = run_verify(audit, "--anchors", kept, "--key", key)
    assert done.returncode == 0, done.stderr
    assert "signature verified" in done.stdout
    strange = Path(os.fsdecode(bytes(kept) + b"/\xff.anchor"))
    strange.write_text("no anchor")
    done = run_verify(audit, "--anchors", kept, "--key", key)
    assert (done.returncode, done.stderr) == (50, "")
    assert "\\udcff.anchor" in done.stdout
    strange.unlink()
    key.write_text("ed25519:AAAA")
    assert run_verify(audit, "--anchors", kept, "--key", key).returncode == 50
    file.write_text(file.read_text().replace("count", "Count"))
    assert run_verify(audit, "--anchors", kept).returncode == 50


def test_a_report_is_a_value(closed: Path) -> None:
    import msgspec

    report = verify_audit(closed)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


@pytest.mark.parametrize(
    ("streams", "sound", "status"),
    [(">&-", True, 0), (">/dev/full", True, 22), ("2>/dev/full", False, 50), ("2>&- <&-", False, 50)],
)
def test_the_program_ends_with_a_status_of_its_own_wherever_its_streams_lead(
    closed: Path, streams: str, sound: bool, status: int
) -> None:
    folder = closed if sound else closed / "absent"
    command = [sys.executable, "-I", "-m", "bridgehold.audit.verify", str(folder)]
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, env={}, cwd="/", timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == status


def test_the_program_whose_reader_has_gone_says_so(closed: Path) -> None:
    gone, pipe = os.pipe()
    os.close(gone)
    command = [sys.executable, "-I", "-m", "bridgehold.audit.verify", str(closed)]
    done = subprocess.run(
        command, stdout=pipe, stderr=subprocess.PIPE, env={}, cwd="/", timeout=60, check=False
    )
    os.close(pipe)
    assert (done.returncode, done.stderr) == (141, b"")
