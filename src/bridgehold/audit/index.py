"""A disposable SQLite index beside the audit: where each event stands, and what ties it to others.

It holds places, never lines: what is shown is always read from the journals. Delete it at any
time. It is kept up to date by reading what was added, and a segment whose remembered last line has
changed is read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from bridgehold.audit import chain
from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.segments import InstanceFolder, Segment, instance_folders, open_segment, read_lines
from bridgehold.errors import AuditError

_VERSION = 1
_MOST = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
  path TEXT PRIMARY KEY, offset INTEGER, lines INTEGER, last_offset INTEGER, last_digest TEXT);
CREATE TABLE IF NOT EXISTS events (
  instance TEXT, seq INTEGER, ordinal INTEGER, time TEXT, kind TEXT, tenant TEXT, session TEXT,
  command TEXT, link TEXT, path TEXT, line INTEGER, offset INTEGER, length INTEGER,
  PRIMARY KEY (ordinal, seq, path, line)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_reference ON events (instance, seq);
CREATE INDEX IF NOT EXISTS by_command ON events (command) WHERE command != '';
CREATE INDEX IF NOT EXISTS by_session ON events (session) WHERE session != '';
CREATE INDEX IF NOT EXISTS by_link ON events (link) WHERE link != '';
CREATE INDEX IF NOT EXISTS by_kind ON events (kind, ordinal, seq);
"""


class _Row(msgspec.Struct, frozen=True):
    """The fields of a line that the index keeps. `link`: an outcome's intent, a grant's digest."""

    instance: str
    seq: int
    time: str
    kind: str
    tenant: str = ""
    session: str = ""
    command: str = ""
    intent: str = ""
    digest: str = ""


_ROW = msgspec.json.Decoder(_Row)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; empty fields don't narrow. Times are RFC 3339 or a beginning of it."""

    kind: str = ""
    """A kind (``egress.refused``) or its first half (``egress``)."""
    tenant: str = ""
    session: str = ""
    command: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    """A text that must stand in the event, upper and lower case alike."""
    limit: int = 100
    """The newest so many, at most 10,000; they are given oldest first."""


class Index:
    """Open with ``with Index(audit, path) as index``. `path` None: in memory, gone afterwards."""

    def __init__(self, audit: Path, path: Path | None = None) -> None:
        self._audit = audit
        self.unreadable = 0
        """Lines that are not ours, as met while reading; `verify` names them."""
        try:
            self._db = _open(path)
            self.refresh()
        except sqlite3.DatabaseError as error:
            raise AuditError(
                f"the index can't be used: {error}", where=str(path), hint="It is disposable: delete it."
            ) from error

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def refresh(self) -> None:
        """Read what was added since the last time."""
        known = {row[0]: row[1:] for row in self._db.execute("SELECT * FROM segments")}
        for folder in instance_folders(self._audit):
            for segment in folder.segments():
                name = f"{folder.path.name}/{segment.path.name}"
                self._refresh_segment(folder, segment, name, known.pop(name, None))
        for name in known:
            self._forget(name)
        self._db.commit()

    def get(self, ref: str) -> Entry | None:
        """The event with reference ``INSTANCE.SEQ``, or None."""
        parsed = chain.parse_reference(ref)
        if parsed is None:
            return None
        return next(self._select("instance = ? AND seq = ?", parsed, 1), None)

    def of_command(self, command: str, limit: int = 500) -> list[Entry]:
        """Everything of a command, oldest first."""
        return _oldest_first(self._select("command = ?", (command,), limit))

    def of_session(self, session: str, kinds: Sequence[str], limit: int = 100) -> list[Entry]:
        """The session's events of `kinds`, oldest first."""
        marks = ",".join("?" * len(kinds))
        return _oldest_first(self._select(f"session = ? AND kind IN ({marks})", (session, *kinds), limit))

    def linked(self, link: str, kind: str = "") -> Entry | None:
        """The newest outcome that names intent `link`, or the event that resolved the digest `link`."""
        where, values = ("link = ? AND kind = ?", (link, kind)) if kind else ("link = ?", (link,))
        return next(self._select(where, values, 1), None)

    def query(self, query: Query) -> list[Entry]:
        """The newest events that fit, oldest first."""
        parts, values = ["1 = 1"], []
        for column in ("tenant", "session", "command"):
            if value := getattr(query, column):
                parts.append(f"{column} = ?")
                values.append(value)
        if query.kind:
            parts.append("kind = ?" if "." in query.kind else "kind LIKE ? || '.%'")
            values.append(query.kind)
        if query.since:
            parts.append("time >= ?")
            values.append(query.since)
        if query.until:
            parts.append("time < ?")
            values.append(query.until)
        most = max(1, min(query.limit, _MOST))
        found: list[Entry] = []
        for entry in self._select(" AND ".join(parts), values, -1 if query.text else most, query.text):
            found.append(entry)
            if len(found) >= most:
                break
        return found[::-1]

    def _select(self, where: str, values: Sequence[object], limit: int, text: str = "") -> Iterator[Entry]:
        """Newest first, read from the journals; what isn't there any more is left out."""
        needle = json.dumps(text)[1:-1].encode("ascii").lower() if text else b""
        rows = self._db.execute(
            f"SELECT instance, seq, path, line, offset, length FROM events WHERE {where}"  # noqa: S608 - our columns
            " ORDER BY ordinal DESC, seq DESC LIMIT ?",
            (*values, limit),
        )
        files: dict[str, int] = {}
        try:
            for instance, seq, path, number, offset, length in rows:
                if path not in files:
                    files[path] = open_segment(self._audit / path)
                line = os.pread(files[path], length, offset)
                if needle and needle not in line.lower():
                    continue
                entry = parse_entry(line, f"{path}:{number}")
                if entry is not None and (entry.instance, entry.seq) == (instance, seq):
                    yield entry
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    def _refresh_segment(
        self, folder: InstanceFolder, segment: Segment, name: str, known: Sequence[object] | None
    ) -> None:
        offset, number, last_offset, last_digest = known or (0, 0, 0, "")
        if known and _digest_at(segment.path, int(str(last_offset)), int(str(offset))) != last_digest:
            self._forget(name)
            offset, number, last_offset, last_digest = 0, 0, 0, ""
        at, line_number = int(str(offset)), int(str(number))
        rows: list[tuple[object, ...]] = []
        for begin, lines, _ in read_lines(segment.path, at):
            at = begin
            for line in lines:
                line_number += 1
                row = _row(line, folder, name, line_number, at)
                if row is None:
                    self.unreadable += 1
                else:
                    rows.append(row)
                last_offset, at = at, at + len(line) + 1
            self._db.executemany(f"INSERT OR IGNORE INTO events VALUES ({','.join('?' * 13)})", rows)  # noqa: S608 - marks
            rows.clear()
        if at != int(str(offset)):
            last_digest = _digest_at(segment.path, int(str(last_offset)), at)
            self._db.execute(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)",
                (name, at, line_number, last_offset, last_digest),
            )

    def _forget(self, name: str) -> None:
        self._db.execute("DELETE FROM events WHERE path = ?", (name,))
        self._db.execute("DELETE FROM segments WHERE path = ?", (name,))


def _open(path: Path | None) -> sqlite3.Connection:
    """A usable database; one of another version, or a broken one, is thrown away."""
    if path is None:
        return _prepare(sqlite3.connect(":memory:"))
    for attempt in (1, 2):
        db = sqlite3.connect(path)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] in (0, _VERSION):
                return _prepare(db)
        except sqlite3.DatabaseError:
            if attempt == 2:
                raise
        db.close()
        path.unlink(missing_ok=True)
    return _prepare(sqlite3.connect(path))


def _prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    db.execute("PRAGMA synchronous = OFF")  # a lost index is made anew
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version = {_VERSION}")
    return db


def _row(
    line: bytes, folder: InstanceFolder, name: str, number: int, offset: int
) -> tuple[object, ...] | None:
    if chain.read_line(line) is None:
        return None
    try:
        row = _ROW.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    link = row.intent or (row.digest if row.kind == "grant.resolved" else "")
    own = (row.instance, row.seq, folder.ordinal, row.time, row.kind, row.tenant, row.session, row.command)
    return (*own, link, name, number, offset, len(line))


def _digest_at(path: Path, start: int, end: int) -> str:
    """Digest of the bytes of the last line that was read, to notice that a file was replaced."""
    descriptor = open_segment(path)
    try:
        return hashlib.sha256(os.pread(descriptor, min(end - start, chain.MAX_LINE + 1), start)).hexdigest()
    finally:
        os.close(descriptor)


def _oldest_first(entries: Iterator[Entry]) -> list[Entry]:
    return list(entries)[::-1]
