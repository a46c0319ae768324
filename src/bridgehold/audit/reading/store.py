"""The index: one SQLite file, made from the segments, believed by nobody.

It says which lines may fit a question. Each line that is shown is read where it stands and judged again, so a
wrong index can hide an event and never make one up; and one that disagrees with what is on the disk is thrown
away. Memory is bounded: a batch of lines, a cache of names, SQLite's own pages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bridgehold.audit.chain import own_part
from bridgehold.audit.reading import columns
from bridgehold.audit.reading.columns import number_of
from bridgehold.audit.reading.linear import NAMES_BRIDGE
from bridgehold.audit.reading.syntax import folded
from bridgehold.audit.segments import Segment, instance_folders, open_segment, read_lines

FORMAT = 4
"""Of the index. One of another format is thrown away."""
CHUNK, _CHUNK_BYTES = 1_024, 1024 * 1024
"""Events whose texts are kept together; fewer where they are long."""
_MOST_NAMES = 100_000
"""In memory; more are looked up."""
_CACHE_KIB = 16 * 1024
_READ = 4 * 1024 * 1024
_ODD = columns.ROW.index("odd")
_SCHEMA = f"""
CREATE TABLE state (format INTEGER NOT NULL, key BLOB NOT NULL);
CREATE TABLE segments (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, lines INTEGER NOT NULL,
  stat TEXT NOT NULL, digest TEXT NOT NULL, last INTEGER NOT NULL
);
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL, folded BLOB NOT NULL);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, bridge TEXT NOT NULL);
CREATE TABLE texts (
  first INTEGER PRIMARY KEY, count INTEGER NOT NULL, odd INTEGER NOT NULL, text BLOB NOT NULL
);
CREATE TABLE events (id INTEGER PRIMARY KEY, {", ".join(columns.ROW[1:])});
"""
_OPENED = "INSERT OR REPLACE INTO sessions VALUES (?, ?)"
_INSERT = f"INSERT INTO events VALUES ({', '.join('?' * len(columns.ROW))})"  # noqa: S608 - no value is in it


class Known:
    """One segment as far as it is indexed.

    `digest`: of what was read, where it was the last one then. `last`: the newest event of it or before it.
    """

    __slots__ = ("digest", "id", "last", "lines", "name", "size", "stat")

    def __init__(self, row: tuple[int, str, int, int, str, str, int]) -> None:
        self.id, self.name, self.size, self.lines, self.stat, self.digest, self.last = row

    def row(self) -> tuple[int, str, int, int, str, str, int]:
        """As it is stored."""
        return (self.id, self.name, self.size, self.lines, self.stat, self.digest, self.last)


class DisagreesError(Exception):
    """The index and the disk tell two stories: it is thrown away."""


def open_store(path: Path) -> sqlite3.Connection:
    """A connection to an index, whose journal outlives a kill. Raises `sqlite3.Error`, `DisagreesError`."""
    found = _connect(path)
    try:
        found.execute("PRAGMA journal_mode=WAL")
        found.execute("PRAGMA synchronous=NORMAL")
        [(format_,)] = found.execute("SELECT format FROM state").fetchall()
        if format_ != FORMAT:
            raise DisagreesError  # noqa: TRY301 - the connection is closed for every fault
    except BaseException:
        found.close()
        raise
    return found


def new_store(path: Path) -> sqlite3.Connection:
    """An empty index. Whoever makes it has it synced."""
    made = _connect(path)
    made.execute("PRAGMA page_size=16384")
    made.execute("PRAGMA journal_mode=OFF")
    made.execute("PRAGMA synchronous=OFF")
    made.executescript(_SCHEMA)
    made.execute("INSERT INTO state VALUES (?, ?)", (FORMAT, secrets.token_bytes(32)))
    return made


def _connect(path: Path) -> sqlite3.Connection:
    found = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    found.execute("PRAGMA trusted_schema=OFF")
    found.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    found.execute("PRAGMA temp_store=MEMORY")
    return found


def key_of(connection: sqlite3.Connection) -> bytes:
    """What this index's names are numbered with."""
    [(key,)] = connection.execute("SELECT key FROM state").fetchall()
    return bytes(key)


def segments_of(audit: Path) -> list[tuple[str, Segment]]:
    """Every segment with its name below `audit`, in the order of the chain."""
    return [
        (f"{folder.path.name}/{segment.path.name}", segment)
        for folder in instance_folders(audit)
        for segment in folder.segments()
    ]


class _Names(dict[str, int]):
    """Numbers by name. A missing one is made and kept in the index; past the bound it is made anew."""

    def __init__(self, connection: sqlite3.Connection, key: bytes) -> None:
        super().__init__({"": 0})
        self._db, self._key = connection, key

    def __missing__(self, text: str) -> int:
        number = number_of(self._key, text)
        values = (number, text, folded(text).encode("utf-8"))
        self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?, ?)", values)
        if len(self) >= _MOST_NAMES:
            self.clear()
            self[""] = 0
        self[text] = number
        return number


class _Several(dict[tuple[object, ...], tuple[int, ...]]):
    """The same of all names of a line at once."""

    def __init__(self, names: _Names) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, texts: tuple[object, ...]) -> tuple[int, ...]:
        if len(self) >= _MOST_NAMES:
            self.clear()
        found = self[texts] = tuple(map(self._names.__getitem__, texts))  # type: ignore[arg-type]  # texts
        return found


class Filling:
    """Brings an index up to the disk, in one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._key = key_of(connection)
        self._names = _Names(connection, self._key)
        self._several = _Several(self._names)
        self._bridges: dict[tuple[str, str], str] = {}
        self._texts: list[bytes] = []
        self._size = self._first = self._id = 0
        self._odd = False

    def fill(self, audit: Path) -> int:
        """Add what is new; how many events. Raises `DisagreesError` where what was read has changed."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            known = [Known(row) for row in db.execute("SELECT * FROM segments ORDER BY id")]
            there = segments_of(audit)
            if len(known) > len(there) or any(
                one.name != name for one, (name, _) in zip(known, there, strict=False)
            ):
                raise DisagreesError  # noqa: TRY301 - the transaction ends for every fault
            [(begun,)] = db.execute("SELECT coalesce(max(id), 0) FROM events").fetchall()
            self._id = begun
            self._resume()
            for at, (name, segment) in enumerate(there):
                old = known[at] if at < len(known) else None
                begun_here = Known((at + 1, name, 0, 0, "", "", 0))
                self._segment(old or begun_here, segment, last=at == len(there) - 1)
            self._keep_texts()
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return self._id - int(begun)

    def _segment(self, known: Known, segment: Segment, *, last: bool) -> None:
        stat = stat_of(segment.path)
        if stat == known.stat:
            return
        digest = hashlib.sha256()
        if known.size:
            _feed(digest, segment.path, 0, known.size)
            if digest.hexdigest() != known.digest:
                raise DisagreesError
        begun = known.size
        for begin, lines, _ in read_lines(segment.path, begun):
            known.size = self._lines(known, begin, lines) if lines else begin
        if last:
            _feed(digest, segment.path, begun, known.size)
        known.digest = digest.hexdigest() if last else ""
        known.last, known.stat = self._id, stat
        self._db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", known.row())

    def _lines(self, known: Known, begin: int, lines: list[bytes]) -> int:
        """Where they end."""
        self._db.executemany(_INSERT, self._rows(begin, known.lines + 1, lines))
        known.lines += len(lines)
        return begin + sum(map(len, lines)) + len(lines)

    def _rows(self, offset: int, number: int, lines: list[bytes]) -> Iterator[tuple[object, ...]]:
        for line in lines:
            row = columns.row(self._id + 1, offset, number, line, self._framework, self._names, self._several)
            offset, number = offset + len(line) + 1, number + 1
            if row is None:
                continue
            self._id += 1
            if row[_ODD]:
                self._odd = True
            self._texts.append(text := own_part(line))
            self._size += len(text)
            if len(self._texts) >= CHUNK or self._size >= _CHUNK_BYTES:
                self._keep_texts()
            yield row

    def _framework(self, kind: str, tenant: str, session: str, bridge: str) -> str:
        if not session:
            return bridge
        whole = (tenant, session)
        if kind in NAMES_BRIDGE:
            self._db.execute(_OPENED, (self._number(whole), bridge))
            self._bridges[whole] = bridge
            if len(self._bridges) > _MOST_NAMES:
                self._bridges.clear()
        if bridge:
            return bridge
        found = self._bridges.get(whole)
        if found is None:
            query = "SELECT bridge FROM sessions WHERE session = ?"
            found = next((one for (one,) in self._db.execute(query, (self._number(whole),))), "")
            self._bridges[whole] = found
        return found

    def _number(self, whole: tuple[str, str]) -> int:
        return number_of(self._key, "\0".join(whole))

    def _resume(self) -> None:
        """Go on with the last texts, where they are few."""
        query = "SELECT first, count, odd, text FROM texts ORDER BY first DESC LIMIT 1"
        self._first, self._texts, self._size, self._odd = self._id + 1, [], 0, False
        for first, count, odd, text in self._db.execute(query).fetchall():
            if count < CHUNK and len(text) < _CHUNK_BYTES:
                self._first, self._size, self._odd = first, len(text), bool(odd)
                self._texts = bytes(text).split(b"\n")

    def _keep_texts(self) -> None:
        if self._texts:
            text = b"\n".join(self._texts).lower()
            values = (self._first, len(self._texts), self._odd, text)
            self._db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?)", values)
        self._first, self._texts, self._size, self._odd = self._id + 1, [], 0, False


def stat_of(path: Path) -> str:
    """What changes with a file: where it lies, its size and its times."""
    descriptor = open_segment(path)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def is_fresh(connection: sqlite3.Connection, audit: Path) -> bool:
    """Whether nothing on the disk has changed since it was filled."""
    known = [(name, stat) for name, stat in connection.execute("SELECT name, stat FROM segments ORDER BY id")]
    return known == [(name, stat_of(segment.path)) for name, segment in segments_of(audit)]


def _feed(digest: hashlib._Hash, path: Path, begin: int, end: int) -> None:
    """The file's bytes from `begin` to `end`."""
    descriptor = open_segment(path)
    try:
        while begin < end and (data := os.pread(descriptor, min(_READ, end - begin), begin)):
            digest.update(data)
            begin += len(data)
    finally:
        os.close(descriptor)
