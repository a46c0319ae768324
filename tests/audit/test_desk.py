"""Questions to an audit: the language, and an index that gives what reading every line gives, or is thrown away."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audit_support import Filler, segment_files
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridgehold.audit import chain
from bridgehold.audit.events import CommandRefused, EgressRefused, SessionOpened
from bridgehold.audit.query import Query, query
from bridgehold.audit.reading import desk as desk_module
from bridgehold.audit.reading import store
from bridgehold.audit.reading import watch as watch_module
from bridgehold.audit.reading.asked import Scope, within
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.fields import FIELDS, KINDS, value_of
from bridgehold.audit.reading.language import narrowed, parse
from bridgehold.audit.reading.linear import Hit, every_hit, matches
from bridgehold.audit.reading.shelf import forget
from bridgehold.audit.reading.syntax import EVERYTHING, AnyOf, Compare, Expression, Not, Text, both, equal
from bridgehold.audit.reading.tallies import Tally
from bridgehold.audit.reading.watch import Watch
from bridgehold.audit.segments import folder_name
from bridgehold.audit.why import Lines, read_lines, story
from bridgehold.errors import AuditError, NotFoundError, UsageError

INSTANCE = "i-0123456789ab"
WORDS = [
    "",
    "acme",
    "ACME",
    "beta",
    "python",
    "é😀",
    'a"b',
    "a\\b",
    "K",
    "\u212a",
    "s-1",
    "s-2",
    "c-1",
    "c-2",
    "x\x7f",
    "a/b",
]
NAMES = [
    "tenant",
    "session",
    "command",
    "bridge",
    "operation",
    "reason",
    "intent",
    "source",
    "arguments_preview",
    "files",
]
NUMBERS = ["ms", "deadline_ms", "offset", "application_ok", "background", "ok", "unsent"]
KIND = [
    "session.opened",
    "worker.started",
    "command.intent",
    "egress.refused",
    "other.kind",
    "egress.new_thing",
]
SPELT = [
    lambda value: json.dumps(value, ensure_ascii=True),
    lambda value: (
        json.dumps(value).replace("a", "\\u0061").replace("/", "\\/")
        if isinstance(value, str)
        else json.dumps(value)
    ),
]
"""As the writer spells a value, and as it never would."""
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.integers(-3, 9),
    st.sampled_from(
        [1 << 53, -(1 << 70), 5.0, True, False, None, [], ["acme", 3], {"reason": "acme"}, {"ms": 5}]
    ),
)


def line(seq: int, kind: str, fields: list[tuple[str, object, int]], instance: str = INSTANCE) -> bytes:
    """A line of ours by its form, whatever is in it."""
    head = f'{{"v":1,"instance":"{instance}","seq":{seq},"time":"2026-11-20T09:30:{seq % 60:02d}.000Z","mono_ns":1,'
    head += f'"boot":"d4226c5c-f65f-484a-85e4-9063bc6ebc51","kind":"{kind}"'
    own = "".join(f',"{name}":{SPELT[spelt](value)}' for name, value, spelt in fields)
    record = (head + own + f',"prev":"{"0" * 64}"}}').replace("\x7f", "\\u007f")
    return chain.seal(chain.hash_prefix(instance), "0" * 64, record.encode("ascii"))[0]


FIELDS_OF = st.lists(st.tuples(st.sampled_from(NAMES + NUMBERS), VALUES, st.integers(0, 1)), max_size=6)
LINES = st.one_of(
    st.tuples(st.sampled_from(KIND), FIELDS_OF),
    st.sampled_from([b"no event", b"{}", b"", line(7, "session.opened", [("session", "s-1", 0)])[:-80]]),
)
LEAVES = st.one_of(
    st.builds(
        lambda name, value: Compare(FIELDS[name], "=", value), st.sampled_from(NAMES), st.sampled_from(WORDS)
    ),
    st.builds(
        lambda name, value: Compare(FIELDS[name], "~", value),
        st.sampled_from(NAMES),
        st.sampled_from(WORDS[1:]),
    ),
    st.builds(
        lambda name, sign, value: Compare(FIELDS[name], sign, value),
        st.sampled_from(NUMBERS[:3]),
        st.sampled_from(["=", "<", "<=", ">", ">="]),
        st.integers(-3, 9),
    ),
    st.builds(equal, st.sampled_from(NUMBERS[3:]), st.integers(0, 1)),
    st.builds(Text, st.sampled_from(WORDS[1:])),
    st.sampled_from(
        [equal("kind", one) for one in ("egress", "egress.refused", "session", "worker.started")]
    ),
    st.sampled_from([equal("framework", one) for one in ("", "python", "ACME")]),
    st.builds(lambda seq: equal("event", f"{INSTANCE}.{seq}"), st.integers(1, 5)),
    st.sampled_from([Compare(FIELDS["time"], sign, "2026-11-20T09:30:02.000000") for sign in ("<", ">=")]),
)
QUESTIONS: st.SearchStrategy[Expression] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(both, inner, inner),
        st.builds(lambda one, two: AnyOf((one, two)), inner, inner),
    ),
    max_leaves=5,
)


def write(audit: Path, segments: list[list[object]], *, torn: bool) -> None:
    """Segments of one instance, with these lines."""
    folder = audit / folder_name(1, INSTANCE)
    folder.mkdir(exist_ok=True)
    seq = 0
    for number, lines in enumerate(segments, 1):
        data = b""
        for one in lines:
            seq += 1
            data += line(seq, one[0], one[1]) if isinstance(one, tuple) else bytes(one) + b"\n"  # type: ignore[call-overload]
        with (folder / f"{number:08d}.jsonl").open("ab") as file:
            file.write(data + b'{"v":1,"torn' * (torn and number == len(segments)))


def places(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.entry.place, hit.offset) for hit in hits]


def linear(audit: Path, question: Expression) -> list[Hit]:
    return [hit for hit in every_hit(audit) if matches(question, hit)]


SCOPES = [
    within(Scope(tenants=("acme",))),
    within(Scope(tenants=("*",), bridges=("python", "ACME"))),
    within(Scope(tenants=("acme", "beta", "a/b")), {"acme": "2026-11-20T09:30:02.000Z", "beta": "2999"}),
]


@settings(deadline=None)
@given(
    segments=st.lists(st.lists(LINES, max_size=12), min_size=1, max_size=3),
    more=st.lists(LINES, max_size=6),
    questions=st.lists(QUESTIONS, min_size=1, max_size=5),
    torn=st.booleans(),
    limit=st.integers(1, 4),
    sparse=st.sampled_from([1, 64]),
)
def test_the_index_gives_what_reading_every_line_gives(
    segments: list[list[object]],
    more: list[object],
    questions: list[Expression],
    torn: bool,
    limit: int,
    sparse: int,
) -> None:
    """Of lines that the journal would never write too; built at once, or as they came; in one go or many."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK", 4)
        patch.setattr(store, "_MOST_NAMES", 5)
        patch.setattr(desk_module, "_SPARSE", sparse)
        patch.setattr(watch_module, "_FIRST", 2)
        audit, cache = Path(folder) / "audit", Path(folder) / "cache"
        audit.mkdir()
        write(audit, segments, torn=False)
        with Desk.open(audit, cache) as desk:
            assert desk.indexed
        write(audit, [*([] for _ in segments), more], torn=torn)
        with Desk.open(audit, cache) as desk:
            for question in questions:
                expected = linear(audit, question)
                assert places(list(desk.every(question))) == places(expected)
                assert [h.framework for h in desk.every(question)] == [h.framework for h in expected]
                assert places(desk.select(question, limit=limit)) == places(expected[-limit:])
                for scope in SCOPES:
                    own = [hit for hit in expected if matches(scope, hit)]
                    assert places(desk.select(question, limit=limit, scope=scope)) == places(own[-limit:])
                with contextlib.suppress(AuditError):  # a question that needs the lines themselves
                    assert counted(desk.tally(question, BY, ("ms",))) == by_reading(expected)
            everything = linear(audit, EVERYTHING)
            refs = Counter(hit.entry.ref for hit in everything)
            if refs and max(refs.values()) == 1:
                for question in questions:
                    expected = places(linear(audit, question))
                    assert places(bit_by_bit(desk, question, limit)) == expected
                    later = bit_by_bit(desk, question, limit, after=everything[0].entry.ref)
                    assert places(later) == [one for one in expected if one != places(everything[:1])[0]]
            for at in range(0, len(everything), max(1, len(everything) // 3)):
                ref = everything[at].entry.ref
                if refs[ref] == 1:
                    assert places([desk.find(ref)]) == places([everything[at]])
                    later = [hit for hit in everything[at + 1 :] if matches(questions[0], hit)]
                    assert places(desk.select(questions[0], limit=limit, after=ref)) == places(later[:limit])
                    with Desk.open(audit, None) as reader:
                        assert places(reader.select(questions[0], limit=limit, after=ref)) == places(
                            later[:limit]
                        )


def bit_by_bit(desk: Desk, question: Expression, limit: int, after: str = "") -> list[Hit]:
    """All that fit, by answers whose time is over at once, as a page asks for them one after the other."""
    found: list[Hit] = []
    beside = after
    while True:
        watch = Watch(-1)
        place = {"after": beside} if after else {"before": beside}
        hits = desk.select(question, limit=limit, watch=watch, **place)
        found = [*found, *hits] if after else [*hits, *found]
        last = watch.at or (hits[-1 if after else 0] if len(hits) == limit else None)
        if last is None:
            return found
        beside = last.entry.ref


BY = ("kind", "tenant", "framework", "hour")


def counted(tallies: list[Tally]) -> dict[tuple[str, ...], tuple[int, int]]:
    return {one.key: (one.number, one.sums[0]) for one in tallies}


def by_reading(hits: list[Hit]) -> dict[tuple[str, ...], tuple[int, int]]:
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for hit in hits:
        key = (hit.entry.kind, hit.entry.tenant, hit.framework, hit.entry.time[:13])
        number, ms = found.get(key, (0, 0))
        value = value_of(hit.entry, FIELDS["ms"], hit.framework)
        found[key] = (number + 1, ms + max(0, value if isinstance(value, int) else 0))
    return found


def ask(audit: Path, cache: Path | None, question: str, limit: int = 100) -> list[tuple[str, int]]:
    with Desk.open(audit, cache) as desk:
        assert desk.indexed is (cache is not None)
        return places(desk.select(parse(question), limit=limit))


def test_a_session_has_the_framework_that_its_own_tenant_opened_it_with(audit: Path, tmp_path: Path) -> None:
    def of(kind: str, **fields: object) -> tuple[str, list[tuple[str, object, int]]]:
        return kind, [(name, value, 0) for name, value in fields.items()]

    lines: list[object] = [
        of("session.opened", tenant="acme", session="s-1", bridge="dspy"),
        of("session.opened", tenant="umbra", session="s-1", bridge="python"),
        of("egress.refused", tenant="acme", session="s-1"),
    ]
    write(audit, [lines], torn=False)
    more: list[object] = [
        of("session.opened", tenant="umbra", session="s-2", bridge="python"),
        of("egress.refused", tenant="acme", session="s-1"),
        of("egress.refused", tenant="umbra", session="s-1"),
        of("egress.refused", tenant="acme", session="s-2"),
    ]
    for expected in ((1, 0, 0), (2, 1, 1)):
        for cache in (None, tmp_path / "cache"):
            for framework, count in zip(("dspy", "python", ""), expected, strict=True):
                assert len(ask(audit, cache, f'kind = egress.refused and framework = "{framework}"')) == count
        if expected[0] == 1:
            (segment,) = audit.glob("*/*.jsonl")
            text = b"".join(line(4 + at, *one) for at, one in enumerate(more))  # type: ignore[misc]
            with segment.open("ab") as file:
                file.write(text)


def filled(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler()
    writer.put(
        SessionOpened(tenant="acme", session="s-0123456789abcdef", bridge="python", grant="", start="fork")
    )
    writer.pairs(6)
    writer.put(
        CommandRefused(
            tenant="beta",
            bridge="dspy",
            operation="python:é😀",
            rule="default-deny",
            reason="no",
            source="p:1",
        ),
        EgressRefused(
            host="evil.example", method="GET", path="/", rule="default-deny", reason="r", source=""
        ),
    )
    writer.close()


def test_what_was_changed_on_the_disk_has_its_index_made_anew(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    """In place and of the same size, cut, put in front, removed; and an index that is broken, or another's."""
    cache = tmp_path / "cache"
    for _ in range(2):
        filled(audit, filler)
    question = 'operation ~ "é😀" or host = evil.example'
    before = ask(audit, cache, question)
    assert len(before) == 4
    first, last = segment_files(audit)
    whole = first.read_bytes(), last.read_bytes()
    for file in (first, last):
        file.chmod(0o600)
        facts = file.stat()
        file.write_bytes(file.read_bytes().replace(b"evil.example", b"good.example"))
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert len(ask(audit, cache, question)) == 3
        assert len(ask(audit, cache, "host = good.example")) == 1
        file.write_bytes(whole[file is last])
        assert ask(audit, cache, question) == before
    last.write_bytes(whole[1][: whole[1].rindex(b"\n", 0, whole[1].index(b"evil")) + 1])
    assert len(ask(audit, cache, question)) == 3
    last.write_bytes(whole[1])
    assert ask(audit, cache, question) == before
    [index] = cache.glob("*.sqlite")
    index.write_bytes(b"SQLite format 3\0" + b"x" * 5_000)
    assert ask(audit, cache, question) == before
    [index] = cache.glob("*.sqlite")
    with sqlite3.connect(index) as other:
        other.execute("UPDATE state SET format = 0")
    assert ask(audit, cache, question) == before
    assert len(list(cache.glob("*.sqlite"))) == 1
    for file in last.parent.iterdir():
        file.unlink()
    last.parent.rmdir()
    assert ask(audit, cache, question) == before[:2]


def test_an_index_that_is_wrong_hides_nothing_that_it_has_begun_to_give_and_makes_up_nothing(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    """While it is open the file is exchanged: it is built again, and what is shown stands there."""
    filled(audit, filler)
    [file] = segment_files(audit)
    file.chmod(0o600)
    lines = file.read_bytes().splitlines(keepends=True)
    with Desk.open(audit, tmp_path / "cache") as desk:
        assert len(desk.select(parse("kind = command"))) == 13
        file.write_bytes(b"".join([lines[0], *lines[4:]]))
        question = parse("kind = command.refused")
        assert places(desk.select(question)) == places(linear(audit, question)) != []
        everything = parse("")
        assert places(desk.select(everything)) == places(linear(audit, everything))
        file.write_bytes(b"")
        assert desk.select(everything) == []


def test_who_acts_for_thousands_is_answered_by_the_index(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    """And not by one that is built anew for each question, as it couldn't be asked."""
    filled(audit, filler)
    scope = within(Scope(tenants=(*(f"tenant-{n}" for n in range(5_000)), "acme")))
    with Desk.open(audit, tmp_path / "cache") as desk:
        built = desk.identity
        found = desk.select(EVERYTHING, scope=scope)
        assert places(found) == places([hit for hit in every_hit(audit) if matches(scope, hit)])
        assert found
        assert desk.identity == built


def test_what_is_built_while_bodies_are_dropped_takes_no_place_afterwards(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything left of a build that was killed."""
    filled(audit, filler)
    cache, fill = tmp_path / "cache", store.Filling.fill

    def meanwhile(filling: store.Filling, of: Path) -> int:
        added = fill(filling, of)
        forget(cache, audit)
        return added

    monkeypatch.setattr(store.Filling, "fill", meanwhile)
    with Desk.open(audit, cache) as desk:
        assert not desk.indexed
    monkeypatch.undo()
    with Desk.open(audit, cache) as desk:
        assert desk.indexed
    (index,) = cache.glob("*.sqlite")
    index.rename(index.with_name(f".{index.name}.0123456789abcdef"))
    forget(cache, audit)
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_an_index_lies_where_it_is_ones_own_or_there_is_none(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    filled(audit, filler)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    for cache in (open_to_all, segment_files(audit)[0]):
        with Desk.open(audit, cache) as desk:
            assert not desk.indexed
            assert len(desk.select(parse("host = evil.example"))) == 1
    assert list(open_to_all.iterdir()) == []
    with Desk.open(audit, tmp_path / "own", build=False) as desk:
        assert not desk.indexed
    with Desk.open(audit, tmp_path / "own") as desk:
        assert desk.added == sum(1 for _ in every_hit(audit))
    own = tmp_path / "own"
    assert own.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o077 for file in own.iterdir()} == {0}
    (own / f".{next(own.glob('*.sqlite')).name}.left").write_bytes(b"of a build that was killed")
    with Desk.open(audit, own, build=False) as desk:
        assert (desk.indexed, desk.added) == (True, 0)
        assert [
            h.entry.place
            for h in desk.select(parse("kind = egress"), before=desk.select(parse(""))[-1].entry.ref)
        ]
        with pytest.raises(AuditError, match="no event"):
            desk.select(parse(""), before="i-000000000000.7")


def test_the_options_of_the_command_line_ask_what_they_always_asked(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    filled(audit, filler)
    newest = list(query(audit, Query(limit=3)))
    for wanted in (
        Query(kind="command"), Query(kind="egress.refused"), Query(tenant="beta"), Query(text="EVIL.example"),
        Query(session="s-0123456789abcdef", limit=4), Query(command="c-0000000000000003"), Query(text="é😀"),
        Query(since=newest[0].time), Query(until=newest[0].time, limit=2), Query(text='"hash"'),
    ):  # fmt: skip
        with Desk.open(audit, tmp_path / "cache") as desk:
            found = [hit.entry for hit in desk.select(narrowed(wanted), limit=wanted.limit)]
            assert found == list(query(audit, wanted))
    assert (
        ask(audit, None, "framework = python") == ask(audit, tmp_path / "cache", "framework = python") != []
    )
    outcomes = ask(audit, tmp_path / "cache", "framework = python and kind = command.outcome")
    assert len(outcomes) == 6  # which name no bridge themselves


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("tenannt = acme", 1, "no field 'tenannt' (nearest: 'tenant')"),
        ("kind = egress.refusd", 8, "(nearest: 'egress.refused')"),
        ("kind ~ egress", 6, "is no text"),
        ("tenant = acme and ms > 5min", 24, "'5min' is no value for 'ms': a number, or one with ms s m h"),
        ("memory_peak_bytes > 1GiB and ms > acme", 35, "no value"),
        ("application_ok = flase", 18, "true or false, not 'flase' (nearest: 'false')"),
        ("time >= yesterdya", 9, "(nearest: 'yesterday')"),
        ("time = today", 6, "use < and >="),
        ("tenant < b", 8, "has no order"),
        ("event = 7", 9, "INSTANCE.SEQ"),
        ("tenant", 7, "after 'tenant' one of"),
        ("tenant =", 9, "a value for 'tenant' is missing"),
        ("tenant in (a b)", 14, "')' is missing"),
        ('reason ~ "', 10, "isn't closed"),
        ('reason ~ ""', 10, "empty text"),
        ("(tenant = a", 12, "')' is missing"),
        ("tenant = a or", 14, "the question ends here"),
        ("tenant = a) and x", 11, "can't stand here"),
        ("and tenant = a", 1, "can't stand here"),
        ("tenant ! a", 8, "what is '!'?"),
        ("(" * 40, 33, "32 deep"),
        ("not " * 40 + '"x"', 129, "32 deep"),
        ('"a" ' * 201, 801, "at most 200"),
        ("x" * 5_000, 4_096, "at most 4096"),
        ("tenant = \ud800", 10, "UTF-8"),
    ],
)
def test_a_question_that_is_wrong_names_the_column_and_the_nearest_word(
    text: str, column: int, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, NOW)
    assert caught.value.where == f"question, column {column}"
    assert said in caught.value.message


def test_a_question_is_read_as_it_is_written() -> None:
    tenant, beta = equal("tenant", "acme"), equal("tenant", "beta")
    late = Compare(FIELDS["time"], ">=", "2026-11-20T10:00:00.000000")
    for text, expected in (
        ("", both()),
        ("tenant = acme", tenant),
        ("tenant=acme time>=2h", both(tenant, late)),
        ("tenant = acme AND NOT tenant = beta", both(tenant, Not(beta))),
        ("tenant != acme or tenant = beta", AnyOf((Not(tenant), beta))),
        ("tenant in (acme, beta)", AnyOf((tenant, beta))),
        ("(tenant = acme or tenant = beta) time >= 2h", both(AnyOf((tenant, beta)), late)),
        ("ms > 2s", Compare(FIELDS["ms"], ">", 2_000)),
        ("memory_peak_bytes >= 1GiB", Compare(FIELDS["memory_peak_bytes"], ">=", 2**30)),
        ('"a\\"b" and text ~ c', both(Text('a"b'), Text("c"))),
        ("path ~ /v1/chat", Compare(FIELDS["path"], "~", "/v1/chat")),
        ("host !~ example", Not(Compare(FIELDS["host"], "~", "example"))),
        ("background = true", Compare(FIELDS["background"], "=", 1)),
    ):
        assert parse(text, NOW) == expected
    assert all(parse(f"kind = {kind}") for kind in KINDS)


@settings(deadline=None)
@given(st.text(max_size=60))
@example("tenant = '")
def test_any_text_is_a_question_or_says_where_it_goes_wrong(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert error.where.startswith("question, column ")


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200), st.booleans())
def test_the_shorter_look_at_a_line_finds_what_the_longer_one_finds(noise: bytes, at: int, put: bool) -> None:
    stored = line(7, "command.intent", [("tenant", "acme", 0)])[:-1]
    hostile = stored[:at] + noise + stored[at + (0 if put else len(noise)) :]
    for one in (stored, hostile):
        facts, head = chain.read_line(one), chain.head_of(one)
        assert (facts is None) == (head is None)
        if facts is not None and head is not None:
            assert head.groups() == tuple(str(part).encode() for part in facts[:4])


def test_the_reference_names_every_field_with_its_type() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/query.md").read_text()
    assert {name for name in FIELDS if f"`{name}`" not in page} == set()


TOLD = [
    "session.opened", "session.closed", "command.intent", "command.outcome", "command.refused", "egress.intent",
    "egress.outcome", "grant.resolved", "worker.started",
]  # fmt: skip
TIED = st.tuples(
    st.sampled_from(TOLD),
    st.lists(
        st.one_of(
            st.tuples(st.just("command"), st.sampled_from(["c-1", "c-2", "c-/a"]), st.integers(0, 1)),
            st.tuples(st.just("session"), st.sampled_from(["s-1", "s-2"]), st.integers(0, 1)),
            st.tuples(
                st.just("intent"), st.integers(1, 9).map(lambda one: f"{INSTANCE}.{one}"), st.integers(0, 1)
            ),
            st.tuples(
                st.sampled_from(["digest", "grant"]), st.sampled_from(["d-1", "d-2"]), st.integers(0, 1)
            ),
            st.tuples(st.sampled_from(["command", "ms", "rule"]), VALUES, st.integers(0, 1)),
        ),
        max_size=5,
    ),
)
SEGMENTS = st.lists(st.lists(st.one_of(TIED, TIED, LINES), max_size=8), max_size=3)


@given(SEGMENTS, SEGMENTS)
@settings(max_examples=25, deadline=None)
def test_a_story_by_the_index_is_the_one_that_is_read(
    known: list[list[object]], later: list[list[object]]
) -> None:
    """Whatever the index has of it: all, what stood there before more was written, or nothing."""
    with tempfile.TemporaryDirectory(prefix="bh-desk-") as home:
        audit, cache = Path(home) / "audit", Path(home) / "cache"
        audit.mkdir()
        names = ["c-1", "c-/a", "c-3", *(f"{INSTANCE}.{seq}" for seq in range(1, 10))]
        for segments in (known, later):
            write(audit, segments, torn=False)
            if segments is known:
                Desk.open(audit, cache).close()
            with Desk.as_it_is(audit, cache) as desk:
                assert desk.indexed
                for name in names:
                    assert _story(audit, name, desk._tied) == _story(audit, name) == _story(desk, name), name


def _story(place: Path | Desk, name: str, lines: Lines = read_lines) -> object:
    try:
        return place.story(name) if isinstance(place, Desk) else story(place, name, lines)
    except NotFoundError as error:
        return error.message


def test_a_story_is_told_without_an_index_that_can_be_believed(audit: Path, tmp_path: Path) -> None:
    """None, one of another audit's rows, or one in which many names look alike."""
    told = [("command.intent", [("command", "c-1", 0)])] + [("command.outcome", [("command", "c-2", 0)])] * 9
    write(audit, [list(told)], torn=False)
    wanted = story(audit, "c-2")
    with Desk.as_it_is(audit, tmp_path / "cache") as desk:
        assert not desk.indexed
        assert desk.story("c-2") == wanted
    Desk.open(audit, tmp_path / "cache").close()
    (index,) = (tmp_path / "cache").glob("*.sqlite")
    for spoil in ("UPDATE events SET offset = offset + 1", "DELETE FROM events", "DROP TABLE segments"):
        with contextlib.closing(sqlite3.connect(index)) as db:
            db.execute(spoil)
            db.commit()
        with Desk.as_it_is(audit, tmp_path / "cache") as desk:
            assert desk.story("c-2") == wanted
            with pytest.raises(NotFoundError):
                desk.story("c-3")
