"""The reader's desk: questions to an audit, answered by its index where there can be one, else line by line.

`Desk.open` brings the index up to the disk; each answer is read where it stands, and judged again. A page, a
report and the command line ask here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bridgehold.audit import chain
from bridgehold.audit.query import Tie
from bridgehold.audit.reading import sql, store, tallies
from bridgehold.audit.reading.linear import Hit, every_hit, matches
from bridgehold.audit.reading.lines import Lines
from bridgehold.audit.reading.shelf import Shelf
from bridgehold.audit.reading.sql import Compiled
from bridgehold.audit.reading.store import DisagreesError, stat_of
from bridgehold.audit.reading.syntax import All, Expression
from bridgehold.audit.reading.tallies import Tally
from bridgehold.audit.reading.texts import lines_with, may_have
from bridgehold.audit.reading.watch import Watch
from bridgehold.audit.scan import Line
from bridgehold.audit.why import Story, read_lines, story
from bridgehold.errors import AuditError, NotFoundError

_LAST = 2**62
_SPARSE = 64
"""Among so many rows one is read where it stands in less time than their texts are looked through."""
_MOST_TIED = 4_096
"""Lines of one segment that are looked up: to read it is quicker than to look up more."""


class Desk:
    """Questions to one audit. Use it in a `with` block; one thread at a time."""

    def __init__(
        self, audit: Path, index: sqlite3.Connection | None, shelf: Shelf | None, added: int = 0
    ) -> None:
        """By `open`."""
        self.audit = audit
        self.added = added
        """Events that `open` put into the index."""
        self._db, self._shelf = index, shelf
        self._segments: list[tuple[int, str]] = []

    @classmethod
    def open(cls, audit: Path, cache: Path | None, *, build: bool = True) -> Desk:
        """`cache`: the folder of indexes; None, or one that can't be ours: no index. Raises `AuditError`.

        Not `build`: an index that is there is brought up to the disk, and none is begun.
        """
        if cache is None:
            return cls(audit, None, None)
        shelf = Shelf(cache, audit)
        try:
            found = shelf.filled(build=build)
        except (OSError, sqlite3.Error, DisagreesError):
            return cls(audit, None, None)
        return cls(audit, found[0], shelf, found[1]) if found else cls(audit, None, None)

    @classmethod
    def as_it_is(cls, audit: Path, cache: Path) -> Desk:
        """With the index as it was filled last, if there is one: for `story`, which reads what it lacks."""
        with contextlib.suppress(OSError, sqlite3.Error, DisagreesError):
            shelf = Shelf(cache, audit)
            if (found := shelf.as_it_is()) is not None:
                return cls(audit, found, shelf)
        return cls(audit, None, None)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index; it stays for the next one."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def indexed(self) -> bool:
        """Whether answers come by an index."""
        return self._db is not None

    @property
    def identity(self) -> bytes:
        """Of this index: one that is made anew has another. Empty without one."""
        return store.key_of(self._db) if self._db is not None else b""

    @property
    def newest(self) -> int:
        """The number of the newest event in the index; each that comes later has a higher one."""
        if self._db is None:
            return 0
        [(found,)] = self._db.execute("SELECT coalesce(max(id), 0) FROM events").fetchall()
        return int(found)

    def select(
        self,
        question: Expression,
        *,
        limit: int = 100,
        before: str = "",
        after: str = "",
        scope: Expression | None = None,
        watch: Watch | None = None,
    ) -> list[Hit]:
        """The newest that fit, at most `limit`, oldest first. `before`: older than this event.

        `after`: the oldest that are younger than this one. `scope`: only of what fits this too; no line of
        another event is read, and no text of one looked through. `watch`: where it says at the end that the
        time was over, what is asked again `before` or `after` its event is the rest of the answer.
        Raises `AuditError` for an unreadable file.
        """
        watch = watch or Watch()
        watch.row, watch.at = 0, None
        try:
            if self._db is not None and after:
                return list(self._limited(question, limit, after, "ASC", scope, watch))
            if self._db is not None:
                found = list(self._limited(question, limit, before, "DESC", scope, watch))
                return found[::-1]
        except (DisagreesError, sqlite3.Error):
            self._again()
            return self.select(question, limit=limit, before=before, after=after, scope=scope, watch=watch)
        return self._by_reading(question if scope is None else All((scope, question)), limit, before, after)

    def _by_reading(self, question: Expression, limit: int, before: str, after: str) -> list[Hit]:
        kept: deque[Hit] = deque(maxlen=limit)
        waiting = bool(after)
        for hit in every_hit(self.audit):
            if (before and hit.entry.ref == before) or (after and len(kept) == limit):
                break
            if not waiting and matches(question, hit):
                kept.append(hit)
            waiting = waiting and hit.entry.ref != after
        return list(kept)

    def find(self, reference: str) -> Hit:
        """The event of this name (``INSTANCE.SEQ``). Raises `AuditError` where it isn't there."""
        try:
            if self._db is not None:
                return self._found(reference)[1]
        except (DisagreesError, sqlite3.Error):
            self._again()
            return self.find(reference)
        for hit in every_hit(self.audit):
            if hit.entry.ref == reference:
                return hit
        raise _nowhere(reference, self.audit)

    def story(self, name: str) -> Story:
        """The story of an event or a command. Raises `NotFoundError`.

        A segment that the index has as it is on the disk is looked up in it, any other is read; and all of
        them where nothing is found, so that no index hides an event.
        """
        if self._db is not None:
            with contextlib.suppress(DisagreesError, sqlite3.Error, NotFoundError):
                return story(self.audit, name, self._tied)
        return story(self.audit, name)

    def _tied(self, path: Path, tie: Tie, newest_first: bool) -> Iterator[Line]:
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        name = f"{path.parent.name}/{path.name}"
        before = "(SELECT coalesce(max(last), 0) FROM segments AS other WHERE other.id < one.id)"
        query = f"SELECT stat, last, {before} FROM segments AS one WHERE name = ?"  # noqa: S608 - words of ours
        for stat, last, first in self._db.execute(query, (name,)).fetchall():
            if stat != stat_of(path):
                break
            condition, parameters = sql.compile_tie(tie, self.identity)
            order = "DESC" if newest_first else "ASC"
            rows = self._rows(condition, parameters, order, first + 1, last + 1)
            found = [
                (offset, number) for _, (_, offset, number, _) in zip(range(_MOST_TIED), rows, strict=False)
            ]
            if len(found) < _MOST_TIED:
                yield from self._lines_at(path, name, found, tie.needle)
                return
        yield from read_lines(path, tie, newest_first)

    def _lines_at(self, path: Path, name: str, found: list[tuple[int, int]], needle: bytes) -> Iterator[Line]:
        with contextlib.closing(Lines(self.audit)) as lines:
            for offset, number in found:
                hit = lines.hit(name, offset, number, "")
                if hit is not None and needle in hit.line:
                    yield Line(path, offset, hit.line, number)

    def tally(
        self,
        question: Expression,
        by: tuple[str, ...],
        sums: tuple[str, ...] = (),
        rows: tuple[int, int] = (0, _LAST),
    ) -> list[Tally]:
        """How many events fit, by names and numbers that the index keeps; of `rows` as `every` has them.

        Counted by the index alone: no line is read for it. Raises `AuditError` without an index, or where
        `question` needs more than the index has.
        """
        condition = sql.compile_question(question, self.identity) if self._db is not None else None
        if self._db is None or condition is None or not condition.exact or condition.needles:
            raise AuditError("there is no index to count with", where=str(self.audit))
        return tallies.count(self._db, condition, by, sums, rows)

    def every(
        self, question: Expression, rows: tuple[int, int] = (0, _LAST), scope: Expression | None = None
    ) -> Iterator[Hit]:
        """All that fit, oldest first, in bounded memory; `scope` as of `select`. Raises `AuditError`.

        Behind the first of `rows` of the index, up to the second; all of them where there is no index.
        """
        if self._db is None:
            asked = question if scope is None else All((scope, question))
            yield from (hit for hit in every_hit(self.audit) if matches(asked, hit))
            return
        try:
            yield from self._hits(question, "ASC", rows[0] + 1, rows[1] + 1, scope)
        except (DisagreesError, sqlite3.Error) as error:
            hint = "Ask again: what was read so far is as it stood."
            raise AuditError(
                "the audit changed while it was read", where=str(self.audit), hint=hint
            ) from error

    def _again(self) -> None:
        """The index is not what is on the disk: another one, once; then none."""
        shelf, self._shelf, self._segments = self._shelf, None, []
        self.close()
        if shelf is not None:
            with contextlib.suppress(OSError, sqlite3.Error, DisagreesError):
                self._db = shelf.rebuilt()[0]

    def _limited(
        self,
        question: Expression,
        limit: int,
        beside: str,
        order: str,
        scope: Expression | None,
        watch: Watch,
    ) -> Iterator[Hit]:
        at = self._found(beside)[0] if beside else _LAST
        first, last = (0, at) if order == "DESC" else (at + 1, _LAST)
        for count, hit in enumerate(self._hits(question, order, first, last, scope, watch), 1):
            yield hit
            if count >= limit:
                return

    def _found(self, reference: str) -> tuple[int, Hit]:
        """The row of an event, and the event. Raises `AuditError` where it isn't there.

        Where its instance counts from one on as it should, the row is the first one's plus its number.
        """
        instance, seq = chain.parse_reference(reference) or ("", 0)
        with contextlib.closing(Lines(self.audit)) as lines:
            likely = self._first_of(instance) + seq - 1
            for first, last in ((likely, likely + 1), (0, _LAST)):
                for id_, offset, number, framework in self._rows("seq = ?", (seq,), "ASC", first, last):
                    hit = lines.hit(self._name(id_), offset, number, framework)
                    if hit is not None and hit.entry.ref == reference:
                        return id_, hit
        raise _nowhere(reference, self.audit)

    def _first_of(self, instance: str) -> int:
        """The row behind those of the instances before this one."""
        last = 0
        for end, name in self._ends():
            if name.partition("/")[0].endswith(f"-{instance}"):
                break
            last = end
        return last + 1

    def _hits(
        self,
        question: Expression,
        order: str,
        first: int,
        last: int,
        scope: Expression | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Hit]:
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        watch = watch or Watch()
        condition = sql.compile_question(question, self.identity)
        narrow = sql.compile_question(question, self.identity, texts=False)
        if scope is not None:
            condition, question = sql.scoped(question, scope, self.identity), All((scope, question))
        self._db.execute("BEGIN")
        try:
            windows = watch.windows(order, max(first, 1), min(last, self.newest + 1))
            with contextlib.closing(Lines(self.audit)) as lines:
                for row in self._candidates(question, condition, narrow, order, windows, watch):
                    hit = lines.hit(self._name(row[0]), *row[1:])
                    if hit is not None and matches(question, hit):
                        yield hit
                    if watch.over():
                        watch.row = row[0]
                        break
                if watch.row:
                    watch.at = self._beside(watch.row, order, lines)
        finally:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("COMMIT")

    def _candidates(
        self,
        question: Expression,
        condition: Compiled,
        narrow: Compiled,
        order: str,
        windows: Iterator[tuple[int, int]],
        watch: Watch,
    ) -> Iterator[tuple[int, int, int, str]]:
        """Rows that may fit. Where `narrow`, by columns alone, leaves but few, no text is looked through."""
        few = True
        for begin, end in windows:
            if not condition.needles:
                yield from self._rows(condition.sql, condition.parameters, order, begin, end)
                continue
            if few:
                rows = self._rows(narrow.sql, narrow.parameters, order, begin, end)
                some = list(itertools.islice(rows, (end - begin) // _SPARSE + 1))
                few = len(some) <= (end - begin) // _SPARSE
                if few:
                    yield from some
                    continue
            for first, count, odd, text in self._texts(order, begin, end):
                if sql.may_fit(question, functools.partial(may_have, text), odd=bool(odd)):
                    parameters = condition.at(first, functools.partial(lines_with, text, count))
                    low, high = max(begin, first), min(end, first + count)
                    yield from self._rows(condition.sql, parameters, order, low, high)
                if watch.over():
                    watch.row = max(begin, first) if order == "DESC" else min(end, first + count) - 1
                    return

    def _beside(self, row: int, order: str, lines: Lines) -> Hit | None:
        """The event of this row, or the next in this order that a reader may see."""
        first, last = (1, row + 1) if order == "DESC" else (row, _LAST)
        for id_, offset, number, framework in self._rows("1", (), order, first, last):
            hit = lines.hit(self._name(id_), offset, number, framework)
            if hit is not None:
                return hit
        return None

    def _texts(self, order: str, begin: int, last: int) -> Iterator[tuple[int, int, int, bytes]]:
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        query = (
            "SELECT first, count, odd, text FROM texts "  # noqa: S608 - a word of ours
            f"WHERE first < ? AND first + count > ? ORDER BY first {order}"
        )
        yield from self._db.execute(query, (last, begin))

    def _rows(
        self, condition: str, parameters: tuple[object, ...], order: str, first: int, last: int
    ) -> Iterator[tuple[int, int, int, str]]:
        """Of `first` on, before `last`."""
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        query = (
            "SELECT id, offset, line, coalesce((SELECT text FROM names WHERE names.id = framework), '') "  # noqa: S608 - compiled, values are parameters
            f"FROM events WHERE id >= ? AND id < ? AND ({condition}) ORDER BY id {order}"
        )
        yield from self._db.execute(query, (first, last, *parameters))

    def _name(self, id_: int) -> str:
        """The segment that a row is of."""
        ends = self._ends()
        return ends[bisect_left(ends, (id_, ""))][1]

    def _ends(self) -> list[tuple[int, str]]:
        """The newest row of each segment or of those before it, and its name."""
        if not self._segments:
            assert self._db is not None  # noqa: S101 - whoever calls has asked
            self._segments = self._db.execute("SELECT last, name FROM segments ORDER BY id").fetchall()
        return self._segments


def _nowhere(reference: str, audit: Path) -> AuditError:
    return AuditError(f"no event {reference[:80]!r} in this audit", where=str(audit))
