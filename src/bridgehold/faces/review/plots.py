"""Plots as geometry: numbers in, rectangles out (pure). Templates draw them, with a sentence beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

WIDTH, HEIGHT = 720, 96
_MOST_BARS = 120
_HOURS = 72
"""Up to so many hours each has a bar of its own; beyond, each day, then several days."""


_LAST = datetime(9999, 12, 31, 23, 59)  # noqa: DTZ001 - all of the audit's times are UTC


class Bar(NamedTuple):
    """One of a plot, in its units: `bad` of `total`, from the bottom."""

    label: str
    since: str
    until: str
    total: int
    bad: int
    x: float
    width: float
    y: float
    height: float
    bad_y: float
    bad_height: float


class Activity(NamedTuple):
    """Events by time."""

    bars: tuple[Bar, ...]
    each: str
    """What a bar is."""
    most: int
    busiest: str


def activity(hours: Mapping[str, tuple[int, int]]) -> Activity:
    """Of counts (all, refused) by hour, as ``2026-11-30T09``. What is no time is left out."""
    times = {_hour(text): counts for text, counts in hours.items() if _hour(text) is not None}
    known: dict[datetime, tuple[int, int]] = {
        hour: counts for hour, counts in times.items() if hour is not None
    }
    if not known:
        return Activity((), "hour", 0, "")
    first, last = min(known), max(known)
    span = int((last - first).total_seconds() // 3600) + 1
    step = 1 if span <= _HOURS else 24 * max(1, -(-span // (24 * _MOST_BARS)))
    start = first if step == 1 else first.replace(hour=0)
    count = int((last - start).total_seconds() // 3600) // step + 1
    sums = [[0, 0] for _ in range(count)]
    for hour, (total, bad) in known.items():
        at = int((hour - start).total_seconds() // 3600) // step
        sums[at][0] += total
        sums[at][1] += bad
    most = max(total for total, _ in sums)
    each = "hour" if step == 1 else "day" if step == 24 else f"{step // 24} days"
    bars = tuple(_bar(n, count, start, step, (sums[n][0], sums[n][1]), most) for n in range(count))
    return Activity(bars, each, most, max(bars, key=lambda bar: bar.total).label)


def _hour(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H")  # noqa: DTZ007 - all of the audit's times are UTC
    except ValueError:
        return None


def _bar(at: int, count: int, start: datetime, step: int, counts: tuple[int, int], most: int) -> Bar:
    begin = start + timedelta(hours=at * step)
    end = begin + min(timedelta(hours=step), _LAST - begin)  # whatever time a line claims to be of
    room, wide = _room(count)
    height, bad = (round(_height(number, most), 2) for number in counts)
    label = begin.strftime("%Y-%m-%d %H:00" if step == 1 else "%Y-%m-%d")
    return Bar(
        label, begin.isoformat(timespec="minutes"), end.isoformat(timespec="minutes"), *counts,
        round(at * room + (room - wide) / 2, 2), wide,
        round(HEIGHT - height, 2), height, round(HEIGHT - bad, 2), bad,
    )  # fmt: skip


def _room(count: int) -> tuple[float, float]:
    """How far bars are apart, and how wide each is."""
    room = WIDTH / max(count, 1)
    return room, round(min(room * 0.8, 52.0), 2)


def _height(number: int, most: int) -> float:
    """What is there is seen, however little it is."""
    return max(2.0, number / most * HEIGHT) if number and most else 0.0


class Point(NamedTuple):
    """One command: where it stands, how high its memory and its processor time reach."""

    label: str
    ref: str
    x: float
    width: float
    y: float
    height: float


class Track(NamedTuple):
    """One measure over the commands of a session."""

    points: tuple[Point, ...]
    most: int
    limit_y: float | None
    """Where the limit runs, if it is known and in sight."""


def track(values: Sequence[tuple[str, str, int]], limit: int | None = None) -> Track:
    """Of (label, event, value), oldest first; with a limit the plot reaches at least to it."""
    most = max([value for *_, value in values] + [limit or 0] + [1])
    room, wide = _room(len(values))
    points = tuple(
        Point(label, ref, round(n * room + (room - wide) / 2, 2), wide, round(HEIGHT - high, 2), high)
        for n, (label, ref, value) in enumerate(values)
        for high in (round(_height(value, most), 2),)
    )
    return Track(points, most, round(HEIGHT - limit / most * HEIGHT, 2) if limit else None)


def share(part: int, whole: int | None) -> float | None:
    """Percent of a budget, at most 100; None: it has no bound."""
    return None if not whole else round(min(100.0, part * 100 / whole), 1)


def days_before(newest: str, days: int) -> str:
    """The date so many days before a time of the audit; empty where it is none."""
    try:
        return (date.fromisoformat(newest[:10]) - timedelta(days=days)).isoformat()
    except (ValueError, OverflowError):
        return ""
