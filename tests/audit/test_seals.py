"""Sealed segments: what was dropped is said, the chain holds without it, and whatever is done to them has a place."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audit_support import Filler, intent, lines_of, outcome, rewrite, segment_files
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit import anchors, chain, rotations, seals
from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.query import Query, query
from bridgehold.audit.read import read_all
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.language import parse as question
from bridgehold.audit.rotations import Rotation, cross_sign
from bridgehold.audit.sealing import Done, Wanted, due, seal_audit
from bridgehold.audit.telling import sentence
from bridgehold.audit.usage import fold
from bridgehold.audit.verdicts import Report
from bridgehold.audit.verify import render_report, verify_audit
from bridgehold.audit.why import story
from bridgehold.audit.writer import Limits
from bridgehold.config.retention import RetentionSection
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.supervisor.retention import wanted_of

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
TIME, LATER = "2999-01-01T00:00:00.000Z", "2999-01-02T00:00:00.000Z"


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


KEYS = {anchors.key_id(raw(KEY)): raw(KEY)}


def signing(key: Ed25519PrivateKey) -> Callable[[seals.Seal], seals.Seal]:
    return lambda made: seals.sign(msgspec.structs.replace(made, key=anchors.key_id(raw(key))), key.sign)


def sealed(
    audit: Path, *, drop: bool = True, keep: int = 1, key: Ed25519PrivateKey = KEY, time: str = TIME
) -> list[Done]:
    return list(seal_audit(audit, Wanted(keep=keep, drop=drop), signing(key), by="uid 0", time=time))


def written(audit: Path) -> Filler:
    """Two instances of several segments each; the second one still runs."""
    audit.mkdir(exist_ok=True)
    for _ in range(2):
        filler = Filler(audit, limits=Limits(segment_bytes=6_000))
        filler.pairs(14)
        if len(list(audit.glob("0*"))) == 1:
            filler.close()
    assert len(segment_files(audit)) >= 6
    return filler


def tell(filler: Filler, done: list[Done]) -> None:
    filler.journal._anchors = Path("/nowhere")
    for one in done:
        event = filler.journal._anchor(seals.render(one.seal).encode())
        assert event is not None
        filler.journal.writer.write([event])
    filler.journal.writer.sync()


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, Filler]:
    audit = tmp_path / "audit"
    return audit, written(audit)


def judge(audit: Path, keys: dict[str, bytes] | None = None) -> Report:
    return verify_audit(audit, keys=KEYS if keys is None else keys)


@pytest.mark.parametrize("drop", [False, True])
def test_what_is_sealed_stays_whole_and_says_what_was_dropped_by_whom(
    home: tuple[Path, Filler], *, drop: bool
) -> None:
    audit, filler = home
    before = [(entry.ref, entry.kind, entry.time) for entry in read_all(audit)]
    done = sealed(audit, drop=drop)
    assert len(done) == len(segment_files(audit)) - 1
    tell(filler, done)
    report = judge(audit)
    assert report.ok, report.first_bad
    assert (report.sealing.segments, report.sealing.signature) == (len(done), "verified")
    assert {one.by for one in report.sealing.seals} == {"uid 0"}
    assert (report.sealing.dropped > 40) == drop
    text = render_report(report)
    assert ("bodies dropped by uid 0" in text) == drop
    now = [(entry.ref, entry.kind, entry.time) for entry in read_all(audit)]
    assert now[: len(before)] == before
    if drop:
        assert sum(one.freed_bytes for one in done) > 0
        assert not any(b"print(1)" in (audit / one.place).read_bytes() for one in done)


def test_sealing_again_changes_nothing_and_dropping_later_is_another_seal(home: tuple[Path, Filler]) -> None:
    audit, filler = home
    first = sealed(audit, drop=False)
    tell(filler, first)
    assert sealed(audit, drop=False, keep=2) == []
    second = sealed(audit, keep=len(segment_files(audit)) - 2, time=LATER)
    assert [one.place for one in second] == [one.place for one in first[:2]]
    assert [one.seal.was for one in second] == [one.seal.was for one in first[:2]]
    tell(filler, second)
    assert sealed(audit, keep=len(segment_files(audit)) - 2, time=LATER) == []
    report = judge(audit)
    assert report.ok, report.first_bad
    # the older seal brought back is found, though it is signed: the audit tells of the newer one
    path = audit / f"{first[0].place}.seal"
    marks = b"".join(seals.mark(line) + b"\n" for line in lines_of(audit / first[0].place))
    path.chmod(0o600)
    path.write_bytes(seals.render(first[0].seal).encode() + marks)
    assert {finding.kind for finding in judge(audit).findings} >= {"seal_replaced"}


def test_what_was_used_is_counted_as_before(home: tuple[Path, Filler]) -> None:
    audit, _ = home
    before = fold(read_all(audit))
    sealed(audit)
    assert fold(read_all(audit)) == before


def test_query_why_and_the_index_say_that_a_seal_dropped_it(
    home: tuple[Path, Filler], tmp_path: Path
) -> None:
    audit, _ = home
    sealed(audit)
    first = next(entry for entry in read_all(audit) if entry.kind == "command.intent")
    assert (first.text("dropped"), first.text("arguments_preview"), first.principal) == ("by seal", "", "")
    assert first.text("operation") == "python:execute"
    assert "dropped by seal" in sentence(story(audit, first.ref).event)
    assert list(query(audit, Query(text="by seal", kind="command", limit=10_000)))
    with Desk.open(audit, tmp_path / "index", build=True) as desk:
        hits = list(desk.select(question('kind = command.intent and dropped = "by seal"'), limit=10_000))
    assert first.ref in {hit.entry.ref for hit in hits}


def test_who_seals_writes_through_no_link_that_the_journal_laid_meanwhile(
    home: tuple[Path, Filler], tmp_path: Path
) -> None:
    """Root seals, and the folders are the journal's."""
    audit, _ = home
    first = next(path for path in sorted(audit.iterdir()) if path.is_dir())
    elsewhere = tmp_path / "elsewhere"

    def sign(made: seals.Seal) -> seals.Seal:
        if not elsewhere.exists():
            shutil.copytree(first, elsewhere)
            first.rename(tmp_path / "aside")
            first.symlink_to(elsewhere)
        return signing(KEY)(made)

    before = {path.name: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(AuditError, match="can't be written"):
        list(seal_audit(audit, Wanted(drop=True), sign, by="uid 0", time=TIME))
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_the_newest_segment_is_never_sealed_and_an_unsound_one_neither(home: tuple[Path, Filler]) -> None:
    audit, _ = home
    newest = segment_files(audit)[-1]
    assert newest not in [segment.path for _, segment in due(audit, Wanted(keep=0))]
    assert due(audit, Wanted(before="2000-01-01T00:00:00.000Z")) == []
    file = segment_files(audit)[1]
    lines = lines_of(file)
    lines[2] = lines[2].replace(b"acme", b"acne", 1)
    rewrite(file, lines)
    with pytest.raises(AuditError, match="changed") as caught:
        sealed(audit)
    assert caught.value.where.endswith("00000002.jsonl:3")
    assert not list(audit.rglob(f"*{file.name}.seal"))[1:]


def test_the_oldest_segment_that_was_dropped_by_hand_is_found(home: tuple[Path, Filler]) -> None:
    audit, filler = home
    tell(filler, sealed(audit))
    oldest = segment_files(audit)[0]
    oldest.unlink()
    assert not judge(audit).ok
    oldest.with_name(f"{oldest.name}.seal").unlink()
    kinds = {finding.kind for finding in judge(audit).findings}
    assert {"segment_missing", "seal_missing"} <= kinds


def test_a_body_that_is_missing_without_a_seal_is_a_changed_line(home: tuple[Path, Filler]) -> None:
    audit, _ = home
    file = segment_files(audit)[0]
    lines = lines_of(file)
    lines[3] = seals.without_body(lines[3])
    rewrite(file, lines)
    first = judge(audit).first_bad
    assert first is not None
    assert (first.kind, first.place.rpartition(":")[2]) == ("changed", "4")


def remade(line: bytes) -> bytes:
    return line.replace(b'"tenant":"acme"', b'"tenant":"ecma"', 1)


@pytest.mark.parametrize("drop", [False, True])
def test_any_tampering_with_a_sealed_segment_is_located(
    home: tuple[Path, Filler], tmp_path: Path, *, drop: bool
) -> None:
    """Line, byte, order, missing, added, swapped seals, another home's seal, one signed by somebody else."""
    audit, filler = home
    tell(filler, sealed(audit, drop=drop))
    other = tmp_path / "other"
    tell(written(other), sealed(other, drop=drop))
    acts: dict[str, tuple[Callable[[Path], None], str]] = {
        "byte": (lambda file: edit(file, lambda lines: [*lines[:4], remade(lines[4]), *lines[5:]]), ":5"),
        "order": (lambda file: edit(file, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]), ":2"),
        "missing": (lambda file: edit(file, lambda lines: lines[:3] + lines[4:]), ":4"),
        "last": (lambda file: edit(file, lambda lines: lines[:-1]), ""),
        "twice": (lambda file: edit(file, lambda lines: [*lines[:4], lines[3], *lines[4:]]), ":5"),
        "added": (lambda file: edit(file, lambda lines: [*lines, lines[-1]]), ""),
        "empty": (lambda file: edit(file, lambda _: []), ""),
        "no seal": (lambda file: file.with_name(f"{file.name}.seal").unlink(), ""),
        "swapped": (lambda file: swap(file, segment_files(audit)[1]), ""),
        "of another home": (
            lambda file: replace(seal_of(file), seal_of(segment_files(other)[0]).read_bytes()),
            ".seal",
        ),
        "of somebody else": (lambda file: resign(file, OTHER), ".seal"),
        "marks": (lambda file: replace(seal_of(file), seal_of(file).read_bytes()[:-9]), ""),
    }
    for name, (act, place) in acts.items():
        copy = tmp_path / "copy"
        shutil.copytree(audit, copy)
        if name == "swapped":
            swap(segment_files(copy)[0], segment_files(copy)[1])
        else:
            act(segment_files(copy)[0])
        report = judge(copy)
        if name == "marks":  # the segment is as it was: nothing is lost but how to find what changes later
            shutil.rmtree(copy)
            continue
        assert not report.ok, name
        first = segment_files(copy)
        where = f"{first[0].parent.name}/{first[0].name}" if first else ""
        places = [finding.place for finding in report.findings]
        assert any(one.startswith(where) and one.endswith(place) for one in places) or name == "no seal", (
            name,
            report.findings,
        )
        if name == "no seal":
            assert any(finding.kind == "seal_missing" for finding in report.findings)
        shutil.rmtree(copy)


def seal_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.seal")


def replace(file: Path, data: bytes) -> None:
    file.chmod(0o600)
    file.write_bytes(data)


def edit(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    rewrite(file, change(lines_of(file)))


def swap(one: Path, two: Path) -> None:
    first, second = seal_of(one).read_bytes(), seal_of(two).read_bytes()
    replace(seal_of(one), second)
    replace(seal_of(two), first)


def resign(file: Path, key: Ed25519PrivateKey) -> None:
    """As who owns the machine and not the key: a stub says something else, and the seal fits it."""
    edit(file, lambda lines: [*lines[:4], remade(lines[4]), *lines[5:]])
    seal, _ = seals.split(seal_of(file).read_bytes())
    marks = b"".join(seals.mark(line) + b"\n" for line in lines_of(file))
    made = msgspec.structs.replace(seal, now=seals.digest(file.read_bytes()), marks=seals.digest(marks))
    replace(seal_of(file), seals.render(signing(key)(made)).encode() + marks)


def test_who_makes_a_whole_chain_anew_is_located_by_the_seal(home: tuple[Path, Filler]) -> None:
    """The segment's own chain fits: its marks don't."""
    audit, _ = home
    sealed(audit, drop=False)
    file = segment_files(audit)[0]
    lines = lines_of(file)
    prev = chain.GENESIS
    for number, line in enumerate(lines):
        facts = chain.read_line(line)
        assert facts is not None
        body = line[: -chain.TAIL - chain.PREV_TAIL]
        body = remade(body) if number == 5 else body
        body += b',"prev":"' + prev.encode() + b'"'
        prev = chain.line_hash(chain.hash_prefix(facts.instance), prev, body)
        lines[number] = body + chain.HASH_OPEN + prev.encode() + b'"}'
    rewrite(file, lines)
    found = [finding for finding in judge(audit).findings if finding.kind == "seal_contradicted"]
    assert [finding.place.rpartition(":")[2] for finding in found] == ["6"]


def test_an_old_key_that_was_changed_seals_nothing(home: tuple[Path, Filler], tmp_path: Path) -> None:
    audit, filler = home
    done = sealed(audit, keep=len(segment_files(audit)) - 1)
    tell(filler, done)
    writer = filler.journal.writer
    head = chain.Head(writer.instance, writer.count, writer.head)
    record = cross_sign(
        Rotation(old=raw(KEY), new=raw(OTHER), head=head, time=TIME, by="uid 0"), OTHER.sign, KEY.sign
    )
    filler.journal._anchors = tmp_path
    event = filler.journal._anchor(rotations.render(record).encode())
    assert event is not None
    writer.write([event])
    new = {anchors.key_id(raw(OTHER)): raw(OTHER)}
    assert judge(audit, new).ok, judge(audit, new).first_bad
    more = sealed(audit, keep=len(segment_files(audit)) - 2)  # by the old key, which was changed
    assert len(more) == 1
    assert {finding.kind for finding in judge(audit, new).findings} == {"seal_retired"}
    tell(filler, more)
    assert {finding.kind for finding in judge(audit, new).findings} == {"seal_retired"}


@pytest.mark.parametrize("at", ["seal", "segment"])
def test_a_crash_between_seal_and_segment_leaves_it_whole_and_is_finished_later(
    home: tuple[Path, Filler], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    audit, _ = home
    real, calls = os.replace, []

    def stopped(*arguments: object, **named: object) -> None:
        calls.append(arguments)
        if str(arguments[1]).endswith(".seal" if at == "seal" else ".jsonl"):
            raise KeyboardInterrupt
        real(*arguments, **named)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        sealed(audit)
    monkeypatch.setattr(os, "replace", real)
    report = judge(audit)
    assert report.ok, report.first_bad
    assert report.sealing.dropped == 0
    sealed(audit)
    report = judge(audit)
    assert report.ok, report.first_bad
    assert report.sealing.dropped > 40


def test_a_line_loses_what_was_said_and_keeps_whose_when_and_how_much(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    filler = Filler(tmp_path / "audit")
    hostile = 'x"\\\u202e\ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16")
    ref = filler.put(intent(arguments_preview=hostile, bridge="brücke\u0001"))[0].ref
    filler.put(outcome(ref, reason="secret thing", cpu_us=12_345))
    filler.close()
    lines = lines_of(segment_files(tmp_path / "audit")[0])
    stubs = [seals.without_body(line) for line in lines]
    assert [seals.without_body(line) for line in stubs] == stubs
    assert stubs[0] == lines[0]
    assert [seals.is_stub(line) for line in stubs] == [False, True, True, False]
    assert b"secret thing" not in stubs[2]
    assert b'"cpu_us":12345' in stubs[2]
    assert all(re.fullmatch(rb"[ -~]+", line) for line in stubs)
    check = InstanceCheck(filler.journal.writer.instance)
    check.stubs = True
    check.feed(stubs, "file", 1)
    assert not check.findings
    assert check.dropped == 2


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_mutation_of_any_byte_of_any_file_has_a_verdict_and_a_place(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    audit = tmp_path_factory.mktemp("copy") / "audit"
    shutil.copytree(whole, audit)
    file = data.draw(st.sampled_from(sorted(path for path in audit.glob("0*/*") if path.is_file())))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content)))
    act = data.draw(st.sampled_from(["byte", "cut", "insert", "delete", "link", "gone"]))
    if act == "byte" and at < len(content):
        content[at] ^= data.draw(st.integers(1, 255))
    elif act == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    elif act == "delete":
        del content[at : at + data.draw(st.integers(1, 300))]
    else:
        del content[at:]
    file.unlink()
    if act == "link":
        file.symlink_to("/etc/hostname")
    elif act != "gone":
        file.write_bytes(content)
    report = judge(audit)
    assert render_report(report)
    original = whole / file.relative_to(audit)
    untouched = act in ("byte", "cut", "insert", "delete") and bytes(content) == original.read_bytes()
    marks = file.name.endswith(".seal") and act != "link" and is_same_seal(file, original)
    newest = original == max(whole.glob("0*/*.jsonl"))
    if not (untouched or marks or newest):
        assert not report.ok, (file, act, at)
        first = report.first_bad
        assert first is not None
        assert first.place
    for read in (lambda: list(read_all(audit)), lambda: sealed(audit)):
        try:
            read()
        except BridgeholdError as error:
            assert error.where


def is_same_seal(file: Path, original: Path) -> bool:
    """Only its marks are other ones: the seal itself, which is signed, is as it was."""
    if not file.exists():
        return False
    end = original.read_bytes().find(b"==\n") + 3
    return file.read_bytes()[:end] == original.read_bytes()[:end]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = tmp_path_factory.mktemp("whole") / "audit"
    filler = written(audit)
    tell(filler, sealed(audit, keep=3))
    filler.close()
    assert judge(audit).ok
    return audit


def test_what_retention_asks_for() -> None:
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)

    def asked(sizes: list[int], **said: Any) -> list[tuple[str, int]]:
        found = wanted_of(RetentionSection(**said), sizes, now)
        assert all(one.drop for one in found)
        return [(one.before[:10], one.keep) for one in found]

    assert asked([9, 9]) == []
    assert asked([], days=30) == [("2026-10-31", 1)]
    assert asked([4, 3, 2, 1], size="6B") == [("2026-11-23", 3)]  # nothing younger than a week
    assert asked([4, 3, 2, 1], size="10B") == []
    assert asked([4, 3, 2, 9], size="1B", least_days=0) == [("", 1)]  # the newest is written to
    assert asked([9, 1], days=1, size="5B") == [("2026-11-29", 1), ("2026-11-23", 1)]
