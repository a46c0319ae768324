"""Tail, follow and query: the folder of journals read as one, hostile files included."""

from __future__ import annotations

import os
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import Filler, lines_of, rewrite, segment_files
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.audit import chain, scan, segments
from bridgehold.audit import query as query_module
from bridgehold.audit.entries import Entry, parse_entry, printable
from bridgehold.audit.events import CommandRefused, EgressRefused, HostStopped
from bridgehold.audit.query import Query, query
from bridgehold.audit.read import follow, listed, read_all, read_kind, tail
from bridgehold.audit.why import story
from bridgehold.audit.writer import Limits
from bridgehold.config.layout import find_layout
from bridgehold.errors import AuditError
from bridgehold.host.assembly import ended_before, spent_before
from bridgehold.keeper.spending import Spending
from waiting import until


def test_of_an_instance_that_has_written_lately_all_is_read(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    """What ends now may have begun in a file that was full hours ago."""
    for tenant in ("gone", "acme"):
        writer = filler(limits=Limits(segment_bytes=5_000))
        writer.put(refusal("python:rm", tenant=tenant))
        writer.pairs(8)
        writer.close()
    first, *_ = segments = [
        one for one in segment_files(audit) if one.parent == segment_files(audit)[-1].parent
    ]
    assert len(segments) > 1
    for path in {*segment_files(audit)} - {*segments} | {first}:
        os.utime(path, (1_000, 1_000))
    found = {entry.tenant for entry in read_kind(audit, "command.refused", since=2_000)}
    assert found == {"acme"}


def refusal(name: str, **changes: str) -> CommandRefused:
    fields = {
        "bridge": "python",
        "operation": name,
        "rule": "default-deny",
        "reason": "no",
        "source": "p.toml:1",
    }
    return CommandRefused(**{**fields, **changes})  # type: ignore[arg-type]  # values by name


def filled(audit: Path, filler: Callable[..., Filler]) -> None:
    for _ in range(2):
        writer = filler(limits=Limits(segment_bytes=5_000))
        writer.pairs(8)
        writer.put(refusal("python:rm", tenant="acme"), refusal("python:é😀", tenant="beta"))
        writer.put(
            EgressRefused(
                host="evil.example", method="GET", path="/", rule="default-deny", reason="r", source=""
            )
        )
        writer.close()


def test_tail_gives_the_newest_across_segments_and_instances(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    filled(audit, filler)
    everything = list(read_all(audit))
    assert [(e.instance, e.seq) for e in tail(audit, 7)] == [(e.instance, e.seq) for e in everything[-7:]]
    assert len(tail(audit, 40)) == 40
    assert len(tail(audit, 10_000)) == len(everything)
    assert tail(audit, 0) == []


def test_follow_goes_on_through_rotation_and_a_new_instance(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler(limits=Limits(segment_bytes=3_000))
    writer.put(HostStopped(reason="before"))
    stop = threading.Event()
    seen: list[tuple[str, int]] = []

    def watch() -> None:
        seen.extend((e.instance, e.seq) for e in follow(audit, last=1, until=stop.is_set, every_s=0.01))

    thread = threading.Thread(target=watch)
    thread.start()
    until(lambda: seen)  # the last that was there: it follows
    writer.pairs(10)
    writer.close()
    writer = filler()
    writer.pairs(2)
    writer.close()
    expected = [(e.instance, e.seq) for e in read_all(audit)]
    until(lambda: len(seen) >= len(expected) - 1)
    stop.set()
    thread.join(30)
    assert seen == expected[1:]


def test_query_narrows_by_each_field(audit: Path, filler: Callable[..., Filler]) -> None:
    filled(audit, filler)

    def ask(**wanted: object) -> list[Entry]:
        return list(query(audit, Query(**wanted)))  # type: ignore[arg-type]  # values by name

    assert {e.kind for e in ask(kind="egress")} == {"egress.refused"}
    assert len(ask(kind="command.refused")) == 4
    assert len(ask(tenant="beta")) == 2
    assert len(ask(command="c-0000000000000003")) == 4
    assert len(ask(session="s-0123456789abcdef", limit=1000)) == 32
    assert [e.text("operation") for e in ask(text="É😀")] == []
    assert len(ask(text="é😀")) == 2
    assert len(ask(text="EVIL.example", kind="egress")) == 2
    assert ask(text="EVIL.example", kind="command") == []
    newest = ask(limit=3)
    assert [(e.ref, e.place) for e in newest] == [(e.ref, e.place) for e in list(read_all(audit))[-3:]]
    middle = newest[0].time
    assert all(e.time >= middle for e in ask(since=middle))
    assert all(e.time < middle for e in ask(until=middle))
    assert ask(kind="' OR 1=1 --") == []
    assert [e.ref for e in read_kind(audit, "egress")] == [e.ref for e in ask(kind="egress")]
    for tenant in ("acme", "beta", "nobody"):
        whose = [e.ref for e in ask(kind="command", tenant=tenant)]
        assert [e.ref for e in read_kind(audit, "command", tenant)] == whose


def test_times_that_a_rotation_tells_of_spare_the_segment_and_hide_no_event(
    audit: Path, filler: Callable[..., Filler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the clock steps back in the middle of one."""
    for steps in ((0, 1, 2, -5), (10, 11, 3, 12)):
        writer = filler(limits=Limits(segment_bytes=2_000))
        for hour in steps:
            writer.journal.writer._now_ns = lambda hour=hour: (1_900_000_000 + hour * 3600) * 10**9
            writer.pairs(2)
        writer.close()
    everything = list(read_all(audit))
    times = sorted({e.time for e in everything})
    for since in times:
        for before in (*times, ""):
            wanted = Query(since=since, until=before, limit=10_000)
            expected = [e.ref for e in everything if e.time >= since and (not before or e.time < before)]
            assert [e.ref for e in query(audit, wanted)] == expected
    monkeypatch.setattr(query_module, "_fits", lambda *_: pytest.fail("a segment was read"))
    assert list(query(audit, Query(since="2031"))) == []


@given(
    parts=st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"needle", b"x" * 90])), max_size=25),
    block=st.integers(1, 64),
    torn=st.booleans(),
)
def test_lines_are_found_whole_from_either_end_wherever_blocks_are_cut(
    parts: list[bytes], block: int, torn: bool
) -> None:
    stored = [part.replace(b"\n", b"") + b"needle" * (len(part) % 2) for part in parts]
    data = b"".join(line + b"\n" for line in stored) + (b"torn needle" if torn else b"")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BLOCK", block)
        path = Path(folder) / "segment"
        path.write_bytes(data)
        expected = [line for line in stored if b"needle" in line]
        for newest_first in (False, True):
            found = list(scan.lines(path, b"needle", newest_first=newest_first))
            assert [line.data for line in found] == (expected[::-1] if newest_first else expected)
            for line in found:
                assert data[line.offset : line.offset + len(line.data)] == line.data
            everything = [line.data for line in scan.lines(path, newest_first=newest_first)]
            assert everything == (stored[::-1] if newest_first else stored)


def test_reading_takes_no_memory_that_grows_with_the_audit(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    line = refusal(
        "python:refused", tenant="acme", reason="y" * 2_000
    )  # of intents that never end a tenant has a few
    for _ in range(80):
        writer.put(*(line for _ in range(200)))
    reference = writer.put(refusal("python:last", command="c-ffffffffffffffff"))[0].ref
    writer.close()
    assert segment_files(audit)[0].stat().st_size > 40_000_000
    tracemalloc.start()
    try:
        assert len(list(query(audit, Query(tenant="acme", limit=50)))) == 50
        assert list(query(audit, Query(text="nowhere to be found"))) == []
        assert story(audit, reference).event.ref == reference
        assert len(tail(audit)) == 20
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


def test_lines_that_are_not_ours_are_left_out(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    writer.pairs(2)
    writer.close()
    file = segment_files(audit)[0]
    lines = lines_of(file)
    lines[2] = b"\x1b[2J" * 10
    lines.insert(4, b"[" * 500_000)
    lines.insert(5, b"x" * (chain.MAX_LINE * 2))
    rewrite(file, lines)
    assert len(list(query(audit, Query()))) == 5
    assert len(tail(audit, 100)) == 5


def test_a_segment_that_is_a_link_is_not_followed(audit: Path, filler: Callable[..., Filler]) -> None:
    filler().close()
    file = segment_files(audit)[0]
    aside = audit / "aside"
    file.rename(aside)
    file.symlink_to(aside)
    with pytest.raises(AuditError):
        query(audit, Query())
    with pytest.raises(AuditError):
        tail(audit)


def test_text_for_a_terminal_holds_nothing_that_it_acts_on() -> None:
    assert printable("a\x1b[31mb\u202e\n\x9b") == "a\\x1b[31mb\\u202e\\n\\x9b"
    assert printable("é😀 ok") == "é😀 ok"


def test_deep_json_in_a_line_of_ours_is_left_out() -> None:
    body = (
        b'{"v":1,"instance":"i-0123456789ab","seq":1,"time":"2026-11-20T09:30:00.123Z","mono_ns":5,"boot":"'
    )
    body += b"0" * 36 + b'","kind":"a.b","deep":' + b"[" * 100_000 + b"]" * 100_000 + b',"prev":"' + b"0" * 64
    line = body + b'","hash":"' + b"0" * 64 + b'"}'
    assert parse_entry(line, "x:1") is None


def test_a_folder_that_is_not_there_is_a_typed_error(audit: Path) -> None:
    for read in (tail, lambda folder: list(read_all(folder)), lambda folder: query(folder, Query())):
        with pytest.raises(AuditError):
            read(audit / "absent")


def test_a_start_lists_the_folders_of_the_audit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many questions it folds of them."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    for number in (1, 2, 3):
        (layout.audit / segments.folder_name(number, f"i-{number:012}")).mkdir(parents=True)
    names, lists = segments._names, list[Path]()
    monkeypatch.setattr(segments, "_names", lambda folder: (lists.append(folder), names(folder))[1])
    listing = listed(layout.audit)
    spent_before(layout, Spending(), listing=listing)
    assert ended_before(layout, listing) == {}
    assert len(lists) == len(set(lists)) == 4
