"""Counts by the index: how many rows fit, by the names and numbers that it keeps of each event.

An index may be wrong: a count only says where to look, and what a reader opens is read where it stands.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from bridgehold.audit.reading.columns import NAMES
from bridgehold.audit.reading.fields import FRAMEWORK
from bridgehold.audit.reading.sql import Compiled

HOUR, DAY = "hour", "day"
"""What a count can be by, beside the names: a time's beginning."""
_TIMES = {HOUR: "substr(time, 1, 13)", DAY: "substr(time, 1, 10)"}
_NAMED = ("kind", FRAMEWORK, *NAMES)
_WIDEST = 1_000
"""Names asked for at once."""


class Tally(NamedTuple):
    """So many events of this `key`; `sums` in the order in which they were asked for."""

    key: tuple[str, ...]
    number: int
    sums: tuple[int, ...]


def count(
    db: sqlite3.Connection, condition: Compiled, by: Sequence[str], sums: Sequence[str], rows: tuple[int, int]
) -> list[Tally]:
    """Of the rows that fit, behind the first of `rows` and up to the second.

    `by`: names, `HOUR` or `DAY`; `sums`: numbers of a row, of which none counts as less than nothing.
    """
    columns = [_TIMES.get(name, name) for name in by]
    added = [f"coalesce(sum(max({name}, 0)), 0)" for name in sums]
    wanted = ", ".join([*columns, "count(*)", *added])
    grouped = f" GROUP BY {', '.join(str(n + 1) for n in range(len(by)))}" if by else ""
    query = f"SELECT {wanted} FROM events WHERE id > ? AND id <= ? AND ({condition.sql}){grouped}"  # noqa: S608 - columns of ours
    found = db.execute(query, (*rows, *condition.parameters)).fetchall()
    places = [at for at, name in enumerate(by) if name in _NAMED]
    names = _texts(db, {row[at] for row in found for at in places})
    return [
        Tally(
            tuple(names.get(row[at], "") if at in places else str(row[at]) for at in range(len(by))),
            row[len(by)],
            tuple(row[len(by) + 1 :]),
        )
        for row in found
    ]


def _texts(db: sqlite3.Connection, numbers: set[int]) -> dict[int, str]:
    """Names by what stands for them."""
    found: dict[int, str] = {0: ""}
    ordered = sorted(numbers - {0})
    for begin in range(0, len(ordered), _WIDEST):
        some = json.dumps(ordered[begin : begin + _WIDEST])
        found |= dict(
            db.execute("SELECT id, text FROM names WHERE id IN (SELECT value FROM json_each(?))", (some,))
        )
    return found
