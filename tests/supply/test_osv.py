"""Which versions an advisory means, against a straightforward reading of the format; and hostile files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from bridgehold.errors import DependencyError
from bridgehold.sandbox.supply import advisories as folder_of
from bridgehold.sandbox.supply.advisories import fingerprint, read_advisories
from bridgehold.sandbox.supply.judge import blocking, judge
from bridgehold.sandbox.supply.osv import MAX_VERSIONS, NoAdvisoryError, is_affected, parse_advisory
from bridgehold.sandbox.supply.severity import cvss3_score, of_score, reaches
from supply.advisory_files import osv, ranges, write

NOW = datetime(2026, 6, 1, tzinfo=UTC)
VERSIONS = st.builds(
    lambda release, end: ".".join(map(str, release)) + end,
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(["", "a1", "rc1", ".post1", ".dev1"]),
)
KINDS = ("introduced", "fixed", "last_affected")


def parsed(**fields: Any) -> Any:
    found = parse_advisory(json.dumps(osv(**fields)).encode())
    assert found is not None
    return found


def hit(version: str, **affected: Any) -> bool:
    return is_affected(version, parsed(affected=affected).affected[0])


@pytest.mark.parametrize(
    ("version", "events", "meant"),
    [
        ("1.0", [{"introduced": "0"}, {"fixed": "1.0"}], False),
        ("1.0rc1", [{"introduced": "0"}, {"fixed": "1.0"}], True),
        ("0.dev0", [{"introduced": "0"}], True),
        ("1.0", [{"introduced": "0"}, {"last_affected": "1.0"}], True),
        ("1.0.post1", [{"introduced": "0"}, {"last_affected": "1.0"}], False),
        ("1.0+cu121", [{"introduced": "0"}, {"last_affected": "1.0"}], True),
        ("2.0", [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.0"}], True),
        ("1.6", [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.0"}], False),
        ("1.10", [{"fixed": "1.9"}, {"introduced": "0"}], False),
        ("1!0.1", [{"introduced": "0"}, {"fixed": "99"}], False),
        ("3", [{"introduced": "0"}, {"limit": "2"}], False),
        ("1", [{"introduced": "0"}, {"limit": "2"}], True),
        # what can't be told counts against the package
        ("5", [{"introduced": "0"}, {"fixed": "deadbeef-no-version"}], True),
        ("5", [{"introduced": "no version"}, {"fixed": "9"}], True),
        ("no version", [{"introduced": "1"}, {"fixed": "2"}], True),
        ("5", [{"introduced": "0"}, {"fixed": "1" * 5_000}], True),
    ],
)
def test_ranges(version: str, events: list[dict[str, str]], meant: bool) -> None:
    assert hit(version, ranges=ranges(*events)) is meant


@given(VERSIONS, st.lists(st.tuples(st.sampled_from(KINDS), VERSIONS), min_size=1, max_size=6))
def test_ranges_as_read_by_hand(version: str, events: list[tuple[str, str]]) -> None:
    at = Version(version)
    begin = Version("0.dev0")  # as the format says of an introduction at "0": before every version
    told = [(kind, begin if (kind, text) == ("introduced", "0") else Version(text)) for kind, text in events]
    straight = False
    for kind, place in sorted(told, key=lambda one: (one[1], one[0] == "introduced")):
        if kind == "introduced" and at >= place:
            straight = True
        if kind == "fixed" and at >= place:
            straight = False
        if kind == "last_affected" and at > place:
            straight = False
    assert hit(version, ranges=ranges(*({kind: text} for kind, text in events))) is straight


@given(VERSIONS, st.lists(VERSIONS, min_size=1, max_size=5))
def test_lists_of_versions(version: str, listed: list[str]) -> None:
    assert hit(version, versions=listed) is any(Version(one) == Version(version) for one in listed)


def test_what_names_no_version_means_all() -> None:
    assert hit("1.0", versions=[])
    assert hit("1.0", ranges=ranges({"introduced": "0"}, {"fixed": "abc"}, kind="GIT"))
    assert not hit("1.0", versions=["2.0"], ranges=ranges({"introduced": "0"}, kind="GIT"))


def test_withdrawn_and_others_are_none() -> None:
    assert parse_advisory(json.dumps(osv(withdrawn="2026-01-01T00:00:00Z")).encode()) is None
    other = osv()
    other["affected"][0]["package"]["ecosystem"] = "npm"
    assert parse_advisory(json.dumps(other).encode()) is None


@pytest.mark.parametrize(
    ("vector", "score", "word"),
    [  # figures of FIRST's own examples (CVSS v3.1 Examples) and of NVD
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, "critical"),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 7.5, "high"),
        ("CVSS:3.0/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1, "low"),
        ("CVSS:3.1/AV:L/AC:L/PR:H/UI:N/S:U/C:L/I:L/A:L", 4.2, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, "critical"),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0, "low"),
    ],
)
def test_scores(vector: str, score: float, word: str) -> None:
    assert cvss3_score(vector) == score
    assert of_score(score) == word
    assert parsed(severity=[{"type": "CVSS_V3", "score": vector}]).severity == word


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_vector_is_no_score(front: str, text: str) -> None:
    assert cvss3_score(front + "CVSS:3.1/" + text) is None


def test_severity_in_words_comes_first_and_none_is_the_gravest() -> None:
    vector = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]
    assert parsed(severity=vector, database_specific={"severity": "MODERATE"}).severity == "medium"
    assert parsed(database_specific={"severity": ["HIGH"]}).severity == "unknown"
    assert reaches("unknown", "critical")
    assert not reaches("medium", "high")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from([*osv(), "aliases", "severity", "withdrawn", "summary", "database_specific"]),
)
def test_nothing_else_than_its_own_error_comes_of_hostile_json(value: object, key: str) -> None:
    try:
        found = parse_advisory(json.dumps({**osv(), key: value}).encode(errors="replace"))
        assert found is None or not is_affected("1.0", found.affected[0]) or found.id
    except NoAdvisoryError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"id": "x y"}',
        b'{"id":"\\ud800"}',
        b"[" * 100000,
        b'{"id": "A-1", "more": ' + b"[" * 100000 + b"]" * 100000 + b"}",
        json.dumps(osv(affected={"versions": ["1"] * (MAX_VERSIONS + 1)})).encode(),
    ],
    ids=lambda one: one[:12].decode(errors="replace"),
)
def test_what_is_no_advisory_is_told(data: bytes) -> None:
    with pytest.raises(NoAdvisoryError):
        parse_advisory(data)


def test_a_folder_is_read_with_its_faults(tmp_path: Path) -> None:
    write(tmp_path / "pypi", a=osv(), b=osv("other"), w=osv(id="W-1", withdrawn="2026-01-01T00:00:00Z"))
    write(tmp_path, far=osv(id="FAR-1", modified="2999-01-01T00:00:00Z"))
    (tmp_path / "README.md").write_text("not one")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    (tmp_path / "large.json").write_bytes(b" " * (folder_of.MAX_FILE_BYTES + 1))
    found = read_advisories(tmp_path, {"demo-pkg"}, NOW)
    assert [one.id for one in found.by_name["demo-pkg"]] == ["FAR-1", "GHSA-aaaa"]
    assert (found.files, found.age_days(NOW), set(found.by_name)) == (4, 2, {"demo-pkg"})
    assert {Path(one.file).name for one in found.unread} == {"broken.json", "link.json", "large.json"}
    assert found.unread_count == 3


def test_a_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["d"] * (folder_of.MAX_DEPTH + 1))
    write(deep, a=osv())
    assert read_advisories(tmp_path, {"demo-pkg"}, NOW).unread_count == 1
    for bound in ("MAX_FILES", "MAX_BYTES", "MAX_HELD"):
        with monkeypatch.context() as patch:
            patch.setattr(folder_of, bound, 0)
            write(tmp_path, a=osv())
            with pytest.raises(DependencyError, match="more than 0"):
                read_advisories(tmp_path, {"demo-pkg"}, NOW)
    with pytest.raises(DependencyError, match="can't be read"):
        read_advisories(tmp_path / "nowhere", set(), NOW)


def test_a_change_shows(tmp_path: Path) -> None:
    write(tmp_path / "in", a=osv())
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    write(tmp_path / "in", b=osv())
    added = fingerprint(tmp_path)
    write(tmp_path / "in", a=osv(summary="other"))
    assert len({before, added, fingerprint(tmp_path)}) == 3


def test_aliases_are_one_hit(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=osv(id="PYSEC-1", aliases=["CVE-1"]),
        b=osv(id="GHSA-1", aliases=["CVE-1"], database_specific={"severity": "HIGH"}, affected={
            "ranges": ranges({"introduced": "0"}, {"fixed": "2.0"})}),
        c=osv(id="GHSA-2", database_specific={"severity": "LOW"}),
        d=osv(id="GHSA-3", affected={"versions": ["9.9"]}),
    )  # fmt: skip
    known = read_advisories(tmp_path, {"demo-pkg"}, NOW)
    first, second = judge([("demo-pkg", "1.0"), ("nothing", "1")], known)
    assert (first.id, first.aliases, first.severity, first.fixed) == (
        "GHSA-1",
        ("CVE-1", "PYSEC-1"),
        "high",
        ("2.0",),
    )
    assert (second.id, second.severity) == ("GHSA-2", "low")
    assert blocking([first, second], "high") == (first,)
    accepted = judge([("demo-pkg", "1.0")], known, {"CVE-1"})
    assert [one.accepted for one in accepted] == [True, False]
    assert blocking(accepted, "high") == ()


def test_an_advisory_can_have_no_other_accepted(tmp_path: Path) -> None:
    """One that calls itself an alias of two: the other is still not accepted."""
    write(
        tmp_path,
        a=osv(id="GHSA-OK", database_specific={"severity": "LOW"}),
        b=osv(id="GHSA-BAD", database_specific={"severity": "CRITICAL"}),
        evil=osv(id="EVIL-1", aliases=["GHSA-OK", "GHSA-BAD"], database_specific={"severity": "LOW"}),
    )
    (one,) = judge([("demo-pkg", "1")], read_advisories(tmp_path, {"demo-pkg"}, NOW), {"GHSA-OK"})
    assert (one.severity, one.accepted) == ("critical", False)


def test_many_of_one_package_take_no_square_of_time(tmp_path: Path) -> None:
    one = parsed()
    many = tuple(msgspec.structs.replace(one, id=f"A-{n}", aliases=(f"A-{n + 1}",)) for n in range(20_000))
    found = judge([("demo-pkg", "1")], folder_of.Advisories(folder="x", by_name={"demo-pkg": many}))
    assert len(found) == 1
    assert len(found[0].aliases) == 20_000
