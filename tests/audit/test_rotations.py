"""The anchors' key changes: both sign, old anchors verify, and neither key alone can rewrite anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audit_support import Filler, lines_of, rewrite
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold import writes
from bridgehold.audit import anchors, chain, rotations
from bridgehold.audit.anchors import SignedAnchor
from bridgehold.audit.rotations import Rotation, SignedRotation, cross_sign
from bridgehold.audit.scan import durable_head
from bridgehold.audit.verdicts import Report
from bridgehold.audit.verify import verify_audit
from bridgehold.errors import AuditError, DeniedError, SecretError
from bridgehold.keeper.signer import FILE, Signer

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
TIME = "2026-11-20T09:30:00.000Z"
OLD, NEW, EVIL = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8, 9))


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def pins(*keys: Ed25519PrivateKey) -> dict[str, bytes]:
    return {anchors.key_id(raw(key)): raw(key) for key in keys}


def head_of(filler: Filler) -> chain.Head:
    writer = filler.journal.writer
    return chain.Head(writer.instance, writer.count, writer.head)


def anchored(head: chain.Head, key: Ed25519PrivateKey) -> SignedAnchor:
    return anchors.sign_anchor(anchors.anchor_at(head, time=TIME, public_key=raw(key)), key.sign)


def changed(
    head: chain.Head, old: Ed25519PrivateKey, new: Ed25519PrivateKey, *, lost: bool = False
) -> SignedRotation:
    made = Rotation(old=raw(old), new=raw(new), head=head, time=TIME, by="uid 0")
    return cross_sign(made, new.sign, None if lost else old.sign)


class Home:
    """An audit with one anchor by the old key, its change, and one by the new key."""

    def __init__(self, folder: Path, *, lost: bool = False) -> None:
        self.audit, self.beside = folder / "audit", folder / "anchors"
        self.audit.mkdir()
        self.beside.mkdir()
        self.filler = Filler(self.audit, anchors=str(self.beside))
        self.filler.pairs(3)
        self.anchor(OLD)
        self.change = changed(head_of(self.filler), OLD, NEW, lost=lost)
        self.tell(rotations.render(self.change))
        self.filler.pairs(3)
        self.anchor(NEW)
        self.filler.close()

    def anchor(self, key: Ed25519PrivateKey) -> None:
        self.tell(anchors.render(anchored(head_of(self.filler), key)))

    def tell(self, text: str) -> None:
        event = self.filler.journal._anchor(text.encode())
        assert event is not None
        self.filler.journal.writer.write([event])

    def judge(self, keys: dict[str, bytes], *outside: SignedAnchor) -> Report:
        kept = [("kept", one) for one in outside]
        return verify_audit(self.audit, outside=kept, beside=self.beside, keys=keys)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.anchoring.findings}


@pytest.mark.parametrize("pinned", [(OLD,), (NEW,), (OLD, NEW)])
def test_old_anchors_verify_whichever_key_is_trusted(
    home: Home, pinned: tuple[Ed25519PrivateKey, ...]
) -> None:
    report = home.judge(pins(*pinned))
    assert report.ok, report.anchoring.findings
    (told,) = report.anchoring.rotations
    assert (told.old, told.new, told.lost) == (*pins(OLD), *pins(NEW), False)


def test_without_the_record_the_lines_themselves_hold_it(home: Home) -> None:
    """A copy of the audit alone: the new key is enough for the old one's anchor, kept elsewhere."""
    old = next(
        signed for _, signed in anchors.load_folder(home.beside) if signed and signed.anchor.key in pins(OLD)
    )
    report = verify_audit(home.audit, outside=[("kept", old)], keys=pins(NEW))
    assert report.anchoring.signature == "verified"
    assert report.ok


def test_a_key_of_nobody_is_trusted_by_no_record(home: Home) -> None:
    assert "anchor_signature" in kinds(home.judge(pins(EVIL)))


def test_who_has_the_old_key_alone_signs_nothing_behind_its_change(home: Home) -> None:
    later = anchored(durable_head(home.audit) or rotations.NOWHERE, OLD)
    for pinned in (pins(OLD), pins(NEW)):
        assert "anchor_retired" in kinds(home.judge(pinned, later))


@pytest.mark.parametrize("pinned", [(OLD,), (NEW,)])
def test_who_has_the_old_key_alone_makes_no_other_successor(
    home: Home, pinned: tuple[Ed25519PrivateKey, ...]
) -> None:
    rotations.store(home.beside, changed(home.change.rotation.head, OLD, EVIL))
    report = home.judge(pins(*pinned))
    assert "rotation_forked" in kinds(report)
    assert not report.ok


def test_who_has_the_old_key_alone_rewrites_nothing(home: Home) -> None:
    """Even with a whole chain made anew below the change: the record knows the head that was."""
    instance, count = home.change.rotation.head.instance, home.change.rotation.head.count
    fresh = remade(home, 1)
    forged = anchored(chain.Head(instance, count, fresh[count - 1]), OLD)
    for name in os.listdir(home.beside):
        if name.endswith(anchors.SUFFIX):
            (home.beside / name).unlink()
    anchors.store(home.beside, forged)
    report = home.judge(pins(NEW))
    assert report.integrity.ok  # the chain itself is sound: it was made anew
    assert "rotation_contradicted" in kinds(report)


def test_who_has_the_new_key_alone_rewrites_nothing_before_it(home: Home) -> None:
    head = home.change.rotation.head
    fresh = remade(home, 1)
    other = chain.Head(head.instance, head.count, fresh[head.count - 1])
    for path in home.beside.iterdir():
        path.unlink()
    anchors.store(home.beside, anchored(other, NEW))
    # without the old key, the change can only be told as a loss, or with a signature that is none
    rotations.store(home.beside, changed(other, OLD, NEW, lost=True))
    assert "rotation_contradicted" in kinds(home.judge(pins(OLD)))
    forged = SignedRotation(
        rotation=Rotation(old=raw(OLD), new=raw(NEW), head=other, time=TIME, by="uid 0"),
        by_old=home.change.by_old,
        by_new=home.change.by_new,
    )
    rotations.store(home.beside, forged)
    assert "rotation_signature" in kinds(home.judge(pins(OLD)))


def remade(home: Home, at: int) -> list[str]:
    """Line `at` says something else, and the chain is made anew behind it; the hashes of all lines."""
    (file,) = home.audit.rglob("*.jsonl")
    lines = lines_of(file)
    prev, hashes = chain.GENESIS, []
    for number, line in enumerate(lines):
        facts = chain.read_line(line)
        assert facts is not None
        body = line[: -chain.TAIL - chain.PREV_TAIL]
        body = body.replace(b'"bridge":"python"', b'"bridge":"pythom"') if number == at else body
        body += b',"prev":"' + prev.encode() + b'"'
        prev = chain.line_hash(chain.hash_prefix(facts.instance), prev, body)
        lines[number] = body + chain.HASH_OPEN + prev.encode() + b'"}'
        hashes.append(prev)
    rewrite(file, lines)
    return hashes


def test_a_lost_key_is_said_and_names_no_successor(tmp_path: Path) -> None:
    home = Home(tmp_path, lost=True)
    report = home.judge(pins(NEW))
    assert report.ok, report.anchoring.findings
    assert report.anchoring.rotations[0].lost
    assert "anchor_signature" in kinds(home.judge(pins(OLD)))


def test_a_record_that_went_is_missed(home: Home) -> None:
    next(home.beside.glob("*.rotation")).unlink()
    assert kinds(home.judge(pins(NEW))) == {"rotation_missing"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_byte_of_a_record_that_changes_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    file = next(home.beside.glob("*.rotation"))
    text = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != text[at]))
    text[at] = byte
    file.write_bytes(text)
    report = home.judge(pins(NEW))
    assert not report.ok
    first = report.first_bad
    assert first is not None
    assert file.name in first.place or first.kind == "rotation_missing"


def test_the_key_and_its_records_are_one_file(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    first = signer.held().public
    changes = [signer.rotate(lambda: rotations.NOWHERE, "uid 0", NOW) for _ in range(3)]
    held = Signer(tmp_path).held()
    assert [rotations.parse(text) for text in held.records] == changes
    assert rotations.way(changes, anchors.key_id(first), anchors.key_id(held.public)) == changes
    assert all(rotations.is_signed(one) for one in changes)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_running_keeper_signs_with_the_new_key_at_once_and_no_anchor_with_the_wrong_one(
    tmp_path: Path,
) -> None:
    running = Signer(tmp_path)
    head = chain.Head("i-0123456789ab", 3, "a" * 64)
    old = anchors.anchor_text(anchors.anchor_at(head, time=TIME, public_key=running.held().public))
    running.sign(old)
    Signer(tmp_path).rotate(lambda: head, "uid 0", NOW)
    with pytest.raises(DeniedError):
        running.sign(old)
    signed = anchors.sign_anchor(
        anchors.anchor_at(head, time=TIME, public_key=running.held().public), running.sign
    )
    public = running.held().public
    assert anchors.is_signed(signed, {anchors.key_id(public): public})


def test_a_loss_is_said_where_there_is_one_and_nowhere_else(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    public = signer.held().public
    with pytest.raises(SecretError, match="is here"):
        signer.rotate(lambda: rotations.NOWHERE, "uid 0", NOW, lost=public)
    (tmp_path / FILE).unlink()
    with pytest.raises(SecretError, match="no signing key"):
        Signer(tmp_path).rotate(lambda: rotations.NOWHERE, "uid 0", NOW)
    made = Signer(tmp_path).rotate(lambda: rotations.NOWHERE, "uid 0", NOW, lost=public)
    assert made.lost
    assert rotations.is_signed(made)


def test_the_keeper_signs_no_loss_of_its_own_key_and_no_other_successor(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    own = signer.held().public
    for old, new in ((own, raw(EVIL)), (own, own), (raw(OLD), raw(EVIL))):
        made = Rotation(old=old, new=new, head=rotations.NOWHERE, time=TIME, by="host")
        with pytest.raises(DeniedError):
            signer.sign(rotations.new_text(made, rotations.LOST))
        with pytest.raises(DeniedError):
            signer.sign(rotations.old_text(made))


_KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from bridgehold.audit import rotations
from bridgehold.keeper.signer import Signer
left = int(sys.argv[2])
def counted(frame, event, name):
    global left
    if event == "c_call" and getattr(name, "__module__", "") == "posix":
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
signer = Signer(Path(sys.argv[1]))
sys.setprofile(counted)
signer.rotate(lambda: rotations.NOWHERE, "uid 0", datetime(2026, 11, 20, tzinfo=UTC))
sys.setprofile(None)
"""


def test_killed_before_any_of_its_calls_it_leaves_one_whole_state(tmp_path: Path) -> None:
    """Each call of the system's is a step: before it the process is killed."""
    before = Signer(tmp_path).held()
    states = []
    for step in range(200):
        ended = subprocess.run([sys.executable, "-P", "-c", _KILLED, str(tmp_path), str(step)], check=False)
        now = Signer(tmp_path).held()
        records = [rotations.parse(text) for text in now.records]
        assert rotations.way(records, anchors.key_id(before.public), anchors.key_id(now.public)) is not None
        assert all(rotations.is_signed(one) for one in records)
        states.append((ended.returncode, now.public == before.public))
        before = now
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert states[-1] == (0, False)
    assert len(states) > 8
    assert (-signal.SIGKILL, True) in states


def test_a_file_that_is_more_than_key_and_records_is_refused(tmp_path: Path) -> None:
    Signer(tmp_path).held()
    path = tmp_path / FILE
    writes.replace(path, path.read_bytes() + b"and more", mode=0o600)
    with pytest.raises(SecretError):
        Signer(tmp_path).held()


def test_the_journal_takes_no_record_that_is_none(tmp_path: Path) -> None:
    filler = Filler(tmp_path, anchors=str(tmp_path))
    for text in (rotations.PREFIX, "ed25519:AAAA\n", f"{rotations.PREFIX}old ed25519:x\n"):
        with contextlib.suppress(AuditError):
            pytest.fail(f"{filler.journal._anchor(text.encode())}")
