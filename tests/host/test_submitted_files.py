"""What a submitted bridge may be made of: archives, bundles, releases on disk. Nothing here starts a host."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from bridgehold.bridges import bundle, releases
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.releases import Releases
from bridgehold.client.submit import packed
from bridgehold.config.layout import Layout, find_layout
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.host.cell.store.archives import unpack
from bridgehold.host.cell.store.quarantine import MOST_WAITING, Quarantine, new_record
from bridgehold.host.startup import GO, SEALS, ReleaseChange
from bridgehold.ids import digest_bytes
from bridgehold.policies import shipped
from bridgehold.policies.changes import compare
from bridgehold.policies.compose import compose
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Endpoint, Grant, Machine, Needs, SecretGrant
from bridgehold.supervisor import releases as writer

MANIFEST = """name = "{}"
version = "1.0.0"
entry = "mine:Mine"
[operations.say]
summary = "Say it"
effect = "read"
"""
CODE = b"from bridgehold_sdk import Bridge\n"


def zipped(files: Iterable[tuple[str, bytes]], mode: int = 0o100644) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return data.getvalue()


def files_of(name: str = "mine", code: bytes = CODE) -> list[tuple[str, bytes]]:
    return [("bridge.toml", MANIFEST.format(name).encode()), ("mine.py", code)]


def code_of(data: bytes) -> str:
    try:
        unpack(data)
    except BridgeholdError as error:
        return error.code
    return ""


def test_a_folder_is_packed_as_it_is_taken_and_the_same_each_time(tmp_path: Path) -> None:
    for path in ("bridge.toml", "inner/deep.py", ".git/config", "__pycache__/x.pyc"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    data = packed(tmp_path)
    assert data == packed(tmp_path)
    assert [file.path for file in unpack(data).files] == ["bridge.toml", "inner/deep.py"]
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        packed(tmp_path)


def test_no_archive_says_more_than_plain_small_files() -> None:
    sound = zipped(files_of())
    assert [file.path for file in unpack(sound).files] == ["bridge.toml", "mine.py"]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("bridge.toml"))
    for data in (
        b"",
        b"PK",
        tar.getvalue(),
        sound[:-1],
        sound + b"x",
        b"x" + sound,
        sound[: len(sound) // 2],
    ):
        assert code_of(data) == "usage"
    for name in (
        "../x",
        "/x",
        "a/../x",
        "a//x",
        "./x",
        "a\\x",
        "C:x",
        "a\nb",
        "é.py",
        ".hidden",
        "a/.b",
        "x" * 201,
        "a/" * 9 + "x",
    ):
        assert code_of(zipped([*files_of(), (name, b"")])) == "usage", name
    for pair in (("a.py", "A.py"), ("a/x", "A/y"), ("a", "a/x")):
        assert code_of(zipped([*files_of()[:1], *((one, b"") for one in pair)])) == "usage", pair
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        assert code_of(zipped([("mine.py", b"/etc/passwd")], kind | 0o777)) == "usage", oct(kind)


def test_bombs_and_floods_are_refused_before_they_are_unpacked() -> None:
    many = zipped((f"f{number}", b"") for number in range(bundle.MOST_FILES + 1))
    most = zipped((f"f{number}", b"") for number in range(5_000))
    large = zipped([("a", b"\0" * (bundle.MOST_BYTES + 1))])
    dense = zipped([("a", b"\0" * (8 << 20))])
    nested = zipped([("inner.zip", large)])
    tracemalloc.start()
    for data in (many, most, large, dense, os.urandom(64) * (bundle.MOST_PACKED // 64 + 1)):
        assert code_of(data) == "limit"
    assert code_of(nested) == "", "what is inside of a file is a file's bytes"
    _, held = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 64 << 20


def test_a_bundle_that_was_tampered_with_is_none() -> None:
    for data in (
        b"",
        b"\x81",
        msgspec.msgpack.encode({"files": [["../x", b""]]}),
        b"\xdd\xff\xff\xff\xff" * 9,
    ):
        with pytest.raises(BridgeholdError):
            bundle.decode(data)
    flood = b"\x81\xa5files\xdd" + (2**20).to_bytes(4, "big") + b"\x92\xa0\xc4\x00" * 2**20
    tracemalloc.start()
    with pytest.raises(UsageError):
        bundle.decode(flood)
    _, held = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 << 20
    one, other = bundle.bundle(files_of()), bundle.bundle(reversed(files_of()))
    assert bundle.digest(one) == bundle.digest(other) != bundle.digest(bundle.bundle(files_of(code=b"")))


# What the supervisor writes.


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, os.getuid())
    found.tenants.mkdir(parents=True)
    return found


def sealed(data: bytes, seals: int = SEALS) -> int:
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def ask(
    layout: Layout, after: Releases, descriptor: int = -1, *, bridge: str = "mine", was: str | None = None
) -> str:
    """The error's code; empty: done."""
    file = layout.own_bridges("acme") / bridge / "current.toml"
    before = file.read_text() if file.is_file() else ""
    was = (digest_bytes(before.encode()) if before else "") if was is None else was
    change = ReleaseChange(tenant="acme", bridge=bridge, text=releases.render(after), was=was)
    said = writer.answer(layout, msgspec.json.encode(change), descriptor)
    return "" if said == GO else msgspec.json.decode(said, type=ErrorInfo).code


def approved(before: Releases, found: bundle.Bundle) -> tuple[Releases, int]:
    after = releases.approved(before, bundle.digest(found), submission="sub-1", by="boss", at="")
    return after, sealed(bundle.encode(found))


def test_a_release_is_laid_down_whole_and_earlier_ones_stay(layout: Layout) -> None:
    found = [bundle.bundle(files_of(code=b"%d" % number)) for number in range(12)]
    now = Releases()
    home = layout.own_bridges("acme") / "mine"
    for one in found:
        now, descriptor = approved(now, one)
        assert ask(layout, now, descriptor) == ""
        entry = next(entry for entry in Catalogue.load([], layout.tenants).list() if entry.tenant)
        assert entry.manifest is not None
        assert entry.manifest.release == now.digest
        assert (entry.folder / "mine.py").read_bytes() == one.get("mine.py")
    assert len(list((home / "releases").iterdir())) == releases.MOST_KEPT + 1
    for one in reversed(found[-releases.MOST_KEPT - 1 : -1]):
        now = releases.rolled_back(now, by="boss", at="")
        assert ask(layout, now) == ""
        assert now.digest == bundle.digest(one)
    now = releases.rolled_back(now, by="boss", at="")
    assert ask(layout, now) == ""
    assert [entry for entry in Catalogue.load([], layout.tenants).list() if entry.tenant] == []
    with pytest.raises(BridgeholdError):
        releases.rolled_back(now, by="boss", at="")
    assert ask(layout, approved(now, found[-2])[0]) == "", "one that was rolled back is still there"
    assert all(path.stat().st_mode & 0o022 == 0 for path in home.rglob("*"))


def test_a_host_that_was_taken_over_has_nothing_else_written(layout: Layout) -> None:
    found = bundle.bundle(files_of())
    other, theirs = bundle.bundle(files_of("theirs")), bundle.bundle(files_of(code=b"#"))
    after = approved(Releases(), found)[0]
    reading, writing = os.pipe()
    os.set_blocking(reading, True)
    plain = os.open(layout.config, os.O_RDONLY | os.O_TMPFILE | os.O_RDWR)
    for descriptor in (
        sealed(bundle.encode(theirs)),
        sealed(bundle.encode(found), 0),
        sealed(bundle.encode(found), fcntl.F_SEAL_WRITE),
        sealed(b""),
        sealed(b"\0" * (bundle.MOST_PACKED + (2 << 20))),
        reading,
        plain,
    ):
        assert ask(layout, after, descriptor) in ("usage", "limit")
    named = releases.approved(Releases(), bundle.digest(other), submission="", by="", at="")
    assert ask(layout, named, sealed(bundle.encode(other))) == "manifest"
    assert ask(layout, after) == "not_found", "what isn't there can't be in use"
    assert ask(layout, after, sealed(bundle.encode(found)), was="sha256:" + "0" * 64) == "busy"
    for bridge in ("../mine", "a/b", "", "Mine"):
        assert ask(layout, after, sealed(bundle.encode(found)), bridge=bridge) == "usage"
    assert sorted(layout.tenants.rglob("current.toml")) == []
    elsewhere = layout.config / "elsewhere"
    elsewhere.mkdir()
    for link in (layout.tenants / "acme", layout.own_bridges("acme"), layout.own_bridges("acme") / "mine"):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(elsewhere)
        assert ask(layout, after, sealed(bundle.encode(found))) != ""
        link.unlink()
    assert list(elsewhere.iterdir()) == []
    by_hand = layout.own_bridges("acme") / "mine"
    by_hand.mkdir()
    (by_hand / "bridge.toml").write_text(MANIFEST.format("mine"))
    assert ask(layout, after, sealed(bundle.encode(found))) == "usage", (
        "what an operator keeps is nobody's to replace"
    )
    (by_hand / "bridge.toml").unlink()
    assert ask(layout, after, sealed(bundle.encode(found))) == ""
    changed = releases.folder_of(by_hand, after.digest) / "mine.py"
    changed.write_text("changed")
    again = msgspec.structs.replace(after, by="again")
    assert ask(layout, again, sealed(bundle.encode(found))) == "usage", "a release that was changed is none"
    os.close(writing)


def test_a_full_disk_leaves_no_half_of_a_release(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bundle.bundle([*files_of(), ("zzz", b"x" * 100)])
    after, descriptor = approved(Releases(), found)
    create = writer.laid.writes.create

    def full(path: Path, *, mode: int) -> object:
        if path.name == "zzz":
            raise OSError(28, "No space left on device", str(path))
        return create(path, mode=mode)

    monkeypatch.setattr(writer.laid.writes, "create", full)
    assert ask(layout, after, descriptor) == "shortage"
    home = layout.own_bridges("acme") / "mine"
    assert list((home / "releases").iterdir()) == []
    assert not (home / "current.toml").exists()
    monkeypatch.undo()
    assert ask(layout, after, descriptor) == ""


def test_a_manifest_that_takes_long_to_parse_keeps_no_supervisor(layout: Layout) -> None:
    found = bundle.bundle([("bridge.toml", files_of()[0][1] + b"#\n" * 5_000_000)])
    assert ask(layout, *approved(Releases(), found)) == "manifest"


def test_whats_kept_by_hand_and_handed_in_under_one_name_is_neither(layout: Layout) -> None:
    after, descriptor = approved(Releases(), bundle.bundle(files_of()))
    assert ask(layout, after, descriptor) == ""
    home = layout.own_bridges("acme") / "mine"

    def fault() -> str:
        return next(entry.fault for entry in Catalogue.load([], layout.tenants).list() if entry.tenant)

    assert fault() == ""
    (home / "bridge.toml").write_text(MANIFEST.format("mine"))
    assert "one of them has to go" in fault()
    (home / "bridge.toml").unlink()
    (home / "releases").rename(home / "moved")
    (home / "releases").symlink_to("moved")
    assert "is a link" in fault()


# What waits.


def test_a_quarantine_is_bounded_expires_and_pins_its_bytes(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path)
    found = bundle.bundle(files_of())
    records = [new_record("acme", found, "mine", "1.0.0", "token:acme") for _ in range(MOST_WAITING)]
    for record in records:
        kept.demand_room("acme", None, None, found.size)
        kept.keep(msgspec.structs.replace(record, state="waiting"), found)
    for most, most_bytes, tenant in (
        (None, None, "acme"),
        (1, None, "acme"),
        (0, None, "new"),
        (None, 1, "new"),
    ):
        with pytest.raises(BridgeholdError) as caught:
            kept.demand_room(tenant, most, most_bytes, found.size)
        assert caught.value.code == "budget"
    kept.demand_room("new", None, found.size, found.size)
    assert kept.bundle(records[0]) == found
    path = tmp_path / "acme" / f"{records[0].id}.bundle"
    path.write_bytes(bundle.encode(bundle.bundle(files_of(code=b"other"))))
    with pytest.raises(UsageError):
        kept.bundle(records[0])
    for name in ("", "../acme/x", "sub-0000000000000000", records[0].id.upper(), f"{records[0].id}\n"):
        with pytest.raises(BridgeholdError) as caught:
            kept.find(name)
        assert caught.value.code == "not_found"
    assert len(kept.expire("acme", 2e9 + 1e9)) == MOST_WAITING
    assert kept.expire("acme", 2e9 + 1e9) == []
    assert list(tmp_path.rglob("*.bundle")) == []
    assert {one.state for one in kept.of("acme")} == {"expired"}
    checking = new_record("acme", found, "mine", "1.0.0", "token:acme")
    kept.keep(checking, found)
    kept.lay(checking, found)
    kept.recover()
    assert kept.find(checking.id).state == "failed"
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_dir() and path.name != "acme"] == []
    assert kept.forget("acme") == MOST_WAITING + 1
    assert kept.tenants() == ()


# What an operator is shown.


def granted(needs: Needs, policy: str = "dspy") -> Grant:
    machine = Machine(cgroup="v2", uids="range", memory_bytes=1 << 34, cpus=4)
    found = compose(policy, shipped.read)
    return resolve(needs, found, None, machine, tenant="acme", bridge="mine", version="1")


def test_what_it_gains_and_loses_is_told_by_meaning() -> None:
    endpoint = Endpoint(provider="openai", methods=("POST",), paths=None)
    secret = SecretGrant(name="openai", provider="openai")
    nothing, reaching = granted(Needs()), granted(Needs(endpoints=(endpoint,), secrets=(secret,)))
    assert compare(nothing, nothing) == compare(reaching, reaching)
    assert compare(nothing, nothing).gained == ()
    changes = compare(nothing, reaching)
    assert {one.key for one in changes.gained} >= {"network.endpoints.openai", "secrets.openai"}
    assert changes.lost == ()
    assert all(one.new for one in changes.gained)
    assert not any(one.new for one in compare(nothing, reaching, (reaching,)).gained)
    back = compare(reaching, nothing)
    assert [(one.key, one.value) for one in back.lost] == [(one.key, one.value) for one in changes.gained]
    narrow = msgspec.structs.replace(
        reaching, limits=msgspec.structs.replace(reaching.limits, memory_bytes=1 << 20)
    )
    assert [one.key for one in compare(reaching, narrow).lost] == ["limits.memory"]
    assert [one.key for one in compare(narrow, reaching).gained] == ["limits.memory"]
