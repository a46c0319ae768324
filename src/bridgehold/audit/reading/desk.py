"""The reader's desk: questions to an audit, answered by its index where there can be one, else line by line.

`Desk.open` brings the index up to the disk; each answer is read where it stands, and judged again. A page, a
report and the command line ask here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bridgehold.audit import chain
from bridgehold.audit.entries import parse_entry
from bridgehold.audit.reading import sql, store
from bridgehold.audit.reading.linear import Hit, every_hit, matches
from bridgehold.audit.reading.shelf import Shelf
from bridgehold.audit.reading.sql import Compiled, Needle
from bridgehold.audit.reading.store import DisagreesError
from bridgehold.audit.reading.syntax import Expression
from bridgehold.audit.segments import open_segment
from bridgehold.errors import AuditError

_READ = 4_096
_LAST = 2**62


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

    def select(self, question: Expression, *, limit: int = 100, before: str = "") -> list[Hit]:
        """The newest that fit, at most `limit`, oldest first. `before`: older than this event.

        Raises `AuditError` where a file can't be read.
        """
        try:
            if self._db is not None:
                found = list(self._limited(question, limit, before))
                return found[::-1]
        except (DisagreesError, sqlite3.Error):
            self._again()
            return self.select(question, limit=limit, before=before)
        kept: deque[Hit] = deque(maxlen=limit)
        for hit in every_hit(self.audit):
            if before and hit.entry.ref == before:
                break
            if matches(question, hit):
                kept.append(hit)
        return list(kept)

    def every(self, question: Expression) -> Iterator[Hit]:
        """All that fit, oldest first, in bounded memory. Raises `AuditError`."""
        if self._db is None:
            yield from (hit for hit in every_hit(self.audit) if matches(question, hit))
            return
        try:
            yield from self._hits(question, "ASC", _LAST)
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

    def _limited(self, question: Expression, limit: int, before: str) -> Iterator[Hit]:
        last = self._id_of(before) if before else _LAST
        for count, hit in enumerate(self._hits(question, "DESC", last), 1):
            yield hit
            if count >= limit:
                return

    def _id_of(self, reference: str) -> int:
        """The row of an event. Raises `AuditError` where it isn't there."""
        parsed = chain.parse_reference(reference)
        with contextlib.closing(_Lines(self.audit)) as lines:
            rows = self._rows("seq = ?", (parsed[1] if parsed else 0,), "ASC", 0, _LAST)
            for id_, offset, number, framework in rows:
                hit = lines.hit(self._name(id_), offset, number, framework)
                if hit is not None and hit.entry.ref == reference:
                    return id_
        raise AuditError(f"no event {reference[:80]!r} in this audit", where=str(self.audit))

    def _hits(self, question: Expression, order: str, last: int) -> Iterator[Hit]:
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        condition = sql.compile_question(question, store.key_of(self._db))
        self._db.execute("BEGIN")
        try:
            with contextlib.closing(_Lines(self.audit)) as lines:
                for id_, offset, number, framework in self._candidates(question, condition, order, last):
                    hit = lines.hit(self._name(id_), offset, number, framework)
                    if hit is not None and matches(question, hit):
                        yield hit
        finally:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("COMMIT")

    def _candidates(
        self, question: Expression, condition: Compiled, order: str, last: int
    ) -> Iterator[tuple[int, int, int, str]]:
        if not condition.needles:
            yield from self._rows(condition.sql, condition.parameters, order, 0, last)
            return
        must = sql.required(question)
        for first, count, text in self._texts(order, last):
            found = {needle: _stands_in(text, needle) for needle in condition.needles}
            if any(not found[needle] for needle in must):
                continue
            parameters = tuple(
                json.dumps([first + line for line in found[one.data]]) if isinstance(one, Needle) else one
                for one in condition.parameters
            )
            yield from self._rows(condition.sql, parameters, order, first, min(last, first + count))

    def _texts(self, order: str, last: int) -> Iterator[tuple[int, int, bytes]]:
        assert self._db is not None  # noqa: S101 - whoever calls has asked
        query = f"SELECT first, count, text FROM texts WHERE first < ? ORDER BY first {order}"  # noqa: S608 - a word of ours
        yield from self._db.execute(query, (last,))

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
        if not self._segments:
            assert self._db is not None  # noqa: S101 - whoever calls has asked
            self._segments = self._db.execute("SELECT last, name FROM segments ORDER BY id").fetchall()
        return self._segments[bisect_left(self._segments, (id_, ""))][1]


class _Lines:
    """Lines read where they stand, from one open segment at a time."""

    def __init__(self, audit: Path) -> None:
        self._audit, self._name, self._descriptor = audit, "", -1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def hit(self, name: str, offset: int, number: int, framework: str) -> Hit | None:
        """None: of our form alone, and no reader shows it. Raises `DisagreesError`: no line of ours."""
        if name != self._name:
            self.close()
            self._descriptor, self._name = open_segment(self._audit / name), name
        size, data = _READ, b""
        try:
            while (end := data.find(b"\n")) < 0 and len(data) <= chain.MAX_LINE:
                data = os.pread(self._descriptor, size, offset)
                if len(data) < size and b"\n" not in data:
                    raise DisagreesError
                size *= 8
        except OSError as error:
            raise AuditError(f"can't read a segment: {error.strerror}", where=name) from error
        line = data[:end]
        entry = parse_entry(line, f"{name}:{number}")
        if entry is None and chain.head_of(line) is None:
            raise DisagreesError
        return Hit(entry, framework, offset, line) if entry is not None else None


def _stands_in(text: bytes, needle: bytes) -> list[int]:
    """Numbers of the lines of `text` in which `needle` stands, from 0 on."""
    found: list[int] = []
    at = line = 0
    while (hit := text.find(needle, at)) >= 0:
        line += text.count(b"\n", at, hit)
        found.append(line)
        end = text.find(b"\n", hit)
        if end < 0:
            break
        at, line = end + 1, line + 1
    return found
