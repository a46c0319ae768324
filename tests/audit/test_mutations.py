"""Row 37 as a property: whatever is done to any byte, line, file, link or anchor, there is a verdict and a place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from audit_support import Filler, intent, lines_of, outcome, rewrite, segment_files
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit import anchors, chain
from bridgehold.audit.entries import Entry, printable
from bridgehold.audit.events import ToolIntent, ToolOutcome
from bridgehold.audit.export import export_ocsf
from bridgehold.audit.query import Query, query
from bridgehold.audit.read import read_all, tail
from bridgehold.audit.recovery import recover
from bridgehold.audit.segments import instance_folders
from bridgehold.audit.verdicts import Report
from bridgehold.audit.verify import render_report, verify_audit
from bridgehold.audit.why import story
from bridgehold.audit.writer import Limits
from bridgehold.errors import BridgeholdError

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = {anchors.key_id(PUBLIC): PUBLIC}
TIES = {"tenant": "acme", "principal": "app", "session": "s-0123456789abcdef"}


def a_tool() -> ToolIntent:
    return ToolIntent(
        parent="c-0123456789abcdef", tool="ask", how="caller", rule="tools.allow[0]",
        arguments_digest="sha256:" + "b" * 64, arguments_bytes=2, arguments_preview="{}", **TIES,
    )  # fmt: skip


def sign(filler: Filler, folder: Path) -> None:
    writer = filler.journal.writer
    head = chain.Head(writer.instance, writer.count, writer.head)
    signed = anchors.sign_anchor(
        anchors.anchor_at(head, time="2026-11-20T09:30:00.000Z", public_key=PUBLIC), KEY.sign
    )
    filler.journal.writer.write([filler.journal._anchor(anchors.render(signed).encode())])
    assert (folder / f"{writer.instance}.{head.count}.anchor").exists()


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """Three instances: one killed in a command and in a tool call, its tail torn; two that ended in order."""
    home = Path(tempfile.mkdtemp(prefix="bh-mutations-"))
    audit, beside = home / "audit", home / "anchors"
    audit.mkdir()
    beside.mkdir()
    where = {"anchors": str(beside)}
    first = Filler(audit, limits=Limits(segment_bytes=6_000), **where)
    first.pairs(9)
    sign(first, beside)
    first.put(intent(), a_tool())
    first.pairs(4)
    os.close(first.journal._lock)
    segments = segment_files(audit)
    assert len(segments) >= 2
    with segments[-1].open("ab") as file:
        file.write(b'{"v":1,"instance":"i-')
    for _ in range(2):
        later = Filler(audit, **where)
        later.pairs(2)
        (asked,) = later.put(a_tool())
        later.put(ToolOutcome(intent=asked.ref, tool="ask", ok=True, **TIES))
        sign(later, beside)
        later.close()
    report = judged(home)
    assert report.ok, report.first_bad
    assert (report.completeness.interrupted_count, report.instances) == (2, 3)
    yield home
    shutil.rmtree(home)


def judged(home: Path) -> Report:
    """The verdict, which also prints; every reader comes to an end beside it."""
    audit, beside = home / "audit", home / "anchors"
    kept = [one for one in anchors.load_folder(beside) if one[1] is not None][-1:]
    report = verify_audit(audit, outside=kept, beside=beside, keys=KEYS)
    assert render_report(report).isprintable() or "\n" in render_report(report)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    if not report.ok and not report.completeness.unfinished:
        assert report.first_bad is not None
        assert report.first_bad.place
    for line in export_ocsf(read_or_stop(audit)):
        assert line
    with contextlib.suppress(BridgeholdError):
        shown = [*query(audit, Query(text="ask")), *query(audit, Query(since="2026", kind="command"))]
        for entry in [*shown, *tail(audit, 5)][:8]:
            assert printable(story(audit, entry.ref).sentence)
    return report


def read_or_stop(audit: Path) -> Iterator[Entry]:
    try:
        yield from read_all(audit)
    except BridgeholdError:
        return


def files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("0*/*") if path.is_file()) + sorted(home.glob("anchors/*"))


def reseal(file: Path, at: int, body: bytes) -> None:
    """Line `at` replaced, and the chain of the file made anew from there on, as an owner could."""
    lines = lines_of(file)
    facts = chain.read_line(lines[at])
    assert facts is not None
    prefix, prev = chain.hash_prefix(facts.instance), facts.prev
    lines[at] = body + lines[at][-chain.TAIL - chain.PREV_TAIL :]
    for number in range(at, len(lines)):
        body = lines[number][: -chain.TAIL - chain.PREV_TAIL] + b',"prev":"' + prev.encode() + b'"'
        prev = chain.line_hash(prefix, prev, body)
        lines[number] = body + chain.HASH_OPEN + prev.encode() + b'"}'
    rewrite(file, lines)


HOSTILE = {
    "long": b"9" * 5_000,
    "wide": b"9" * 400,
    "exponent": b"1e999999999",
    "negative": b"-" + b"9" * 30,
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "deeper": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "bytes": b'"\xff\xfe\x80"',
    "surrogate": b'"\\ud800"',
    "escape": b'"\\u001b[2J\\u202e"',
    "null": b"null",
    "open": b'"',
    "twice": b'1,"seq":2,"kind":"journal.closed"',
}
FIELDS = (
    b"previous_count", b"previous", b"previous_head", b"unfinished_count", b"unfinished", b"intent", b"count",
    b"head", b"time", b"mono_ns", b"seq", b"instance", b"kind", b"quarantined", b"quarantined_bytes", b"ms",
    b"tenant", b"arguments_bytes",
)  # fmt: skip


def replaced(line: bytes, field: bytes, value: bytes) -> bytes | None:
    """The line's own part (without prev and hash) with `value` where `field`'s stands."""
    body = line[: -chain.TAIL - chain.PREV_TAIL]
    begin = body.find(b',"' + field + b'":')
    if begin < 0:
        return None
    begin += len(field) + 4
    end = min((at for at in (body.find(mark, begin) for mark in (b',"', b"}")) if at > 0), default=len(body))
    return body[:begin] + value + body[end:]


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), act=st.integers(0, 5), at=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))  # fmt: skip
def test_a_change_of_any_file_is_found(whole: Path, where: float, act: int, at: float, value: int) -> None:
    with copied(whole) as home:
        found = files(home)
        file = found[int(where * len(found))]
        data = file.read_bytes()
        place = int(at * len(data))
        changed = {
            0: data[:place] + bytes([data[place] ^ value]) + data[place + 1 :],
            1: data[:place] + bytes([value]) + data[place:],
            2: data[:place] + data[place + 1 :],
            3: data[:place],
            4: data[:place] + data[place:] * 2,
            5: bytes(value) + data,
        }[act]
        file.chmod(0o600)
        file.write_bytes(changed)
        report = judged(home)
        assert report.ok == (changed == data), (file, act, place)
        with_recovery(home)


@settings(max_examples=80, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), act=st.sampled_from(["gone", "empty", "link", "folder", "pipe", "loop"]))  # fmt: skip
def test_a_file_or_folder_that_goes_or_becomes_something_else_is_found(
    whole: Path, where: float, act: str
) -> None:
    with copied(whole) as home:
        found = [*files(home), *sorted(home.glob("audit/0*"))]
        path = found[int(where * len(found))]
        aside = home / "aside"
        path.rename(aside)
        if act == "empty":
            path.touch()
        elif act in ("link", "loop"):
            path.symlink_to(aside if act == "link" else path)
        elif act == "folder":
            path.mkdir()
        elif act == "pipe":
            os.mkfifo(path)
        report = judged(home)
        assert not report.ok, (path, act)
        with_recovery(home)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_owner_who_makes_the_chain_anew_over_hostile_lines_gets_a_verdict(
    whole: Path, data: st.DataObject
) -> None:
    with copied(whole) as home:
        file = data.draw(st.sampled_from(segment_files(home / "audit")))
        lines = lines_of(file)
        at = data.draw(st.integers(0, len(lines) - 1))
        field = data.draw(st.sampled_from(FIELDS))
        value = data.draw(st.one_of(st.sampled_from(sorted(HOSTILE.values())), st.binary(max_size=40)))
        body = replaced(lines[at], field, value.replace(b"\n", b" "))
        if body is None:
            return
        reseal(file, at, body)
        judged(home)
        with_recovery(home)


@pytest.mark.parametrize("field", [field.decode() for field in FIELDS])
def test_each_hostile_value_in_each_field_of_a_resealed_last_instance(whole: Path, field: str) -> None:
    for value in HOSTILE.values():
        with copied(whole) as home:
            file = segment_files(home / "audit")[-1]
            for at, line in enumerate(lines_of(file)):
                body = replaced(line, field.encode(), value)
                if body is not None:
                    reseal(file, at, body)
                    break
            judged(home)
            with_recovery(home)


class copied:  # noqa: N801 - reads as a verb
    """A copy to change, gone afterwards."""

    def __init__(self, whole: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="bh-mutated-"))
        shutil.copytree(whole, self.home, dirs_exist_ok=True)

    def __enter__(self) -> Path:
        return self.home

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.home)


def with_recovery(home: Path) -> None:
    """The next start finds its way over it, or refuses with a typed error."""
    try:
        recover(home / "audit")
    except BridgeholdError as error:
        assert error.code == "audit"


def test_a_link_as_the_last_instance_is_named(whole: Path) -> None:
    with copied(whole) as home:
        last = instance_folders(home / "audit")[-1].path
        last.rename(home / "aside")
        last.symlink_to(home / "aside")
        report = verify_audit(home / "audit")
        assert [(f.kind, f.place) for f in report.integrity.findings] == [("unreadable", last.name)]


def test_a_torn_tail_that_goes_or_changes_is_named(whole: Path) -> None:
    for change, kind in (
        (Path.unlink, "quarantine_missing"),
        (lambda path: path.write_bytes(b"else"), "quarantine_changed"),
        (lambda path: shutil.copy(path, path.with_name("00000001.jsonl.torn")), "quarantine_unknown"),
    ):
        with copied(whole) as home:
            (torn,) = (home / "audit").rglob("*.torn")
            change(torn)
            report = verify_audit(home / "audit")
            assert not report.ok
            (finding,) = report.completeness.findings
            assert (finding.kind, finding.place.split("/")[0]) == (kind, torn.parent.name)


def test_an_older_instance_made_anew_is_named_at_its_file_and_line(whole: Path) -> None:
    with copied(whole) as home:
        file = segment_files(home / "audit")[-2]
        line = lines_of(file)[2]
        body = line[: -chain.TAIL - chain.PREV_TAIL].replace(b"acme", b"evil")
        reseal(file, 2, body)
        (finding,) = verify_audit(home / "audit").integrity.findings
        assert finding.kind == "rewritten"
        assert finding.place == f"{file.parent.name}/{file.name}:{len(lines_of(file))}"


def test_anchors_that_are_missing_old_or_rolled_back_say_so(whole: Path) -> None:
    with copied(whole) as home:
        audit, beside = home / "audit", home / "anchors"
        named = [name for name, _ in anchors.load_folder(beside)]
        signed = sorted(named, key=os.path.getmtime)
        oldest = anchors.load(Path(next(n for n in signed if instance_folders(audit)[0].instance in n)))
        report = verify_audit(audit, outside=oldest, keys=KEYS)
        assert report.ok
        assert report.anchoring.newer == 2
        assert report.anchoring.newest.startswith(instance_folders(audit)[-1].path.name)
        assert (report.anchoring.anchored_at, report.anchoring.age_s > 0) == (
            "2026-11-20T09:30:00.000Z",
            True,
        )
        assert "2 later anchors were signed" in render_report(report)
        report = verify_audit(audit, outside=oldest, keys=KEYS, fresh_s=60)
        assert not report.ok
        assert (report.anchoring.status, report.anchoring.findings[0].kind) == ("unanchored", "anchor_stale")
        empty = home / "empty"
        empty.mkdir()
        with pytest.raises(BridgeholdError, match="no anchor in this folder"):
            anchors.load(empty)
        os.mkfifo(home / "pipe")
        report = verify_audit(audit, beside=home / "pipe")
        assert {finding.kind for finding in report.anchoring.findings} == {
            "anchor_malformed",
            "anchor_missing",
        }
        report = verify_audit(audit, beside=empty)
        assert {finding.kind for finding in report.anchoring.findings} == {"anchor_missing"}
        assert len(report.anchoring.findings) == 3


def test_a_call_of_a_tool_that_never_ended_is_accounted_for_and_a_removed_one_is_not(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    (asked,) = writer.put(a_tool())
    os.close(writer.journal._lock)
    filler().close()
    report = verify_audit(audit)
    assert report.ok
    assert report.completeness.interrupted_count == 1
    later = filler()
    later.put(ToolOutcome(intent=asked.ref, tool="ask", ok=True, **TIES), outcome("i-000000000000.7"))
    later.close()
    kinds = [finding.kind for finding in verify_audit(audit).completeness.findings]
    assert kinds == ["orphan_outcome", "orphan_outcome"]


def test_more_intents_in_flight_than_a_rotation_names_are_all_accounted_for(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler(limits=Limits(segment_bytes=2_000_000))
    for _ in range(45):
        writer.put(*(intent() for _ in range(100)))
    assert len(segment_files(audit)) > 1
    os.close(writer.journal._lock)
    filler().close()
    report = verify_audit(audit)
    assert report.ok
    assert report.completeness.interrupted_count == 4_500
