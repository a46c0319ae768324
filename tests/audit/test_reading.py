"""Tail, follow, index and query: the folder of journals read as one, hostile files included."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import Filler, intent, lines_of, rewrite, segment_files

from bridgehold.audit import chain
from bridgehold.audit.entries import parse_entry, printable
from bridgehold.audit.events import CommandRefused, EgressRefused, HostStopped
from bridgehold.audit.index import Index, Query
from bridgehold.audit.read import follow, read_all, tail
from bridgehold.audit.writer import Limits
from bridgehold.errors import AuditError


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
    time.sleep(0.1)
    writer.pairs(10)
    writer.close()
    writer = filler()
    writer.pairs(2)
    writer.close()
    time.sleep(0.3)
    stop.set()
    thread.join(10)
    expected = [(e.instance, e.seq) for e in read_all(audit)]
    assert seen == expected[1:]


def test_query_narrows_by_each_field(audit: Path, filler: Callable[..., Filler]) -> None:
    filled(audit, filler)
    with Index(audit) as index:
        assert {e.kind for e in index.query(Query(kind="egress"))} == {"egress.refused"}
        assert len(index.query(Query(kind="command.refused"))) == 4
        assert len(index.query(Query(tenant="beta"))) == 2
        assert len(index.query(Query(command="c-0000000000000003"))) == 4
        assert len(index.query(Query(session="s-0123456789abcdef", limit=1000))) == 32
        assert [e.text("operation") for e in index.query(Query(text="É😀"))] == []
        assert len(index.query(Query(text="é😀"))) == 2
        assert len(index.query(Query(text="EVIL.example"))) == 2
        newest = index.query(Query(limit=3))
        assert [e.ref for e in newest] == [e.ref for e in list(read_all(audit))[-3:]]
        middle = newest[0].time
        assert all(e.time >= middle for e in index.query(Query(since=middle)))
        assert all(e.time < middle for e in index.query(Query(until=middle)))
        assert index.query(Query(kind="' OR 1=1 --")) == []


def test_the_index_is_kept_up_to_date_and_is_disposable(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    path = tmp_path / "index.db"
    filled(audit, filler)
    with Index(audit, path) as index:
        count = len(index.query(Query(limit=1000)))
    writer = filler()
    reference = writer.put(intent())[0].ref
    with Index(audit, path) as index:
        assert len(index.query(Query(limit=1000))) == count + 2
        found = index.get(reference)
        assert found is not None
        later = writer.put(intent())[0].ref
        assert index.get(later) is None
        index.refresh()
        assert index.get(later) is not None
    path.write_bytes(b"not a database" * 1000)
    with Index(audit, path) as index:
        assert len(index.query(Query(limit=1000))) == count + 3


def test_the_index_notices_that_a_segment_was_replaced(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    path = tmp_path / "index.db"
    writer = filler()
    writer.pairs(3)
    writer.close()
    with Index(audit, path) as index:
        assert len(index.query(Query())) == 8
    file = segment_files(audit)[0]
    rewrite(file, lines_of(file)[:4])
    with Index(audit, path) as index:
        assert len(index.query(Query())) == 4


def test_lines_that_are_not_ours_are_counted_and_left_out(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    writer.pairs(2)
    writer.close()
    file = segment_files(audit)[0]
    lines = lines_of(file)
    lines[2] = b"\x1b[2J" * 10
    lines.insert(4, b"[" * 500_000)
    lines.insert(5, b"x" * (chain.MAX_LINE * 2))
    rewrite(file, lines)
    with Index(audit) as index:
        assert len(index.query(Query())) == 5
        assert index.unreadable == 3
    assert len(tail(audit, 100)) == 5


def test_a_segment_that_is_a_link_is_not_followed(audit: Path, filler: Callable[..., Filler]) -> None:
    filler().close()
    file = segment_files(audit)[0]
    aside = audit / "aside"
    file.rename(aside)
    file.symlink_to(aside)
    with pytest.raises(AuditError):
        Index(audit)
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
    for read in (tail, lambda folder: list(read_all(folder)), Index):
        with pytest.raises(AuditError):
            read(audit / "absent")
